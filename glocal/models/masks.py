"""Parts of images that are hidden from a network."""

from __future__ import annotations

import torch
from torch import Tensor

from glocal.views.random import uniform

# The paper has, as far as we know, a random number of blocks; always so many make a step's shapes the same.
_BLOCKS = 6  # with sides of an eighth to a quarter of the image's: about a fifth of it, a quarter at most but for a few
_SIDES = (1 / 8, 1 / 4)
_OVERLAP = 7 / 227  # by which what is painted reaches into what is seen (Pathak et al., section 3.1)
_OVERLAP_WEIGHT = 10.0


def random_blocks(size: int, *, seed: int, step: int, index: Tensor) -> Tensor:
    """Some squares at random places, which may overlap: (B, 1, size, size) float32, 1 where the image is hidden.

    Pathak, Krähenbühl, Donahue, Darrell and Efros, "Context Encoders: Feature Learning by Inpainting", CVPR 2016,
    section 3.3.

    Args:
        size: side of the images in pixels.
        seed, step: what squares are drawn from, and
        index: (B,) int64, the images' places in their source.
    """
    number = torch.arange(_BLOCKS)
    side, left, top = (uniform(seed, "block", step, index[:, None], number, what) for what in range(3))  # (B, blocks)
    side = (size * torch.lerp(torch.full_like(side, _SIDES[0]), torch.full_like(side, _SIDES[1]), side)).ceil()
    pixel = torch.arange(size)
    across, down = (
        ((pixel >= first[..., None]) & (pixel < (first + side)[..., None])).float()  # (B, blocks, size)
        for first in ((draw * (size - side + 1)).floor() for draw in (left, top))
    )
    return (down.mT @ across > 0).float()[:, None]


def central_square(size: int) -> tuple[Tensor, Tensor]:
    """The middle of an image, half as wide and as high: what is hidden, and how much an error counts where.

    What is painted reaches a little into what can be seen, where errors count ten times, so that both go together
    (Pathak et al., CVPR 2016, section 3.1).

    Args:
        size: side of the images in pixels.

    Returns:
        (1, 1, size, size) float32: 1 where the image is hidden; the weight of each pixel's error.
    """
    pixel = torch.arange(size)
    painted = (pixel >= size // 4) & (pixel < size - size // 4)
    edge = round(size * _OVERLAP)
    hidden = (pixel >= size // 4 + edge) & (pixel < size - size // 4 - edge)
    of_hidden, of_painted = ((one[:, None] & one).float()[None, None] for one in (hidden, painted))
    return of_hidden, of_painted + (_OVERLAP_WEIGHT - 1) * (of_painted - of_hidden)
