"""Reading image files of any mode and format that Pillow knows, as RGB the way a person would see them."""

from __future__ import annotations

import logging
import textwrap
import warnings
from pathlib import Path
from typing import BinaryIO

import numpy as np
import torch
from PIL import Image, TiffImagePlugin, UnidentifiedImageError
from torch import Tensor

from glocal.errors import BrokenImageError

_ORIENTATION = 0x0112  # EXIF tag
_UPRIGHT = {  # what turns an image of that orientation upright
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
_EXCHANGES_SIDES = {5, 6, 7, 8}

# Without a handler, Python prints Pillow's log of odd metadata to the terminal, once per image.
logging.getLogger("PIL").addHandler(logging.NullHandler())


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
                upright = turned_upright(image, orientation_of(image))
                pixels = np.array(_to_rgb(upright), dtype=np.uint8)
        except UnidentifiedImageError:
            raise BrokenImageError(key, _empty_or("no image in a format that Pillow reads", file)) from None
        except Image.DecompressionBombError:
            raise BrokenImageError(key, "more pixels than Pillow thinks safe (decompression bomb)") from None
        except Exception as error:  # Pillow's plugins raise anything on damaged bytes: RuntimeError, zlib.error, …
            raise BrokenImageError(key, _reason(error)) from None
    return torch.from_numpy(pixels).permute(2, 0, 1)


def image_size(file: str | Path) -> tuple[int, int]:
    """Height and width of the upright image, from the file's header alone.

    A rotation that a PNG notes only behind its pixels, which no common encoder does, is not seen.

    Raises:
        BrokenImageError: the header cannot be read.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            with Image.open(file) as image:
                width, height = _stored_size(image)
                exchanged = exchanges_sides(orientation_of(image))
        except Exception as error:
            raise BrokenImageError(str(file), _reason(error)) from None
    return (width, height) if exchanged else (height, width)


def image_orientation(file: str | Path) -> int:
    """EXIF orientation of an image file, 1 (upright) to 8.

    Raises:
        BrokenImageError: the header cannot be read.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            with Image.open(file) as image:
                return orientation_of(image)
        except Exception as error:
            raise BrokenImageError(str(file), _reason(error)) from None


def turned_upright(image: Image.Image, orientation: int) -> Image.Image:
    """An image of that EXIF orientation as a person would see it."""
    turn = _UPRIGHT.get(orientation)
    return image if turn is None else image.transpose(turn)


def exchanges_sides(orientation: int) -> bool:
    """Whether turning an image of that EXIF orientation upright makes its width its height."""
    return orientation in _EXCHANGES_SIDES


def _stored_size(image: Image.Image) -> tuple[int, int]:
    """Width and height before rotation; of TIFF files, newer versions of Pillow give those after it as the size."""
    if isinstance(image, TiffImagePlugin.TiffImageFile):
        return int(image.tag_v2[TiffImagePlugin.IMAGEWIDTH]), int(image.tag_v2[TiffImagePlugin.IMAGELENGTH])
    return image.size


def orientation_of(image: Image.Image) -> int:
    """EXIF orientation, 1 (upright) where there is none or the metadata are damaged."""
    try:
        # the base class's method: that of PNG files decodes the pixels in search of more metadata
        return int(Image.Image.getexif(image).get(_ORIENTATION, 1))
    except Exception:  # pixels are worth having without their metadata
        return 1


def _reason(error: Exception) -> str:
    text = getattr(error, "strerror", None) or str(error) or type(error).__name__
    return textwrap.shorten(text, 120, placeholder="…")


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

    Integers are taken as 16 bits, or as 8 where none is above 255; floating point as [0, 1] where it lies there,
    or as [0, 255] where it lies there. What lies outside is taken from its smallest to its largest finite value.
    """
    values = np.asarray(image, dtype=np.float64)
    finite = values[np.isfinite(values)]
    low, high = (float(finite.min()), float(finite.max())) if finite.size else (0.0, 0.0)
    values = np.nan_to_num(values, nan=low, posinf=high, neginf=low)
    if image.mode.startswith("I;16"):
        low, high = 0, 65535
    else:
        ranges = (1, 255) if image.mode == "F" else (255, 65535)
        low, high = next(((0, top) for top in ranges if low >= 0 and high <= top), (low, high))
    scale = 255 / (high - low) if high > low else 0.0
    return np.rint((values - low) * scale).astype(np.uint8)
