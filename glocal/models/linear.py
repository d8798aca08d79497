"""Linear layers for processors on which the BLAS that torch was built with runs at half speed."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn.functional import linear

_FEWEST_ROWS = 32  # with fewer the copies cost more than the product gains


class OneDNNLinear(nn.Linear):
    """A linear layer whose fp32 products are oneDNN's, forward and backward: the same sums in another order.

    By torch's public layout for oneDNN: rows are copied into it and back, weights stay as they are. In autocast, on a
    GPU and in other dtypes it is torch's own layer.
    """

    def _get_name(self) -> str:
        return "Linear"  # what is printed, and with it the fingerprint of a backbone, does not depend on the machine

    def forward(self, input: Tensor) -> Tensor:
        """(…, in) → (…, out)."""
        plain = input.device.type == "cpu" and input.dtype == self.weight.dtype == torch.float32
        if not plain or torch.is_autocast_enabled("cpu") or input.numel() < _FEWEST_ROWS * self.in_features:
            return super().forward(input)
        return _Linear.apply(input, self.weight, self.bias)  # type: ignore[no-any-return]


class _Linear(torch.autograd.Function):
    # torch's own gradient of these layouts keeps every input twice.
    @staticmethod
    def forward(ctx: Any, rows: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:  # type: ignore[override]
        ctx.save_for_backward(rows, weight)
        return _multiply(rows, weight, bias)

    @staticmethod
    @once_differentiable  # type: ignore[untyped-decorator]
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        rows, weight = ctx.saved_tensors
        of_rows, of_weight, of_bias = ctx.needs_input_grad
        flat = gradient.flatten(0, -2)
        return (
            _multiply(gradient, weight.T) if of_rows else None,
            _multiply(flat.T, rows.flatten(0, -2).T) if of_weight else None,
            flat.sum(dim=0) if of_bias else None,
        )


def _multiply(rows: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """rows · weightᵀ + bias."""
    return linear(rows.contiguous().to_mkldnn(), weight.contiguous(), bias).to_dense()


def use_onednn(module: nn.Module) -> None:
    """Lets the linear layers in a module, which stay what they are otherwise, multiply by oneDNN."""
    for layer in module.modules():
        if type(layer) is nn.Linear:
            layer.__class__ = OneDNNLinear


@cache
def blas_is_slow() -> bool:
    """MKL on a processor that is not Intel's and has AVX512, which MKL leaves unused there (a factor of two).

    Asked of the processor, not measured: a run that is continued must compute as it did before.
    """
    try:
        vendor = Path("/proc/cpuinfo").read_text(encoding="utf-8")
    except OSError:
        return False
    mkl = torch.backends.mkl.is_available() and torch.backends.mkldnn.is_available()  # type: ignore[no-untyped-call]
    return mkl and "GenuineIntel" not in vendor and torch.backends.cpu.get_cpu_capability() == "AVX512"
