"""How image files are opened: without waiting for a pipe or for a header that never comes, never larger than an image
can be, and never as a program."""

from __future__ import annotations

import errno
import importlib
import os
from functools import cache
from pathlib import Path
from typing import Any, BinaryIO, cast

from PIL import Image

from glocal.regular import open_regular

PIXELS = 178_956_970
"""Of an image, at most, where no setting says another number: above it, Pillow takes files for decompression bombs."""

_BYTES = 8  # of a file for each pixel, at most: those of four channels in 16 bits, uncompressed
_SMALL = 64 << 20  # bytes that any file may have, for what lies beside its pixels
_READS = 100_000  # until the header is known, for which a usual file takes some hundred
_PROGRAMS = frozenset({"EPS"})  # PostScript, which Pillow gives to Ghostscript to execute
_POSTSCRIPT = (b"%!PS", b"\xc5\xd0\xd3\xc6")


def open_file(path: str | Path | BinaryIO, pixels: int = PIXELS, channels: int = 1) -> BinaryIO:
    """Opens a file that may hold an image; nobody waits for the other end of a pipe. What is open already stays so.

    Args:
        path: the file.
        pixels: that the image may have.
        channels: whose values stay as they are stored; 1 of colours.

    Raises:
        OSError: it cannot be opened, is a pipe, a device or a socket, or larger than such an image can be.
    """
    if not isinstance(path, str | Path):
        return path
    file = open_regular(path)
    size, most = os.fstat(file.fileno()).st_size, largest_file(pixels, channels)
    if size > most:
        file.close()
        raise OSError(errno.EFBIG, too_large(size, pixels))
    return file


def largest_file(pixels: int = PIXELS, channels: int = 1) -> int:
    """Bytes that the file of an image may have (the arguments of `open_file`)."""
    return max(_SMALL, _BYTES * pixels * channels)


def too_large(size: int, pixels: int = PIXELS) -> str:
    """What is wrong with a file of more bytes than `largest_file`."""
    return f"{size:,} bytes, more than an image of data.max_pixels={pixels} has"


def read_file(path: str | Path, pixels: int = PIXELS, channels: int = 1) -> bytes:
    """The bytes of a file that may hold an image, with the arguments of `open_file`.

    Raises:
        OSError: it cannot be read, is no regular file, or larger than such an image can be.
    """
    with open_file(path, pixels, channels) as file:
        return file.read(largest_file(pixels, channels))


class _Header:
    """An open file that is read a limited number of times until its header is known, and then as often as one likes.

    Pillow passes over zeros in a JPEG file, spaces in a PPM file and much else byte by byte: a minute for 50 MB.
    """

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self._left = _READS

    def __getattr__(self, name: str) -> Any:
        return getattr(self._file, name)

    def read(self, size: int | None = -1) -> bytes:
        self._count()
        return self._file.read(-1 if size is None else size)

    def readline(self, size: int = -1) -> bytes:
        self._count()
        return self._file.readline(size)

    def found(self) -> None:
        """No read is counted from here on."""
        self.read, self.readline = self._file.read, self._file.readline  # type: ignore[method-assign,assignment]

    def _count(self) -> None:
        self._left -= 1
        if self._left < 0:
            raise OSError(f"its header is not found within {_READS:,} reads: the file is damaged")


def open_picture(file: BinaryIO) -> Image.Image:
    """Pillow's image of an open file, by its content; PostScript is none.

    Raises:
        UnidentifiedImageError: it is in no format that Pillow reads.
        OSError: its header is not found in many reads.
    """
    register_formats()
    header = _Header(file)
    image = Image.open(cast(BinaryIO, header), formats=tuple(name for name in Image.ID if name not in _PROGRAMS))
    header.found()
    return image


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
