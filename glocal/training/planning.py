"""`--time`: the recipe of a training that ends in time, and the one line that says why it is this one."""

from __future__ import annotations

import time
from collections.abc import Iterable
from pathlib import Path

from lightning.fabric import Fabric

from glocal.config import AnyRecipe, build_recipe, load_mapping
from glocal.console import note, tell
from glocal.data.lanes.choice import own_side
from glocal.data.sources.base import Source
from glocal.errors import GlocalError, counted
from glocal.training.budget import WANTED_EPOCHS, Budget, Choice, Costs, Work, in_words, search
from glocal.training.building import batch_order
from glocal.training.ladder import Rung, fixed_by, ladder, matching, sizes_given, with_epochs
from glocal.training.monitors import is_measured
from glocal.training.rehearsal import shadow
from glocal.training.trial import Trials, work_of

_SHARE = 0.05  # of the budget, that one trial may take before it has timed all of its steps


def check_time(given: Iterable[str], *, extend: bool) -> None:
    """Refuses what does not go with a time.

    Raises:
        GlocalError: the epochs are given as well, or a run is to be extended.
    """
    if {"train", "train.epochs"} & set(given):
        raise GlocalError("--time decides train.epochs; give the one or the other")
    if extend:
        raise GlocalError("--extend goes on to the train.epochs that are given; --time is for a new run")


def plan(
    recipe: AnyRecipe,
    source: Source,
    fabric: Fabric,
    folder: Path,
    budget: Budget,
    given: Iterable[str],
    *,
    progress: bool,
) -> AnyRecipe:
    """The recipe of a training that ends within a budget, which says so in `planned`.

    Its epochs are as many as fit. Where fewer than 20 do, the views become smaller, then the network; where fewer fit
    all the same, there are fewer. All processes decide by the first one's clock.

    Args:
        recipe: resolved.
        source: the images.
        fabric: launched.
        folder: of the run; there is no checkpoint in it.
        budget: when it began, and how long it is.
        given: the paths of the settings that the user has given, which are not changed.
        progress: say what is measured.

    Raises:
        GlocalError: weights are sharded, not even one epoch fits, the backbone stands still in all that fit, or what
            the training would raise.
        RunInterrupted: the process was asked to stop.
    """
    if recipe.train.sharded and fabric.world_size > 1:
        raise GlocalError("--time plans no sharded training (train.sharded); give train.epochs instead")
    given = list(given)
    rungs = ladder(recipe, given, own_side(source))
    order = batch_order(recipe, source, fabric)
    work = work_of(recipe, order, shadow(recipe), measured=is_measured(source, recipe))
    begun = time.monotonic()

    def left() -> float:
        return fabric.broadcast(budget.left())

    told: set[int] = set()
    with Trials(source, fabric, folder) as trials:

        def measure(number: int, brief: bool) -> Costs:
            if progress and number not in told:  # what was tried briefly may be measured again
                told.add(number)
                tell(f"measuring {rungs[number].words} …")
            return trials.measure(rungs[number].recipe, _SHARE * budget.seconds / (4 if brief else 1), brief=brief)

        found = search(
            [rung.arithmetic for rung in rungs],
            measure,
            lambda costs: work.most_epochs(costs, left()),
            lambda: fabric.broadcast((time.monotonic() - begun) / budget.seconds),
        )
    remains, planning = left(), fabric.broadcast(time.monotonic() - begun)
    epochs = work.nearest_epochs(found.costs, remains, budget.kept)
    chosen = rungs[found.rung]
    if epochs == 0:
        needed = budget.spent() + work.seconds(found.costs, 1)
        raise GlocalError(
            f"--time {in_words(budget.seconds)}: not even one epoch of {counted(order.steps_per_epoch, 'step')} fits, "
            f"at {chosen.words} ({in_words(found.costs.step)} a step); give it {in_words(1.1 * needed)} or more, or "
            "fewer images"
        )
    line = _line(budget, work, rungs, found, epochs, planning, _unchanged(recipe, given))
    planned = with_epochs(chosen.recipe, epochs, given, steps=order.steps_per_epoch).model_copy(
        update={"planned": line}
    )
    note(line)
    return planned


def _line(
    budget: Budget, work: Work, rungs: list[Rung], found: Choice, epochs: int, planning: float, unchanged: str
) -> str:
    """The plan and its reasons."""
    costs, chosen = found.costs, rungs[found.rung]
    whole = work.seconds(costs, epochs)
    steps = epochs * work.steps_per_epoch * costs.step
    parts = [
        f"--time {in_words(budget.seconds)}: {counted(epochs, 'epoch')} of {counted(work.steps_per_epoch, 'step')} at "
        f"{chosen.words}"
    ]
    few = epochs < WANTED_EPOCHS
    if few and not unchanged:
        larger = f" (larger: {_larger(rungs, found)})" if found.larger else ""
        last = found.rung == len(rungs) - 1
        why = "nothing smaller can be chosen" if last else "planning had no time to try smaller ones"
        parts.append(f"{why}, so there are fewer than {WANTED_EPOCHS} epochs{larger}")
    elif found.larger:
        parts.append(f"larger would leave fewer than {WANTED_EPOCHS} epochs: {_larger(rungs, found)}")
    if few and unchanged:
        parts.append(f"fewer than {WANTED_EPOCHS} epochs, for {unchanged}")
    parts.append(
        f"a step takes {in_words(costs.step)}, all of them {in_words(steps)}, the start, measurements and checkpoints "
        f"{in_words(max(0.0, whole - steps))}, planning took {in_words(planning)}"
    )
    return "; ".join(parts)


def _larger(rungs: list[Rung], found: Choice) -> str:
    """What would have fitted of the trainings that were passed over: the largest, and the one before the chosen."""
    fits = []
    for number in sorted({0, found.rung - 1}):
        epochs, measured = found.larger[number]
        about = "" if measured else "about "
        fits.append(f"{f'{about}{epochs}' if epochs else 'not even 1'} at {rungs[number].words}")
    return ", ".join(fits)


def _unchanged(recipe: AnyRecipe, given: list[str]) -> str:
    """Why nothing smaller was tried; empty where everything was."""
    fixed = fixed_by(given)
    if fixed:
        return f"{' and '.join(fixed)} {'is' if len(fixed) == 1 else 'are'} given, so nothing smaller is tried"
    return (
        "no smaller network is tried, for none has the weights that this one begins with"
        if recipe.model.from_weights
        else ""
    )


def drop_plan(recipe: AnyRecipe, given: Iterable[str]) -> AnyRecipe:
    """A planned recipe for a new run, which is the plan's no more where the user gives what the plan had decided."""
    given = list(given)
    changed = "train.epochs" in given or bool(fixed_by(given))
    return recipe.model_copy(update={"planned": ""}) if changed else recipe


def planned_before(recipe: AnyRecipe, source: Source, folder: Path, given: Iterable[str]) -> AnyRecipe:
    """The recipe with the plan of the run in a folder, which is not made again, or with its length where it has none.

    What the user has given now and had not then stays in it, for the check of the folder to find.

    Args:
        recipe: resolved, without a plan.
        source: the images.
        folder: of the run; it has a checkpoint.
        given: the paths of the settings that the user has given.
    """
    written = build_recipe(load_mapping(folder / "recipe.yaml"))
    if not written.planned:
        return recipe.model_copy(update={"train": recipe.train.model_copy(update={"epochs": written.train.epochs})})
    note(f"the run in {folder} has its plan, which is not made again: {written.planned.partition(';')[0]}")
    given = list(given)
    recipe = _with_sides_of(written, recipe, given)
    rung = matching(ladder(recipe, given, own_side(source)), written)
    lengths = (*written.train.extended_from, written.train.epochs)
    planned = with_epochs(recipe if rung is None else rung.recipe, lengths[0], given)
    train, optimizer = planned.train.model_copy(update={"epochs": lengths[-1]}), planned.optimizer
    if "optimizer.warmup_epochs" not in given:
        optimizer = optimizer.model_copy(update={"warmup_epochs": written.optimizer.warmup_epochs})
    return planned.model_copy(update={"train": train, "optimizer": optimizer, "planned": written.planned})


def _with_sides_of(written: AnyRecipe, recipe: AnyRecipe, given: Iterable[str]) -> AnyRecipe:
    """The recipe with the sides of a run's views, where it has that run's size already.

    A run that begins with weights takes its size from them, which it wrote down as it had been planned: views made for
    that size are not those that were made for the size before, and then became smaller.
    """
    before, views = written.views or [], recipe.views or []
    if recipe.data.size != written.data.size or len(before) != len(views) or sizes_given(given):
        return recipe
    sides = [{"size": view.size, "resolutions": view.resolutions} for view in before]
    own = [view.model_copy(update=update) for view, update in zip(views, sides, strict=True)]
    return recipe.model_copy(update={"views": own})
