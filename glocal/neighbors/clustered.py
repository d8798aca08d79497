"""Exact nearest neighbours of features among themselves, looked for only in the clusters that can hold them.

Brute force computes N² distances. Where the features are clustered most of them are too large to matter, and that
can be proven from distances to the centres alone: for a query q of cluster c, a row x of cluster c′, and their centres
v and v′,

    |q − x| ≥ |q − v′| − |x − v′|                                                (the triangle inequality)
    |q − x| ≥ (|q − v′|² − |q − v|² + |x − v|² − |x − v′|²) / 2|v − v′|          (both projected on the line v v′)

With the largest |x − v′| and, for every two clusters, the least |x − v|² − |x − v′|², a cluster is left out where
either bound is above the distance to the k-th nearest row of the clusters close by. That costs about as much as three
passes of k-means, N·m, and the pairs that are left: images times those of the clusters around. Features without
clusters, of whose pairs more than a quarter would be left, are searched by brute force: then N² remains.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from glocal.distributed import all_sum, own_share
from glocal.neighbors.nearest import nearest_neighbors
from glocal.neighbors.products import square_distances, square_lengths

_WORTH = 1 << 20  # pairs of rows for each cluster from which its own bounds and search cost less than brute force
_SHARE = 4  # a search in the clusters must look at less than 1/4 of all rows: its products are smaller and slower
_PROBES = 16  # clusters that tell whether it will
_CLOSE = 4  # · k rows of the clusters close by, which bound the distance to the k-th
_ROWS = 1024  # queries at a time, of one cluster
_QUERIES = 1 << 17  # of brute force at a time: its tables of k numbers for each query stay below 300 MB for k = 40


def nearest_among_clusters(
    features: Tensor, assignment: Tensor, centers: Tensor, k: int, own: slice | None = None
) -> Tensor:
    """The k rows nearest to each row by Euclidean distance, itself included.

    That is `nearest_neighbors(features, features, k)[1]`, but for the order of rows whose distances fp32 cannot tell
    apart: the result is exact whatever the clusters are, they decide only where it is looked for first. On a GPU always
    by brute force: by count, all pairs of 1.28 million images take about 9 s there, and starting some hundred kernels
    for each of 10,000 clusters no less (an estimate, not measured).

    Args:
        features: (N, D) float.
        assignment: (N,) int64, of every row its cluster.
        centers: (m, D).
        k: at most N.
        own: the rows whose neighbours are wanted, all by default.

    Returns:
        index (n, k) int64, nearest first.

    >>> points = torch.tensor([[0.0], [1.0], [9.0], [7.0]])
    >>> nearest_among_clusters(points, torch.tensor([0, 0, 1, 1]), torch.tensor([[0.5], [8.0]]), 2).tolist()
    [[0, 1], [1, 0], [2, 3], [3, 2]]
    """
    own = slice(0, len(features)) if own is None else own
    worth = len(features) ** 2 >= _WORTH * len(centers)
    small = len(centers) ** 2 <= features.numel()  # the table of all pairs of clusters
    if features.device.type != "cpu" or not worth or not small:
        return brute_force(features, k, features[own])
    bounds = measure_bounds(features, assignment, centers)
    if not math.isfinite(bounds.doubt) or bounds.share(k) * _SHARE > 1:
        return brute_force(features, k, features[own])
    return bounds.search(k, own)


def brute_force(features: Tensor, k: int, queries: Tensor) -> Tensor:
    return torch.cat([nearest_neighbors(part, features, k)[1] for part in queries.split(_QUERIES)])


@dataclass
class Bounds:
    """What is known of the clusters' rows by their distances to all centres.

    Attributes:
        features: (N, D).
        centers: (m, D).
        members: of each cluster, its rows in ascending order.
        reach: (m,), the largest squared distance of a member from its centre.
        gap: (m, m), of cluster c′ and another one's centre v the least |x − v|² − |x − v′|² of its members x.
        doubt: how far rounding can have moved a squared distance.
    """

    features: Tensor
    centers: Tensor
    members: tuple[Tensor, ...]
    reach: Tensor
    gap: Tensor
    doubt: float

    def share(self, k: int) -> float:
        """The share of all pairs that the bounds leave, by some of the clusters."""
        probes = range(0, len(self.members), -(-len(self.members) // _PROBES))
        tried = [(len(rows), self.candidates(c, rows[:_ROWS], k)) for c in probes if len(rows := self.members[c]) > 0]
        queries = sum(count for count, _ in tried)
        left = sum(count * len(bank) for count, bank in tried)
        return left / (queries * len(self.features)) if queries else 1.0

    def search(self, k: int, own: slice) -> Tensor:
        """The k nearest of the rows of `own`, (n, k)."""
        start, stop, _ = own.indices(len(self.features))
        index = torch.empty(stop - start, k, dtype=torch.int64, device=self.features.device)
        left = []
        for c, rows in self._pieces(start, stop):
            bank = self.candidates(c, rows, k)
            if len(bank) * _SHARE > len(self.features):
                left.append(rows)
            else:
                index[rows - start] = bank[nearest_neighbors(self.features[rows], self.features[bank], k)[1]]
        if left:
            rows = torch.cat(left)
            index[rows - start] = brute_force(self.features, k, self.features[rows])
        return index

    def _pieces(self, start: int, stop: int) -> Iterator[tuple[int, Tensor]]:
        for c, members in enumerate(self.members):
            mine = members[(members >= start) & (members < stop)]
            yield from ((c, rows) for rows in mine.split(_ROWS) if len(rows) > 0)

    def candidates(self, c: int, rows: Tensor, k: int) -> Tensor:
        """All rows that can be among the k nearest of `rows`, some of cluster c."""
        square = _square_distances(torch.cat([self.features[rows], self.centers[c : c + 1]]), self.centers)
        square, between = square[:-1], square[-1]  # (n, m), (m,)
        near, farthest = self._close_by(between, k), torch.full((len(rows), 1), torch.inf)
        if len(near) >= k:
            found = nearest_neighbors(self.features[rows], self.features[near], k)[0][:, -1:]
            farthest = (found.square() + self.doubt).sqrt()
        ball = square - self.doubt <= (farthest + (self.reach + self.doubt).sqrt()).square()
        apart = 2 * (between + self.doubt).sqrt() * farthest + 4 * self.doubt
        slab = square - square[:, c : c + 1] + self.gap[:, c] <= apart
        return torch.cat([self.members[other] for other in (ball & slab).any(dim=0).nonzero()[:, 0].tolist()])

    def _close_by(self, between: Tensor, k: int) -> Tensor:
        found, rows = [], 0
        for other in between.topk(min(len(between), _CLOSE * k), largest=False).indices.tolist():
            found.append(self.members[other])
            rows += len(found[-1])
            if rows >= _CLOSE * k:
                break
        return torch.cat(found)


def measure_bounds(features: Tensor, assignment: Tensor, centers: Tensor) -> Bounds:
    """One pass over the distances of all rows to all centres; each process takes its share of the clusters."""
    count = torch.bincount(assignment, minlength=len(centers))
    members = assignment.argsort(stable=True).split(count.tolist())
    reach, gap = features.new_zeros(len(centers)), features.new_zeros(len(centers), len(centers))
    for c in range(len(centers))[own_share(len(centers))]:
        gap[c] = torch.inf  # of an empty cluster
        for rows in members[c].split(_ROWS):
            if len(rows) > 0:
                square = _square_distances(features[rows], centers)
                own = square[:, c : c + 1]
                torch.maximum(reach[c], own.max(), out=reach[c])
                torch.minimum(gap[c], (square - own).amin(dim=0), out=gap[c])
    longest = max(float(torch.linalg.vector_norm(rows, dim=1).max()) for rows in (features, centers))
    numbers = torch.finfo(features.dtype)
    doubt = (features.shape[1] + 8) * numbers.eps * (2 * longest) ** 2 + numbers.tiny  # never 0, which is not times ∞
    return Bounds(features, centers, members, all_sum(reach), all_sum(gap), doubt)


def _square_distances(rows: Tensor, centers: Tensor) -> Tensor:
    """(n, D) and (m, D) → (n, m)."""
    return square_distances(rows, centers, square_lengths(rows), square_lengths(centers) / 2)
