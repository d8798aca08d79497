"""Sweeps: one run for each combination of settings, and one table of what they reached."""

from __future__ import annotations

import csv
import io
import itertools
import json
import math
from collections.abc import Iterable, Mapping, Sequence
from decimal import Decimal, DecimalException, InvalidOperation
from pathlib import Path
from typing import Any

from rich.table import Table

from glocal.checkpoints import checkpoint_files
from glocal.config import build_recipe, load_mapping
from glocal.console import note, silence
from glocal.data.lanes.choice import natural_size
from glocal.data.ranges import open_by
from glocal.data.sources.base import Source, Subset
from glocal.data.sources.labelled import labelled_part
from glocal.data.sources.opening import Images, open_source
from glocal.distributed import process_rank
from glocal.errors import GlocalError
from glocal.evaluation import Bench, IncompleteError, RawPixels, evaluate
from glocal.evaluation.protocols import protocol
from glocal.files import make_folder, write_text
from glocal.plain import read_json, read_yaml
from glocal.settings import assign, validated
from glocal.training.log import read_metrics
from glocal.training.rehearsal import rehearse
from glocal.training.resolving import source_in
from glocal.training.run import Run, pretrain
from glocal.training.starting import begin
from glocal.views.random import permutation

_ELLIPSES = ("…", "...")
_PROBES = ("knn", "linear")
_MOST_RUNS = 10_000  # of a sweep
_FEWEST = 20  # labelled images of which a fifth can be measured on


def parse_grid(settings: Iterable[str]) -> dict[str, list[Any]]:
    """`["method.temperature=0.1,0.2"]` → `{"method.temperature": [0.1, 0.2]}`; values are YAML.

    An ellipsis goes on in equal steps: of the two numbers before it, or of one unit in the last decimal place.

    Raises:
        GlocalError: no `key=value,value`, a value that is no YAML, or an ellipsis without numbers around it.

    >>> parse_grid(["a.b=0.03,…,0.06", "c=1,3,...,9"])
    {'a.b': [0.03, 0.04, 0.05, 0.06], 'c': [1, 3, 5, 7, 9]}
    """
    grid: dict[str, list[Any]] = {}
    for setting in settings:
        key, equals, values = setting.partition("=")
        if not equals or not key.strip() or not values.strip():
            raise GlocalError(f"--grid {setting}: write it as section.key=value,value,…")
        if key.strip() in grid:
            raise GlocalError(f"--grid {setting}: {key.strip()} has values already; give all of them at once")
        try:
            parts = _fill(_split(values))
        except DecimalException as error:
            raise GlocalError(
                f"--grid {setting}: {' '.join(str(error).split())[:80]}; give values or a row of numbers"
            ) from error
        grid[key.strip()] = [read_yaml(part, f"--grid {setting}") for part in parts]
    return grid


def _split(values: str) -> list[str]:
    """At commas outside brackets."""
    parts, depth = [""], 0
    for character in values:
        depth += (character in "[{") - (character in "]}")
        if character == "," and depth == 0:
            parts.append("")
        else:
            parts[-1] += character
    parts = [part.strip() for part in parts]
    if not all(parts):
        raise InvalidOperation("there is nothing between two commas")
    return parts


def _fill(parts: Sequence[str]) -> list[str]:
    """Puts the numbers that an ellipsis stands for in its place."""
    filled: list[str] = []
    for place, part in enumerate(parts):
        if part not in _ELLIPSES:
            filled.append(part)
            continue
        if place == 0 or place == len(parts) - 1:
            raise InvalidOperation("an ellipsis stands between two numbers")
        last, end = Decimal(filled[-1]), Decimal(parts[place + 1])
        if not (last.is_finite() and end.is_finite()):
            raise InvalidOperation(f"no row leads from {last} to {end}")
        exponent = min(int(Decimal(number).as_tuple().exponent) for number in (filled[-1], parts[place + 1]))
        step = last - Decimal(filled[-2]) if len(filled) > 1 else Decimal(1).scaleb(exponent).copy_sign(end - last)
        if step == 0 or (end - last) / step < 0:
            raise InvalidOperation(f"{end} is not reached from {last} in steps of {step}")
        if (end - last) % step:
            raise InvalidOperation(f"steps of {step} from {last} do not meet {end}")
        if (end - last) / step > _MOST_RUNS:
            raise InvalidOperation(f"from {last} to {end} there are more than {_MOST_RUNS:,} steps of {step}")
        while abs(end - last) > abs(step):
            last += step
            filled.append(str(last))
    return filled


def sweep(
    data: Images | None,
    out: str | Path,
    *,
    grid: Mapping[str, Sequence[Any]],
    recipe: str | Path | None = None,
    overrides: Mapping[str, Any] | None = None,
    train: Images | None = None,
    test: Images | None = None,
    probe: Mapping[str, Any] | None = None,
    progress: bool = True,
) -> list[dict[str, Any]]:
    """Pretrains with every combination of the grid's values and tabulates loss, k-NN and linear accuracy.

    Each run has its folder in `out`; the same call goes on where it was stopped. The table is written after every run,
    to sweep.csv and sweep.md. A run that fails is in the table with its error, and the sweep goes on.

    Accuracies are those of the protocols `knn` (weighted votes of `monitor.knn_k` neighbours) and `linear`, which learn
    from the labelled ones among the images and are measured on `data.test`, or on a fifth that is held out.

    Args:
        data, recipe, overrides: as for `pretrain`.
        out: the sweep's folder.
        grid: values by dotted path.
        train: labelled images that the protocols learn from, where those of `data` shall not be it.
        test: labelled images to measure on, where those of `data.test` shall not be it.
        probe: settings of the two protocols by path, `{"linear.style": "sce"}`.
        progress: show progress.

    Returns:
        A row for each combination: the settings, "loss", "knn" and "linear" (percent; None without labels), "run",
        "error".

    Raises:
        GlocalError: an empty grid, a value in it that no run can have, images or settings that cannot be measured with
            (all told before the first run), or no run got through.
    """
    if not grid:
        raise GlocalError("a sweep needs a grid, for example --grid method.temperature=0.1,0.2")
    probe = dict(probe or {})
    _check_probe(probe, train, test)
    out = Path(out)
    count = math.prod(len(values) for values in grid.values())
    if count > _MOST_RUNS:
        raise GlocalError(
            f"the grid has {count:,} combinations, each of which is a run; at most {_MOST_RUNS:,} are taken"
        )
    combinations = [dict(zip(grid, values, strict=True)) for values in itertools.product(*grid.values())]
    _check_grid(combinations, data, recipe, overrides or {}, out)
    rows: list[dict[str, Any]] = []
    for number, settings in enumerate(combinations, start=1):
        named = ", ".join(f"{key}={value}" for key, value in settings.items())
        note(f"run {number} of {len(combinations)}: {named}")
        folder = _folder(out, settings)
        row: dict[str, Any] = {**settings, "loss": None, **dict.fromkeys(_PROBES), "run": str(folder), "error": ""}
        try:
            chosen = {**(overrides or {}), **settings}
            run = pretrain(data, folder, recipe=recipe, overrides=chosen, progress=progress, report=False)
            row["loss"] = read_metrics(folder)["loss"][-1]
            if process_rank() == 0:
                row.update(_measure(run, data, train, test, probe, progress))
        except Exception as error:
            if number == 1 and not (folder / "recipe.yaml").exists():
                raise  # wrong settings or data: it would be the same for all
            kind = "" if isinstance(error, GlocalError) else f"{type(error).__name__}: "
            row["error"] = " ".join(f"{kind}{error}".split())[:300]
        rows.append(row)
        _write(rows, out)
    if all(row["error"] for row in rows):
        raise GlocalError(f"none of {len(rows)} runs got through; the first one: {rows[0]['error']}")
    return rows


def _check_grid(
    combinations: Sequence[Mapping[str, Any]],
    data: Images | None,
    recipe: str | Path | None,
    overrides: Mapping[str, Any],
    out: Path,
) -> None:
    """Wrong values are told before hours are spent on the right ones that come first."""
    mapping: dict[str, Any] = {"name": "default"} if recipe is None else load_mapping(recipe)
    images = source_in(mapping, overrides) if data is None else data
    if images is None:
        return  # the first run says it
    size = natural_size(open_by(images, mapping.get("data"), overrides))
    for settings in combinations:
        try:
            with silence():  # the run says it
                start = begin(mapping, {**overrides, **settings}, _folder(out, settings))
                built = build_recipe(start.mapping, start.overrides, data_size=size, statistics=start.statistics)
                start.check(built)
                rehearse(built, progress=False)
        except GlocalError as error:
            named = ", ".join(f"{key}={value}" for key, value in settings.items())
            raise GlocalError(f"the grid's {named} cannot be run: {error}") from error


def _check_probe(probe: Mapping[str, Any], train: Images | None, test: Images | None) -> None:
    """Wrong settings and images are told before anything is trained."""
    raw: dict[str, Any] = {}
    for path, value in probe.items():
        name = path.partition(".")[0]
        if name not in _PROBES or "." not in path:
            raise GlocalError(f"--probe {path}: a sweep measures by {' and '.join(_PROBES)}; write linear.style=sce")
        assign(raw, path, value)
    for name, its in raw.items():
        validated(protocol(name).settings, its, f"protocol {name}")
    for source in (train, test):
        if source is not None and labelled_part(open_source(source)) is None:
            raise GlocalError(f"{open_source(source).name} has no labels to learn from or to measure on")
    if train is not None and test is not None:
        parts = [labelled_part(open_source(source)) for source in (train, test)]
        Bench(RawPixels(), train=parts[0], test=parts[1]).sources()


def _measure(
    run: Run,
    data: Images | None,
    train: Images | None,
    test: Images | None,
    probe: Mapping[str, Any],
    progress: bool,
) -> dict[str, float]:
    """Accuracies of a run's backbone; what was measured of its newest checkpoint is read from the run's folder."""
    images = _images(run, data if train is None else train, test)
    if images is None:
        return {}
    learn, queries = images
    settings = {"knn.k": [min(run.recipe.monitor.knn_k, len(learn))], "knn.votes": ["weighted"], **probe}
    about = {
        "checkpoint": checkpoint_files(run.folder / "checkpoints")[0].name,
        "images": [[source.name, len(source)] for source in images],
        "settings": settings,
    }
    written = run.folder / "sweep.json"
    about = json.loads(json.dumps(about, default=str))
    if written.exists():
        before = read_json(written)
        if before["about"] == about:
            return dict(before["accuracies"])
    try:
        found = evaluate(
            run.folder,
            train=learn,
            test=queries,
            protocols=_PROBES,
            settings=settings,
            out=run.folder / "evaluation",
            device=run.recipe.train.device,
            workers=run.recipe.data.workers,
            progress=progress,
        )
    except IncompleteError as error:  # a warning has told it, and the other one's number is worth having
        found = error.result
    accuracies = {name: one["results"][0]["metrics"]["top1"] for name, one in found["protocols"].items()}
    if len(accuracies) == len(_PROBES):
        write_text(written, json.dumps({"about": about, "accuracies": accuracies}, indent=2) + "\n")
    return accuracies


def _images(run: Run, train: Images | None, test: Images | None) -> tuple[Source, Source] | None:
    """What the protocols learn from and are measured on; None where there are no labels, or too few."""
    learn = labelled_part(open_source(run.recipe.data.source if train is None else train))  # type: ignore[arg-type]
    test = run.recipe.data.test if test is None else test
    if learn is None:
        return None
    if test is not None:
        return learn, open_source(test)
    if len(learn) < _FEWEST:
        return None
    order = permutation(len(learn), run.recipe.seed, "sweep")
    part = len(learn) // 5
    return Subset(learn, order[part:].sort().values), Subset(learn, order[:part].sort().values)


def _folder(out: Path, settings: Mapping[str, Any]) -> Path:
    names = (f"{key.rpartition('.')[2]}={value}" for key, value in settings.items())
    return out / "runs" / "".join(c if c.isalnum() or c in "=.,-_" else "_" for c in ",".join(names))[:200]


def _cells(row: Mapping[str, Any]) -> list[str]:
    """The row without its folder, rounded."""
    shown = {key: value for key, value in row.items() if key != "run"}
    rounded = {"loss": ".4f", "knn": ".2f", "linear": ".2f"}
    return [
        "" if value is None else format(value, rounded[key]) if key in rounded else str(value)
        for key, value in shown.items()
    ]


def _write(rows: Sequence[Mapping[str, Any]], out: Path) -> None:
    make_folder(out)
    text = io.StringIO()
    writer = csv.DictWriter(text, list(rows[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    write_text(out / "sweep.csv", text.getvalue())
    head = [key for key in rows[0] if key != "run"]
    lines = [head, ["---"] * len(head), *(_cells(row) for row in rows)]
    write_text(out / "sweep.md", "".join(f"| {' | '.join(line)} |\n" for line in lines))


def table(rows: Sequence[Mapping[str, Any]]) -> Table:
    """A table for the terminal; the best linear accuracy, or without any the best k-NN accuracy, is marked."""
    shown = Table(title="sweep", title_justify="left")
    for key in rows[0]:
        if key != "run":
            shown.add_column(key, justify="right" if key in ("loss", *_PROBES) else "left")
    by = "linear" if any(row["linear"] is not None for row in rows) else "knn"
    best = max((row[by] for row in rows if row[by] is not None), default=None)
    for row in rows:
        shown.add_row(*_cells(row), style="bold" if best is not None and row[by] == best else None)
    return shown
