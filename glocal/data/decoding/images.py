"""Reading image files of any mode and format that Pillow knows, as RGB the way a person would see them."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO, TypeVar

from PIL import Image, UnidentifiedImageError
from torch import Tensor

from glocal.data.decoding.channels import StoredChannels, how_to_read
from glocal.data.decoding.faults import broken, gone_folder, reason
from glocal.data.decoding.reading import allow_pixels, read_file
from glocal.data.decoding.rgb import upright_pixels
from glocal.data.decoding.rules import USUAL, Decoding
from glocal.data.decoding.stored import StoredImage
from glocal.errors import BrokenImageError

S = TypeVar("S")

# Without a handler, Python prints Pillow's log of odd metadata to the terminal, once per image.
logging.getLogger("PIL").addHandler(logging.NullHandler())


def read_image(file: str | Path | BinaryIO, key: str, decoding: Decoding = USUAL) -> Tensor:
    """Reads an image.

    EXIF rotation is applied, transparency shows white, 16-bit and floating-point values are scaled to 8 bits (not
    cut off), of an animation the first frame is taken.

    Args:
        file: a path or an open binary file.
        key: the name that errors give.
        decoding: range of deep grey values, and how large images may be.

    Returns:
        (3, H, W) uint8; the memory is that of rows of RGB pixels (channels last). With `decoding.channels`
        (channels, H, W) float32, the values as they are stored.

    Raises:
        BrokenImageError: the file cannot be read or decoded.
    """
    return open_stored(file, key, decoding).read()


def rgb_pixels(image: Image.Image, decoding: Decoding = USUAL) -> Tensor:
    """An opened image as (3, H, W) uint8, with the same rules as `read_image` but for the rotation, which stays."""
    return upright_pixels(image, 1, decoding.value_range)


def open_stored(file: str | Path | BinaryIO, key: str, decoding: Decoding = USUAL) -> StoredImage | StoredChannels:
    """Reads a file whole and its header, so that the size is known before a pixel is decoded.

    Raises:
        BrokenImageError: the file cannot be read, its header not be understood, or it has other channels.
    """
    if decoding.channels is None:
        return open_image(file, key, decoding)
    return _opened(
        file,
        key,
        decoding,
        lambda content: StoredChannels(
            content, key, decoding.channels or 0, decoding.channel_axis, decoding.most_pixels
        ),
    )


def open_image(file: str | Path | BinaryIO, key: str, decoding: Decoding = USUAL) -> StoredImage:
    """`open_stored` of an image that is RGB.

    Raises:
        BrokenImageError: the file cannot be read, or its header not be understood.
    """
    return _opened(file, key, decoding, lambda content: StoredImage(content, key, decoding))


def _opened(file: str | Path | BinaryIO, key: str, decoding: Decoding, opened: Callable[[bytes], S]) -> S:
    allow_pixels(decoding.max_pixels)
    content = b""
    try:
        if isinstance(file, str | Path):
            content = read_file(file, decoding.most_pixels, decoding.channels or 1)
        else:
            content = file.read()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # odd metadata is no news to the user; a bomb is an error below
            return opened(content)
    except BrokenImageError:
        raise
    except Exception as error:
        unknown = isinstance(error, UnidentifiedImageError)
        if unknown and decoding.channels is None and (mend := how_to_read(content)):
            raise BrokenImageError(key, mend) from None
        if isinstance(error, OSError) and isinstance(file, str | Path) and (gone := gone_folder(error, Path(file))):
            raise BrokenImageError(key, reason(error), gone) from None
        raise broken(error, key, content) from None


def read_bytes(file: str | Path | BinaryIO, key: str) -> bytes:
    """A file whole.

    Raises:
        BrokenImageError: it cannot be read.
    """
    try:
        return read_file(file) if isinstance(file, str | Path) else file.read()
    except OSError as error:
        gone = gone_folder(error, Path(file)) if isinstance(file, str | Path) else ""
        raise BrokenImageError(key, reason(error), gone) from None
