"""Locks of the operating system: a process that was killed holds none."""

from __future__ import annotations

import errno
import os
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

if sys.platform != "win32":
    import fcntl

RUN_LOCK = ".lock"
"""Of a run's folder: the file that a training in it holds."""

_TAKEN = (errno.EWOULDBLOCK, errno.EAGAIN, errno.EACCES)


@contextmanager
def alone(path: Path) -> Iterator[None]:
    """Keeps other processes out while this one has the file, which is removed at the end.

    Where the file cannot be written, or its file system knows no locks, nobody is kept out.

    Raises:
        BlockingIOError: another process has it.
    """
    held = take_lock(path, time.monotonic())
    try:
        yield
    finally:
        if held is not None:
            with suppress(OSError):
                path.unlink()  # while it is held: who waits for it finds another file, and looks again
            os.close(held)


def is_held(path: Path) -> bool | None:
    """Whether a process holds the lock of a file, which is left as it is; None where that cannot be told."""
    if sys.platform == "win32":
        return None
    try:
        file = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    except FileNotFoundError:
        return False
    except OSError:
        return None
    try:
        fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except OSError as error:
        return True if error.errno in _TAKEN else None
    finally:
        os.close(file)
    return False


def take_lock(path: Path, until: float) -> int | None:
    """The open file that holds the lock; None where there can be none.

    Args:
        path: the file.
        until: by `time.monotonic`, when no longer to wait for another process.

    Raises:
        BlockingIOError: another process holds it even then.
    """
    while sys.platform != "win32":
        try:
            file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NONBLOCK, 0o644)
        except OSError:
            return None
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if os.path.samestat(os.fstat(file), os.stat(path)):
                return file
        except FileNotFoundError:  # its holder has ended in between
            pass
        except OSError as error:
            if error.errno not in _TAKEN:
                os.close(file)
                return None
            if time.monotonic() > until:
                os.close(file)
                raise BlockingIOError from None
            time.sleep(0.1)
        os.close(file)
    return None
