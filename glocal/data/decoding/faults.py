"""What is wrong with a file that could not be read, in a user's words."""

from __future__ import annotations

import errno
import textwrap
from pathlib import Path

from PIL import Image, UnidentifiedImageError

from glocal.data.decoding.reading import is_program
from glocal.errors import BrokenImageError

NO_IMAGE = "no image in a format that Pillow reads"


def broken(error: Exception, key: str, content: bytes) -> BrokenImageError:
    if isinstance(error, UnidentifiedImageError):
        if is_program(content):
            return BrokenImageError(key, "PostScript, a program, which is not executed; save it as PNG")
        return BrokenImageError(key, NO_IMAGE if content else "empty file")
    if isinstance(error, Image.DecompressionBombError):
        many = f"more than the {2 * (Image.MAX_IMAGE_PIXELS or 0):,} pixels that Pillow thinks safe"
        return BrokenImageError(key, f"{many} (decompression bomb); data.max_pixels allows more")
    return BrokenImageError(key, reason(error))


def gone_folder(error: OSError, file: Path) -> str:
    """The folder for want of which a file could not be read: the highest that is not there, or whose server is gone.

    Empty where the file alone is at fault.
    """
    if error.errno in (errno.ESTALE, errno.ENOTCONN):
        return str(file.absolute().parent)
    if not isinstance(error, FileNotFoundError):
        return ""
    missing = [folder for folder in file.absolute().parents if not folder.exists()]
    return str(missing[-1]) if missing else ""


def reason(error: Exception) -> str:
    text = getattr(error, "strerror", None) or str(error) or type(error).__name__
    return textwrap.shorten(text, 120, placeholder="…")
