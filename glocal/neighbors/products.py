"""Products of features with one another, and the largest of them: what neighbours and clusters spend their time on."""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import cache

import torch
from torch import Tensor

_GROUP = 16


def products(left: Tensor, right: Tensor, less: Tensor | None = None) -> Tensor:
    """Inner products of all rows, (n, D) and (m, D) → (n, m), in the dtype of both; `less` (m,) is taken off each row.

    In fp32 on a CPU by oneDNN where that is faster than the BLAS that torch was built with (MKL takes half of the time
    of AVX512 processors that are not Intel's).
    """
    if left.dtype == torch.float32 and left.device.type == "cpu" and _onednn_is_faster():
        return _by_onednn(left, right, None if less is None else -less)
    return left @ right.T if less is None else torch.addmm(-less, left, right.T)


def _by_onednn(left: Tensor, right: Tensor, bias: Tensor | None) -> Tensor:
    return torch.ops.mkldnn._linear_pointwise(left, right, bias, "none", [], "")


@cache
def _onednn_is_faster() -> bool:
    left, right = torch.ones(512, 256), torch.ones(1024, 256)
    try:
        return _fastest(lambda: _by_onednn(left, right, None)) < 0.9 * _fastest(lambda: left @ right.T)
    except (AttributeError, RuntimeError):  # a torch without it
        return False


@cache
def bf16_gain(device: str) -> float:
    """How many times faster products of rows are in bf16 than in fp32 on a kind of device (cpu, cuda, mps)."""
    left, right = torch.ones(1024, 256, device=device), torch.ones(2048, 256, device=device)
    precise = _fastest(lambda: products(left, right))
    left, right = left.bfloat16(), right.bfloat16()
    return precise / _fastest(lambda: products(left, right))


def _fastest(compute: Callable[[], Tensor], tries: int = 5) -> float:
    """Seconds of the fastest of some tries, after one that is not counted; waits for the device."""
    seconds = []
    for _ in range(1 + tries):
        started = time.perf_counter()
        compute()[0, 0].item()
        seconds.append(time.perf_counter() - started)
    return min(seconds[1:])


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
    chosen = _top(grouped.amax(dim=1), k)[1]
    kept = grouped.gather(2, chosen[:, None].expand(-1, _GROUP, -1)).flatten(1)  # place = row of the group · k + group
    if whole < columns:
        kept = torch.cat([kept, scores[:, whole:]], dim=1)
    near, place = _top(kept, k)
    group = chosen.gather(1, place % k)
    return near, torch.where(place < _GROUP * k, place // k * groups + group, place - _GROUP * k + whole)


def _top(scores: Tensor, k: int) -> tuple[Tensor, Tensor]:
    # The largest alone is found several times faster than by topk.
    return scores.max(dim=1, keepdim=True) if k == 1 else scores.topk(k, dim=1)
