"""What the header of an image file says, and the values that it stores, for a look at many files."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO, TypeVar

import numpy as np
from PIL import Image, UnidentifiedImageError

from glocal.data.decoding.faults import NO_IMAGE, reason
from glocal.data.decoding.jpeg import MOST_SCANS, scans_of
from glocal.data.decoding.orientation import exchanges_sides, orientation_of, stored_size
from glocal.data.decoding.reading import allow_pixels, open_file, open_picture
from glocal.data.decoding.rgb import is_deep
from glocal.data.decoding.rules import USUAL, Decoding
from glocal.errors import BrokenImageError

T = TypeVar("T")
_CHEAP = 1 << 20  # pixels of colour images that a sample decodes


def image_size(file: str | Path | BinaryIO, decoding: Decoding = USUAL) -> tuple[int, int]:
    """Height and width of the upright image, from the file's header alone.

    A rotation that a PNG notes only behind its pixels, which no common encoder does, is not seen.

    Args:
        file: its path, or an open binary file.
        decoding: how large images may be.

    Raises:
        BrokenImageError: the header cannot be read.
    """

    def upright(image: Image.Image) -> tuple[int, int]:
        width, height = stored_size(image)
        return (width, height) if exchanges_sides(orientation_of(image)) else (height, width)

    return _of_header(file, decoding, upright)


def image_orientation(file: str | Path) -> int:
    """EXIF orientation of an image file, 1 (upright) to 8.

    Raises:
        BrokenImageError: the header cannot be read.
    """
    return _of_header(file, USUAL, orientation_of)


def _of_header(file: str | Path | BinaryIO, decoding: Decoding, use: Callable[[Image.Image], T]) -> T:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            with open_file(file, decoding.most_pixels) as opened, open_picture(opened) as image:
                return use(image)
        except UnidentifiedImageError:
            raise BrokenImageError(str(file), NO_IMAGE) from None
        except Exception as error:
            raise BrokenImageError(str(file), reason(error)) from None


def stored_values(
    file: str | Path | BinaryIO, decoding: Decoding = USUAL, *, deep: bool = False
) -> tuple[str, np.ndarray] | None:
    """Pillow's mode and the finite values of an image as they are stored; None for broken files.

    Of colours, RGB in 8 bits: of JPEG files at an eighth of the size, of others where they are no larger than a
    megapixel, else None.

    Args:
        file: its path, or an open binary file.
        decoding: how large images may be.
        deep: only grey images beyond 8 bits are asked for, None for all others.
    """
    allow_pixels(decoding.max_pixels)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            with open_file(file, decoding.most_pixels) as opened, open_picture(opened) as image:
                if deep and not is_deep(image):
                    return None
                if scans_of(image, lambda: _whole(opened)) > MOST_SCANS:
                    return None
                if image.mode == "L" or is_deep(image):
                    values = np.asarray(image)
                    return image.mode, values[np.isfinite(values)]
                image.draft("RGB", (image.width // 8, image.height // 8))
                return ("RGB", np.asarray(image.convert("RGB"))) if image.width * image.height <= _CHEAP else None
        except Exception:  # the lanes say what is wrong with it
            return None


def _whole(file: BinaryIO) -> bytes:
    file.seek(0)
    return file.read()
