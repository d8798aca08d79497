"""A run's folder belongs to one training at a time."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from lightning.fabric import Fabric

from glocal.errors import GlocalError, WriteError
from glocal.files import make_folder
from glocal.locking import take_lock

FILE = ".lock"
_PATIENCE = 3.0  # seconds: the processes that decode for a training that was killed hold its lock until they end


@contextmanager
def locked(folder: Path, fabric: Fabric) -> Iterator[None]:
    """Keeps other trainings out of a folder, which is made where it is not there; with nothing in it, it goes again.

    It is a lock of the operating system: a process that was killed holds none. Where the folder cannot be written in,
    or its file system knows no locks, there is none.

    Args:
        folder: the run's.
        fabric: the training's processes, of which the first one asks for all.

    Raises:
        GlocalError: another training is in it, or it cannot be made; in all processes.
    """
    refused, held, new = "", None, not folder.exists()
    if fabric.global_rank == 0:
        try:
            make_folder(folder)
            held = take_lock(folder / FILE, time.monotonic() + _PATIENCE)
        except BlockingIOError:
            refused = f"a training is running in {folder}: wait for it, stop it, or choose another folder (--out)"
        except WriteError as error:
            refused = str(error)
    if refused := fabric.broadcast(refused):
        raise GlocalError(refused)
    try:
        yield
    finally:
        if held is not None:
            with suppress(OSError):
                (folder / FILE).unlink()  # while it is held: who waits for it finds another file, and looks again
            os.close(held)
        if new and fabric.global_rank == 0:
            with suppress(OSError):
                folder.rmdir()  # where nothing began
