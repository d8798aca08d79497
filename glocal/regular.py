"""Users' files are opened only where they are regular files: a pipe would be waited for, a device read without end."""

from __future__ import annotations

import errno
import io
import os
import stat
from pathlib import Path
from typing import BinaryIO

NONE = "no file but a pipe or a device"


def open_regular(path: str | Path) -> BinaryIO:
    """Opens a regular file; nobody waits for the other end of a pipe.

    Raises:
        OSError: it cannot be opened, or is a pipe, a device or a socket.
    """
    file = open(path, "rb", opener=_without_waiting)  # noqa: SIM115  # the caller closes it
    if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
        file.close()
        raise OSError(errno.EINVAL, NONE)
    return file


def open_regular_text(path: str | Path, *, errors: str = "strict", newline: str | None = None) -> io.TextIOWrapper:
    """`open_regular` as text in UTF-8, a byte order mark left out, with the options of `open`."""
    return io.TextIOWrapper(open_regular(path), encoding="utf-8-sig", errors=errors, newline=newline)


def check_regular(path: str | Path) -> None:
    """`open_regular` for what a library opens by itself: looks at the file, and opens nothing.

    Raises:
        OSError: it is not there, or is a pipe, a device or a socket. A folder passes, of which the library says more.
    """
    mode = os.stat(path).st_mode
    if not (stat.S_ISREG(mode) or stat.S_ISDIR(mode)):
        raise OSError(errno.EINVAL, NONE)


def _without_waiting(path: str, flags: int) -> int:
    return os.open(path, flags | getattr(os, "O_NONBLOCK", 0))
