"""Patches of views, cut with gaps, and a head over all nine: what jigsaw and PIRL share."""

from __future__ import annotations

from itertools import count

import torch
from torch import Tensor, nn
from torch.nn.functional import relu

from glocal.errors import GlocalError, counted
from glocal.losses.precision import full_precision
from glocal.transfer import to_device
from glocal.views.crops import render_patches
from glocal.views.random import uniform

ROWS = 3  # of cells a side
PATCHES = ROWS**2
LEAST = 4  # side of a patch in pixels of its view: less shows next to nothing


def patch_size_for(size: int) -> int:
    """The side at which patches of views are shown to a network that is made for images of `size` pixels.

    64, as the papers have it, which is a map of 2 × 2 places; half the side of small images, whose networks begin with
    a stem that keeps the resolution.

    >>> patch_size_for(224), patch_size_for(32)
    (64, 16)
    """
    return 64 if size > 64 else max(8, size // 2)


def places_of_patches(size: int, gap: float, *, seed: int, step: int, index: Tensor, view: int = 0) -> Tensor:
    """Where patches lie: one at a random place in each cell of a 3 × 3 grid, so that there are gaps between them.

    Without gaps, edges that go on from patch to patch would give their order away (Noroozi and Favaro, ECCV 2016,
    section 4.2).

    Args:
        size: side of the view in pixels.
        gap: the share of a cell's side by which a patch is smaller.
        seed, step: what the places are drawn from, and
        index: (B,) int64, the images' places in their source, and
        view: the view's number.

    Returns:
        Boxes (B, 9, 4) float64, row by row, in whole pixels: left, top, right, bottom.

    Raises:
        GlocalError: the patches would have less than `LEAST` pixels a side.
    """
    cell = size // ROWS
    side = _side(cell, gap)
    if side < LEAST:
        least = next(cell for cell in count(LEAST) if _side(cell, gap) >= LEAST) * ROWS
        raise GlocalError(
            f"views of {size} pixels with method.gap={gap:g} give {ROWS} × {ROWS} patches of {counted(side, 'pixel')}, "
            f"too few to show anything; {LEAST} are needed: set views.N.size or data.size to {least} or more"
            f"{', or method.gap lower' if gap else ''}"
        )
    number = torch.arange(PATCHES)
    draws = [uniform(seed, "patch", step, index[:, None], number, axis, view) for axis in (0, 1)]
    left, top = (torch.floor(draw * (cell - side + 1)) for draw in draws)  # (B, 9)
    left, top = left + number % ROWS * cell, top + number // ROWS * cell
    return torch.stack([left, top, left + side, top + side], dim=-1)


def _side(cell: int, gap: float) -> int:
    """The side of a patch in a cell, in pixels."""
    return round(cell * (1 - gap))


@full_precision
def cut_patches(images: Tensor, boxes: Tensor, size: int) -> Tensor:
    """Cuts patches out of views and resizes each with antialiasing.

    Args:
        images: (B, C, S, S) normalised.
        boxes: (B, P, 4), on the CPU.
        size: side of what comes out in pixels.

    Returns:
        (B·P, C, size, size), an image's patches one after another.
    """
    return render_patches(images, to_device(boxes, images.device), size)


def standardised(patches: Tensor) -> Tensor:
    """Every patch with mean 0 and deviation 1 of its own in each channel: (N, C, S, S).

    What neighbouring patches have in common, brightness and contrast, then says nothing of their order.
    """
    mean, std = patches.mean(dim=(2, 3), keepdim=True), patches.std(dim=(2, 3), keepdim=True, correction=0)
    return (patches - mean) / (std + 1e-3)  # a patch of one colour stays near 0


class PatchesHead(nn.Module):
    """Each patch's features made narrow by the same layer, joined in the order of the patches, and one layer on top.

    Args:
        dim: width of the features.
        narrow: their width when they are joined.
        output: width of what comes out.
        norm: batch normalisation and ReLU behind the first layer.
    """

    def __init__(self, dim: int, narrow: int, output: int, *, norm: bool) -> None:
        super().__init__()
        self.each = nn.Linear(dim, narrow)
        self.norm = nn.BatchNorm1d(narrow) if norm else None
        self.joined = nn.Linear(PATCHES * narrow, output)

    def forward(self, features: Tensor) -> Tensor:
        """(B·9, dim) → (B, output)."""
        narrow = self.each(features)
        if self.norm is not None:
            narrow = relu(self.norm(narrow))
        return self.joined(narrow.unflatten(0, (-1, PATCHES)).flatten(1))  # type: ignore[no-any-return]
