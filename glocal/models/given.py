"""Images as users give them to a backbone: checked, and made one tensor."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor

from glocal.data.decoding.channels import arrange
from glocal.data.decoding.images import rgb_pixels
from glocal.data.decoding.rules import Decoding
from glocal.errors import GlocalError

_ROUNDING = 1e-4  # by which images in [0, 1] may lie outside

AnyImages = Tensor | np.ndarray | Image.Image | Sequence[Tensor | np.ndarray | Image.Image]
"""(B, 3, H, W) uint8 or floating point in [0, 1]; or PIL images and (H, W, 3) uint8 arrays, one or several.

Of a backbone that takes values in their own units, (B, C, H, W) and (H, W, C) of any type."""


def checked_images(images: AnyImages, decoding: Decoding, size: int) -> Tensor:
    """Images as users have them → (B, 3, H, W) uint8 or floating point in [0, 1]; (B, C, H, W) of any type of values.

    Raises:
        GlocalError: they are not.
    """
    if not isinstance(images, Tensor):
        images = _stacked(images, decoding, size)
    channels = decoding.channels or 3
    if images.ndim != 4 or images.shape[1] != channels or 0 in images.shape[2:]:
        raise GlocalError(f"images must have the shape (B, {channels}, height, width), not {tuple(images.shape)}")
    if decoding.channels is not None:
        if not bool(images.isfinite().all()):
            raise GlocalError("images hold values that are infinite or no numbers")
        return images
    if images.is_floating_point() and len(images) > 0:
        low, high = (float(value) for value in images.aminmax())
        if not (low >= -_ROUNDING and high <= 1 + _ROUNDING):  # also where one is no number
            raise GlocalError(
                f"images in floating point must lie in [0, 1], not in [{low:g}, {high:g}]; they are normalised "
                "here, so divide by 255 at most, or give uint8"
            )
    return images


def _stacked(
    images: np.ndarray | Image.Image | Sequence[Tensor | np.ndarray | Image.Image], decoding: Decoding, size: int
) -> Tensor:
    """PIL images and arrays (one, or several of one size) as one tensor (B, 3, H, W); an error names `size`."""
    if isinstance(images, np.ndarray) and images.ndim == 4:
        several: Sequence[Any] = list(images)
    elif isinstance(images, Sequence):
        several = images
    else:
        several = [images]
    if not several:
        raise GlocalError("images: the list is empty")
    found = [pixels(image, decoding) for image in several]
    sizes = sorted({f"{image.shape[-2]} × {image.shape[-1]}" for image in found})
    if len(sizes) > 1:
        raise GlocalError(
            f"images of one call must have one size, not {' and '.join(sizes[:3])}; cut them to {size} × {size} first: "
            "features(backbone.squares(images))"
        )
    return torch.stack(found)


def pixels(image: Tensor | np.ndarray | Image.Image, decoding: Decoding) -> Tensor:
    """One image as (3, H, W), or (C, H, W) of values."""
    channels = decoding.channels or 3
    if isinstance(image, Image.Image):
        image = ImageOps.exif_transpose(image)
    if isinstance(image, Tensor):
        if image.ndim != 3 or image.shape[0] != channels:
            raise GlocalError(
                f"a tensor in a list of images must have the shape ({channels}, H, W), not {tuple(image.shape)}"
            )
        return image
    if isinstance(image, Image.Image) and decoding.channels is None:
        return rgb_pixels(image, decoding)
    if not isinstance(image, np.ndarray | Image.Image):
        raise GlocalError(f"images must be tensors, NumPy arrays or PIL images, not {type(image).__name__}")
    if decoding.channels is not None:
        return arrange(np.asarray(image), decoding.channels, decoding.channel_axis, "an image")
    assert isinstance(image, np.ndarray)
    if image.ndim != 3 or image.shape[2] != 3 or image.dtype != np.uint8:
        raise GlocalError(
            f"arrays of images must be (height, width, 3) uint8, not {tuple(image.shape)} {image.dtype}; give other "
            "values as a tensor (B, 3, height, width) in [0, 1]"
        )
    return torch.from_numpy(image.copy()).permute(2, 0, 1)  # torch warns of arrays that it could not write to
