"""A time to train in: how it is written, what a training costs, and how many epochs fit."""

from __future__ import annotations

import math
import re
import time
from bisect import bisect_right
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import pairwise

from glocal.errors import GlocalError

WANTED_EPOCHS = 20
"""With fewer, a smaller training is planned."""

_RESERVE = 0.02  # share of a budget that is kept for what was not measured
_PLANNING = 0.1  # share of it after which nothing larger than what fits is tried any more
_MOST_PLANNING = 0.2  # and nothing at all

_SECONDS = {"s": 1, "sec": 1, "m": 60, "min": 60, "h": 3600, "hr": 3600, "d": 86400}
_SECONDS |= {
    f"{name}{end}": n
    for name, n in (("second", 1), ("minute", 60), ("hour", 3600), ("day", 86400))
    for end in ("", "s")
}
_PART = re.compile(r"\s*(\d+(?:\.\d+)?)\s*([a-z]*)")


def parse_time(text: str | float) -> float:
    """Seconds of a time as people write it; a number is seconds.

    Raises:
        GlocalError: it is no time, or not above 0.

    >>> [parse_time(text) for text in ("30m", "1h30", "90s", "2 h", "1.5 hours", "1h 20m 5s", 45)]
    [1800.0, 5400.0, 90.0, 7200.0, 5400.0, 4805.0, 45.0]
    """
    seconds = _parsed(text.strip().lower()) if isinstance(text, str) else float(text)
    if seconds is None or not 0 < seconds < math.inf:
        raise GlocalError(f"--time {text}: write a time above 0 as 90s, 30m, 2h or 1h30")
    return seconds


def _parsed(text: str) -> float | None:
    """Seconds; None where it is no time. Units go down, and the last may be left out: 1h30 is 1 h 30 min."""
    seconds, before, place = 0.0, 1_000_000, 0  # nothing is longer than a day
    while place < len(text):
        part = _PART.match(text, place)
        if part is None:
            return None
        place = part.end()
        unit = _SECONDS.get(part[2], 0)
        if not part[2] and place == len(text):
            unit = {3600: 60, 60: 1}.get(before, 0)
        if not 0 < unit < before:
            return None
        seconds, before = seconds + float(part[1]) * unit, unit
    return seconds or None


def in_words(seconds: float) -> str:
    """A time for a reader, rounded.

    >>> [in_words(seconds) for seconds in (0.0312, 1.26, 75, 1800, 5400, 200_000)]
    ['0.031 s', '1.3 s', '1 min 15 s', '30 min', '1 h 30 min', '2 d 8 h']
    """
    if seconds < 59.5:
        return f"{seconds:.2g} s" if seconds < 10 else f"{seconds:.0f} s"
    units = (("d", 86400), ("h", 3600), ("min", 60), ("s", 1))
    for (large, size), (small, part) in pairwise(units):
        parts = round(seconds / part)
        if parts * part >= size:
            whole, rest = divmod(parts, size // part)
            return f"{whole} {large} {rest} {small}" if rest else f"{whole} {large}"
    return f"{seconds:.0f} s"


@dataclass(frozen=True)
class Budget:
    """A time in which a training shall end, planning included.

    Attributes:
        seconds: how long.
        began: when it began, by `time.monotonic`.
    """

    seconds: float
    began: float = field(default_factory=time.monotonic)

    @classmethod
    def of(cls, given: str | float | Budget, began: float | None = None) -> Budget:
        """That of a time as it was written, from now on or from `began`; a budget stays what it is."""
        if isinstance(given, Budget):
            return given
        return cls(parse_time(given), time.monotonic() if began is None else began)

    def spent(self) -> float:
        """Seconds since it began."""
        return time.monotonic() - self.began

    @property
    def kept(self) -> float:
        """Seconds that are kept for what is not measured, and for a last epoch that does not quite fit."""
        return self.seconds * _RESERVE

    def left(self) -> float:
        """Seconds that may be planned for."""
        return self.seconds - self.kept - self.spent()


@dataclass(frozen=True)
class Costs:
    """Seconds that a training takes for each thing that it does.

    Attributes:
        step: an optimiser step, with its views and its lines in the log.
        start: from the folder to the first step.
        look: at the embeddings, whether they collapse.
        knn: a measurement of k-NN accuracy.
        refresh: a method's look at all images.
        checkpoint: written to the disk.
        end: what is drawn at the end.
    """

    step: float
    start: float = 0.0
    look: float = 0.0
    knn: float = 0.0
    refresh: float = 0.0
    checkpoint: float = 0.0
    end: float = 0.0

    def scaled(self, factor: float, step: float | None = None) -> Costs:
        """Those of a network or of views with so many times the arithmetic; a step's may be known to be others."""
        step = self.step * factor if step is None else step
        return replace(self, step=step, knn=self.knn * factor, refresh=self.refresh * factor)


@dataclass(frozen=True)
class Work:
    """How often a training does what costs time.

    Attributes:
        steps_per_epoch: optimiser steps in an epoch.
        look_every, knn_every: steps between two looks and two measurements; 0: none.
        knn_first: one measurement comes before the first step.
        refresh_epochs: epochs between two looks of the method at all images; 0: none.
        refresh_first: the first epoch with one, in a training of `refresh_of` epochs or more; earlier in a shorter one.
        refresh_of: see there.
        checkpoint_seconds: between two checkpoints.
        checkpoint_steps: steps after which there is one in any case.
    """

    steps_per_epoch: int
    look_every: int = 0
    knn_every: int = 0
    knn_first: bool = False
    refresh_epochs: int = 0
    refresh_first: int = 0
    refresh_of: int = 1
    checkpoint_seconds: float = math.inf
    checkpoint_steps: int | None = None

    def seconds(self, costs: Costs, epochs: int, *, done: int = 0) -> float:
        """What a training of so many epochs takes, or the rest of it after `done` steps, evaluation included."""
        total = epochs * self.steps_per_epoch
        looks = _ends(done, total, self.look_every)
        measured = _ends(done, total, self.knn_every) + (self.knn_first and not done)
        training = (total - done) * costs.step + looks * costs.look + measured * costs.knn
        training += self._refreshes(epochs, done) * costs.refresh
        saved = 1 + int(training // self.checkpoint_seconds)
        if self.checkpoint_steps:
            saved += _ends(done, total, self.checkpoint_steps) - 1
        return (0.0 if done else costs.start) + training + saved * costs.checkpoint + costs.end

    def _refreshes(self, epochs: int, done: int) -> int:
        if not self.refresh_epochs:
            return 0
        first, begun = shortened(self.refresh_first, epochs, self.refresh_of), -(-done // self.steps_per_epoch)
        return len(range(first, epochs, self.refresh_epochs)) - len(
            range(first, min(begun, epochs), self.refresh_epochs)
        )

    def most_epochs(self, costs: Costs, seconds: float) -> int:
        """The most epochs that take no longer; 0 where not even one does."""
        most = max(1, int(seconds / (costs.step * self.steps_per_epoch)) + 1)
        return bisect_right(range(1, most + 1), seconds, key=lambda epochs: self.seconds(costs, epochs))

    def nearest_epochs(self, costs: Costs, seconds: float, over: float) -> int:
        """The epochs whose end is nearest to a time, at most `over` seconds after it; 0 where not even one fits.

        With 20 epochs one is a twentieth of the time, which rounding down alone would waste.
        """
        fitting = self.most_epochs(costs, seconds)
        left = seconds - (self.seconds(costs, fitting) if fitting else 0.0)
        after = self.seconds(costs, fitting + 1) - seconds
        return fitting + 1 if fitting and 0 < after <= min(over, left) else fitting


def _ends(done: int, total: int, every: int) -> int:
    """How often something happens after `done` steps: every so many steps, and after the last one."""
    return -(-total // every) - done // every if every and total > done else 0


def shortened(first: int, epochs: int, whole: int) -> int:
    """An epoch of a training of `whole` epochs in one of `epochs`: earlier in proportion where that is shorter."""
    return first if epochs >= whole else round(first * epochs / whole)


@dataclass(frozen=True)
class Choice:
    """What was found on a ladder of trainings, from the one that is wanted down to the smallest.

    Attributes:
        rung: the one to take.
        costs: as they were measured.
        larger: of each rung above it, the epochs that would have fitted, and whether that was measured.
    """

    rung: int
    costs: Costs
    larger: Mapping[int, tuple[int, bool]]


def search(
    arithmetic: Sequence[float],
    measure: Callable[[int, bool], Costs],
    fit: Callable[[Costs], int],
    spent: Callable[[], float],
    wanted: int = WANTED_EPOCHS,
) -> Choice:
    """The first rung of a ladder on which enough epochs fit; where there is none, the one with the most epochs.

    The smallest is tried first, briefly: it costs least, and says roughly what the others cost, by their arithmetic;
    from the second on, it shows what is no arithmetic. What is taken has been measured itself.

    Args:
        arithmetic: of each rung, in any unit.
        measure: the costs of a rung; with True, briefly.
        fit: the epochs that fit with such costs in the time that is left.
        spent: the share of the budget that is gone.
        wanted: epochs that are enough.
    """
    last = len(arithmetic) - 1
    brief = {last: measure(last, True)} if last else {}
    measured: dict[int, Costs] = {}

    def expected(rung: int) -> Costs:
        known = brief | measured
        near = min(measured or brief, key=lambda other: abs(other - rung))
        costs = known[near]
        slope = costs.step / arithmetic[near]  # where all of a step is arithmetic
        for other in known.keys() - {near}:
            rise = (costs.step - known[other].step) / (arithmetic[near] - arithmetic[other])
            slope = min(slope, max(0.0, rise))
        step = costs.step + slope * (arithmetic[rung] - arithmetic[near])
        return costs.scaled(arithmetic[rung] / arithmetic[near], step)

    while True:
        enough = [rung for rung in range(last + 1) if (measured or brief) and fit(expected(rung)) >= wanted]
        rung = enough[0] if enough else last
        fitting = [rung for rung, costs in measured.items() if fit(costs) >= wanted]
        if rung in measured or (measured and spent() > (_PLANNING if fitting else _MOST_PLANNING)):
            break
        measured[rung] = measure(rung, False)
        if rung and len(brief | measured) == 1 and spent() <= _PLANNING:  # perhaps little of it is arithmetic
            brief[rung - 1] = measure(rung - 1, True)
    if rung not in measured:
        rung = min(fitting) if fitting else max(measured, key=lambda rung: (fit(measured[rung]), rung))
    larger = {above: (fit(expected(above)), above in measured) for above in range(rung)}
    return Choice(rung, measured[rung], larger)
