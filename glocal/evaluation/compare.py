"""Several runs side by side on the same protocols, with the published numbers of their recipes."""

from __future__ import annotations

import json
import math
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.table import Table
from rich.text import Text

from glocal.config import load_mapping
from glocal.console import name_cell
from glocal.errors import GlocalError
from glocal.evaluation import results
from glocal.files import harmless, make_folder, write_csv, write_text
from glocal.report.comparison import ComparedRow, ComparedRun, Comparison

# What a protocol chose by itself, or how its solver ended: "SGD, lr=0.1", "food101: C=0.3, stopped at 50 iterations".
_CHOSEN = re.compile(r"[,:] (?:(?:lr|C|cost)=[^\s,()]+|stopped at \d+ iterations)")
_DEVIATION = "_std"


def compare(runs: Sequence[str | Path], out: str | Path | None = None) -> Comparison:
    """Lines up what `glocal evaluate` found of several runs.

    Rows are lined up by images, protocol, setting and metric. What a protocol chooses for each run by itself (learning
    rate, strength of the penalty) is no part of the setting, unless one run has several of them.

    Args:
        runs: folders of runs, or folders that hold an evaluation.json.
        out: folder for compare.csv, compare.json, compare.md and compare.png; None writes nothing.

    Raises:
        GlocalError: no run, or a folder without an evaluation.
    """
    if not runs:
        raise GlocalError("nothing to compare: name the folders of two runs or more")
    found = [_read(Path(run)) for run in runs]
    names = _names([run for run, _ in found])
    comparison = Comparison(
        runs=tuple(run._replace(name=name) for (run, _), name in zip(found, names, strict=True)),
        rows=tuple(_line_up([result for _, result in found])),
        notes=tuple(_notes(names, [result for _, result in found])),
    )
    if out is not None:
        _save(comparison, Path(out))
    return comparison


def table(comparison: Comparison) -> Table:
    """A table for the terminal; the best of each row is bold."""
    images = sorted({row.images for row in comparison.rows})
    one = len(images) == 1
    shown = Table(title=name_cell(images[0]) if one else None, title_justify="left")
    places = ("protocol", *(() if one else ("images",)), "setting", "metric")
    for column in places:
        shown.add_column(column)
    for run in comparison.runs:
        shown.add_column(name_cell(run.name), justify="right")
    before = ("", "")
    for row in comparison.rows:
        group = row.protocol, row.images
        if group != before:
            shown.add_section()
        first = group if group != before else ("", "")  # said once
        before = group
        place = (first[0],) if one else (first[0], Text(first[1]))
        numbers = [Text(cell, style="bold" if column in row.best else "") for column, cell in enumerate(_cells(row))]
        shown.add_row(*place, Text(row.setting), row.metric, *numbers)
    if any(run.published for run in comparison.runs):
        shown.add_section()
        published = [Text(run.published or "–") for run in comparison.runs]
        shown.add_row("published", *[""] * (len(places) - 1), *published)
    return shown


def _read(given: Path) -> tuple[ComparedRun, dict[str, Any]]:
    folder = given.parent if given.name == "evaluation.json" else given
    if not folder.is_dir():
        what = "is a file; give the run's folder" if given.exists() else "is no run: there is no such folder"
        raise GlocalError(f"{given} {what}")
    place = folder / "evaluation" if (folder / "evaluation" / "evaluation.json").is_file() else folder
    if not (place / "evaluation.json").is_file():
        raise GlocalError(
            f"{given} has no evaluation yet; `glocal evaluate {given} --train LABELLED --test LABELLED` writes one"
        )
    result = results.load(place)
    try:
        list(results.rows(result))
        backbone = str(result["backbone"])
    except (KeyError, TypeError, AttributeError) as error:
        raise GlocalError(f"{place / 'evaluation.json'} is no evaluation of glocal: {error!r}") from None
    run = folder.parent if folder.name == "evaluation" and not (folder / "recipe.yaml").exists() else folder
    if not (run / "recipe.yaml").is_file():
        return ComparedRun(backbone, str(given), backbone, "", ""), result
    recipe = load_mapping(run / "recipe.yaml")
    words = [str(recipe.get(key) or "") for key in ("reproduces", "published")]
    return ComparedRun(run.resolve().name, str(given), backbone, *words), result


def _names(runs: Sequence[ComparedRun]) -> list[str]:
    """The runs' names, or their folders where two have one name."""
    count = Counter(run.name for run in runs)
    names = [run.name if count[run.name] == 1 else run.folder for run in runs]
    again = Counter(names)
    return [name if again[name] == 1 else f"{name} ({place})" for place, name in enumerate(names, start=1)]


_Key = tuple[str, str, str, str]


def _line_up(found: Sequence[Mapping[str, Any]]) -> Iterator[ComparedRow]:
    """The rows of all runs, in the order in which the first run has them, those of others behind their like."""
    tables = [_by_setting(result) for result in found]
    keys: list[_Key] = []
    for each in tables:
        for key in each:
            if key not in keys:
                # Behind the last row of the same protocol and images, so that they stay together.
                near = [place for place, other in enumerate(keys) if other[:2] == key[:2]]
                near = near or [place for place, other in enumerate(keys) if other[1] == key[1]]
                keys.insert(near[-1] + 1 if near else len(keys), key)
    for images, protocol, setting, metric in keys:
        if metric.endswith(_DEVIATION) and (images, protocol, setting, metric.removesuffix(_DEVIATION)) in keys:
            continue

        def column(name: str, place: tuple[str, str, str] = (images, protocol, setting)) -> list[Any]:
            return [each.get((*place, name), (None, None)) for each in tables]

        values = column(metric)
        yield ComparedRow(
            images,
            protocol,
            setting,
            metric,
            percent=results.is_percent(metric),
            values=tuple(value for value, _ in values),
            deviations=tuple(value for value, _ in column(metric + _DEVIATION)),
            chosen=tuple(words for _, words in values),
        )


def _by_setting(result: Mapping[str, Any]) -> dict[_Key, tuple[float | None, str]]:
    """Value and whole setting of each number of one run, by images, protocol, setting and metric."""
    rows = list(results.rows(result))
    short = Counter((row.images, row.protocol, _CHOSEN.sub("", row.setting), row.metric) for row in rows)
    found = {}
    for row in rows:
        key = (row.images, row.protocol, _CHOSEN.sub("", row.setting), row.metric)
        if short[key] > 1:  # several were measured, none was chosen
            key = (row.images, row.protocol, row.setting, row.metric)
        known = isinstance(row.value, int | float) and math.isfinite(row.value)
        found[key] = (float(row.value) if known else None, row.setting)
    return found


def _notes(names: Sequence[str], found: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    """What makes numbers in one row, or in one column, differ that is not the backbone."""
    protocols = dict.fromkeys(protocol for result in found for protocol in result["protocols"])
    apart = []
    for protocol in protocols:
        entries = {
            name: result["protocols"][protocol]
            for name, result in zip(names, found, strict=True)
            if protocol in result["protocols"]
        }
        if len(entries) < 2:
            continue
        images = {name: _images(entry) for name, entry in entries.items()}
        if len({words for words, _ in images.values()}) > 1:
            apart.append(protocol)
        elif len(set(images.values())) > 1:
            counts = ", ".join(f"{name}: {' and '.join(map(str, count))}" for name, (_, count) in images.items())
            yield f"{protocol} was measured on different numbers of images: {counts}"
        settings = {name: entry.get("settings", {}) for name, entry in entries.items()}
        for key in dict.fromkeys(key for each in settings.values() for key in each):
            said = {name: json.dumps(each.get(key), ensure_ascii=False) for name, each in settings.items()}
            if key != "data" and len(set(said.values())) > 1:
                yield f"{protocol}.{key} differs: " + ", ".join(f"{name}: {value}" for name, value in said.items())
    if apart:
        yield f"measured on different images, which have rows of their own: {', '.join(apart)}"


def _images(entry: Mapping[str, Any]) -> tuple[str, tuple[int, ...]]:
    """The names of what was measured on, and how many images there are in each."""
    parts = [entry[part] for part in ("train", "val", "test") if part in entry]
    names = " → ".join(str(part["name"]) for part in parts) if parts else str(entry.get("data"))
    return names, tuple(int(part["images"]) for part in parts)


def _cells(row: ComparedRow) -> list[str]:
    cells = ["–" if value is None else results.shown(row.metric, value) for value in row.values]
    pairs = zip(cells, row.deviations, strict=True)
    return [cell if deviation is None else f"{cell} ± {deviation:.2f}" for cell, deviation in pairs]


def _save(comparison: Comparison, folder: Path) -> None:
    make_folder(folder)
    found = {
        "runs": [run._asdict() for run in comparison.runs],
        "rows": [{**row._asdict(), "best": row.best} for row in comparison.rows],
        "notes": comparison.notes,
    }
    write_text(folder / "compare.json", json.dumps(found, indent=2, ensure_ascii=False) + "\n")
    header = ("images", "protocol", "setting", "metric", "run", "value", "deviation", "chosen", "best")
    write_csv(folder / "compare.csv", header, _lines(comparison))
    write_text(folder / "compare.md", markdown(comparison))
    from glocal.report.compare_plot import draw_comparison

    draw_comparison(comparison, folder / "compare.png")


def _lines(comparison: Comparison) -> Iterator[tuple[Any, ...]]:
    """A line for each number of each run."""
    for row in comparison.rows:
        for place, run in enumerate(comparison.runs):
            if row.values[place] is not None:
                cells = (run.name, row.values[place], row.deviations[place], row.chosen[place], place in row.best)
                yield *row[:4], *cells


def markdown(comparison: Comparison) -> str:
    """The table in Markdown; the best of each row is bold."""
    header = ["images", "protocol", "setting", "metric", *(run.name for run in comparison.runs)]
    lines = [header, [*["---"] * 4, *["---:"] * len(comparison.runs)]]
    for row in comparison.rows:
        cells = [f"**{cell}**" if place in row.best else cell for place, cell in enumerate(_cells(row))]
        lines.append([*row[:4], *cells])
    if any(run.published for run in comparison.runs):
        lines.append(["", "published", "", "", *(run.published or "–" for run in comparison.runs)])
    text = "\n".join("| " + " | ".join(harmless(cell).replace("|", r"\|") for cell in line) + " |" for line in lines)
    notes = "".join(f"\n- {note}" for note in comparison.notes)
    return f"{text}\n{notes}\n" if notes else f"{text}\n"
