"""Products of features with one another, and the largest of them: what neighbours and clusters spend their time on."""

from __future__ import annotations

import torch
from torch import Tensor

_GROUP = 16  # a power of two
_NARROW = 256  # groups up to which torch's amax over the second of three dimensions is slower than halving on a CPU
_ONEDNN = torch.backends.mkldnn.is_available() and hasattr(torch.ops.mkldnn, "_linear_pointwise")
_PACKS = _ONEDNN and hasattr(torch.ops.mkldnn, "_reorder_linear_weight")


def products(left: Tensor, right: Tensor, less: Tensor | None = None) -> Tensor:
    """Inner products of all rows, (n, D) and (m, D) → (n, m), in the dtype of both; `less` (m,) is taken off each row.

    In fp32 on a CPU by oneDNN where torch has it, rather than by BLAS: MKL takes twice the time on processors with
    AVX512 that are not Intel's. Which one it is depends on the installation alone, so that a run repeats itself.
    """
    if left.dtype == torch.float32 and left.device.type == "cpu" and _ONEDNN:
        return _by_onednn(left, right, None if less is None else -less)
    return left @ right.T if less is None else torch.addmm(-less, left, right.T)


def _by_onednn(left: Tensor, right: Tensor, bias: Tensor | None) -> Tensor:
    return torch.ops.mkldnn._linear_pointwise(left, right, bias, "none", [], "")


def square_distances(left: Tensor, right: Tensor, left_squares: Tensor, half_squares: Tensor) -> Tensor:
    """Squared distances (n, m), at least 0, of rows whose squared lengths (n,) and half of these (m,) are known."""
    return products(left, right, half_squares).mul_(-2).add_(left_squares[:, None]).clamp_(min=0)


def packed(right: Tensor, rows: int) -> Tensor:
    """`right` (m, D) for `products` with a few rows time and again, in the order in which oneDNN reads it; a copy.

    With 9 rows and (50,000, 128) a product takes half the time. From some hundred rows on it gains nothing, because
    putting `right` in order, which is otherwise done at every product, is then a small part of the work.
    """
    if right.dtype == torch.float32 and right.device.type == "cpu" and _PACKS:
        return torch.ops.mkldnn._reorder_linear_weight(right, rows)
    return right


def largest(scores: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """`scores.topk(k, dim=1)` by the groups of columns whose largest score is among the k largest of these.

    Args:
        scores: (n, m).
        k: at most m.

    Returns:
        values and indices (n, k), the largest first.
    """
    rows, columns = scores.shape
    groups = columns // _GROUP
    if groups < 2 * k:
        return _top(scores, k)
    whole = groups * _GROUP
    grouped = scores[:, :whole].view(rows, _GROUP, groups)
    chosen = _top(_largest_of_groups(scores[:, :whole], groups), k)[1]
    kept = grouped.gather(2, chosen[:, None].expand(-1, _GROUP, -1)).flatten(1)  # place = row of the group · k + group
    if whole < columns:
        kept = torch.cat([kept, scores[:, whole:]], dim=1)
    near, place = _top(kept, k)
    group = chosen.gather(1, place % k)
    return near, torch.where(place < _GROUP * k, place // k * groups + group, place - _GROUP * k + whole)


def _largest_of_groups(scores: Tensor, groups: int) -> Tensor:
    """Of the columns j, j + groups, j + 2 groups … the largest, (n, groups)."""
    if scores.device.type != "cpu" or groups > _NARROW:
        return scores.unflatten(1, (_GROUP, groups)).amax(dim=1)
    while scores.shape[1] > groups:
        half = scores.shape[1] // 2
        scores = torch.maximum(scores[:, :half], scores[:, half:])
    return scores


def _top(scores: Tensor, k: int) -> tuple[Tensor, Tensor]:
    # The largest alone is found several times faster than by topk.
    return scores.max(dim=1, keepdim=True) if k == 1 else scores.topk(k, dim=1)


def square_lengths(rows: Tensor) -> Tensor:
    """|x|² of each row, (n, D) → (n,), without a copy of the rows in between."""
    return torch.linalg.vector_norm(rows, dim=1).square_()
