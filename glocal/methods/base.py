"""What every method is: networks, views, a loss, and what follows each step."""

from __future__ import annotations

from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any, ClassVar

from torch import Tensor, nn

from glocal.models.backbone import Backbone
from glocal.settings import Settings
from glocal.training.schedules import Clock, Schedule, value_at
from glocal.views.batch import Views
from glocal.views.plan import View


class MethodSettings(Settings):
    """The recipe's `method` section; each method adds its own settings with the paper's defaults."""

    name: str


@dataclass(frozen=True)
class ParameterGroup:
    """Parameters that an optimiser treats alike.

    Attributes:
        module: holds the parameters.
        phase: the update that moves them (see `Method.phases`).
        constant_lr: keep the learning rate at its peak instead of following the schedule.
    """

    module: nn.Module
    phase: str = "loss"
    constant_lr: bool = False


class Method(nn.Module):
    """A self-supervised method: one `nn.Module` that runs in anybody's training loop.

        method.before_step(clock)                    # scheduled settings → method.now
        for phase in method.phases:                  # most methods have one
            method(views, phase).backward()
            optimizers[phase].step()
        method.after_step()                          # teacher, queue

    A subclass sets `Settings`, builds its networks in `__init__`, and writes `loss` (or one function for each of its
    `phases`). Its `loss` leaves in `self.embedding` the detached (B, D) vectors that the collapse monitor looks at.

    Attributes:
        backbone: the network that is trained and, unless `evaluated` names another submodule, used afterwards.
        now: the settings that may be schedules, as numbers for the present step.
    """

    Settings: ClassVar[type[MethodSettings]]
    phases: ClassVar[tuple[str, ...]] = ("loss",)
    evaluated: ClassVar[str] = "backbone"

    embedding: Tensor | None = None

    def __init__(self, backbone: Backbone, settings: MethodSettings) -> None:
        super().__init__()
        self.backbone = backbone
        self._scheduled = {
            name: value for name, value in settings if isinstance(value, float | Schedule) and name != "name"
        }
        self.now: Any = SimpleNamespace()
        self.before_step(Clock(step=0, steps_per_epoch=1, total_steps=1))

    @classmethod
    def view_plan(cls, size: int) -> list[View]:
        """The views that the paper gives the method, for images of `size` pixels."""
        raise NotImplementedError

    def forward(self, views: Views, phase: str = "loss") -> Tensor:
        """The scalar to minimise in one of the method's phases."""
        return getattr(self, phase)(views)  # type: ignore[no-any-return]

    def loss(self, views: Views) -> Tensor:
        """The method's loss over a batch of views: a scalar."""
        raise NotImplementedError

    def before_step(self, clock: Clock) -> None:
        """Puts every scheduled setting at its value for this step into `self.now`."""
        self.now.step = clock.step
        self.now.epoch = clock.step / clock.steps_per_epoch
        for name, value in self._scheduled.items():
            setattr(self.now, name, value_at(value, clock))

    def after_step(self) -> None:
        """What follows the optimiser's step: teacher, queue."""

    def parameter_groups(self) -> list[ParameterGroup]:
        """What the optimiser trains; parameters that need no gradient are left out."""
        return [ParameterGroup(self)]
