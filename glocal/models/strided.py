"""Convolutions of a stride larger than their image, whose gradients in bf16 are wrong on a CPU."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class StridedConv2d(nn.Conv2d):
    """A convolution that computes in fp32 where bf16 would be wrong: on a CPU, with a stride larger than its image.

    There most of the kernel sees nothing but padding. The gradient of these weights is zero, but in bf16 PyTorch (2.14,
    by oneDNN) leaves it as it finds it in memory: any numbers, infinities among them. A ResNet with the standard stem
    has such a layer for crops of 16 pixels.
    """

    def _get_name(self) -> str:
        return "Conv2d"  # what is printed, and with it the fingerprint of a backbone, stays as it is

    def _conv_forward(self, input: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        dtype = torch.get_autocast_dtype("cpu") if torch.is_autocast_enabled("cpu") else input.dtype
        small = input.shape[-2] < self.stride[0] or input.shape[-1] < self.stride[1]
        if not small or input.device.type != "cpu" or dtype != torch.bfloat16:
            return super()._conv_forward(input, weight, bias)
        with torch.autocast("cpu", enabled=False):
            whole = super()._conv_forward(input.float(), weight.float(), None if bias is None else bias.float())
        return whole.to(dtype)


def use_exact_strides(module: nn.Module) -> None:
    """Lets the convolutions in a module, which stay what they are otherwise, be right in bf16 on images of any size."""
    for layer in module.modules():
        if type(layer) is nn.Conv2d and max(layer.stride) > 1 and max(layer.kernel_size) > 1:
            layer.__class__ = StridedConv2d
