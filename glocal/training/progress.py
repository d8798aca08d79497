"""What a training tells of itself where there is no terminal for a bar: a line now and then."""

from __future__ import annotations

import time
from collections.abc import Callable
from datetime import timedelta

from glocal.console import NowAndThen, tell


class ProgressLines:
    """Lines with step, epoch, loss, speed and time left: after 10 s, then each time twice as long, up to 5 minutes.

    Args:
        first_step: where the training (re)starts.
        total: steps of all.
        steps_per_epoch: steps in an epoch.
        say: takes a line.
        now: seconds.
    """

    def __init__(
        self,
        first_step: int,
        total: int,
        steps_per_epoch: int,
        say: Callable[[str], None] = tell,
        now: Callable[[], float] = time.monotonic,
    ) -> None:
        self.first_step = first_step
        self.total = total
        self.steps_per_epoch = steps_per_epoch
        self._say = say
        self._clock = NowAndThen(now)
        self._numbers = ""

    def take(self, loss: float, images_per_second: float) -> None:
        """The newest numbers that have come from the device."""
        self._numbers = f"loss {loss:.4g}, {images_per_second:.0f} images/s, "

    def step(self, done: int) -> None:
        """`done` steps are done: says so when it is time."""
        passed = None if done >= self.total else self._clock.seconds()
        if passed is None:
            return
        seconds = passed / max(1, done - self.first_step) * (self.total - done)
        epochs = self.total / self.steps_per_epoch
        self._say(
            f"step {done} of {self.total}, epoch {done / self.steps_per_epoch:.1f} of {epochs:.0f}, {self._numbers}"
            f"{timedelta(seconds=round(seconds))} left"
        )
