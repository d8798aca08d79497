"""Threads that read, in order: Python waits for none of them in the end, so that one that hangs keeps no process."""

from __future__ import annotations

import os
import queue
import threading
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator
from contextlib import closing, suppress
from typing import Generic, TypeVar

from glocal.data.lanes.readings import LOOK, PATIENCE, NotYet, Readings, awaited, reading, reading_none

Item = TypeVar("Item")
Made = TypeVar("Made")

_AHEAD = 4  # items that each thread may have finished before they are taken


def read_in_threads(
    read: Callable[[int], Made],
    numbers: Iterable[int],
    *,
    name: Callable[[int], str],
    patience: float = PATIENCE,
    threads: int | None = None,
) -> Generator[Made]:
    """`read(number)` for each number, in order, in threads of this process: decoders let others run meanwhile.

    Args:
        read: reads the image of a number.
        numbers: which.
        name: of the image of a number, for errors.
        patience: seconds that reading one image may take; 0: any number.
        threads: how many; by default one for each core.

    Raises:
        DecoderError: one image takes too long; with its name.
    """
    threads = threads or os.cpu_count() or 1
    readings = Readings(threads, name)

    def noted(number: int) -> Made:
        reading(number)
        made = read(number)
        reading_none()
        return made

    with closing(Threads(noted, numbers, readings, threads, _AHEAD)) as made:
        yield from awaited(made, readings, patience)


class Threads(Iterator[Made], Generic[Item, Made]):
    """What threads make of items, in order; `next` raises NotYet where it has waited for `LOOK` in vain.

    Args:
        make: of an item.
        items: are asked for one by one, in the thread that asks for what is made.
        readings: a place for each thread.
        threads: how many.
        ahead: items for each thread that are begun before they are asked for; 0: none is, and one thread works.
    """

    def __init__(
        self, make: Callable[[Item], Made], items: Iterable[Item], readings: Readings, threads: int, ahead: int
    ) -> None:
        self._items = iter(items)
        self._most = max(1, threads * ahead)
        self._asked: queue.SimpleQueue[tuple[Item, _Holder[Made]] | None] = queue.SimpleQueue()
        self._waiting: deque[_Holder[Made]] = deque()
        self._threads = [
            threading.Thread(target=self._work, args=(make, readings, number), name=f"reads-{number}", daemon=True)
            for number in range(threads)
        ]
        for thread in self._threads:
            thread.start()

    def __next__(self) -> Made:
        while len(self._waiting) < self._most:
            try:
                item = next(self._items)
            except StopIteration:
                break
            self._waiting.append(_Holder())
            self._asked.put((item, self._waiting[-1]))
        if not self._waiting:
            raise StopIteration
        if not self._waiting[0].done.wait(LOOK):
            raise NotYet
        return self._waiting.popleft().result()

    def close(self) -> None:
        """Has the threads end when they have made what they are at."""
        with suppress(queue.Empty):  # a thread may take the last one first
            while True:
                self._asked.get_nowait()
        for _ in self._threads:
            self._asked.put(None)

    def _work(self, make: Callable[[Item], Made], readings: Readings, number: int) -> None:
        readings.enter(number)
        while (asked := self._asked.get()) is not None:
            item, holder = asked
            try:
                holder.made = make(item)
            except BaseException as error:  # raised where the result is asked for
                holder.error = error
            holder.done.set()


class _Holder(Generic[Made]):
    """What a thread has made, or why it could not."""

    made: Made

    def __init__(self) -> None:
        self.done = threading.Event()
        self.error: BaseException | None = None

    def result(self) -> Made:
        if self.error is not None:
            raise self.error
        return self.made
