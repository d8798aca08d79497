"""Reading image files of any mode and format that Pillow knows, as RGB the way a person would see them."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import BinaryIO

import numpy as np
import torch
from PIL import Image, ImageOps, UnidentifiedImageError
from torch import Tensor

from glocal.errors import BrokenImageError

_ORIENTATION = 0x0112  # EXIF tag
_TURNED = {5, 6, 7, 8}  # orientations that exchange width and height
_UNREADABLE = (OSError, SyntaxError, ValueError, TypeError, KeyError, IndexError, EOFError, MemoryError)


def read_image(file: str | Path | BinaryIO, key: str) -> Tensor:
    """Reads an image.

    EXIF rotation is applied, transparency shows white, 16-bit and floating-point values are scaled to 8 bits (not
    cut off), of an animation the first frame is taken.

    Args:
        file: a path or an open binary file.
        key: the name that errors give.

    Returns:
        (3, H, W) uint8; the memory is that of rows of RGB pixels (channels last).

    Raises:
        BrokenImageError: the file cannot be read or decoded.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # odd metadata is no news to the user; a bomb is an error below
        try:
            with Image.open(file) as image:
                image.load()
                upright = ImageOps.exif_transpose(image) if image.getexif().get(_ORIENTATION, 1) != 1 else image
                pixels = np.array(_to_rgb(upright), dtype=np.uint8)
        except UnidentifiedImageError:
            raise BrokenImageError(key, _empty_or("no image in a format that Pillow reads", file)) from None
        except Image.DecompressionBombError:
            raise BrokenImageError(key, "more pixels than Pillow thinks safe (decompression bomb)") from None
        except _UNREADABLE as error:
            raise BrokenImageError(key, _reason(error)) from None
    return torch.from_numpy(pixels).permute(2, 0, 1)


def image_size(file: str | Path) -> tuple[int, int]:
    """Height and width of the upright image, from the file's header alone.

    Raises:
        BrokenImageError: the header cannot be read.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            with Image.open(file) as image:
                width, height = image.size
                turned = image.getexif().get(_ORIENTATION, 1) in _TURNED
        except (*_UNREADABLE, Image.DecompressionBombError) as error:
            raise BrokenImageError(str(file), _reason(error)) from None
    return (width, height) if turned else (height, width)


def _reason(error: Exception) -> str:
    text = getattr(error, "strerror", None) or str(error) or type(error).__name__
    return " ".join(text.split())


def _empty_or(reason: str, file: str | Path | BinaryIO) -> str:
    empty = isinstance(file, str | Path) and Path(file).stat().st_size == 0
    return "empty file" if empty else reason


def _to_rgb(image: Image.Image) -> Image.Image:
    if image.mode == "RGB" and "transparency" not in image.info:
        return image
    if image.mode in {"I", "F"} or image.mode.startswith("I;16"):
        return Image.fromarray(_to_eight_bits(image)).convert("RGB")
    if image.mode in {"LA", "La", "PA", "RGBA", "RGBa"} or "transparency" in image.info:
        image = image.convert("RGBA")
        white = Image.new("RGBA", image.size, (255, 255, 255, 255))
        return Image.alpha_composite(white, image).convert("RGB")
    return image.convert("RGB")


def _to_eight_bits(image: Image.Image) -> np.ndarray:
    """Grey values of deep images as uint8.

    Integers are taken as 16 bits, or as 8 where none is above 255; floating point as [0, 1] where it lies
    there, as [0, 255] where it lies there, and else from its smallest to its largest value.
    """
    values = np.nan_to_num(np.asarray(image, dtype=np.float64))
    low, high = float(values.min()), float(values.max())
    if image.mode == "F":
        if low >= 0 and high <= 1:
            values = values * 255
        elif low < 0 or high > 255:
            values = (values - low) * (255 / (high - low)) if high > low else values * 0
    elif image.mode.startswith("I;16") or 255 < high <= 65535:
        values = values / 257
    elif high > 65535:
        values = values * (255 / high)
    return np.clip(np.rint(values), 0, 255).astype(np.uint8)
