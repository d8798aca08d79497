"""What a training costs, measured: a few of its steps and one of everything else, on copies that are thrown away."""

from __future__ import annotations

import gc
import operator
import shutil
import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from functools import partial
from pathlib import Path

import torch
from lightning.fabric import Fabric
from torch import Tensor
from torch.nn.functional import normalize

from glocal.config import AnyRecipe
from glocal.console import silence
from glocal.data.lanes.choice import Lane, open_lane
from glocal.data.lanes.order import BatchOrder
from glocal.data.lanes.resident import ResidentLane
from glocal.data.sources.base import Source, Subset
from glocal.errors import GlocalError
from glocal.evaluation.features.extraction import extract
from glocal.methods.base import Method
from glocal.models.backbone import Backbone
from glocal.report.plots import draw_loss, draw_views
from glocal.training.budget import Costs, Work
from glocal.training.building import Training, batch_order, build
from glocal.training.log import RunLog
from glocal.training.loop import Hooks, RunInterrupted, embed_all, steps_of, train
from glocal.training.machine import place, suit_to_machine
from glocal.training.monitors import KNNMonitor, knn_monitor, measure_spread
from glocal.training.saving import save
from glocal.training.stopwatch import TIMED, WARM_UP, Stopwatch
from glocal.views.plan import ViewPlan

_FOLDER = ".trial"
_FIRST_EPOCH = 20  # where trials begin: past what methods do in their first epochs only
_PROBED = 256  # images of which a pass over more is estimated


class _EnoughError(Exception):
    """The trial has seen enough."""


class Trials:
    """Trials of recipes for the same images, each by the first process' clock.

    What they write lies in a folder of the run's that is removed in the end, so that checkpoints go to the disk that
    the run's will go to. No state of theirs remains: weights, generators and the scaler of fp16 are the run's own.

    Args:
        source: the images.
        fabric: devices, precision and processes.
        folder: the run's.
    """

    def __init__(self, source: Source, fabric: Fabric, folder: Path) -> None:
        self.source = source
        self.fabric = fabric
        self.folder = folder / _FOLDER
        self._made = not folder.exists()
        self._main = fabric.global_rank == 0
        self._held: Tensor | None = None
        self._reading: float | None = None

    def __enter__(self) -> Trials:
        try:
            if self._main:
                shutil.rmtree(self.folder, ignore_errors=True)  # of a process that was killed
            self.folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise GlocalError(f"{self.folder.parent} cannot be made: {error.strerror}") from error
        self.fabric.barrier()
        return self

    def __exit__(self, error: type[BaseException] | None, *_: object) -> None:
        self._held = None
        if error is None:
            self.fabric.barrier()  # else the others may never come
        if not self._main:
            return
        shutil.rmtree(self.folder, ignore_errors=True)
        if self._made and self.folder.parent.is_dir() and not any(self.folder.parent.iterdir()):
            self.folder.parent.rmdir()

    def measure(self, recipe: AnyRecipe, seconds: float, *, brief: bool = False) -> Costs:
        """The costs of a training by a recipe.

        Args:
            recipe: resolved; its epochs do not matter.
            seconds: after which no more steps are timed, so that there are fewer than 20, at least one.
            brief: two steps at least and three at most, and nothing but these.

        Raises:
            GlocalError: what the training would raise.
            RunInterrupted: the process was asked to stop.
        """
        state = self.fabric.strategy.precision.state_dict()
        with silence():
            found = self._measure(_still(recipe), seconds, brief=brief)
        self.fabric.strategy.precision.load_state_dict(state)
        gc.collect()
        if self.fabric.device.type == "cuda":
            torch.cuda.empty_cache()
        return self.fabric.broadcast(found)

    def _measure(self, recipe: AnyRecipe, seconds: float, *, brief: bool) -> Costs:
        fabric, source = self.fabric, self.source
        order = batch_order(recipe, source, fabric)
        if self._reading is None:
            start = time.perf_counter()
            lane = open_lane(source, recipe.data, ViewPlan(recipe.views or []), order, fabric.device, progress=False)
            self._held = lane.images if isinstance(lane, ResidentLane) else None
            self._reading = time.perf_counter() - start if self._held is not None else 0.0
        start = time.perf_counter()
        training = build(recipe, source, order, fabric, self.folder, weights=True, progress=False, held=self._held)
        place(training.method, source, fabric.device)
        training.method = suit_to_machine(training.method, recipe.train, fabric.device)
        main = self._main
        monitor = knn_monitor(source, recipe) if main and not brief else None
        if main and not brief:
            draw_views(training.lane, recipe, self.folder / "views.png")
        begun = time.perf_counter() - start
        refresh, method = 0.0, training.method
        if method.refresh_epochs:
            refresh = refresh_seconds(method, training.lane, order.length, fabric, few=32 if brief else _PROBED)
            method.refresh_epochs = 0
        step, first = self._step(training, seconds, brief=brief)
        if brief:
            return Costs(step, start=begun + first + self._reading, refresh=refresh)
        checkpoint = _timed(lambda: save(training, 1))
        end = _timed(lambda: draw_loss(self.folder)) if main else 0.0
        embedding = method.embedding
        look = _timed(lambda: measure_spread(embedding)) if embedding is not None else 0.0
        knn = 0.0
        if monitor is not None:
            forward = step / recipe.train.batch_size  # of an image, and more than that
            few = max(32, min(_PROBED, int(seconds / forward)))
            knn = knn_seconds(monitor, operator.attrgetter(method.evaluated)(method), few=few)
        return Costs(
            step=step,
            start=begun + first + self._reading,
            look=look,
            knn=knn,
            refresh=refresh + (first if refresh else 0.0),  # after it, the loader begins anew
            checkpoint=checkpoint,
            end=end,
        )

    def _step(self, training: Training, seconds: float, *, brief: bool) -> tuple[float, float]:
        """The seconds of a step, and what the first ones take beyond that."""
        fabric, recipe = self.fabric, training.recipe
        watch = _Trial(fabric, seconds, 3 if brief else WARM_UP + TIMED)
        log = RunLog(self.folder, 0) if self._main else None
        first = training.method.refresh_first + _FIRST_EPOCH
        train_some = recipe.train.model_copy(update={"epochs": first + WARM_UP + TIMED + 1})
        try:
            train(
                training.method,
                training.optimizers,
                training.lane,
                training.order,
                recipe.model_copy(update={"train": train_some}),
                fabric,
                Hooks(partial(save, training), log, watch=watch),
                first_step=first * training.order.steps_per_epoch,
                progress=False,
            )
        except _EnoughError:
            pass
        except RunInterrupted as stop:
            raise RunInterrupted("stopped before the first step, while planning", stop.signal) from None
        finally:
            if log:
                log.close()
        return watch.watch.step()


class _Trial:
    """Stops a trial: after so many steps, or when its time is over in the first process; two steps are the least."""

    def __init__(self, fabric: Fabric, seconds: float, steps: int) -> None:
        self.fabric = fabric
        self.watch = Stopwatch(fabric.device)
        self._seconds = seconds
        self._steps = steps

    def step(self, done: int) -> None:
        self.watch.mark()
        over = self.watch.elapsed() > self._seconds and self.watch.count >= 2
        if self.watch.count >= self._steps or self.fabric.broadcast(over):
            raise _EnoughError

    def apart(self, what: str) -> AbstractContextManager[None]:
        return self.watch.apart(what)


def work_of(recipe: AnyRecipe, order: BatchOrder, method: Method, *, measured: bool) -> Work:
    """How often a training by a recipe does what costs time.

    Args:
        recipe: resolved; of a shorter training, that of the longer one.
        order: of its images.
        method: the recipe's, in any state.
        measured: k-NN accuracy is.
    """
    return Work(
        steps_per_epoch=order.steps_per_epoch,
        look_every=steps_of(recipe.monitor.collapse_epochs, order),
        knn_every=steps_of(recipe.monitor.knn_epochs, order) if measured else 0,
        knn_first=measured and recipe.model.from_weights,
        refresh_epochs=method.refresh_epochs,
        refresh_first=method.refresh_first,
        refresh_of=recipe.train.epochs,
        checkpoint_seconds=60 * recipe.train.checkpoint_minutes,
        checkpoint_steps=recipe.train.checkpoint_steps,
    )


def knn_seconds(monitor: KNNMonitor, backbone: Backbone, *, few: int = _PROBED) -> float:
    """What a measurement takes; where there are many images, from a pass over a few of them."""
    whole = len(monitor.bank) + len(monitor.queries)
    if whole <= 2 * few:
        return _timed(lambda: monitor.measure(backbone, backbone.mean.device))

    def over(images: int) -> None:
        extract(backbone, Subset(monitor.bank, torch.arange(images)), progress=False)

    return _line(over, min(few, len(monitor.bank)), whole) + _line(over, 1, 1)  # two passes: bank and queries


def refresh_seconds(method: Method, lane: Lane, images: int, fabric: Fabric, *, few: int = _PROBED) -> float:
    """What a method's look at all images takes: as estimated from a few, to embed them, and with made-up embeddings.

    The method is left as after such a look, without which some cannot train.
    """
    seconds = _line(lambda count: embed_all(method, lane, count, fabric), min(few, images), images)
    width = embed_all(method, lane, min(2, images), fabric).shape[1]
    generator = torch.Generator().manual_seed(0)
    made = normalize(torch.randn(images, width, generator=generator), dim=1).to(fabric.device)
    return seconds + _timed(lambda: method.refresh(made, 0))


def _line(work: Callable[[int], object], few: int, whole: int) -> float:
    """What work on many takes, by the straight line through the times of a few and of a quarter of these."""
    if whole <= few:
        return _timed(lambda: work(whole))
    fewer = max(1, few // 4)
    short, long = _timed(lambda: work(fewer)), _timed(lambda: work(few))
    slope = max(long - short, 0.0) / max(1, few - fewer) or long / few
    return long + slope * (whole - few)


def _timed(work: Callable[[], object]) -> float:
    start = time.perf_counter()
    work()
    if torch.cuda.is_initialized():  # else nothing was given to a GPU
        torch.cuda.synchronize()
    return time.perf_counter() - start


def _still(recipe: AnyRecipe) -> AnyRecipe:
    """The recipe of a trial: whole steps at a learning rate of 0, no monitors and no checkpoints in between."""
    optimizer = recipe.optimizer.model_copy(update={"lr": 0.0, "final_lr": 0.0, "norm_and_bias_lr": None})
    monitor = recipe.monitor.model_copy(update={"collapse_epochs": 0.0})
    once = {"checkpoint_minutes": 1e9, "checkpoint_steps": None, "freeze_backbone_epochs": 0.0}
    settings = recipe.train.model_copy(update=once)
    return recipe.model_copy(update={"optimizer": optimizer, "monitor": monitor, "train": settings})
