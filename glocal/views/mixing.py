"""Mixing of two images: CutMix and Mixup, with draws that depend on counters alone."""

from __future__ import annotations

import torch
from scipy.special import betaincinv
from torch import Tensor

from glocal.transfer import tensor_on, to_device
from glocal.views.random import Counter, uniform


def draw_ratio(alpha: float, seed: int, *counters: Counter) -> Tensor:
    """Draws from Beta(α, α), one for each combination of counters: float64, by inversion.

    >>> bool(draw_ratio(2.0, 0, "mix", torch.arange(1000)).mean().sub(0.5).abs() < 0.05)
    True
    """
    return torch.from_numpy(betaincinv(alpha, alpha, uniform(seed, *counters).numpy()))


def cutmix(images: Tensor, partners: Tensor, ratio: Tensor, center: Tensor) -> tuple[Tensor, Tensor]:
    """Puts a rectangle of each partner into its image.

    Yun et al., "CutMix", ICCV 2019, section 3.1: the rectangle takes √(1 − λ) of each side around a uniform centre and
    is cut off at the border; λ is corrected to the share that is left to the image.

    Args:
        images, partners: (B, C, H, W).
        ratio: λ in [0, 1], (B,).
        center: (B, 2), x and y of the rectangle's centre as shares of the sides, in [0, 1).

    Returns:
        The mixed images and the corrected λ (B,).
    """
    height, width = images.shape[-2:]
    sides = tensor_on(images.device, [width, height])
    ratio, center = to_device(ratio, images.device), to_device(center, images.device)
    extent = (sides * (1 - ratio).clamp(min=0).sqrt()[:, None]).long()  # (B, 2)
    middle = (center * sides).long()
    low = torch.maximum(middle - extent // 2, torch.zeros_like(sides))
    high = torch.minimum(middle + extent // 2, sides)
    columns, rows = (torch.arange(int(length), device=images.device) for length in (width, height))
    inside = ((rows >= low[:, 1:]) & (rows < high[:, 1:]))[:, :, None] & (
        (columns >= low[:, :1]) & (columns < high[:, :1])
    )[:, None, :]  # (B, H, W)
    area = (high - low).clamp(min=0).prod(dim=1)
    return torch.where(inside[:, None], partners, images), (1 - area / (width * height)).to(images.dtype)


def mixup(images: Tensor, partners: Tensor, ratio: Tensor) -> Tensor:
    """λ·image + (1 − λ)·partner, (B, C, H, W); ratio λ is (B,). Zhang et al., "mixup", ICLR 2018."""
    return torch.lerp(partners, images, ratio.to(images)[:, None, None, None])
