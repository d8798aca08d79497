"""What every method is: networks, views, a loss, and what follows each step."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any, ClassVar, Self

from pydantic import field_validator
from torch import Tensor, nn

from glocal.methods.own_file import whole_name
from glocal.models.backbone import Backbone
from glocal.schedules import Clock, Schedule, value_at
from glocal.settings import Settings
from glocal.views.batch import Views
from glocal.views.plan import View


class MethodSettings(Settings):
    """The recipe's `method` section; each method adds its own settings with the paper's defaults."""

    name: str  # of a file in glocal/methods, or path/to/file.py:ClassName

    @field_validator("name")
    @classmethod
    def _whole(cls, name: str) -> str:
        return whole_name(name)

    def fit_to(self, images: int) -> Self:
        """The same with what must not exceed the number of images cut down to it.

        A longer queue would hold the same image more than once.
        """
        queue = getattr(self, "queue_size", 0)
        return self.model_copy(update={"queue_size": images}) if queue > images else self

    def explicit(self) -> Self:
        """The same with numbers in place of null where null stands for one that follows from the other settings."""
        return self

    def fit_to_classes(self, classes: int) -> Self:
        """The same with the number of classes filled in, for a method that learns from labels."""
        return self


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
            method.before_update(phase, gradients)   # of the parameters that the phase moves
            optimizers[phase].step()
        method.after_step()                          # teacher, queue

    A subclass sets `Settings`, builds its networks in `__init__`, and writes `loss` (or one function for each of its
    `phases`). Its `loss` leaves in `self.embedding` the detached (B, D) vectors that the collapse monitor looks at.

    A method that pulls the query of one view towards the key of another writes `represent`, `keys` and `compare` (and
    `query`, if it has a predictor) and builds its `loss` from them; LoGo then works on top of it.

    Attributes:
        backbone: the network that is trained and, unless `evaluated` names another submodule, used afterwards.
        now: the settings that may be schedules, as numbers for the present step.
        seed: the run's seed, for draws of the method's own (`glocal.views.random`).
        phases: the updates of a step, in order; the last one's loss is the one that is logged.
        refresh_epochs: in epoch `refresh_first` and then every so many, `refresh` gets the embeddings of all images; 0:
            never.
        optimizers: the names of the optimisers that the method works with.
        compares_rows: `compare` looks at each row by itself; False where the other rows are negatives.
        compares_batch: the loss of an image depends on the others that are computed with it (negatives, correlations,
            shared codes), so it changes where a batch is computed in parts. Batch normalisation does not count here.
        reads_geometry: the method asks where in the image its views lie, which warps (RandAugment's) would falsify.
        needs_color: the method learns from colours, so images whose values stay as they are stored are refused.
        needs_labels: the method learns from labels: a run gives it those of its source and counts the classes.
        of_one_size: the setting, as `--set` takes it, that leaves the method views of one size; empty where none does.
        labels: (N,) int64 on the training device, of all images in the order of the source; None where none are needed.
        chance: about what the last phase's loss would be if it guessed blindly, all choices alike: log n for a
            cross-entropy among n; None where it is no such loss. `loss` or `compare` sets it, from shapes and settings
            alone. A run tells of a loss that is far above it.
        solved: the share of the last step's questions that the network answered rightly, a detached scalar; None where
            the method asks none with a right answer (which permutation, how much turned). `loss` sets it.
    """

    Settings: ClassVar[type[MethodSettings]]
    phases: tuple[str, ...] = ("loss",)
    evaluated: str = "backbone"
    seed: int = 0
    refresh_epochs: int = 0
    refresh_first: int = 0
    optimizers: tuple[str, ...] = ("sgd", "adamw", "lars")
    compares_rows: bool = True
    compares_batch: bool = False
    reads_geometry: bool = False
    needs_color: bool = False
    needs_labels: bool = False
    of_one_size: str = ""

    labels: Tensor | None = None
    embedding: Tensor | None = None
    chance: float | None = None
    solved: Tensor | None = None

    def __init__(self, backbone: Backbone, settings: MethodSettings) -> None:
        super().__init__()
        self.backbone = backbone
        self._scheduled = {
            name: value for name, value in settings if isinstance(value, float | Schedule) and name != "name"
        }
        self.now: Any = SimpleNamespace()
        self.before_step(Clock(step=0, steps_per_epoch=1, total_steps=1))

    @classmethod
    def default_model(cls, size: int) -> dict[str, Any]:
        """The network for images of `size` pixels where a recipe names none."""
        return {"name": "resnet18"}

    @classmethod
    def view_plan(cls, size: int, settings: Any = None) -> list[View]:
        """The views that the paper gives the method, for images of `size` pixels and the method's settings."""
        raise NotImplementedError

    def check(self, views: Sequence[View], batch: int) -> None:
        """Refuses what the method cannot learn from, before a run's folder is made; by default nothing.

        Args:
            views: of the recipe.
            batch: images that the loss looks at together.

        Raises:
            GlocalError: names the setting, and what would be right.
        """

    def forward(self, views: Views, phase: str = "loss") -> Tensor:
        """The scalar to minimise in one of the method's phases."""
        return getattr(self, phase)(views)  # type: ignore[no-any-return]

    def loss(self, views: Views) -> Tensor:
        """The method's loss over a batch of views: a scalar."""
        raise NotImplementedError

    def embed(self, images: Tensor) -> Tensor:
        """Embeddings (B, D) of images as they are, for `refresh`; called in evaluation mode, without gradient."""
        raise NotImplementedError

    def refresh(self, embeddings: Tensor, epoch: int) -> None:
        """Looks at the embeddings (N, D) of all images before an epoch begins."""

    def partners(self, epoch: int, index: Tensor) -> Tensor:
        """The images that come along with the images `index` (B,) as views of a partner: by default themselves."""
        return index

    def before_step(self, clock: Clock) -> None:
        """Puts every scheduled setting at its value for this step into `self.now`."""
        self.now.step = clock.step
        self.now.epoch = clock.step / clock.steps_per_epoch
        for name, value in self._scheduled.items():
            setattr(self.now, name, value_at(value, clock))

    def represent(self, images: Tensor) -> Tensor:
        """The representation (B, D) of a view, with gradient: what a key is compared with."""
        raise NotImplementedError

    def query(self, representation: Tensor) -> Tensor:
        """What is compared with a key: the representation, or what a predictor makes of it."""
        return representation

    def keys(self, images: Tensor, representation: Tensor) -> Tensor:
        """The keys (B, D) of a view, without gradient, given its representation as well."""
        raise NotImplementedError

    def compare(self, query: Tensor, key: Tensor) -> Tensor:
        """The loss between queries and keys (B, D) of the same images: a scalar."""
        raise NotImplementedError

    def both_directions(self, views: Views) -> Tensor:
        """`compare` of each view's query with the other view's key, summed: a scalar."""
        images = views.pair()
        first, second = (self.represent(view) for view in images)  # (B, D) each
        self.embedding = first.detach().float()
        forward = self.compare(self.query(first), self.keys(images[1], second))
        backward = self.compare(self.query(second), self.keys(images[0], first))
        return forward + backward

    def assignments(self) -> Tensor | None:
        """What some images of the last step were assigned to, (R, K) rows that sum to 1; None where nothing is.

        The targets over prototypes from which the loss learns. A run looks at them now and then: targets that are
        the same for all images teach nothing, however well the embeddings are spread.
        """
        return None

    def before_update(self, phase: str, gradients: list[Tensor]) -> None:
        """A last look at a phase's gradients, which may be changed in place, before its optimiser's step."""

    def after_step(self) -> None:
        """What follows the optimiser's step: teacher, queue."""

    def parameter_groups(self) -> list[ParameterGroup]:
        """What the optimiser trains; parameters that need no gradient are left out."""
        return [ParameterGroup(self)]
