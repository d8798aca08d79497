"""What each process or thread that decodes is reading: noted before each image, so that one that hangs or died can be
named."""

from __future__ import annotations

import multiprocessing
import os
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from ctypes import Array, c_longlong
from multiprocessing.process import BaseProcess
from typing import TypeVar

from glocal.distributed import process_count
from glocal.errors import GlocalError
from glocal.signals import stop_wanted

T = TypeVar("T")

PATIENCE = 300.0
"""Seconds that reading one image may take: a disk or a network that was away for a while comes back in them."""

LOOK = 1.0
"""Seconds between two looks at what is read while it does not come."""

_NONE = -1
_mine = threading.local()  # where one decodes: the places of all, and which is its own


class DecoderError(GlocalError):
    """An image cannot be read in time, a process that decodes died, or the wait for a batch was given up."""


class Readings:
    """Shared memory with two places for each process or thread that decodes: the id of its process, and the number of
    the image that it reads.

    Args:
        workers: the processes or threads.
        name: what the image of a number is called.

    Attributes:
        processes: those that `kill` ends.
    """

    def __init__(self, workers: int, name: Callable[[int], str]) -> None:
        self.processes: list[BaseProcess] = []
        self._places: Array[c_longlong] = multiprocessing.RawArray(c_longlong, [0, _NONE] * workers)
        self._name = name

    def enter(self, worker: int) -> None:
        """From here on this process, or this thread of it, is that one."""
        self._places[2 * worker] = os.getpid()
        _mine.places, _mine.own = self._places, 2 * worker + 1

    def now(self) -> list[int]:
        """All that is noted; as long as nobody begins another image, it stays the same."""
        return list(self._places)

    def in_words(self, *, died: bool) -> str:
        """Which images are being read; with `died` by processes that are no more."""
        alive = _alive()
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
            alive = _alive()
            if any(pid and pid not in alive for pid in self._places[::2]):
                return True
            if time.monotonic() > end:
                return False
            time.sleep(0.02)

    def kill(self) -> None:
        """Ends the processes: one that hangs heeds nothing else, and Python would wait for it in the end."""
        for process in self.processes:
            process.kill()

    def kill_stuck(self) -> None:
        """Ends the processes that have read one image for `LOOK`, where nobody waits any more for what they make."""
        before, end = self.now(), time.monotonic() + LOOK
        stuck = {pid: place for place, pid in enumerate(before) if place % 2 == 0 and before[place + 1] != _NONE}
        while stuck and time.monotonic() < end:
            time.sleep(0.01)
            now = self.now()
            stuck = {pid: place for pid, place in stuck.items() if now[place + 1] == before[place + 1]}
        for process in self.processes:
            if process.pid in stuck:
                process.kill()
                with suppress(RuntimeError):  # torch's, of a process that it had not asked to end
                    process.join()


def _alive() -> set[int | None]:
    return {os.getpid(), *(process.pid for process in multiprocessing.active_children())}


def reading(number: int) -> None:
    """Notes, where one decodes for others, which image it reads from here on; elsewhere nothing happens."""
    if hasattr(_mine, "places"):
        _mine.places[_mine.own] = number


def reading_none() -> None:
    """Notes that a batch is made."""
    reading(_NONE)


def awaited(made: Iterator[T], readings: Readings, patience: float) -> Iterator[T]:
    """What processes or threads make; while it does not come, they are looked at every second.

    Args:
        made: by torch's loader with a timeout of `LOOK`, or by `Threads`.
        readings: of the processes or threads.
        patience: seconds that reading one image may take; 0: any number.

    Raises:
        DecoderError: a process died, or one image takes too long; with the name of the image.
    """
    before, since = readings.now(), 0.0
    while True:
        try:
            yield next(made)
            since = 0.0
            continue
        except StopIteration:
            return
        except (RuntimeError, OSError, EOFError) as error:
            # A process that dies while it hands a batch over resets the connection before torch has seen its end.
            handing = isinstance(error, ConnectionError | EOFError | FileNotFoundError) and readings.someone_died()
            if handing or "DataLoader worker (pid" in str(error):
                image = readings.in_words(died=True)
                readings.kill()
                raise DecoderError(
                    f"a process that decodes images died{f' while it read {image}' if image else ''}: often for want "
                    "of memory or of /dev/shm, or of an image that breaks its decoder; try a smaller train.batch_size "
                    "or data.workers (0 decodes in the main process), or leave the image out"
                ) from error
            if not isinstance(error, NotYet) and "DataLoader timed out" not in str(error):
                raise
        now = readings.now()
        if now != before or not since:
            before, since = now, time.monotonic()
        elif patience and time.monotonic() - since > patience:
            image = readings.in_words(died=False) or "nothing"
            readings.kill()
            raise DecoderError(
                f"{image} has been read for {patience:g} s without an end: leave that out, see whether its disk "
                "answers, or let a training wait for longer (data.patience; 0: for ever)"
            )
        if stop_wanted() and process_count() == 1:  # several processes stop together
            image = readings.in_words(died=False) or "a batch"
            readings.kill()
            raise DecoderError(f"stopped while {image} was waited for")


class NotYet(RuntimeError):
    """What is waited for has not come within `LOOK`; it can be waited for again."""
