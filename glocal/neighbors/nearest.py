"""Exact nearest neighbours in plain torch: they run wherever the features lie.

Where bf16 is much faster than fp32 (GPUs, processors with AMX), a shortlist is made in bf16 and its distances are
computed again in fp32. What the roundings can have done to a distance is bounded for each query; where the bound does
not exclude everything outside the shortlist, the query is searched again in full precision. So the result is that of
fp32 throughout. Both searches look first at the largest of every sixteen similarities.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from glocal.errors import GlocalError
from glocal.neighbors.products import largest, products, square_lengths

Metric = Literal["l2", "cosine"]

_BLOCK = 1 << 16  # rows of the bank at a time
_CACHE_BYTES = 32 << 20  # of similarities at a time: what fits a processor's cache
_GPU_BYTES = 256 << 20
_SAMPLE = 2048  # rows of the bank that tell about where the k-th nearest lies
_WORTH = 1 << 24  # pairs of query and row from which a shortlist pays
_BF16 = 2.0**-9 * 1.01  # largest relative error of rounding to bf16, and a little
_FP32 = 2.0**-23


class _Block(NamedTuple):
    """Rows of a bank, and what is taken off or divides their inner products with queries."""

    rows: Tensor
    less: Tensor | None = None
    over: Tensor | None = None


def nearest_neighbors(
    queries: Tensor,
    bank: Tensor,
    k: int,
    *,
    metric: Metric = "l2",
    chunk: int | None = None,
    shortlist: bool | None = None,
) -> tuple[Tensor, Tensor]:
    """The k nearest rows of the bank to each query, nearest first.

    Distances are computed block by block, so memory does not grow with the product of the sizes; the bank may lie on
    another device than the queries, which then gets one block of it at a time.

    Args:
        queries: (Q, D) float.
        bank: (N, D) float, of the same dtype.
        k: neighbours, at most N.
        metric: Euclidean distance, or 1 − cosine similarity.
        chunk: rows of the bank and of the queries in a block; by default what suits the device.
        shortlist: search in bf16 first (see above; fp32 features only); None decides by what is faster on the device.

    Returns:
        distance (Q, k) in the dtype of the inputs and index (Q, k) int64 into the bank, on the queries' device.

    Raises:
        GlocalError: k is below 1 or above N, or another metric.

    >>> nearest_neighbors(torch.tensor([[0.0]]), torch.tensor([[3.0], [1.0]]), 2)[1].tolist()
    [[1, 0]]
    """
    if not 1 <= k <= len(bank):
        raise GlocalError(f"k={k} neighbours: choose from 1 to {len(bank)}, the size of the bank")
    if metric not in ("l2", "cosine"):
        raise GlocalError(f"metric={metric!r}: choose l2 or cosine")
    if len(queries) == 0:
        return queries.new_empty(0, k), torch.empty(0, k, dtype=torch.int64, device=queries.device)
    if shortlist is None:
        shortlist = len(queries) * len(bank) >= _WORTH and _bf16_is_much_faster(queries.device)
    size = chunk or _BLOCK
    if len(bank) <= size:  # it is used several times; a larger one comes block by block
        bank = bank.to(queries.device)
    if not shortlist or queries.dtype != torch.float32:
        return _search_exactly(queries, bank, k, metric, size, chunk)
    distance, index, proven = _search_by_shortlist(queries, bank, k, metric, size, chunk)
    if not proven.all():
        again = (~proven).nonzero()[:, 0]
        distance[again], index[again] = _search_exactly(queries[again], bank, k, metric, size, chunk)
    return distance, index


def nearest_in_blocks(
    queries: Tensor, blocks: Iterable[Tensor], k: int, *, metric: Metric = "l2", own: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """`nearest_neighbors` among rows that come block by block, so that the bank need not be in memory as a whole.

    Args:
        queries: (Q, D) float.
        blocks: the bank's rows in order, each block (n, D) of the queries' dtype. One block is used before the next is
            asked for, so that all may be written into the same memory.
        k: neighbours, at most as many as the bank has rows (besides the query's own).
        metric: Euclidean distance, or 1 − cosine similarity; a vector of zeros has similarity 0 with all.
        own: (Q,) int64, for each query the row that does not count as its neighbour; −1 where all count.

    Returns:
        distance (Q, k) and index (Q, k) int64, nearest first, rows of equal distance in the order of their numbers.

    Raises:
        GlocalError: the blocks have fewer rows, or one that is infinite or no number.

    >>> blocks = [torch.tensor([[3.0], [1.0]]), torch.tensor([[0.5]])]
    >>> nearest_in_blocks(torch.tensor([[0.0]]), blocks, 2)[1].tolist()
    [[2, 1]]
    """
    best = queries.new_empty(len(queries), 0)
    places = torch.empty(len(queries), 0, dtype=torch.int64, device=queries.device)
    first = 0
    for rows in blocks:
        mine = own is not None and bool(((own >= first) & (own < first + len(rows))).any())
        distance, index = nearest_neighbors(queries, rows, min(k + mine, len(rows)), metric=metric)
        index += first
        if not distance.isfinite().all():
            row = int(index[~distance.isfinite()][0])
            raise GlocalError(f"row {row} or a query is infinite or no number, and has no nearest neighbours")
        if mine and own is not None:
            distance[index == own[:, None]] = torch.inf
        distance, index = torch.cat([best, distance], dim=1), torch.cat([places, index], dim=1)
        best, order = distance.topk(min(k, distance.shape[1]), dim=1, largest=False)
        places = index.gather(1, order)
        first += len(rows)
    if best.shape[1] < k or (own is not None and bool(best.isinf().any())):
        raise GlocalError(f"k={k} neighbours: choose fewer, the bank has {first} rows")
    order = places.argsort(dim=1)
    best, places = best.gather(1, order), places.gather(1, order)
    best, order = best.sort(dim=1, stable=True)
    return best, places.gather(1, order)


def _bf16_is_much_faster(device: torch.device) -> bool:
    # By what the device is, not by measuring: the same run on the same machine has to take the same way.
    if device.type == "cuda":
        return torch.cuda.get_device_capability(device)[0] >= 8
    return device.type == "cpu" and torch.cpu._is_amx_tile_supported()


def _search_exactly(
    queries: Tensor, bank: Tensor, k: int, metric: Metric, size: int, chunk: int | None
) -> tuple[Tensor, Tensor]:
    if metric == "cosine":
        queries = _unit(queries)

    def prepare(rows: Tensor) -> _Block:
        rows = rows.to(queries.device)
        if metric == "cosine":  # similarities are divided by the rows' lengths: rows of unit length would be a copy
            return _Block(rows, over=_lengths(rows))
        return _Block(rows, less=square_lengths(rows) / 2)

    closeness, index = _search(queries, bank, prepare, k, size, chunk)
    if metric == "cosine":
        return closeness.neg_().add_(1), index
    return (square_lengths(queries)[:, None] - 2 * closeness).clamp_(min=0).sqrt_(), index


def _search_by_shortlist(
    queries: Tensor, bank: Tensor, k: int, metric: Metric, size: int, chunk: int | None
) -> tuple[Tensor, Tensor, Tensor]:
    """As `_search_exactly`, and (Q,) bool: whether it is certain that the k are the nearest.

    Both metrics are s = −|q − b|²/2, the cosine that of unit vectors, with the bank's mean as the origin: products are
    small and so are their errors. Six more coordinates, squared norms in three bf16 parts each, make s one inner
    product; with the queries' part goes about what the k-th nearest of a sample of the bank suggests for s, so that s
    is rounded finely where the shortlist ends. By Cauchy and Schwarz s is off by at most |q − q̃||b| + |q̃||b − b̃|,
    plus its own rounding.
    """
    unit = metric == "cosine"
    origin = _mean(bank, size, unit, queries.device)
    points = (_unit(queries) if unit else queries) - origin
    longest = torch.zeros(3, device=queries.device)  # of the bank: norm of a row, at the origin, from its rounding

    def prepare(rows: Tensor) -> _Block:
        rows = rows.to(queries.device)
        moved = (_unit(rows) if unit else rows) - origin
        rounded = moved.bfloat16()
        square = square_lengths(moved)
        lengths = rows.norm(dim=1).amax(), square.amax().sqrt(), moved.sub_(rounded).norm(dim=1).amax()
        torch.maximum(longest, torch.stack(lengths), out=longest)
        return _Block(torch.cat([rounded, _three_parts(-square / 2), rounded.new_ones(len(rounded), 3)], dim=1))

    rounded = points.bfloat16()
    square = square_lengths(points)
    ones = rounded.new_ones(len(rounded), 3)
    spread = torch.linspace(0, len(bank) - 1, min(len(bank), _SAMPLE), device=bank.device).long()
    sample = bank[spread.clamp_(max=len(bank) - 1)]  # float32 rounds above 2²⁴
    rank = max(1, round(k * len(sample) / len(bank)))
    extended = torch.cat([rounded, ones, _three_parts(-square / 2)], dim=1)
    wanted = min(len(bank), k + max(64, k // 4))
    with sums_in_fp32():
        usual = _search(extended, sample, prepare, rank, size, chunk)[0][:, -1].float()
        extended = torch.cat([rounded, ones, _three_parts(-square / 2 - usual)], dim=1)
        closeness, index = _search(extended, bank, prepare, wanted, size, chunk)
    distance = _distances(queries, bank, index, unit)
    distance, order = distance.topk(k, dim=1, largest=False)
    last = closeness.amin(dim=1).float()  # nothing outside the shortlist came out nearer than this
    norm, reach, rounding = longest
    width = queries.shape[1] + 8
    noise = width * _FP32 * (1.0 if unit else queries.norm(dim=1) * norm)  # of the distances themselves
    error = (points - rounded).norm(dim=1) * reach + rounded.float().norm(dim=1) * rounding
    error += _BF16 * last.abs() + width * _FP32 * ((square.sqrt() + reach) ** 2 + usual.abs()) + noise
    proven = -distance[:, -1] * (1 if unit else 0.5) >= last + usual + error
    if wanted == len(bank):
        proven.fill_(True)
    return distance if unit else distance.sqrt_(), index.gather(1, order), proven


@contextmanager
def sums_in_fp32() -> Iterator[None]:
    """Inside, cuBLAS adds products of bf16 in fp32, in the parts of a long sum too: the proof counts on it.

    The switch is that of the process. Threads that search at the same time enter this together, outside of them.
    """
    switches = torch.backends.cuda.matmul
    before = switches.allow_bf16_reduced_precision_reduction
    switches.allow_bf16_reduced_precision_reduction = False
    try:
        yield
    finally:
        switches.allow_bf16_reduced_precision_reduction = before


def _distances(queries: Tensor, bank: Tensor, index: Tensor, unit: bool) -> Tensor:
    """1 − cosine, or squared distances, (Q, n) of each query to the rows of the bank that `index` names."""
    product = _products(queries, bank, index)
    norm = _lengths(bank)[index.to(bank.device)].to(queries.device)
    if unit:
        return 1 - product.div_(_lengths(queries)[:, None]).div_(norm)
    return norm.square_().add_(square_lengths(queries)[:, None]).sub_(product, alpha=2).clamp_(min=0)


def _search(
    queries: Tensor,
    bank: Tensor,
    prepare: Callable[[Tensor], _Block],
    k: int,
    size: int,
    chunk: int | None,
) -> tuple[Tensor, Tensor]:
    """The k largest inner products (Q, k) of queries with the prepared rows of the bank, and the rows' places."""
    best: Tensor | None = None
    places: Tensor | None = None
    for first in range(0, len(bank), size):
        block, less, over = prepare(bank[first : first + size])
        limit = _CACHE_BYTES if queries.device.type == "cpu" else _GPU_BYTES
        rows = chunk or max(16, limit // (len(block) * queries.element_size()))
        near = queries.new_empty(len(queries), min(k, len(block)))
        index = torch.empty_like(near, dtype=torch.int64)
        for start in range(0, len(queries), rows):
            few = slice(start, start + rows)
            scores = products(queries[few], block, less)
            near[few], index[few] = largest(scores if over is None else scores.div_(over), near.shape[1])
        index += first
        if best is not None and places is not None:
            near, index = torch.cat([best, near], dim=1), torch.cat([places, index], dim=1)
            near, order = near.topk(min(k, near.shape[1]), dim=1)
            index = index.gather(1, order)
        best, places = near, index
    assert best is not None and places is not None  # noqa: PT018 (the bank has a row)
    return best, places


def _products(queries: Tensor, bank: Tensor, index: Tensor) -> Tensor:
    """Inner products (Q, k) of each query with the rows of the bank that `index` names."""
    if queries.device.type == "cpu" and bank.device.type == "cpu":
        return _sampled_products(queries, bank, index)
    rows = max(1, _GPU_BYTES // (index.shape[1] * bank.shape[1] * bank.element_size()))
    parts = zip(queries.split(rows), index.split(rows), strict=True)
    found = [torch.bmm(bank[at.to(bank.device)].to(few.device), few[:, :, None])[:, :, 0] for few, at in parts]
    return torch.cat(found)


def _sampled_products(queries: Tensor, bank: Tensor, index: Tensor) -> Tensor:
    """The same on a CPU without a copy of the rows: the product of two matrices at the places of a sparse one."""
    shape = (len(queries), len(bank))
    ends = torch.arange(len(index) + 1) * index.shape[1]
    column, order = index.sort(dim=1)
    values = queries.new_zeros(index.numel())
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # that sparse tensors are in beta
        places = torch.sparse_csr_tensor(ends, column.flatten(), values, shape, check_invariants=False)
    product = torch.sparse.sampled_addmm(places, queries, bank.T, beta=0.0).values().view_as(index)
    return torch.empty_like(product).scatter_(1, order, product)


def _unit(rows: Tensor) -> Tensor:
    return rows / _lengths(rows)[:, None]


def _lengths(rows: Tensor) -> Tensor:
    return torch.linalg.vector_norm(rows, dim=1).clamp_(min=1e-12)


def _three_parts(numbers: Tensor) -> Tensor:
    """Numbers (N,) as sums (N, 3) of three bf16 numbers, which have as many digits together as fp32."""
    parts = []
    for _ in range(3):
        parts.append(numbers.bfloat16())
        numbers = numbers - parts[-1].float()
    return torch.stack(parts, dim=1)


def _mean(bank: Tensor, size: int, unit: bool, device: torch.device) -> Tensor:
    total = torch.zeros(bank.shape[1], device=device)
    for rows in bank.split(size):
        rows = rows.to(device)
        total += (_unit(rows) if unit else rows).sum(dim=0)
    return total / len(bank)
