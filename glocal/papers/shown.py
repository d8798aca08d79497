"""The papers' tables on the terminal and as files."""

from __future__ import annotations

import json
import shlex
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from rich.table import Table
from rich.text import Text

from glocal.errors import GlocalError
from glocal.files import write_csv, write_text
from glocal.papers import Paper, PaperRow, PaperTable
from glocal.papers.data_sets import data_sets, in_words
from glocal.papers.measured import MeasuredRow, MeasuredRun, Run


def overview(papers: Sequence[Paper]) -> Table:
    """A line for each table: its place, what it shows, its rows, those of them with a recipe, and on which images."""
    shown = Table(title="tables (glocal tables PAPER/ID [RUNS])", title_justify="left")
    for column in ("table", "shows", "rows", "with a recipe", "images"):
        shown.add_column(column, justify="right" if column in ("rows", "with a recipe") else "left")
    for paper in papers:
        shown.add_section()
        for table in paper.tables:
            runnable = sum(row.recipe is not None for row in table.rows)
            place = f"{paper.paper}/{table.id}"
            counts = (str(len(table.rows)), str(runnable)) if table.rows else ("–", "–")
            images = Text(in_words(data_sets(table.rows)))
            shown.add_row(Text(place), Text(f"{table.title} ({table.place})"), *counts, images)
    return shown


_WIDE = 6  # columns of numbers, above which recipes stand below the table
_FEW = 5  # runs that are no row, up to which they are named


def table_of(paper: Paper, table: PaperTable, rows: Sequence[MeasuredRow]) -> Table | str:
    """A printed table, under each row the runs that are it; its title alone where no numbers are in print."""
    title = f"{paper.paper}/{table.id}: {table.title} ({paper.authors}, {paper.venue}; {table.place})"
    if not rows:
        return title
    shown = Table(title=Text(title), title_justify="left")
    shown.add_column("row", overflow="fold")
    for metric in table.metrics.values():
        shown.add_column(Text(metric.title), justify="right")
    wide = len(table.metrics) > _WIDE
    if not wide:
        shown.add_column("recipe, or what a run has otherwise", overflow="fold")
    for row, runs in rows:
        printed = [table.shown(name, row.values[name]) if name in row.values else "" for name in table.metrics]
        shown.add_row(Text(row.label), *printed, *([] if wide else [Text(_how(row))]))
        for run in runs:
            numbers = [f"{run.values[name]:.2f}" if name in run.values else "" for name in table.metrics]
            shown.add_row(Text(f"  {run.folder}", style="bold"), *numbers, *([] if wide else [Text(_otherwise(run))]))
    return shown


def remarks(table: PaperTable, rows: Sequence[MeasuredRow]) -> Iterator[str]:
    """What a reader of a table has to know: its notes, its rows' notes, how it is measured, and on what."""
    if len(table.metrics) > _WIDE:
        for row, runs in rows:
            yield f"{row.label}: {_how(row)}"
            yield from (f"{run.folder}: {words}" for run in runs if (words := _otherwise(run)))
    if any(row.recipe for row in table.rows):
        yield "run by: glocal pretrain --recipe RECIPE --set SETTING=VALUE … --out runs/NAME"
    yield from (f"note: {note}" for note in table.notes)
    yield from (f"note on {row.label}: {note}" for row in table.rows for note in row.notes)
    commands: dict[str, list[str]] = {}
    for metric in table.metrics.values():
        if metric.protocol is None:
            yield f"{metric.title} is not measured: {metric.why}"
        else:
            commands.setdefault(_evaluation(metric.protocol, metric.settings), []).append(metric.title)
    yield from (f"measured by: {command}" for command in commands)
    for images in sorted({images for _, runs in rows for run in runs for images in run.images.values()}):
        yield f"measured on: {images}"


def others(rows: Sequence[MeasuredRow], there: Sequence[Run]) -> str:
    """How many runs are no row of a table, by name where they are few; empty where each is one."""
    placed = {run.folder for _, runs in rows for run in runs}
    left = [str(run.folder) for run in there if str(run.folder) not in placed]
    if not left:
        return ""
    names = f": {', '.join(left)}" if len(left) <= _FEW else ""
    runs = "run" if len(there) == 1 else "runs"
    verb = "is no row" if len(left) == 1 else "are no rows"
    return f"{len(left)} of {len(there)} {runs} {verb} of this table{names}"


def save(path: Path, paper: Paper, table: PaperTable, rows: Sequence[MeasuredRow]) -> None:
    """Writes a table as JSON, or as CSV with a line for each number in print and each that was measured.

    Raises:
        GlocalError: the path ends in neither.
    """
    place = f"{paper.paper}/{table.id}"
    if path.suffix == ".json":
        found = {"table": place, **table.model_dump(mode="json"), "rows": [_as_json(row) for row in rows]}
        write_text(path, json.dumps(found, indent=2, ensure_ascii=False) + "\n")
    elif path.suffix == ".csv":
        write_csv(
            path, ("table", "row", "metric", "printed", "run", "measured", "images", "marks"), _lines(place, rows)
        )
    else:
        raise GlocalError(f"--out {path}: end it in .csv or .json")


def _how(row: PaperRow) -> str:
    if row.recipe is None:
        return f"cannot be run: {row.cannot_run}"
    return " ".join([row.recipe, *(f"{path}={_word(value)}" for path, value in row.settings.items())])


def _otherwise(run: MeasuredRun) -> str:
    return "; ".join([*run.marks, *([] if run.evaluated else ["not evaluated yet"])])


def _evaluation(protocol: str, settings: dict[str, Any]) -> str:
    words = [f"--set {shlex.quote(f'{path}={_word(value)}')}" for path, value in settings.items()]
    return " ".join(["glocal evaluate RUN --protocol", protocol, *words])


def _word(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value)


def _as_json(measured: MeasuredRow) -> dict[str, Any]:
    return {**measured.row.model_dump(mode="json"), "runs": [run._asdict() for run in measured.runs]}


def _lines(place: str, rows: Sequence[MeasuredRow]) -> Iterator[tuple[Any, ...]]:
    for row, runs in rows:
        for name, value in row.values.items():
            yield place, row.label, name, value, "", "", "", ""
        for run in runs:
            for name, value in run.values.items():
                printed = row.values.get(name)
                yield place, row.label, name, printed, run.folder, value, run.images[name], "; ".join(run.marks)
