"""How image files are opened: without waiting for a pipe, never larger than an image can be, and never as a program."""

from __future__ import annotations

import errno
import importlib
import os
import stat
from functools import cache
from pathlib import Path
from typing import BinaryIO

from PIL import Image

PIXELS = 178_956_970
"""Of an image, at most, where no setting says another number: above it, Pillow takes files for decompression bombs."""

_BYTES = 8  # of a file for each pixel, at most: those of four channels in 16 bits, uncompressed
_SMALL = 64 << 20  # bytes that any file may have, for what lies beside its pixels
_PROGRAMS = frozenset({"EPS"})  # PostScript, which Pillow gives to Ghostscript to execute
_POSTSCRIPT = (b"%!PS", b"\xc5\xd0\xd3\xc6")


def open_file(path: str | Path | BinaryIO) -> BinaryIO:
    """Opens a regular file; nobody waits for the other end of a pipe. What is open already stays as it is.

    Raises:
        OSError: it cannot be opened, or is a pipe, a device or a socket.
    """
    if not isinstance(path, str | Path):
        return path
    file = open(path, "rb", opener=_without_waiting)  # noqa: SIM115  # the caller closes it
    if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
        file.close()
        raise OSError(errno.EINVAL, "no file but a pipe or a device")
    return file


def _without_waiting(path: str, flags: int) -> int:
    return os.open(path, flags | getattr(os, "O_NONBLOCK", 0))


def read_file(path: str | Path, pixels: int = PIXELS, channels: int = 1) -> bytes:
    """The bytes of a file that may hold an image.

    Args:
        path: the file.
        pixels: that the image may have.
        channels: whose values stay as they are stored; 1 of colours.

    Raises:
        OSError: it cannot be read, is no regular file, or larger than such an image can be.
    """
    with open_file(path) as file:
        size, most = os.fstat(file.fileno()).st_size, max(_SMALL, _BYTES * pixels * channels)
        if size > most:
            raise OSError(errno.EFBIG, f"{size:,} bytes, more than an image of data.max_pixels={pixels} has")
        return file.read(size)


def open_picture(file: BinaryIO) -> Image.Image:
    """Pillow's image of an open file, by its content; PostScript is none.

    Raises:
        UnidentifiedImageError: it is in no format that Pillow reads.
    """
    register_formats()
    return Image.open(file, formats=tuple(name for name in Image.ID if name not in _PROGRAMS))


def is_program(content: bytes) -> bool:
    """Whether a file is one that Pillow would have executed to see an image."""
    return content.startswith(_POSTSCRIPT)


def image_extensions() -> frozenset[str]:
    """The endings, with their dot and in lower case, of the files that Pillow opens as images."""
    register_formats()
    kinds = Image.OPEN.keys() - _PROGRAMS
    readable = {ending for ending, kind in Image.registered_extensions().items() if kind in kinds}
    return frozenset(readable - {".pdf", ".mpg", ".mpeg", ".h5", ".hdf", ".grib", ".bufr"})


@cache
def register_formats() -> None:
    """Lets Pillow read all its formats, and HEIC where `pillow-heif` is installed, in this process."""
    Image.preinit()
    Image.init()
    try:
        heif = importlib.import_module("pillow_heif")
    except ImportError:
        return
    heif.register_heif_opener()


def allow_pixels(pixels: int | None) -> None:
    """Lets Pillow open, in this process, images of so many pixels; it refuses those above twice its own limit."""
    limit = Image.MAX_IMAGE_PIXELS
    if pixels is not None and limit is not None and pixels > 2 * limit:
        Image.MAX_IMAGE_PIXELS = pixels
