"""k-means in plain torch: it runs wherever the features lie, and each process of a run takes its share."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from glocal.distributed import all_sum, gather_shares, own_share
from glocal.errors import GlocalError
from glocal.views.random import permutation, uniform

_CHUNK_BYTES = 256 << 20  # of similarities held at a time


def kmeans(
    features: Tensor,
    clusters: int,
    *,
    iterations: int = 20,
    seed: int = 0,
    start: Literal["k-means++", "random"] = "k-means++",
) -> tuple[Tensor, Tensor, Tensor]:
    """Lloyd's algorithm with Euclidean distances.

    Clusters that lose all their points are put on the points that lie farthest from their centres. In a run of several
    processes all have the same features, each assigns its share of them, and all get the same result.

    Args:
        features: (N, D) float.
        clusters: m, at most N.
        iterations: at most; it ends earlier when no point changes its cluster.
        seed: decides the start.
        start: `k-means++` (Arthur and Vassilvitskii, 2007) or distinct random points, faster for many clusters.

    Returns:
        centers (m, D), assignment (N,) int64, and inertia: the sum of squared distances to the assigned centres.

    Raises:
        GlocalError: fewer points than clusters, or an unknown start.

    >>> centers, assignment, inertia = kmeans(torch.tensor([[0.0], [1.0], [9.0]]), 2)
    >>> assignment[0] == assignment[1], float(inertia)
    (tensor(True), 0.5)
    """
    if not 1 <= clusters <= len(features):
        raise GlocalError(f"{clusters} clusters of {len(features)} points: choose from 1 to {len(features)}")
    if start not in ("k-means++", "random"):
        raise GlocalError(f"start={start!r}: choose k-means++ or random")
    centers = _spread_out(features, clusters, seed) if start == "k-means++" else _distinct(features, clusters, seed)
    assignment, distance = _assign(features, centers)
    for _ in range(iterations):
        centers = _means(features, assignment, distance, centers)
        before = assignment
        assignment, distance = _assign(features, centers)
        if torch.equal(before, assignment):
            break
    return centers, assignment, distance.double().sum().to(features.dtype)


def _distinct(features: Tensor, clusters: int, seed: int) -> Tensor:
    chosen = permutation(len(features), seed, "k-means start")[:clusters]
    return features[chosen.to(features.device)].clone()


def _spread_out(features: Tensor, clusters: int, seed: int) -> Tensor:
    """k-means++: each further start is drawn in proportion to its squared distance to those before."""
    draws = uniform(seed, "k-means++", torch.arange(clusters)).to(features.device, torch.float32)
    squares = features.square().sum(dim=1)
    chosen = (draws[:1] * len(features)).long()
    indices, nearest = [chosen], torch.full_like(squares, torch.inf)
    for draw in draws[1:]:
        center = features[chosen[0]]
        nearest = torch.minimum(nearest, (squares + center.square().sum() - 2 * features @ center).clamp_(min=0))
        total = nearest.double().cumsum(dim=0)
        chosen = torch.searchsorted(total, draw * total[-1:], right=True).clamp_(max=len(features) - 1)
        indices.append(chosen)
    return features[torch.cat(indices)]


def _assign(features: Tensor, centers: Tensor) -> tuple[Tensor, Tensor]:
    """The nearest centre of each point and the squared distance to it, chunk by chunk."""
    own = features[own_share(len(features))]
    half = centers.square().sum(dim=1) / 2
    rows = max(1, _CHUNK_BYTES // (len(centers) * features.element_size()))
    found = [(part @ centers.T).sub_(half).max(dim=1) for part in own.split(rows)]
    closeness, assignment = (torch.cat(parts) for parts in zip(*found, strict=True))
    distance = (own.square().sum(dim=1) - 2 * closeness).clamp_(min=0)
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
