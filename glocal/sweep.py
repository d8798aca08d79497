"""Sweeps: one run for each combination of settings, and one table of what they reached."""

from __future__ import annotations

import csv
import io
import itertools
from collections.abc import Iterable, Mapping, Sequence
from decimal import Decimal, InvalidOperation
from pathlib import Path
from typing import Any

import yaml
from rich.table import Table

from glocal.console import note
from glocal.data.sources.opening import Images
from glocal.errors import GlocalError
from glocal.files import write_text
from glocal.training.log import read_metrics, read_monitor
from glocal.training.run import pretrain

_ELLIPSES = ("…", "...")


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
            parts = _split(values)
            grid[key.strip()] = [yaml.safe_load(part) for part in _fill(parts)]
        except (yaml.YAMLError, InvalidOperation) as error:
            raise GlocalError(
                f"--grid {setting}: {' '.join(str(error).split())[:80]}; give values or a row of numbers"
            ) from error
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
        exponent = min(int(Decimal(number).as_tuple().exponent) for number in (filled[-1], parts[place + 1]))
        step = last - Decimal(filled[-2]) if len(filled) > 1 else Decimal(1).scaleb(exponent).copy_sign(end - last)
        if step == 0 or (end - last) / step < 0:
            raise InvalidOperation(f"{end} is not reached from {last} in steps of {step}")
        if (end - last) % step:
            raise InvalidOperation(f"steps of {step} from {last} do not meet {end}")
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
    progress: bool = True,
) -> list[dict[str, Any]]:
    """Pretrains with every combination of the grid's values and tabulates loss and k-NN accuracy.

    Each run has its folder in `out`; the same call goes on where it was stopped. The table is written after every run,
    to sweep.csv and sweep.md. A run that fails is in the table with its error, and the sweep goes on.

    Args:
        data, recipe, overrides: as for `pretrain`.
        out: the sweep's folder.
        grid: values by dotted path.
        progress: show progress.

    Returns:
        A row for each combination: the settings, "loss", "knn" (percent; None without labels), "run", "error".

    Raises:
        GlocalError: an empty grid, or no run got through.
    """
    if not grid:
        raise GlocalError("a sweep needs a grid, for example --grid method.temperature=0.1,0.2")
    out = Path(out)
    combinations = [dict(zip(grid, values, strict=True)) for values in itertools.product(*grid.values())]
    rows: list[dict[str, Any]] = []
    for number, settings in enumerate(combinations, start=1):
        named = ", ".join(f"{key}={value}" for key, value in settings.items())
        note(f"run {number} of {len(combinations)}: {named}")
        folder = out / "runs" / _folder_name(settings)
        row: dict[str, Any] = {**settings, "loss": None, "knn": None, "run": str(folder), "error": ""}
        try:
            pretrain(data, folder, recipe=recipe, overrides={**(overrides or {}), **settings}, progress=progress)
            row["loss"] = read_metrics(folder)["loss"][-1]
            row["knn"] = read_monitor(folder, "knn")
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


def _folder_name(settings: Mapping[str, Any]) -> str:
    names = (f"{key.rpartition('.')[2]}={value}" for key, value in settings.items())
    return "".join(c if c.isalnum() or c in "=.,-_" else "_" for c in ",".join(names))[:200]


def _cells(row: Mapping[str, Any]) -> list[str]:
    """The row without its folder, rounded."""
    shown = {key: value for key, value in row.items() if key != "run"}
    rounded = {"loss": ".4f", "knn": ".2f"}
    return [
        "" if value is None else format(value, rounded[key]) if key in rounded else str(value)
        for key, value in shown.items()
    ]


def _write(rows: Sequence[Mapping[str, Any]], out: Path) -> None:
    out.mkdir(parents=True, exist_ok=True)
    text = io.StringIO()
    writer = csv.DictWriter(text, list(rows[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    write_text(out / "sweep.csv", text.getvalue())
    head = [key for key in rows[0] if key != "run"]
    lines = [head, ["---"] * len(head), *(_cells(row) for row in rows)]
    write_text(out / "sweep.md", "".join(f"| {' | '.join(line)} |\n" for line in lines))


def table(rows: Sequence[Mapping[str, Any]]) -> Table:
    """A table for the terminal; the best k-NN accuracy (or, without labels, no row) is marked."""
    shown = Table(title="sweep", title_justify="left")
    for key in rows[0]:
        if key != "run":
            shown.add_column(key, justify="right" if key in ("loss", "knn") else "left")
    best = max((row["knn"] for row in rows if row["knn"] is not None), default=None)
    for row in rows:
        shown.add_row(*_cells(row), style="bold" if best is not None and row["knn"] == best else None)
    return shown
