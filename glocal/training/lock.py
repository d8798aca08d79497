"""A run's folder belongs to one training at a time."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from filelock import FileLock, Timeout
from lightning.fabric import Fabric

from glocal.console import warn
from glocal.errors import GlocalError

FILE = ".lock"


@contextmanager
def locked(folder: Path, fabric: Fabric) -> Iterator[None]:
    """Keeps other trainings out of a folder, which is made where it is not there; with nothing in it, it goes again.

    It is a lock of the operating system: a process that was killed holds none. Where the file system knows no locks
    there is none, and a warning.

    Args:
        folder: the run's.
        fabric: the training's processes, of which the first one asks for all.

    Raises:
        GlocalError: another training is in it, or it cannot be made or written in; in all processes.
    """
    lock, refused, new = FileLock(folder / FILE), "", not folder.exists()
    if fabric.global_rank == 0:
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            refused = f"{folder} cannot be made: {error.strerror}"
        try:
            lock.acquire(timeout=0)
        except Timeout:
            refused = f"a training is running in {folder}: wait for it, stop it, or choose another folder (--out)"
        except NotImplementedError:
            warn(f"{folder} lies where files cannot be locked: nothing keeps a second training out of it")
        except OSError as error:
            refused = refused or f"{folder} cannot be written in: {error.strerror}"
    if refused := fabric.broadcast(refused):
        raise GlocalError(refused)
    try:
        yield
    finally:
        if new and lock.is_locked:
            with suppress(OSError):  # nothing, or something else is in it
                if {path.name for path in folder.iterdir()} == {FILE}:
                    (folder / FILE).unlink()
                    folder.rmdir()
        lock.release()
