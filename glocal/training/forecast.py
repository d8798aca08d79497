"""How long a training will take, said after its first steps; and what would be shorter, where it is long."""

from __future__ import annotations

import operator
from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager, nullcontext

import torch

from glocal.console import tell
from glocal.data.lanes.choice import own_side
from glocal.errors import GlocalError, counted
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

    Steps in which only the heads learn are cheaper than most: the first ones after them are watched.

    Args:
        training: built, on its device.
        first_step: steps done before; where there are some, the length is settled, and nothing shorter is offered.
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
        self._resumed = first_step > 0
        self._frozen = training.recipe.train.freeze_backbone_epochs * training.order.steps_per_epoch
        self._watch: Stopwatch | None = None
        self._over = False
        self._begin(first_step)
        self._work = work_of(training.recipe, training.order, training.method, measured=monitor is not None)

    def _begin(self, done: int) -> None:
        if done >= self._frozen:
            self._watch = Stopwatch(self._training.fabric.device)

    def apart(self, what: str) -> AbstractContextManager[None]:
        """Counts no longer to the steps, as long as these are watched."""
        return self._watch.apart(what) if self._watch else nullcontext()

    def step(self, done: int) -> None:
        """Says how long the rest takes when enough steps have been seen, or a minute has gone by."""
        if self._over:
            return
        if self._watch is None:
            self._begin(done)
            return
        self._watch.mark()
        slow = self._watch.count >= _FEWEST_STEPS and self._watch.elapsed() > _PATIENCE
        if self._watch.count < WARM_UP + TIMED and not slow:
            return
        watch, self._watch, self._over = self._watch, None, True
        if done < self._training.recipe.train.epochs * self._work.steps_per_epoch:
            with torch.random.fork_rng(devices=[]):  # what is looked at here is no part of the training
                self._say(self._line(self._costs(watch), done))

    def _costs(self, watch: Stopwatch) -> Costs:
        """As far as they have been seen; a k-NN measurement is estimated from a few images otherwise."""
        step, _ = watch.step()
        # The page is written by the clock, every few minutes: next to nothing of them.
        seen = {what: sum(times) / len(times) for what, times in watch.others.items() if what != "page"}
        if self._monitor is not None and "knn" not in seen:
            method = self._training.method
            backbone = operator.attrgetter(method.evaluated)(method)
            seen["knn"] = knn_seconds(self._monitor, backbone, few=_PROBED)
        return Costs(step, **seen)

    def _line(self, costs: Costs, done: int) -> str:
        recipe, work = self._training.recipe, self._work
        seconds = work.seconds(costs, recipe.train.epochs, done=done)
        total = recipe.train.epochs * work.steps_per_epoch
        steps = f"{counted(total - done, 'step')} of {in_words(costs.step)}"
        line = f"this takes about {in_words(seconds)} from here: {steps} up to epoch {recipe.train.epochs}"
        beside = seconds - (total - done) * costs.step
        if beside >= 1:
            line += f", {in_words(beside)} for measurements and checkpoints"
        if seconds > _LONG and self._training.fabric.device.type == "cpu" and not self._resumed:
            line += f"; {self._shorter(costs, seconds)}"
        return line

    def _shorter(self, costs: Costs, seconds: float) -> str:
        """What would take no longer than an hour, and what a time would plan, by the arithmetic of the networks."""
        found: list[str] = []
        epochs = self._work.most_epochs(costs, _LONG)
        if epochs:
            found.append(f"train.epochs={epochs} takes an hour")
        planned = self._planned(costs, seconds)
        if planned:
            found.append(planned)
        return f"shorter: {'; '.join(found)}" if found else "fewer images or a smaller model.name would be shorter"

    def _planned(self, costs: Costs, seconds: float) -> str:
        """What a time would plan; empty where that is nothing, or where the network cannot be planned with."""
        budget = max(offered for offered in _OFFERED if offered <= max(_OFFERED[0], seconds / 2))
        try:
            rungs = ladder(self._training.recipe, self._given, own_side(self._training.source))
        except GlocalError:
            return ""
        fitting = [
            self._work.most_epochs(costs.scaled(rung.arithmetic / rungs[0].arithmetic), 0.9 * budget) for rung in rungs
        ]
        chosen = next((number for number, fit in enumerate(fitting) if fit >= WANTED_EPOCHS), len(rungs) - 1)
        written = in_words(budget).replace(" ", "").replace("min", "m")
        about = f"--time {written} would do about {fitting[chosen]} epochs at {rungs[chosen].words}"
        return about if fitting[chosen] else ""
