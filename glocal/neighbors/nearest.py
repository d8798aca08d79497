"""Exact nearest neighbours in plain torch: they run wherever the features lie."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor
from torch.nn.functional import normalize

from glocal.errors import GlocalError

_CHUNK_BYTES = 256 << 20  # of distances held at a time


def nearest_neighbors(
    queries: Tensor,
    bank: Tensor,
    k: int,
    *,
    metric: Literal["l2", "cosine"] = "l2",
    chunk: int | None = None,
) -> tuple[Tensor, Tensor]:
    """The k nearest rows of the bank to each query, nearest first.

    Distances are computed block by block, so memory does not grow with the product of the sizes.

    Args:
        queries: (Q, D) float.
        bank: (N, D) float, on the same device.
        k: neighbours, at most N.
        metric: Euclidean distance, or 1 − cosine similarity.
        chunk: rows of the bank and of the queries in a block; by default such that a block takes 256 MB.

    Returns:
        distance (Q, k) in the dtype of the inputs and index (Q, k) int64 into the bank.

    Raises:
        GlocalError: k is below 1 or above N.

    >>> nearest_neighbors(torch.tensor([[0.0]]), torch.tensor([[3.0], [1.0]]), 2)[1].tolist()
    [[1, 0]]
    """
    if not 1 <= k <= len(bank):
        raise GlocalError(f"k={k} neighbours: choose from 1 to {len(bank)}, the size of the bank")
    if metric == "cosine":
        queries, bank = normalize(queries, dim=1), normalize(bank, dim=1)
    rows = chunk or max(k, int((_CHUNK_BYTES / queries.element_size()) ** 0.5))
    distances, indices = [], []
    for part in queries.split(rows):
        best: Tensor | None = None
        places: Tensor | None = None
        for first in range(0, len(bank), rows):
            block = bank[first : first + rows]
            found = _closeness(part, block, metric)  # (q, n), larger is nearer
            near, index = found.topk(min(k, len(block)), dim=1)
            index = index + first
            if best is not None and places is not None:
                near, index = torch.cat([best, near], dim=1), torch.cat([places, index], dim=1)
                near, order = near.topk(min(k, near.shape[1]), dim=1)
                index = index.gather(1, order)
            best, places = near, index
        assert best is not None  # the bank has at least k ≥ 1 rows
        assert places is not None
        distances.append(_distance(best, part, metric))
        indices.append(places)
    if not distances:
        return queries.new_empty(0, k), torch.empty(0, k, dtype=torch.int64, device=queries.device)
    return torch.cat(distances), torch.cat(indices)


def _closeness(queries: Tensor, bank: Tensor, metric: str) -> Tensor:
    """Cosine similarity, or what orders like minus the distance: q·b − |b|²/2."""
    product = queries @ bank.T
    return product if metric == "cosine" else product.sub_(bank.square().sum(dim=1) / 2)


def _distance(closeness: Tensor, queries: Tensor, metric: str) -> Tensor:
    if metric == "cosine":
        return 1 - closeness
    return (queries.square().sum(dim=1, keepdim=True) - 2 * closeness).clamp(min=0).sqrt()
