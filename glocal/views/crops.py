"""Execution of drawn crops: crop, mirror and antialiased resize, for a batch at once or for one image."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from typing import Literal

import torch
from torch import Tensor
from torch.nn.functional import interpolate

from glocal.views.geometry import ViewGeometry

Interpolation = Literal["bilinear", "bicubic"]

_CPU_IMAGES = 32
_TABLE_BYTES = 8 << 20  # of float weights


def render_batch(
    images: Tensor, geometry: ViewGeometry, size: int, interpolation: Interpolation = "bilinear"
) -> Tensor:
    """Cuts each image's crop and resizes it with antialiasing: two batched matrix products, no loop over images.

    Equals torchvision's `resized_crop(…, antialias=True)` on float images, whose taps also end at the crop's border.

    Args:
        images: (B, C, H, W) float, or uint8, which is scaled to [0, 1].
        geometry: box (B, 4) and flipped (B,), on the images' device.
        size: side of the views in pixels.

    Returns:
        (B, C, size, size) in the dtype of `images`, float32 for uint8.
    """
    if images.device.type == "cpu" and len(images) > _CPU_IMAGES:  # a few images at a time meet in the cache
        places = zip(geometry.box.split(_CPU_IMAGES), geometry.flipped.split(_CPU_IMAGES), strict=True)
        chunks = zip(images.split(_CPU_IMAGES), places, strict=True)
        return torch.cat([render_batch(few, ViewGeometry(*place), size, interpolation) for few, place in chunks])
    _, _, height, width = images.shape
    left, top, right, bottom = geometry.box.unbind(-1)
    across = _weights_of(left, right, width, size, interpolation)  # (B, size, W)
    across = torch.where(geometry.flipped[:, None, None], across.flip(1), across)
    down = _weights_of(top, bottom, height, size, interpolation)  # (B, size, H)
    if not images.is_floating_point():
        images, down = images.float(), down / 255  # a division of the few weights, not of the pixels
    return resample(images, down.to(images), across.to(images))


def render_patches(images: Tensor, boxes: Tensor, size: int) -> Tensor:
    """`render_batch` of several crops of each image, none of them mirrored, without a copy of the image for each.

    Args:
        images: (B, C, H, W) float.
        boxes: (B, P, 4), on the images' device.
        size: side of the crops in pixels.

    Returns:
        (B·P, C, size, size) in the dtype of `images`, an image's crops one after another.
    """
    _, channels, height, width = images.shape
    left, top, right, bottom = boxes.flatten(0, 1).unbind(-1)
    across = _weights_of(left, right, width, size, "bilinear").to(images)  # (B·P, size, W)
    down = _weights_of(top, bottom, height, size, "bilinear").to(images)
    side_by_side = across.unflatten(0, boxes.shape[:2]).flatten(1, 2)  # (B, P·size, W)
    narrowed = torch.bmm(images.flatten(1, 2), side_by_side.mT.contiguous())  # (B, C·H, P·size)
    apart = narrowed.view(len(images), channels, height, -1, size).permute(0, 3, 1, 2, 4).flatten(0, 1)
    return torch.matmul(down[:, None], apart)


def resample(images: Tensor, down: Tensor, across: Tensor) -> Tensor:
    """A linear map of each image's columns and rows: (B, C, H, W), (B, S, H), (B, T, W) → (B, C, S, T)."""
    # The transpose is copied: batched products of a transposed view fall off the fast path on a CPU (10 times slower).
    narrowed = torch.bmm(images.flatten(1, 2), across.mT.contiguous())  # (B, C·H, T)
    return torch.matmul(down[:, None], narrowed.unflatten(1, images.shape[1:3]))


def _weights_of(start: Tensor, end: Tensor, length: int, size: int, interpolation: Interpolation) -> Tensor:
    """`_resize_weights`, looked up where a table of all intervals of whole pixels is small: up to 40 pixels or so."""
    if 2 * length * (length + 1) * size * length > _TABLE_BYTES:
        return _resize_weights(start, end, length, size, interpolation)
    table = _resize_table(length, size, interpolation, start.device)
    start, end = start.long(), end.long()
    return table[start * (2 * length - start + 1) // 2 + end - start - 1]


@cache
def _resize_table(length: int, size: int, interpolation: Interpolation, device: torch.device) -> Tensor:
    """The weights of all intervals, by their start and then their end: (length·(length + 1)/2, size, length)."""
    start, end = torch.triu_indices(length, length, device=device)
    return _resize_weights(start, end + 1, length, size, interpolation)


def _resize_weights(start: Tensor, end: Tensor, length: int, size: int, interpolation: Interpolation) -> Tensor:
    """Weights (B, size, length) that resample pixels start … end − 1 of a line of `length` pixels to `size` pixels."""
    start, end = start.float(), end.float()  # whole pixels: exact
    scale = ((end - start) / size)[:, None]  # (B, 1) source pixels per output pixel
    stretch = scale.clamp(min=1)[:, :, None]  # antialiasing widens the filter when it shrinks the image
    position = torch.arange(length, device=start.device) + 0.5
    centre = start[:, None] + (torch.arange(size, device=start.device) + 0.5) * scale  # (B, size)
    distance = (position - centre[:, :, None]).div_(stretch).abs_()  # (B, size, length)
    weights = _triangle(distance) if interpolation == "bilinear" else _keys_cubic(distance)
    inside = (position >= start[:, None]) & (position < end[:, None])  # (B, length)
    weights = weights.mul_(inside[:, None])
    return weights.div_(weights.sum(dim=-1, keepdim=True))


def _triangle(distance: Tensor) -> Tensor:
    return (1 - distance).clamp_(min=0)


def _keys_cubic(distance: Tensor) -> Tensor:
    """Keys' cubic with a = −1/2, the filter of Pillow and of torch's antialiased bicubic."""
    near = (1.5 * distance - 2.5) * distance**2 + 1
    far = ((-0.5 * distance + 2.5) * distance - 4) * distance + 2
    return torch.where(distance < 1, near, torch.where(distance < 2, far, 0.0))


def render_one(
    image: Tensor,
    box: Sequence[int],
    flipped: bool,
    size: int,
    interpolation: Interpolation = "bilinear",
) -> Tensor:
    """The same for one uint8 image, (C, H, W) → (C, size, size) uint8, by torch's integer kernels.

    Differs from `render_batch` by the rounding to whole grey levels: at most 1 where bicubic does not overshoot black
    or white, which is cut off here.
    """
    left, top, right, bottom = box
    view = interpolate(image[None, :, top:bottom, left:right], (size, size), mode=interpolation, antialias=True)[0]
    return view.flip(-1) if flipped else view


def central_geometry(sizes: Tensor, share: float) -> ViewGeometry:
    """The central square whose side is `share` of the shorter side, as evaluation protocols crop it.

    Args:
        sizes: (B, 2) heights and widths.
        share: 224/256 is the usual protocol at 224 pixels; 1 takes the largest square.

    Returns:
        Geometry with box (B, 4) in whole pixels, nothing flipped.
    """
    height, width = sizes.double().unbind(-1)
    side = (torch.minimum(height, width) * share).round().clamp(min=1)
    top, left = ((height - side) / 2).floor(), ((width - side) / 2).floor()
    box = torch.stack([left, top, left + side, top + side], dim=-1)
    return ViewGeometry(box, torch.zeros(len(box), dtype=torch.bool))
