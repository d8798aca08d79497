"""Which images CLIM mixes with which."""

from __future__ import annotations

from typing import Literal, get_args

import torch
from torch import Tensor

from glocal.distributed import gather_shares, own_share
from glocal.errors import GlocalError
from glocal.neighbors.clustered import nearest_among_clusters
from glocal.views.random import random_bits, uniform

_ROWS = 1 << 16  # images at a time, so that memory beside the tables of the result stays small

Rule = Literal["random", "knn", "kmeans", "knn_kmeans", "center"]


def select_positives(
    features: Tensor,
    assignment: Tensor,
    centers: Tensor,
    k: int = 40,
    *,
    rule: Rule = "center",
    keep: int = 10,
    seed: int = 0,
) -> Tensor:
    """Chooses positives for every image among the others, in one vectorised pass.

    Li, Xiong and Zhang, "Center-wise Local Image Mixture For Contrastive Representation Learning", BMVC 2021. `center`
    is their eq. 2: of the k nearest neighbours those in the image's own cluster that lie at most as far from its centre
    as the image itself. The other rules are those of their Table 6: `knn_kmeans` neighbours in the same cluster, `knn`
    all neighbours, `kmeans` all images of the cluster, `random` all images. Of what the rule admits, `keep` are taken
    at random; where it admits fewer, the nearest of the k neighbours fill up (for `kmeans`, the same images again).

    Args:
        features: (N, D) float.
        assignment: (N,) int64, the images' clusters.
        centers: (m, D), the clusters' centres.
        k: neighbours in Euclidean distance, below N.
        rule: see above.
        keep: positives for each image, at most k.
        seed: decides the random choice.

    Returns:
        (N, keep) int64 indices, never the image itself, unless it is alone in its cluster under `kmeans`.

    Raises:
        GlocalError: an unknown rule, or k or keep out of range.
    """
    images = len(features)
    if rule not in get_args(Rule):
        raise GlocalError(f"rule={rule!r}: choose from {', '.join(get_args(Rule))}")
    if not 1 <= k < images:
        raise GlocalError(f"k={k} neighbours: choose from 1 to {images - 1}, the other images")
    if not 1 <= keep <= k:
        raise GlocalError(f"keep={keep} positives: choose from 1 to k={k}")
    own = torch.arange(images, device=features.device)
    if rule == "random":
        draws = uniform(seed, "positives", own[:, None], torch.arange(keep, device=own.device))
        return (own[:, None] + 1 + (draws * (images - 1)).long()) % images
    if rule == "kmeans":
        return _of_the_cluster(assignment, keep, seed)
    share = own_share(images)
    neighbors = nearest_among_clusters(features, assignment, centers, k + 1, share)
    reach = _reach(features, assignment, centers)
    chosen = [
        _choose(*rows, assignment, reach, rule, keep, seed)
        for rows in zip(own[share].split(_ROWS), neighbors.split(_ROWS), strict=True)
    ]
    return gather_shares(torch.cat(chosen), images)


def _reach(features: Tensor, assignment: Tensor, centers: Tensor) -> Tensor:
    """The squared distance of every image from its cluster's centre, (N,)."""
    parts = zip(features.split(_ROWS), assignment.split(_ROWS), strict=True)
    return torch.cat([(rows - centers[at]).square().sum(dim=1) for rows, at in parts])


def _choose(
    queries: Tensor, neighbors: Tensor, assignment: Tensor, reach: Tensor, rule: Rule, keep: int, seed: int
) -> Tensor:
    """Of the neighbours (n, k + 1) of some images, those that the rule admits and what fills up: (n, keep)."""
    neighbors = _others(neighbors, queries)  # (n, k), nearest first
    admitted = torch.ones_like(neighbors, dtype=torch.bool)
    if rule in ("knn_kmeans", "center"):
        admitted = assignment[neighbors] == assignment[queries][:, None]
    if rule == "center":
        admitted &= reach[neighbors] <= reach[queries][:, None]
    # Admitted ones come first, in random order; the others after them, the nearest first.
    order = uniform(seed, "positives", queries[:, None], neighbors).to(torch.float32)
    rank = torch.arange(neighbors.shape[1], device=order.device, dtype=torch.float32) + 1
    chosen = torch.where(admitted, order, rank).topk(keep, dim=1, largest=False).indices
    return neighbors.gather(1, chosen)


def _others(neighbors: Tensor, queries: Tensor) -> Tensor:
    """Drops each query from its neighbours, or the last one where the query is not among them (duplicates)."""
    itself = neighbors == queries[:, None]
    order = itself.byte().argsort(dim=1, stable=True)
    return neighbors.gather(1, order)[:, :-1]


def _of_the_cluster(assignment: Tensor, keep: int, seed: int) -> Tensor:
    """For each image the `keep` that follow it in a random cyclic order of its cluster."""
    images = len(assignment)
    shuffled = torch.argsort(random_bits(seed, "positives", torch.arange(images, device=assignment.device)))
    order = shuffled[assignment[shuffled].argsort(stable=True)]  # cluster by cluster, random within
    count = torch.bincount(assignment)
    start = count.cumsum(0) - count
    place = torch.empty_like(order).scatter_(0, order, torch.arange(images, device=order.device))
    size, first = count[assignment][:, None], start[assignment][:, None]
    step = 1 + torch.arange(keep, device=order.device) % (size - 1).clamp(min=1)
    return order[first + (place[:, None] - first + step) % size]
