"""What people see of images whose values are no colours."""

from __future__ import annotations

import torch
from torch import Tensor

_CUT = 0.01  # of the values, that become black, and as many white
_SAMPLE = 1 << 16  # values of a channel that percentiles are taken of, about


def as_picture(images: Tensor) -> Tensor:
    """Images as RGB: uint8 as they are; of values one channel as grey, of two their mean, of more the first three.

    Each of these is stretched so that one in a hundred of its values, over all images, is black and one white.

    Args:
        images: (…, 3, H, W) uint8, or (…, C, H, W) floating point.

    Returns:
        (…, 3, H, W) uint8.

    >>> as_picture(torch.linspace(5, 7, 1000).view(1, 10, 100))[:, 0, 0].tolist()
    [0, 0, 0]
    """
    if images.dtype == torch.uint8:
        return images
    channels = images.shape[-3]
    values = images[..., :3, :, :] if channels >= 3 else images.mean(dim=-3, keepdim=True)
    lines = values.movedim(-3, 0).flatten(1).float()  # (1 or 3, …)
    lines = lines[:, :: max(1, lines.shape[1] // _SAMPLE)]
    low, high = (lines.quantile(share, dim=1)[:, None, None] for share in (_CUT, 1 - _CUT))
    shown = (values - low) / (high - low).clamp(min=torch.finfo(torch.float32).tiny)
    return shown.clamp(0, 1).mul(255).round().byte().expand(*images.shape[:-3], 3, -1, -1)
