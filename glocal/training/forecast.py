"""How long a training will take, said after its first steps; and what would be shorter, where it is long."""

from __future__ import annotations

import operator
from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager, nullcontext

import torch

from glocal.console import tell
from glocal.data.lanes.choice import own_side
from glocal.training.budget import WANTED_EPOCHS, Costs, in_words
from glocal.training.building import Training
from glocal.training.ladder import ladder
from glocal.training.monitors import KNNMonitor
from glocal.training.stopwatch import TIMED, WARM_UP, Stopwatch
from glocal.training.trial import knn_seconds, work_of

_LONG = 3600.0  # seconds, on a CPU
_PATIENCE = 60.0  # seconds after which fewer steps have to do
_FEWEST_STEPS = 3
_OFFERED = (1800, 3600, 2 * 3600, 4 * 3600, 8 * 3600)  # seconds
_PROBED = 64  # images of which a k-NN measurement is estimated


class Forecast:
    """Watches the first steps of a training and says once how long all of it takes.

    Args:
        training: built, on its device.
        first_step: steps done before.
        monitor: of k-NN accuracy; None where it is not measured.
        given: the paths of the settings that the user has given.
        say: takes the line.
    """

    def __init__(
        self,
        training: Training,
        first_step: int,
        monitor: KNNMonitor | None,
        given: Iterable[str],
        say: Callable[[str], None] = tell,
    ) -> None:
        self._training = training
        self._monitor = monitor
        self._given = list(given)
        self._say = say
        self._watch: Stopwatch | None = Stopwatch(training.fabric.device)
        self._work = work_of(training.recipe, training.order, training.method, measured=monitor is not None)

    def apart(self, what: str) -> AbstractContextManager[None]:
        """Counts no longer to the steps, as long as these are watched."""
        return self._watch.apart(what) if self._watch else nullcontext()

    def step(self, done: int) -> None:
        """Says how long the rest takes when enough steps have been seen, or a minute has gone by."""
        if self._watch is None:
            return
        self._watch.mark()
        slow = self._watch.count >= _FEWEST_STEPS and self._watch.elapsed() > _PATIENCE
        if self._watch.count < WARM_UP + TIMED and not slow:
            return
        watch, self._watch = self._watch, None
        if done < self._training.recipe.train.epochs * self._work.steps_per_epoch:
            with torch.random.fork_rng(devices=[]):  # what is looked at here is no part of the training
                self._say(self._line(self._costs(watch), done))

    def _costs(self, watch: Stopwatch) -> Costs:
        """As far as they have been seen; a k-NN measurement is estimated from a few images otherwise."""
        step, _ = watch.step()
        seen = {what: sum(times) / len(times) for what, times in watch.others.items()}
        if self._monitor is not None and "knn" not in seen:
            method = self._training.method
            backbone = operator.attrgetter(method.evaluated)(method)
            seen["knn"] = knn_seconds(self._monitor, backbone, few=_PROBED)
        return Costs(step, **seen)

    def _line(self, costs: Costs, done: int) -> str:
        recipe, work = self._training.recipe, self._work
        seconds = work.seconds(costs, recipe.train.epochs, done=done)
        total = recipe.train.epochs * work.steps_per_epoch
        line = (
            f"this takes about {in_words(seconds)} from here: {total - done} steps of {in_words(costs.step)} up to "
            f"epoch {recipe.train.epochs}"
        )
        beside = seconds - (total - done) * costs.step
        if beside >= 1:
            line += f", {in_words(beside)} for measurements and checkpoints"
        if seconds > _LONG and self._training.fabric.device.type == "cpu":
            line += f"; {self._shorter(costs, seconds)}"
        return line

    def _shorter(self, costs: Costs, seconds: float) -> str:
        """What would take no longer than an hour, and what a time would plan, by the arithmetic of the networks."""
        found = []
        epochs = self._work.most_epochs(costs, _LONG)
        if epochs:
            found.append(f"train.epochs={epochs} takes an hour")
        budget = max(offered for offered in _OFFERED if offered <= max(_OFFERED[0], seconds / 2))
        rungs = ladder(self._training.recipe, self._given, own_side(self._training.source))
        fitting = [
            self._work.most_epochs(costs.scaled(rung.arithmetic / rungs[0].arithmetic), 0.9 * budget) for rung in rungs
        ]
        chosen = next((number for number, fit in enumerate(fitting) if fit >= WANTED_EPOCHS), len(rungs) - 1)
        written = in_words(budget).replace(" ", "").replace("min", "m")
        if fitting[chosen]:
            found.append(f"--time {written} would do about {fitting[chosen]} epochs at {rungs[chosen].words}")
        return f"shorter: {'; '.join(found)}" if found else "fewer images or a smaller model.name would be shorter"
