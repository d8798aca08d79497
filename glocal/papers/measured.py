"""What runs measured, beside the row of a paper that each of them is."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any, NamedTuple

from glocal.config import AnyRecipe, build_recipe, differences, load_mapping, written_recipe
from glocal.console import note
from glocal.errors import GlocalError
from glocal.evaluation import results
from glocal.evaluation.protocols import protocol
from glocal.methods.own_file import own_files
from glocal.papers import Metric, PaperRow, PaperTable
from glocal.settings import assign, validated

# What a run has less of, or takes from elsewhere, and still is the row, on a smaller scale.
_SCALED = (
    "train.epochs",
    "train.batch_size",
    "optimizer.warmup_epochs",
    "method.first_epoch",
    "method.clusters",
    "method.queue_size",
    "method.base.queue_size",
    "data.source",
)
# Settings of protocols that do not change what is measured.
_OF_THE_MACHINE = {"data", "lists", "seed", "jobs", "save_every", "resident_megabytes", "channels_last", "pictures"}
_RECIPES = ("recipe.yaml", "*/recipe.yaml", "*/*/recipe.yaml", "*/*/*/recipe.yaml")  # a sweep's runs lie deeper


class Run(NamedTuple):
    """A run's folder and its recipe."""

    folder: Path
    recipe: AnyRecipe


class MeasuredRun(NamedTuple):
    """A run that is a row.

    Attributes:
        folder: of the run.
        values: what was measured, by metric.
        images: what it was measured on, by metric.
        marks: what is on a smaller scale than the paper's, or differs in the evaluation; empty where nothing does.
        evaluated: the run has an evaluation.
    """

    folder: str
    values: dict[str, float]
    images: dict[str, str]
    marks: tuple[str, ...]
    evaluated: bool


class MeasuredRow(NamedTuple):
    """A printed row and the runs that are it."""

    row: PaperRow
    runs: tuple[MeasuredRun, ...]


def find_runs(folder: Path) -> list[Run]:
    """The runs in a folder and its folders, or the one that the folder is; those that cannot be read are passed over.

    Raises:
        GlocalError: there is no such folder.
    """
    if not folder.is_dir():
        raise GlocalError(f"there is no folder {folder}; give one that holds runs, for example runs")
    found = []
    for path in sorted({path for pattern in _RECIPES for path in folder.glob(pattern)}):
        try:
            mapping = load_mapping(path)
            own = own_files(mapping.get("method") or {})  # in no paper's table, and nobody's file shall run for a list
            found.append(Run(path.parent, written_recipe(mapping) if own else build_recipe(mapping)))
        except GlocalError as error:
            note(f"{path.parent} is left out: {error}")
    return found


def row_recipe(row: PaperRow) -> AnyRecipe:
    """The recipe of a row with the row's settings.

    Raises:
        GlocalError: the row cannot be run, or a setting is wrong.
    """
    if row.recipe is None:
        raise GlocalError(f"row {row.label!r} cannot be run: {row.cannot_run}")
    return build_recipe(load_mapping(row.recipe), row.settings)


def measured(table: PaperTable, runs: Sequence[Run]) -> list[MeasuredRow]:
    """The rows of a table with the runs that belong to them.

    A run belongs to a row when it has the row's recipe by name and the same method, network, views and optimiser. One
    that has fewer epochs or other images belongs to it with a mark, unless it is another row of the table exactly.
    """
    recipes = [None if row.recipe is None else row_recipe(row) for row in table.rows]
    marks: dict[tuple[int, int], tuple[str, ...]] = {}  # by row and run
    for number, run in enumerate(runs):
        of_run = {
            place: found
            for place, recipe in enumerate(recipes)
            if recipe is not None and (found := scale_of(recipe, run.recipe)) is not None
        }
        exact = {place for place, found in of_run.items() if not found}
        marks |= {(place, number): found for place, found in of_run.items() if not exact or place in exact}
    return [
        MeasuredRow(
            row,
            tuple(
                _read(table, row, run.folder, marks[place, number])
                for number, run in enumerate(runs)
                if (place, number) in marks
            ),
        )
        for place, row in enumerate(table.rows)
    ]


def scale_of(wanted: AnyRecipe, found: AnyRecipe) -> tuple[str, ...] | None:
    """Where a run is on another scale than a row, in words; None where it is no run of this row.

    Args:
        wanted: the recipe of the row (`row_recipe`).
        found: the run's.
    """
    if found.name != wanted.name:
        return None
    marks, less = [], []
    for path, printed, own in differences(wanted, found):
        if path == "data.source":
            marks.append(f"data.source {own} instead of {printed}")
        elif path in _SCALED:
            less.append(f"{path} {own} of {printed}")
        else:
            return None
    return (*([f"scaled: {', '.join(less)}"] if less else []), *marks)


def _read(table: PaperTable, row: PaperRow, folder: Path, marks: tuple[str, ...]) -> MeasuredRun:
    """A run's numbers for the metrics of a row."""
    place = folder / "evaluation"
    if not (place / "evaluation.json").is_file():
        return MeasuredRun(str(folder), {}, {}, marks, evaluated=False)
    entries = results.load(place)["protocols"].values()
    values, images, differing = {}, {}, []
    for name in table.metrics:
        found = _look_up(table.metric_of(row, name), list(entries))
        if found is not None:
            values[name], images[name], of_metric = found
            differing += [mark for mark in of_metric if mark not in differing]
    return MeasuredRun(str(folder), values, images, (*marks, *differing), evaluated=True)


def _look_up(metric: Metric, entries: Sequence[Mapping[str, Any]]) -> tuple[float, str, tuple[str, ...]] | None:
    """A metric's value, its images, and what differs in how it was measured, where that is least; None without one."""
    if metric.protocol is None:
        return None
    wanted = protocol_settings(metric)
    named = {path.removeprefix(f"{metric.protocol}.").partition(".")[0] for path in metric.settings}
    best: tuple[float, str, tuple[str, ...]] | None = None
    for entry in entries:
        if entry["protocol"] != metric.protocol:
            continue
        different = {
            key: f"{metric.protocol}.{key} {entry['settings'][key]} instead of {value}"
            for key, value in wanted.items()
            if key in entry["settings"] and not _same(key, value, entry["settings"][key])
        }
        if different.keys() & named:
            continue
        value = next(
            (
                one["metrics"][metric.result]
                for one in entry["results"]
                if fnmatchcase(one["setting"], metric.setting) and metric.result in one["metrics"]
            ),
            None,
        )
        if value is not None and (best is None or len(different) < len(best[2])):
            best = float(value), results.images_of(entry), tuple(different.values())
    return best


def protocol_settings(metric: Metric) -> dict[str, Any]:
    """All settings of a metric's protocol, as JSON.

    Raises:
        GlocalError: no such protocol, or a setting of the metric is wrong.
    """
    assert metric.protocol is not None
    raw: dict[str, Any] = {}
    for path, value in metric.settings.items():
        assign(raw, path.removeprefix(f"{metric.protocol}."), value)
    its = validated(protocol(metric.protocol).settings, raw, f"protocol {metric.protocol}")
    return its.model_dump(mode="json")


def _same(key: str, wanted: Any, found: Any) -> bool:
    """Whether a protocol was measured as is wanted; what is wanted of several (k, fractions) may be among more."""
    if wanted is None or key in _OF_THE_MACHINE or wanted == found:
        return True
    return isinstance(wanted, list) and isinstance(found, list) and set(map(str, wanted)) <= set(map(str, found))
