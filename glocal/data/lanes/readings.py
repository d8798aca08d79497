"""What each process that decodes is reading: noted before each image, so that one that hangs or died can be named."""

from __future__ import annotations

import multiprocessing
import os
import time
from collections.abc import Callable
from ctypes import Array, c_longlong

_NONE = -1
_mine: tuple[Array[c_longlong], int] | None = None  # in a process that decodes: the places of all, and which is its own


class Readings:
    """Shared memory with two places for each process that decodes: its id, and the number of the image that it reads.

    Args:
        workers: the processes.
        name: what the image of a number is called.
    """

    def __init__(self, workers: int, name: Callable[[int], str]) -> None:
        self._places: Array[c_longlong] = multiprocessing.RawArray(c_longlong, [0, _NONE] * workers)
        self._name = name

    def enter(self, worker: int) -> None:
        """From here on this process is that one."""
        global _mine
        self._places[2 * worker] = os.getpid()
        _mine = self._places, 2 * worker + 1

    def now(self) -> list[int]:
        """All that is noted; as long as nobody begins another image, it stays the same."""
        return list(self._places)

    def in_words(self, *, died: bool) -> str:
        """Which images are being read; with `died` by processes that are no more."""
        alive = {process.pid for process in multiprocessing.active_children()}
        names = [
            self._name(number)
            for pid, number in zip(self._places[::2], self._places[1::2], strict=True)
            if number != _NONE and (pid in alive) != died
        ]
        return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")

    def someone_died(self, patience: float = 1.0) -> bool:
        """Whether one of the processes has ended, or does so within some seconds."""
        end = time.monotonic() + patience
        while True:
            alive = {process.pid for process in multiprocessing.active_children()}
            if any(pid and pid not in alive for pid in self._places[::2]):
                return True
            if time.monotonic() > end:
                return False
            time.sleep(0.02)

    def kill(self) -> None:
        """Ends the processes: one that hangs heeds nothing else, and Python would wait for it in the end."""
        for process in multiprocessing.active_children():
            if process.pid in self._places[::2]:
                process.kill()


def reading(number: int) -> None:
    """Notes, in a process that decodes, which image it reads from here on; elsewhere nothing happens."""
    if _mine is not None:
        places, own = _mine
        places[own] = number


def reading_none() -> None:
    """Notes that a batch is made."""
    reading(_NONE)
