"""k-means in plain torch: it runs wherever the features lie, and each process of a run takes its share."""

from __future__ import annotations

import math
from typing import Literal

import torch
from torch import Tensor
from torch.nn.functional import normalize

from glocal.distributed import all_sum, gather_shares, own_share
from glocal.errors import GlocalError
from glocal.neighbors.products import largest, packed, products, square_distances, square_lengths
from glocal.transfer import to_device, widest
from glocal.views.random import permutation, uniform

_CACHE_BYTES = 2 << 20  # of similarities at a time: what fits a processor's cache
_GPU_BYTES = 256 << 20


def kmeans(
    features: Tensor,
    clusters: int,
    *,
    iterations: int = 20,
    seed: int = 0,
    start: Literal["k-means++", "random"] = "k-means++",
    metric: Literal["l2", "cosine"] = "l2",
) -> tuple[Tensor, Tensor, Tensor]:
    """Lloyd's algorithm with Euclidean distances, or on the unit sphere.

    Clusters that lose all their points are put on the points that lie farthest from their centres. In a run of several
    processes all have the same features, each assigns its share of them, and all get the same result.

    Args:
        features: (N, D) float.
        clusters: m, at most N.
        iterations: at most; it ends earlier when no point changes its cluster.
        seed: decides the start.
        start: `k-means++` (Arthur and Vassilvitskii, 2007), greedy, or distinct random points. k-means++ reads all
            features once for every cluster, one after another: 6.6 TB for 10,000 clusters of 1.28 million × 128
            features, where random points take no time, and an iteration reads them once. So methods that cluster
            a whole set (CLIM, PCL) start from random points, as faiss does.
        metric: Euclidean distance, or `cosine`: spherical k-means of the features at unit length, whose centres have
            unit length as well.

    Returns:
        centers (m, D), assignment (N,) int64, and inertia: the sum of squared distances to the assigned centres.

    Raises:
        GlocalError: fewer points than clusters, or an unknown start or metric.

    >>> centers, assignment, inertia = kmeans(torch.tensor([[0.0], [1.0], [9.0]]), 2)
    >>> assignment[0] == assignment[1], float(inertia)
    (tensor(True), 0.5)
    """
    if not 1 <= clusters <= len(features):
        raise GlocalError(f"{clusters} clusters of {len(features)} points: choose from 1 to {len(features)}")
    if start not in ("k-means++", "random"):
        raise GlocalError(f"start={start!r}: choose k-means++ or random")
    if metric not in ("l2", "cosine"):
        raise GlocalError(f"metric={metric!r}: choose l2 or cosine")
    if not all(bound.isfinite() for bound in features.aminmax()):
        raise GlocalError("features that are infinite or no numbers cannot be clustered; has the training diverged?")
    if metric == "cosine":
        features = normalize(features, dim=1)
    centers = _spread_out(features, clusters, seed) if start == "k-means++" else _distinct(features, clusters, seed)
    squares = square_lengths(features)
    assignment, distance = _assign(features, squares, centers)
    for _ in range(iterations):
        centers = _means(features, assignment, distance, centers)
        if metric == "cosine":
            centers = normalize(centers, dim=1)
        before = assignment
        assignment, distance = _assign(features, squares, centers)
        if torch.equal(before, assignment):
            break
    return centers, assignment, distance.sum(dtype=widest(distance.device)).to(features.dtype)


def _distinct(features: Tensor, clusters: int, seed: int) -> Tensor:
    chosen = permutation(len(features), seed, "k-means start")[:clusters]
    return features[chosen.to(features.device)].clone()


def _spread_out(features: Tensor, clusters: int, seed: int) -> Tensor:
    """Greedy k-means++: of a few starts drawn in proportion to the squared distance to those before, the best."""
    trials = 2 + int(math.log(clusters))
    draws = uniform(seed, "k-means++", torch.arange(clusters)[:, None], torch.arange(trials))
    draws = to_device(draws, features.device)
    squares = square_lengths(features)
    halves, points = squares / 2, packed(features, trials)

    def distances(chosen: Tensor) -> Tensor:  # from some points to all, (n, N): long rows are summed faster
        return square_distances(features[chosen], points, squares[chosen], halves)

    indices = [(draws[0, :1] * len(features)).long()]
    nearest = distances(indices[0])[0]
    for draw in draws[1:]:
        total = nearest.cumsum(dim=0, dtype=widest(nearest.device))
        tried = torch.searchsorted(total, draw.to(total) * total[-1], right=True).clamp_(max=len(features) - 1)
        left = distances(tried)
        left = torch.minimum(left, nearest, out=left)  # (trials, N)
        best = left.sum(dim=1).argmin()
        indices.append(tried[best][None])
        nearest = left[best]
    return features[torch.cat(indices)]


def _assign(features: Tensor, squares: Tensor, centers: Tensor) -> tuple[Tensor, Tensor]:
    """The nearest centre of each point and the squared distance to it, chunk by chunk."""
    own = features[own_share(len(features))]
    half = square_lengths(centers) / 2
    limit = _CACHE_BYTES if features.device.type == "cpu" else _GPU_BYTES
    # At least 128: oneDNN puts the centres in order anew for every chunk (10,000 of them: 131 → 146 GFLOP/s).
    rows = max(128, limit // (len(centers) * features.element_size()))
    found = [largest(products(part, centers, half), 1) for part in own.split(rows)]
    closeness, assignment = (torch.cat(parts)[:, 0] for parts in zip(*found, strict=True))
    distance = (squares[own_share(len(features))] - 2 * closeness).clamp_(min=0)
    return gather_shares(assignment, len(features)), gather_shares(distance, len(features))


def _means(features: Tensor, assignment: Tensor, distance: Tensor, centers: Tensor) -> Tensor:
    """The centres' new places; empty clusters go to the farthest points."""
    share = own_share(len(features))
    total = all_sum(torch.zeros_like(centers).index_add_(0, assignment[share], features[share]))
    count = torch.bincount(assignment, minlength=len(centers))
    empty = (count == 0).nonzero()[:, 0]
    moved = total / count.clamp(min=1)[:, None]
    if len(empty) > 0:
        moved[empty] = features[distance.topk(len(empty)).indices]
    return moved
