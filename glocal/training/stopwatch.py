"""How long the steps of a training take, beside all else that it does in between."""

from __future__ import annotations

import statistics
import time
from collections import defaultdict
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any, Protocol

import torch

from glocal.training.clock import DeviceClock

WARM_UP, TIMED = 3, 20
"""Steps that are not counted, for memory and caches are new to them, and steps that are."""

_BLOCKS = 5


class Watch(Protocol):
    """What a training tells of its time."""

    def step(self, done: int) -> None:
        """`done` steps are done, and what follows the last one too."""
        ...

    def apart(self, what: str) -> AbstractContextManager[None]:
        """What is done inside is no step: a refresh, look, knn, page or checkpoint."""
        ...


class Stopwatch:
    """The ends of steps, on the device's own clock, and the seconds of what lies between them.

    A GPU is not waited for until the times are asked for.

    Args:
        device: where the training runs.
    """

    def __init__(self, device: torch.device) -> None:
        self._on_gpu = device.type == "cuda"
        self._clock = DeviceClock(device)
        self._start = time.perf_counter()
        self._ends: list[Any] = [self._clock.now()]
        self._apart: list[float] = []  # in each step
        self._between = 0.0
        self.others: dict[str, list[float]] = defaultdict(list)

    def mark(self) -> None:
        """A step ends."""
        self._ends.append(self._clock.now())
        self._apart.append(self._between)
        self._between = 0.0

    @contextmanager
    def apart(self, what: str) -> Iterator[None]:
        """What is done inside is not counted to the step."""
        self._wait()
        start = time.perf_counter()
        yield
        self._wait()
        seconds = time.perf_counter() - start
        self.others[what].append(seconds)
        self._between += seconds

    @property
    def count(self) -> int:
        """Steps that were marked."""
        return len(self._apart)

    def elapsed(self) -> float:
        """Seconds since the start, by the host's clock."""
        return time.perf_counter() - self._start

    def seconds(self) -> list[float]:
        """Of each step; waits for the device."""
        pairs = zip(self._ends, self._ends[1:], self._apart, strict=False)
        return [max(0.0, self._clock.seconds(start, end) - apart) for start, end, apart in pairs]

    def step(self) -> tuple[float, float]:
        """The seconds of a step, and what the first steps took beyond that.

        The first few are left out. Worker processes deliver batches in bunches, so that single steps say little: the
        rest is cut into runs of steps, of whose means the median is taken.
        """
        seconds = self.seconds()
        warm = min(WARM_UP, len(seconds) // 2)
        timed = seconds[warm:]
        size = -(-len(timed) // _BLOCKS)
        parts = [timed[first : first + size] for first in range(0, len(timed), size)]
        step = statistics.median(statistics.fmean(part) for part in parts)
        return step, max(0.0, sum(seconds[:warm]) - warm * step)

    def _wait(self) -> None:
        if self._on_gpu:
            torch.cuda.synchronize()


def apart(watch: Watch | None, what: str) -> AbstractContextManager[None]:
    """Tells a watch, if there is one, of work that is no step."""
    return nullcontext() if watch is None else watch.apart(what)
