"""The training loop."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import islice
from typing import Any

import torch
from lightning.fabric import Fabric
from rich.progress import Progress
from torch import Tensor

from glocal.config import AnyRecipe
from glocal.console import progress_bar, warn
from glocal.data.lanes.choice import Lane
from glocal.data.lanes.order import BatchOrder
from glocal.distributed import fail_together, gather_shares, highest, own_share
from glocal.errors import GlocalError, TogetherError, WriteError
from glocal.methods.base import Method
from glocal.schedules import Clock
from glocal.signals import Stopped, StopSignals
from glocal.training.extending import length_at
from glocal.training.finite import NonFiniteLossError, check_losses, check_state, not_finite, remedy
from glocal.training.freezing import Freeze
from glocal.training.log import RunLog, monitor_series
from glocal.training.lookout import Lookout, measure_targets
from glocal.training.meter import LossMeter
from glocal.training.monitors import Spread, measure_spread
from glocal.training.optimizers import clip_each, set_schedules
from glocal.training.progress import ProgressLines
from glocal.training.sharded import is_sharded, lent
from glocal.training.stopwatch import Watch, apart
from glocal.training.streams import made_beside, stream_beside
from glocal.views.batch import Views

_FORGOTTEN = 1.0  # points of k-NN accuracy; fewer are chance


class RunInterrupted(Stopped):
    """The run was asked to stop (Ctrl-C, SIGTERM and others: `glocal.signals`) and has written a checkpoint."""


@dataclass
class Hooks:
    """What the loop calls besides the method.

    Attributes:
        save: writes a checkpoint after so many steps and returns its name.
        log: takes the numbers; None in all processes but the first.
        knn: measures k-NN accuracy of the backbone, with shards in all processes; None where there are no labels.
        watch: is told how long everything takes.
        page: writes the run's page, where the last one is some minutes old.
    """

    save: Callable[[int], str]
    log: RunLog | None = None
    knn: Callable[[], float] | None = None
    watch: Watch | None = None
    page: Callable[[], object] | None = None


def train(
    method: Method,
    optimizers: Mapping[str, torch.optim.Optimizer],
    lane: Lane,
    order: BatchOrder,
    recipe: AnyRecipe,
    fabric: Fabric,
    hooks: Hooks,
    *,
    first_step: int,
    progress: bool = True,
) -> None:
    """Trains from `first_step` to the end of the recipe's epochs.

    Args:
        method: on the fabric's device; its weights and state are changed.
        optimizers: one for each phase of the method.
        lane: gives the views.
        order: says how many steps make an epoch.
        recipe: the settings.
        fabric: devices, precision and processes.
        hooks: checkpoints, log and measurements.
        first_step: optimiser steps done before.
        progress: show a progress bar, or lines now and then where there is no terminal.

    Raises:
        NonFiniteLossError: the loss is infinite or no number; says at which step and what the last checkpoint is.
        RunInterrupted: after a signal that means stop (`glocal.signals`), when the checkpoint is written.
    """
    settings = recipe.train
    total = settings.epochs * order.steps_per_epoch
    of_torch = dict(optimizers)
    module, *wrapped = fabric.setup(method, *optimizers.values())
    optimizers = dict(zip(optimizers, wrapped, strict=True))
    bounds = set(dict(method.named_buffers())).intersection(not_finite(method, {}))  # some networks keep infinite ones
    refresh_first, refresh_every = (
        epochs * order.steps_per_epoch for epochs in (method.refresh_first, method.refresh_epochs)
    )
    beside = stream_beside(fabric.device)
    until = _next_refresh(first_step, refresh_first, refresh_every, total)
    batches = made_beside(lane.batches(first_step, until), beside)
    freeze = Freeze(method, settings.freeze_backbone_epochs * order.steps_per_epoch)
    meter = LossMeter(fabric.device, settings.batch_size, first_step)
    saved, kept, done, last_save = "none yet", first_step, first_step, time.monotonic()
    whole = True  # not in the middle of a step, some of whose updates may have been made
    look_every = steps_of(recipe.monitor.collapse_epochs, order)
    several, shared = fabric.world_size > 1, getattr(lane, "skipped", None)
    knn_every = steps_of(recipe.monitor.knn_epochs, order) if hooks.knn else 0
    lookout = Lookout(method, of_torch) if look_every else None
    bar = progress_bar("steps", visible=progress, extra=("numbers",))
    lines = ProgressLines(first_step, total, order.steps_per_epoch) if progress and bar.disable else None

    def meet(failed: GlocalError | None = None) -> tuple[int, bool]:
        """Where several processes hear of one another: which signal came to any, and whether a checkpoint is late."""
        late = time.monotonic() - last_save > 60 * settings.checkpoint_minutes
        if not several:
            return stop.received or 0, late
        news = 0 if shared is None else len(shared.found)
        wrong, asked, overdue, found = highest(failed is not None, stop.received or 0, late, news)
        if wrong:
            fail_together(failed)
        if found and shared is not None:
            shared.exchange()
        return asked, bool(overdue)

    @contextmanager
    def aside(what: str) -> Iterator[None]:
        """What is done inside is no step."""
        with apart(hooks.watch, what), meter.apart():
            yield

    def tell(*, wait: bool) -> None:
        """Logs and shows the losses that have come from the device; with `wait` all."""
        for line in meter.arrived(wait=wait):
            check_losses(line.losses, line.step, saved)
            numbers = line.numbers(method.phases, order.steps_per_epoch)
            if lookout and (wrong := lookout.loss(line.step, numbers["loss"])):
                warn(wrong)
            if hooks.log:
                hooks.log.metrics(line.step, numbers)
            bar.update(task, numbers=f"loss {numbers['loss']:.3f}  {line.images_per_second:.0f} images/s")
            if lines:
                lines.take(numbers["loss"], line.images_per_second)

    with StopSignals() as stop, bar:
        task = bar.add_task(recipe.name, total=total, completed=first_step, numbers="")
        if first_step == 0 and knn_every and recipe.model.from_weights:
            gpus = [fabric.device] if fabric.device.type == "cuda" else []
            if progress:
                bar.console.print("measuring k-NN before the first step …")
            with (
                torch.random.fork_rng(gpus),
                aside("knn"),
            ):  # the training draws the same numbers, measured or not
                _measure_knn(0, "before the first step", hooks, recipe, bar if progress else None)
        try:
            for step in range(first_step, total):
                clock = Clock(step, order.steps_per_epoch, length_at(step, settings, order.steps_per_epoch))
                epoch = step // order.steps_per_epoch
                if refresh_every and step >= refresh_first and (step - refresh_first) % refresh_every == 0:
                    start = time.perf_counter()
                    meet()
                    with aside("refresh"):
                        found = lent(method, lambda: embed_all(method, lane, order.length, fabric, meet))
                        method.refresh(found, epoch)
                    if fabric.global_rank == 0 and progress:
                        said = f"epoch {epoch}: {recipe.method.name} looked at all images in"
                        bar.console.print(f"{said} {time.perf_counter() - start:.1f} s", markup=False)
                    until = _next_refresh(step, refresh_first, refresh_every, total)
                    batches = made_beside(lane.batches(step, until), beside)
                parts = list(islice(batches, settings.accumulate))
                asked, late = meet() if several else (0, False)
                freeze.at(step)
                whole = False
                meter.add(_optimise(method, module, optimizers, parts, recipe, clock, fabric))
                whole, done = True, step + 1
                last = done == total
                if not several:  # others were asked before the step: what comes meanwhile is heard in the next one
                    asked, late = meet()
                due = last or asked > 0 or late
                due = due or (settings.checkpoint_steps is not None and done % settings.checkpoint_steps == 0)

                if due or done % settings.log_steps == 0:
                    meter.send(done, _rates(method, optimizers))
                looking = look_every > 0 and (done % look_every == 0 or last) and method.embedding is not None
                if looking and not due:  # whatever is measured would stumble over what is no number
                    _check_unread(meter, saved)
                tell(wait=due)
                if several and (due or looking or (lookout and lookout.begins(done))):
                    meet()  # the first process may have found no room for a line
                bar.update(task, completed=done)
                if lines:
                    lines.step(done)

                if step == 0 and look_every:
                    _look_at_the_start(method.embedding, hooks.log)
                if lookout:
                    for wrong in lookout.after(done):
                        warn(wrong)
                if looking:
                    with aside("look"):
                        _look_at_embeddings(method, done, hooks.log, saved)
                if hooks.knn and knn_every and (done % knn_every == 0 or last):
                    when = f"epoch {done / order.steps_per_epoch:.0f}"
                    with aside("knn"):
                        _measure_knn(done, when, hooks, recipe, bar if progress else None)
                if lookout and lookout.overflowed:  # a loss that is no number tells more than what it has left behind
                    _check_unread(meter, saved)
                if due or (lookout and lookout.overflowed):
                    meet()
                    check_state(method, of_torch, done, saved, bounds)
                if due:
                    with aside("checkpoint"):
                        saved, kept, last_save = hooks.save(done), done, time.monotonic()
                if hooks.page and done % settings.log_steps == 0:
                    with aside("page"):
                        hooks.page()
                if hooks.watch:
                    hooks.watch.step(done)
                if asked and not last:
                    raise RunInterrupted(f"stopped after step {done} of {total}", asked)
        except NonFiniteLossError:
            raise
        except GlocalError as error:  # images, a process that decodes them, a disk
            failed = error
            if not isinstance(error, TogetherError):
                try:
                    meet(error)  # where the others are next
                except GlocalError as told:
                    failed = told
            if whole and done > kept and not (isinstance(failed, WriteError) or getattr(failed, "writing", False)):
                meter.send(done, _rates(method, optimizers))
                tell(wait=True)
                check_state(method, of_torch, done, saved, bounds)
                hooks.save(done)
            if stop.received is not None and not several:
                raise RunInterrupted(f"stopped after step {done} of {total}", stop.received) from error
            raise failed from error.__cause__


def steps_of(epochs: float, order: BatchOrder) -> int:
    return max(1, round(epochs * order.steps_per_epoch)) if epochs else 0


def _next_refresh(step: int, first: int, every: int, last: int) -> int:
    """The first of `first`, `first + every`, … that comes after `step`, at most `last`; `last` without `every`."""
    return min(last, max(first, first + ((step - first) // every + 1) * every)) if every else last


@torch.no_grad()
def embed_all(
    method: Method,
    lane: Lane,
    images: int,
    fabric: Fabric,
    meet: Callable[[GlocalError | None], object] = lambda failed: None,
) -> Tensor:
    """The method's embeddings of all images, (N, D) on the training device, each process doing its share.

    An unreadable image gets the embedding of the next readable one, which stands in for it in training too.

    Args:
        method, lane, fabric: of the training.
        images: how many.
        meet: where all processes come together before they exchange what they have, each with its error or none.
    """
    training, backbone = method.training, method.backbone
    method.eval()
    rows = own_share(images)
    looked_at = rows if rows.stop > rows.start else slice(0, 1)  # more processes than images: only the width counts
    found: list[Tensor] = []
    places: list[Tensor] = []
    for index, batch in lane.plain(backbone.size, looked_at):
        prepared = backbone.prepare(batch.to(fabric.device))
        if is_sharded(method):
            highest(True)
        with fabric.autocast():
            found.append(method.embed(prepared))
        places.append(index)
    while is_sharded(method) and highest(False)[0]:  # others have more batches, and need the shards here
        with fabric.autocast():
            method.embed(prepared)
    method.train(training)
    embeddings = torch.cat(found)
    # For each image the first readable one that does not come before it; the last one at the end.
    wanted = torch.arange(rows.start, rows.stop)
    nearest = torch.searchsorted(torch.cat(places), wanted).clamp_(max=len(embeddings) - 1)
    meet(None)
    return gather_shares(embeddings[nearest.to(embeddings.device)], images)


def _optimise(
    method: Method,
    module: Any,
    optimizers: Mapping[str, Any],
    parts: list[Views],
    recipe: AnyRecipe,
    clock: Clock,
    fabric: Fabric,
) -> Tensor:
    """One step: every phase's gradients over all parts of the batch, then its optimiser.

    Returns:
        Each phase's mean loss, (P,).
    """
    method.before_step(clock)
    means: list[Tensor] = []
    for phase in method.phases:
        optimizer, losses = optimizers[phase], []
        set_schedules(optimizer, recipe.optimizer, recipe.train.batch_size, clock)
        for number, views in enumerate(parts, start=1):
            with fabric.no_backward_sync(module, enabled=number < len(parts)):
                loss = module(_in_layout(views, recipe.train.channels_last), phase)
                fabric.backward(loss / len(parts))
            losses.append(loss.detach())
        limit = recipe.train.clip_norm
        if limit is not None and recipe.optimizer.clip == "norm":
            # A gradient that overflowed in fp16 is the scaler's business; in fp32 the loss tells.
            fabric.clip_gradients(module, optimizer, max_norm=limit, error_if_nonfinite=False)
        else:
            fabric.strategy.precision.unscale_gradients(optimizer.optimizer)
        parameters = (parameter for group in optimizer.param_groups for parameter in group["params"])
        gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
        if limit is not None and recipe.optimizer.clip == "parameter":
            clip_each(gradients, limit)
        method.before_update(phase, gradients)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        means.append(torch.stack(losses).mean())
    method.after_step()
    return torch.stack(means)


def _in_layout(views: Views, channels_last: bool) -> Views:
    if not channels_last:
        return views
    images = tuple(image.contiguous(memory_format=torch.channels_last) for image in views.images)
    return Views(images, views.geometry, views.index)


def _check_unread(meter: LossMeter, saved: str) -> None:
    for step, losses in meter.unread():
        check_losses(losses, step, saved)


def _look_at_embeddings(method: Method, done: int, log: RunLog | None, saved: str) -> None:
    assert method.embedding is not None
    if not bool(method.embedding.isfinite().all()):
        raise NonFiniteLossError(f"the embeddings are no numbers at step {done}", remedy(saved))
    spread = measure_spread(method.embedding)
    _log_spread(spread, done, log)
    targets = measure_targets(method)
    if log and targets:
        log.monitor(done, "prototypes_used", targets.used)
        log.monitor(done, "target_information", targets.information)
    message = spread.warning()
    if message:
        warn(f"step {done}: {message}")


def _look_at_the_start(embedding: Tensor | None, log: RunLog | None) -> None:
    """Logs what was there before the first step, whose update comes after its embeddings; no numbers are told later."""
    if embedding is not None and bool(embedding.isfinite().all()):
        _log_spread(measure_spread(embedding), 0, log)


def _log_spread(spread: Spread, done: int, log: RunLog | None) -> None:
    if log:
        log.monitor(done, "spread", spread.spread)
        log.monitor(done, "effective_rank", spread.effective_rank)


def _measure_knn(done: int, when: str, hooks: Hooks, recipe: AnyRecipe, bar: Progress | None) -> None:
    """Measures, logs and prints k-NN accuracy, beside that of the weights that the training began with."""
    assert hooks.knn is not None
    accuracy = hooks.knn()
    if hooks.log is None:  # this process has lent its shards
        return
    began = dict(monitor_series(hooks.log.folder, "knn")).get(0)
    hooks.log.monitor(done, "knn", accuracy)
    if bar:
        beside = "" if began is None else f" ({began:.1f} % before the first step)"
        bar.console.print(f"{when}: k-NN {accuracy:.1f} %{beside}")
    if began is not None and accuracy < began - _FORGOTTEN:
        statistics = "" if recipe.model.keep_statistics else "model.keep_statistics=true, "
        warn(
            f"{when}: k-NN accuracy is {accuracy:.1f} %, below the {began:.1f} % before the first step: the weights "
            f"that the training began with are being forgotten; try {statistics}a smaller optimizer.lr, "
            "optimizer.layer_decay=0.8 or train.freeze_backbone_epochs"
        )


def _rates(method: Method, optimizers: Mapping[str, Any]) -> dict[str, float]:
    """What is logged of the last phase's optimiser."""
    leading = _leading(optimizers[method.phases[-1]].param_groups)
    return {key: leading[key] for key in ("lr", "weight_decay")}


def _leading(groups: list[dict[str, Any]]) -> dict[str, Any]:
    """The group whose rate is logged: the first of weights, as opposed to biases, that learn at the whole rate."""
    return max(groups, key=lambda group: (not group["plain"], group.get("lr_scale", 1.0)))
