"""A run's folder belongs to one training at a time."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from lightning.fabric import Fabric

from glocal.errors import GlocalError, WriteError
from glocal.files import make_folder
from glocal.locking import RUN_LOCK, take_lock

_PATIENCE = 3.0  # seconds: the processes that decode for a training that was killed hold its lock until they end


@dataclass(frozen=True)
class Lock:
    """What a training holds of its folder.

    Attributes:
        path: of the lock's file.
        file: which is open; None in all processes but the first, and where there can be none.
    """

    path: Path
    file: int | None

    def check(self) -> None:
        """Before anything is written: whether the folder is still the training's own.

        Raises:
            GlocalError: it was removed, and perhaps another training has made it anew.
        """
        if self.file is None:
            return
        try:
            own = os.path.samestat(os.fstat(self.file), os.stat(self.path))
        except OSError:
            own = False
        if not own:
            raise WriteError(f"{self.path.parent} was removed, or made anew, while this training was running in it")


@contextmanager
def locked(folder: Path, fabric: Fabric) -> Iterator[Lock]:
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
            held = take_lock(folder / RUN_LOCK, time.monotonic() + _PATIENCE)
        except BlockingIOError:
            refused = f"a training is running in {folder}: wait for it, stop it, or choose another folder (--out)"
        except WriteError as error:
            refused = str(error)
    if refused := fabric.broadcast(refused):
        raise GlocalError(refused)
    lock = Lock(folder / RUN_LOCK, held)
    try:
        yield lock
    finally:
        if held is not None:
            with suppress(OSError, GlocalError):
                lock.check()  # else it is another training's
                lock.path.unlink()  # while it is held: who waits for it finds another file, and looks again
            os.close(held)
        if new and fabric.global_rank == 0:
            with suppress(OSError):
                folder.rmdir()  # where nothing began
