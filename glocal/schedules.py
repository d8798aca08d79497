"""Values that change over the training, step by step: learning rate, weight decay, momentum, temperatures."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Field, TypeAdapter, ValidationError

from glocal.settings import Settings


@dataclass(frozen=True)
class Clock:
    """Where the training stands: `step` counts optimiser steps from 0."""

    step: int
    steps_per_epoch: int
    total_steps: int


class Schedule(Settings):
    """From `start` to `end`, after a linear warm-up from `warmup_start` to `start`.

    `epochs` is the length including the warm-up; afterwards the value stays at `end`. By default it is the whole
    training.
    """

    start: float
    end: float
    kind: Literal["cosine", "linear"] = "cosine"
    epochs: float | None = Field(None, gt=0)
    warmup_epochs: float = Field(0.0, ge=0)
    warmup_start: float = 0.0

    def at(self, clock: Clock) -> float:
        """The value for the step that `clock` shows."""
        warmup = self.warmup_epochs * clock.steps_per_epoch
        if clock.step < warmup:
            return self.warmup_start + (self.start - self.warmup_start) * clock.step / warmup
        length = clock.total_steps if self.epochs is None else self.epochs * clock.steps_per_epoch
        done = min(1.0, (clock.step - warmup) / max(1.0, length - warmup))
        if self.kind == "cosine":
            done = (1 - math.cos(math.pi * done)) / 2
        return self.start + (self.end - self.start) * done


class Steps(Settings):
    """A value that is multiplied by `factor` at each of the `milestones`, after a linear warm-up from 0 to `start`.

    Milestones are epochs, counted from the start of the training, as in `torch.optim.lr_scheduler.MultiStepLR`.
    """

    start: float
    milestones: tuple[float, ...]
    factor: float = 0.1
    warmup_epochs: float = 0.0

    def at(self, clock: Clock) -> float:
        """The value for the step that `clock` shows.

        >>> Steps(start=1.0, milestones=(120, 160)).at(Clock(step=1300, steps_per_epoch=10, total_steps=2000))
        0.1
        """
        warmup = self.warmup_epochs * clock.steps_per_epoch
        if clock.step < warmup:
            return self.start * clock.step / warmup
        passed = sum(clock.step >= epoch * clock.steps_per_epoch for epoch in self.milestones)
        return self.start * self.factor**passed


Scheduled = float | Schedule
"""A setting that is constant (a number) or changes (a schedule)."""


def _within(bounds: Any) -> AfterValidator:
    """Lets a schedule's ends be what the number alone could be, which pydantic's `Field` with bounds says."""
    number: TypeAdapter[float] = TypeAdapter(Annotated[float, bounds])

    def check(value: Scheduled) -> Scheduled:
        if isinstance(value, Schedule):
            warmup = ("warmup_start",) if value.warmup_epochs > 0 else ()
            for name in ("start", "end", *warmup):
                try:
                    number.validate_python(getattr(value, name))
                except ValidationError as error:
                    message = error.errors()[0]["msg"].removeprefix("Input should ")
                    raise ValueError(f"{name} must {message}, not {getattr(value, name):g}") from None
        return value

    return AfterValidator(check)


_SHARE, _POSITIVE, _NOT_NEGATIVE = Field(ge=0, le=1), Field(gt=0), Field(ge=0)

Share = Annotated[Annotated[float, _SHARE] | Schedule, _within(_SHARE)]
"""A scheduled momentum or coefficient in [0, 1]."""

Temperature = Annotated[Annotated[float, _POSITIVE] | Schedule, _within(_POSITIVE)]
"""A scheduled temperature above 0."""

Weight = Annotated[Annotated[float, _NOT_NEGATIVE] | Schedule, _within(_NOT_NEGATIVE)]
"""A scheduled weight of a term, from 0 on."""


def value_at(value: Scheduled, clock: Clock) -> float:
    """The value of a constant or a schedule at a step.

    >>> value_at(0.99, Clock(0, 10, 100)), value_at(Schedule(start=0.0, end=1.0, kind="linear"), Clock(50, 10, 100))
    (0.99, 0.5)
    """
    return value.at(clock) if isinstance(value, Schedule) else value
