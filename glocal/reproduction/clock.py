"""How long a training takes, over all the times that it was stopped: of the process and by the wall, step by step."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, NamedTuple

import torch

from glocal.files import write_text

FILE = "times.json"
_NO_TRAINING = ("knn", "look", "page", "checkpoint")  # what watches and keeps a training


class Seconds(NamedTuple):
    """Seconds of the process on processors (user and system), and by the wall."""

    cpu: float
    wall: float


def _now() -> Seconds:
    if torch.cuda.is_initialized():  # what a GPU was given so far belongs to what came before
        torch.cuda.synchronize()
    return Seconds(time.process_time(), time.perf_counter())


class TrainingClock:
    """The time of a run's steps (`glocal.training.stopwatch.Watch`), written with each checkpoint.

    k-NN measurements and checkpoints are not counted, a method's look at all images is. The first step of a process
    waits for the images to be read; it counts as much as the mean of the others.

    Args:
        folder: the run's.
        first_step: steps of the checkpoint that the run goes on from.
    """

    def __init__(self, folder: Path, first_step: int) -> None:
        self._file = folder / FILE
        self._done = first_step
        before = read_times(folder)
        self._times = {step: spent for step, spent in before.items() if step <= first_step}
        self._looks = {step: spent for step, spent in read_times(folder, "looks").items() if step <= first_step}
        self._before = self._times.get(first_step, Seconds(0.0, 0.0))
        self._start = _now()
        self._first: Seconds | None = None  # the end of the first step
        self._apart = Seconds(0.0, 0.0)  # since then
        self._steps = 0

    def step(self, done: int) -> None:
        """`done` steps are done."""
        self._done = done
        self._steps += 1
        if self._first is None:
            self._first, self._apart = _now(), Seconds(0.0, 0.0)

    @contextmanager
    def apart(self, what: str) -> Iterator[None]:
        """What is done inside is no step."""
        if what == "knn":
            self._looks[self._current()] = self.spent()
        start = _now()
        yield
        end = _now()
        if what in _NO_TRAINING:
            self._apart = Seconds(*(a + e - s for a, s, e in zip(self._apart, start, end, strict=True)))
        if what == "checkpoint":
            self._times[self._current()] = self.spent()
            self._write()

    def spent(self) -> Seconds:
        """So far, in all processes that trained this run."""
        now = _now()
        if self._first is None:
            since, share = self._start, 1.0
        else:  # the step in progress is as good as done
            since, share = self._first, (self._steps + 1) / self._steps
        own = (share * (n - s - a) for n, s, a in zip(now, since, self._apart, strict=True))
        return Seconds(*(b + max(0.0, one) for b, one in zip(self._before, own, strict=True)))

    def _current(self) -> int:
        """Steps that are done with the one in progress; a measurement before the first step has none."""
        return self._done + 1

    def _write(self) -> None:
        kept = dict(sorted(self._times.items())[-4:])
        write_text(self._file, json.dumps({"checkpoints": kept, "looks": self._looks}) + "\n")


def read_times(folder: Path, what: str = "checkpoints") -> dict[int, Seconds]:
    """The time spent by step: up to checkpoints, or up to `looks` at the k-NN accuracy. Empty where none is known."""
    found: Any = {}
    with suppress(OSError, ValueError):
        found = json.loads((folder / FILE).read_text(encoding="utf-8"))
    return {int(step): Seconds(*spent) for step, spent in found.get(what, {}).items()}
