"""A run: a folder with a recipe, checkpoints and logs; `pretrain` makes or continues one."""

from __future__ import annotations

import operator
import os
import signal
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import Any, get_args

from glocal.checkpoints import checkpoint_files
from glocal.config import AnyRecipe, build_recipe, load_mapping
from glocal.console import note, warn
from glocal.data.sources.opening import Images
from glocal.distributed import check_alike, first_decides, together, wait_for_all
from glocal.errors import GlocalError, TogetherError, WriteError, counted, did_you_mean
from glocal.files import write_text
from glocal.models.backbone import Backbone
from glocal.models.loading import load_backbone
from glocal.pages import live
from glocal.pages.live import LivePage
from glocal.report.plots import draw_loss, draw_views
from glocal.training.blame import who_is_to_blame
from glocal.training.budget import Budget
from glocal.training.building import Training, batch_order, build
from glocal.training.determinism import deterministic
from glocal.training.extending import what_changes
from glocal.training.finite import NonFiniteLossError
from glocal.training.folder import Resume, has_checkpoint, prepare_folder
from glocal.training.forecast import Forecast
from glocal.training.images import ImageSet
from glocal.training.lock import Lock, locked
from glocal.training.log import FAILED, RunLog, read_metrics
from glocal.training.loggers import Loggers, check_loggers
from glocal.training.loop import Hooks, RunInterrupted, train
from glocal.training.machine import is_first_process, launch, place, suit_to_machine
from glocal.training.monitors import KNNMonitor, knn_monitor
from glocal.training.planning import check_time, drop_plan, plan, planned_before
from glocal.training.rehearsal import rehearse
from glocal.training.resolving import resolve, tell_of_warm_up
from glocal.training.saving import restore, save
from glocal.training.sharded import is_sharded, lent
from glocal.training.slurm import requeue
from glocal.training.stopwatch import Watch
from glocal.training.threads import advice_on_threads


@dataclass(frozen=True)
class Run:
    """A run's folder.

    Attributes:
        folder: holds recipe.yaml, checkpoints/, metrics.csv, monitor.csv, tensorboard/, report.html, loss.png,
            views.png, images.txt (the names of the images); skipped.txt where images could not be read; failed.txt
            where the loss became no number; method.py, a copy of the method where that is in a file of its own.
    """

    folder: Path

    @cached_property
    def recipe(self) -> AnyRecipe:
        """The recipe as it was resolved."""
        return build_recipe(load_mapping(self.folder / "recipe.yaml"))

    @property
    def metrics(self) -> dict[str, list[float]]:
        """The columns of metrics.csv: step, epoch, loss, lr, weight_decay, images_per_second."""
        return read_metrics(self.folder)

    def backbone(self) -> Backbone:
        """The trained backbone of the newest checkpoint."""
        return load_backbone(self.folder)


def pretrain(
    data: Images | None,
    out: str | Path,
    *,
    recipe: str | Path | None = None,
    init: str | Path | None = None,
    overrides: Mapping[str, Any] | None = None,
    resume: Resume = "auto",
    progress: bool = True,
    extend: bool = False,
    time: str | float | Budget | None = None,
    watch: Watch | None = None,
    report: bool = True,
) -> Run:
    """Pretrains a backbone on unlabelled images, or continues where a stopped run stands.

    Args:
        data: a folder of images or another source (`glocal.data.sources.opening.open_source`), or several; None takes
            the recipe's. What lies in `out` is none of the images.
        out: the run's folder, made if it is not there.
        recipe: the name of a recipe or a .yaml file; None takes the method `glocal`, from weights `sce`,
            with settings that suit the images.
        init: weights to begin with, `timm:NAME`, a run, a checkpoint or a file (`model.init`); the network is theirs.
        overrides: settings by dotted path, `{"train.epochs": 10}`.
        resume: auto continues a run that is in `out`, must demands one, never refuses one. Without a checkpoint there
            is no run: what a failed start has left is replaced, and files of others are an error.
        progress: show progress: a bar, or lines now and then where there is no terminal.
        extend: a run in `out` that had fewer `train.epochs` goes on to the new number. What it was planned for is done
            with the schedules of the shorter training, the rest with those of the longer one.
        time: in which it shall end, planning, evaluation and checkpoints included: "30m", "1h30", or seconds. A few
            measured steps decide how many epochs fit; where fewer than 20 do, also the size of the views and the
            network, unless `overrides` has these. What was decided is the run's recipe; no clock decides anything
            later, and a run in `out` keeps its plan.
        watch: is told of every step, and of what is done in between (`glocal.training.stopwatch`).
        report: write report.html every few minutes, with curves, and in the end with a map of up to 2,000 of the images
            (`glocal.write_report`); without one where several processes train, or where the training failed. With
            GLOCAL_REPORT=0 in the environment none is written.

    Returns:
        The finished run.

    Raises:
        GlocalError: wrong settings or data, another run or one with other images is in `out`, or a training is running
            there.
        NonFiniteLossError: the loss became infinite or no number.
        RunInterrupted: Ctrl-C, SIGTERM or another signal that means stop (`glocal.signals`); a checkpoint is
            written and the same call goes on from there.

    >>> run = pretrain("shapes", "runs/a", overrides={"train.epochs": 20})  # doctest: +SKIP
    """
    if resume not in get_args(Resume):
        raise GlocalError(f"resume={resume}: {did_you_mean(str(resume), get_args(Resume))}")
    if overrides is not None and not isinstance(overrides, Mapping):
        raise GlocalError('overrides are a dictionary, as {"train.epochs": 50}')
    folder, given = Path(out), dict(overrides or {})
    if init is not None:
        given["model.init"] = str(init)
    budget = None if time is None else Budget.of(time)
    if budget:
        check_time(given, extend=extend)
    resolved, source, weights = resolve(data, recipe, given, folder, progress=progress, timed=budget is not None)
    check_loggers(resolved.train.loggers)
    first = is_first_process(resolved.train.processes)
    method = rehearse(resolved, progress=progress and first)
    # What is wrong with the images of a measurement is told before a folder is made.
    measuring = first or resolved.train.sharded  # with shards all processes measure
    monitor = knn_monitor(source, resolved) if measuring and not has_checkpoint(folder) else None
    with deterministic(resolved.train.deterministic), ExitStack() as held:
        fabric = launch(resolved, several_updates=len(method.phases) > 1)
        if fabric.world_size > 1:
            elsewhere = resolved.model_copy(update={"data": resolved.data.model_copy(update={"source": None})})
            check_alike("recipe", elsewhere.to_yaml().split("\n"))  # a disk may have another name on each machine
            check_alike("images", [f"{key} {value}" for key, value in ImageSet.of(source).state().items()])
        lock = None
        if not folder.is_file() and (folder.is_dir() or not (extend or resume == "must")):  # else nothing will begin
            lock = held.enter_context(locked(folder, fabric))
        begun = first_decides(lambda: has_checkpoint(folder))
        if budget and begun:
            resolved = together(lambda: planned_before(resolved, source, folder, given))
        elif budget and resume != "must":
            resolved = plan(resolved, source, fabric, folder, budget, given, progress=progress)
            tell_of_warm_up(resolved)
        elif not begun:
            resolved = drop_plan(resolved, given)
        resolved, state = prepare_folder(folder, resolved, source, resume, extend=extend, weights=weights)
        if progress and fabric.device.type == "cpu" and fabric.global_rank == 0 and (advice := advice_on_threads()):
            note(advice)

        order = batch_order(resolved, source, fabric)
        total = resolved.train.epochs * order.steps_per_epoch
        first_step = 0 if state is None else int(state["step"])
        if budget and begun and not resolved.planned and first_step < total:
            done = f"has done {first_step:,} of {counted(total, 'step')}"
            raise TogetherError(
                f"the run in {folder} was begun without --time and {done}: give another folder (--out) for a run that "
                "fits into the time, or go on with it without --time"
            )
        page = None
        if report and os.environ.get("GLOCAL_REPORT") != "0" and fabric.global_rank == 0:
            page = LivePage(folder, source if fabric.world_size == 1 else None)  # several would share its embeddings
        if first_step >= total:
            more = f"; to extend it, give more than train.epochs={resolved.train.epochs}" if extend else ""
            note(f"{folder} is finished ({total} steps); nothing to do{more}")
            if fabric.global_rank == 0:
                _draw_what_is_missing(folder, page)
            return Run(folder)
        if extend and resolved.train.extended_from:
            note(what_changes(resolved, order.steps_per_epoch))
        begins = (weights or True) if state is None else False
        training = build(resolved, source, order, fabric, folder, weights=begins, progress=progress)
        del weights, begins  # they are in the network now
        if state is not None:
            monitor = knn_monitor(source, resolved)  # in all processes, which end together where it cannot be
            note(f"{folder} continues after step {first_step} of {total}")
            restore(state, training)
        training.method = suit_to_machine(training.method, resolved.train, fabric.device)
        planned = budget is not None and state is None
        _train(
            training, monitor, first_step, given, progress=progress, planned=planned, watch=watch, page=page, lock=lock
        )
        wait_for_all()  # the first one still writes
        return Run(folder)


def _draw_what_is_missing(folder: Path, page: LivePage | None) -> None:
    """The pictures of a finished run that was killed before it drew them, or after an earlier part alone."""
    numbers = folder / "metrics.csv"
    if not numbers.is_file():
        return
    since = numbers.stat().st_mtime
    if _is_older(folder / "loss.png", since):
        draw_loss(folder)
    if page and _is_older(folder / live.FILE, since):
        page.end(finished=True)


def _is_older(file: Path, since: float) -> bool:
    return not file.is_file() or file.stat().st_mtime < since


def _train(
    training: Training,
    monitor: KNNMonitor | None,
    first_step: int,
    given: Iterable[str],
    *,
    progress: bool,
    planned: bool,
    watch: Watch | None,
    page: LivePage | None,
    lock: Lock | None,
) -> None:
    """Trains to the end with everything that watches and records."""
    method, recipe, fabric, source = training.method, training.recipe, training.fabric, training.source
    place(method, source, fabric.device)
    evaluated = operator.attrgetter(method.evaluated)(method)
    main = fabric.global_rank == 0
    if monitor and main:
        note(monitor.about)
    if main and not (training.folder / "views.png").exists():
        with _or_a_warning():
            draw_views(training.lane, recipe, training.folder / "views.png")
    others = Loggers(recipe.train.loggers, training.folder, recipe) if main and recipe.train.loggers else None
    check = lock.check if lock else lambda: None
    log = RunLog(training.folder, first_step, others, check) if main else None
    sharded = is_sharded(method)
    alone = None if sharded else monitor  # the first process cannot try by itself what all have to do together
    forecast = Forecast(training, first_step, alone, given) if main and progress and not planned else None
    measure = None
    if monitor and (main or sharded):
        look = partial(monitor.measure, evaluated, fabric.device)
        measure = partial(lent, method, look)
    hooks = Hooks(partial(_keep, training, log, check), log, measure, watch or forecast, page)
    failed, finished = training.folder / FAILED, False
    if main:
        failed.unlink(missing_ok=True)
    try:
        train(
            method,
            training.optimizers,
            training.lane,
            training.order,
            recipe,
            fabric,
            hooks,
            first_step=first_step,
            progress=progress,
        )
        finished = True
    except NonFiniteLossError as error:
        told = error if error.step is None else error.because(who_is_to_blame(training, error.step))
        if main:
            with _or_a_warning():
                write_text(failed, f"{told}\n")
        if error.step is not None and fabric.world_size > 1:  # the loss is that of all
            raise TogetherError(str(told)) from None
        raise told from None
    except RunInterrupted as error:
        again = error.signal == getattr(signal, "SIGUSR1", None) and "SLURM_JOB_ID" in os.environ
        if main and again and recipe.train.requeue:
            requeue()
        raise
    except (WriteError, TogetherError) as error:
        if isinstance(error, TogetherError) and not error.writing:
            raise
        kept = checkpoint_files(training.folder / "checkpoints")
        said = f"{error}; when that is mended, the same command goes on from {kept[0] if kept else 'the beginning'}"
        if isinstance(error, TogetherError):
            raise TogetherError(said, writing=True) from error
        raise WriteError(said, error.errno, error.strerror) from error
    finally:
        if log:
            log.close()
            with _or_a_warning():
                draw_loss(training.folder)
        if others:
            others.close(finished=finished)
        if page:
            page.end(finished=finished)


def _keep(training: Training, log: RunLog | None, check: Callable[[], None], step: int) -> str:
    """Writes a checkpoint, and before it the lines of the log that lead to it."""

    def before() -> None:
        check()
        if log:
            log.sync()

    return save(training, step, before)


@contextmanager
def _or_a_warning() -> Iterator[None]:
    """What is written inside is worth less than the training, or than the error that ends it."""
    try:
        yield
    except WriteError as error:
        warn(str(error))
