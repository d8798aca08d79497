"""Batch normalisation by the statistics of all processes' images, on a CPU too; torch has its own for GPUs only."""

from __future__ import annotations

from typing import Any

import torch
from timm.layers import BatchNormAct2d
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn.modules.batchnorm import _BatchNorm

from glocal.distributed import all_gather, all_sum, process_count


class _Normalise(torch.autograd.Function):
    """Normalises by mean and variance over all processes, of which each has equally many rows."""

    @staticmethod
    def forward(  # type: ignore[override]
        ctx: Any, images: Tensor, weight: Tensor | None, bias: Tensor | None, epsilon: float
    ) -> tuple[Tensor, Tensor, Tensor]:
        values = images.float() if images.dtype in (torch.bfloat16, torch.float16) else images
        axes = [axis for axis in range(images.ndim) if axis != 1]
        variance, mean = torch.var_mean(values, axes, correction=0)  # (C,)
        means, variances = all_gather(torch.stack([mean, variance])[None]).unbind(dim=1)  # (P, C)
        # The variance over all is the mean of those within processes and that of their means.
        mean, variance = means.mean(dim=0), variances.mean(dim=0) + means.var(dim=0, correction=0)
        inverse = (variance + epsilon).rsqrt()
        scale = inverse if weight is None else inverse * weight
        shift = -mean * scale if bias is None else bias - mean * scale
        ctx.save_for_backward(images, mean, inverse, scale)
        ctx.mark_non_differentiable(mean, variance)
        return (values * _wide(scale, images) + _wide(shift, images)).to(images.dtype), mean, variance

    @staticmethod
    @once_differentiable  # type: ignore[untyped-decorator]
    def backward(ctx: Any, gradient: Tensor, *_: Tensor) -> tuple[Tensor | None, ...]:
        images, mean, inverse, scale = ctx.saved_tensors
        axes = [axis for axis in range(images.ndim) if axis != 1]
        gradient = gradient.to(mean.dtype)
        normal = (images.to(mean.dtype) - _wide(mean, images)) * _wide(inverse, images)
        own = torch.stack([gradient.sum(axes), (gradient * normal).sum(axes)])  # (2, C)
        rows = images.numel() // images.shape[1] * process_count()
        of_bias, of_weight = all_sum(own) / rows
        found = _wide(scale, images) * (gradient - _wide(of_bias, images) - normal * _wide(of_weight, images))
        _, with_weight, with_bias, _ = ctx.needs_input_grad
        return found.to(images.dtype), own[1] if with_weight else None, own[0] if with_bias else None, None


def _wide(channels: Tensor, images: Tensor) -> Tensor:
    """(C,) → (C, 1, …), as it lies along a batch's channels."""
    return channels.view(-1, *[1] * (images.ndim - 2))


class _OfAllProcesses(_BatchNorm):
    def forward(self, input: Tensor) -> Tensor:
        """(B, C, …) of this process → the same, normalised; its processes must come here together."""
        if not self.training:
            return _BatchNorm.forward(self, input)
        self._check_input_dim(input)
        found, mean, variance = _Normalise.apply(input, self.weight, self.bias, self.eps)
        if self.running_mean is not None and self.running_var is not None:
            assert self.num_batches_tracked is not None
            self.num_batches_tracked.add_(1)
            share = self.momentum if self.momentum is not None else 1 / float(self.num_batches_tracked)
            rows = input.numel() // input.shape[1] * process_count()
            self.running_mean.lerp_(mean, share)
            self.running_var.lerp_(variance * (rows / max(1, rows - 1)), share)
        return found  # type: ignore[no-any-return]


class BatchNorm1d(_OfAllProcesses, nn.BatchNorm1d):
    """`torch.nn.BatchNorm1d` over all processes."""


class BatchNorm2d(_OfAllProcesses, nn.BatchNorm2d):
    """`torch.nn.BatchNorm2d` over all processes."""


class BatchNorm3d(_OfAllProcesses, nn.BatchNorm3d):
    """`torch.nn.BatchNorm3d` over all processes."""


class BatchNormAct(_OfAllProcesses, BatchNormAct2d):  # type: ignore[misc]
    """timm's normalisation with its activation, over all processes."""

    def _get_name(self) -> str:
        return "BatchNormAct2d"

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) → the same."""
        return self.act(self.drop(_OfAllProcesses.forward(self, x)))  # type: ignore[no-any-return, operator]


_SHARED = {
    nn.BatchNorm1d: BatchNorm1d,
    nn.BatchNorm2d: BatchNorm2d,
    nn.BatchNorm3d: BatchNorm3d,
    BatchNormAct2d: BatchNormAct,
}


def normalise_together(module: nn.Module) -> None:
    """Lets the batch normalisations in a module, which stay what they are otherwise, take all processes' statistics."""
    for layer in module.modules():
        layer.__class__ = _SHARED.get(type(layer), type(layer))
