"""A reproduced table as JSON, as Markdown, as a picture and on the terminal."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

from rich.table import Table
from rich.text import Text

from glocal.files import write_text
from glocal.report.beside import Panel, Point, draw_beside

Found = Mapping[str, Any]
_COLUMNS = {"epochs": "", "views": ", equal views", "time": ", equal time"}
_COSTS = ("row", "seeds", "epochs", "images", "image views", "CPU minutes", "minutes", "last k-NN (%)", "best k-NN (%)")


def write(found: Found, out: Path) -> None:
    """Writes reproduced.json and reproduced.md into a folder."""
    write_text(out / "reproduced.json", json.dumps(found, indent=2, ensure_ascii=False) + "\n")
    write_text(out / "reproduced.md", markdown(found))


def read_written(out: Path) -> dict[str, Any]:
    """What an earlier call wrote to reproduced.json; empty where there is nothing that can be read."""
    try:
        found = json.loads((out / "reproduced.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def markdown(found: Found) -> str:
    """The table with its heading, what it cost, and its notes."""
    parts = [f"# {found['table']}: {found['title']}", ""]
    parts += [f"- {line}" for line in found["heading"]]
    machine = found["machine"]
    made = f"{machine.get('gpu', machine['cpu'])}, {machine['jobs']} at a time with {_threads(machine['threads'])} each"
    commands = ", then ".join(f"`{command}`" for command in found["commands"])
    parts += [f"- made by {commands} ({found['date']}; {made})", ""]
    columns, lines = _lines(found)
    parts += [_row(columns), _row(["---"] * len(columns)), *map(_row, lines), ""]
    if any(" ± " in cell for line in lines for cell in line[1:]):
        parts += ["± is the sample standard deviation over the seeds of a row.", ""]
    costs = list(_costs(found))
    if costs:
        parts += ["What it cost, and k-NN accuracy while training; the mean of a row's seeds:", ""]
        parts += [_row(_COSTS), _row(["---"] * len(_COSTS))]
        parts += [*map(_row, costs), ""]
    parts += [f"- {line}" for line in remarks(found)]
    return "\n".join(parts).rstrip() + "\n"


def table(found: Found) -> Table:
    """The table for the terminal."""
    shown = Table(title=Text(f"{found['table']}: {found['title']}"), title_justify="left")
    columns, lines = _lines(found)
    shown.add_column(columns[0], overflow="fold")
    for column in columns[1:]:
        shown.add_column(Text(column), justify="right")
    for line in lines:
        shown.add_row(*map(Text, line))
    return shown


def remarks(found: Found) -> list[str]:
    """What failed, what cannot be run, and what is not measured."""
    lines = []
    for row in found["rows"]:
        if row["cannot_run"] and not row["results"]:
            lines.append(f"{row['label']} cannot be run: {row['cannot_run']}")
        lines += [f"{row['label']}, seed {one['seed']}{_COLUMNS[c]}: {one['error']}" for c, one in _failed(row)]
    notes: dict[str, list[str]] = {}
    for row in found["rows"]:
        for line in row["notes"]:
            notes.setdefault(line, []).append(row["label"])
    return [*lines, *notes]


def failures(found: Found) -> int:
    """How many runs have an error."""
    return sum(1 for row in found["rows"] for _ in _failed(row))


def draw(found: Found, out: Path) -> None:
    """Draws what is in print beside what was measured to reproduced.png; nothing where nothing was measured."""
    panels = []
    for name, title in found["metrics"].items():
        points = [_points(row, name) for row in found["rows"]]
        lines = {what: its[name] for what, its in found["references"].items() if name in its}
        if any(len(of_row) > ("published" in of_row) for of_row in points):
            panels.append(Panel(title, points, lines))
    labels = [row["label"] for row in found["rows"]]
    if panels:
        draw_beside(out / "reproduced.png", f"{found['table']}: {found['title']}", labels, panels)


def _points(row: Mapping[str, Any], name: str) -> dict[str, Point]:
    points = {}
    if name in row["published"]:
        points["published"] = Point(row["published"][name])
    for column, its in row["results"].items():
        if name in its["mean"]:
            points[f"measured{_COLUMNS[column]}"] = Point(its["mean"][name], its["deviation"][name])
    return points


def _failed(row: Mapping[str, Any]) -> Iterator[tuple[str, Mapping[str, Any]]]:
    for column, its in row["results"].items():
        yield from ((column, one) for one in its["runs"] if one["error"])


def _lines(found: Found) -> tuple[list[str], list[list[str]]]:
    """The titles of the columns, and the cells of each row."""
    equal = [column for column in _COLUMNS if any(column in row["results"] for row in found["rows"])]
    columns, cells = ["row"], [[row["label"]] for row in found["rows"]]
    below = [[name] for name in found["references"]]
    for name, title in found["metrics"].items():
        if any(name in row["published"] for row in found["rows"]):
            columns.append(f"{title}, published")
            for line, row in zip(cells, found["rows"], strict=True):
                line.append(f"{row['published'][name]:g}" if name in row["published"] else "")
            for line in below:
                line.append("")
        for column in equal:
            columns.append(f"{title}{_COLUMNS[column]}")
            for line, row in zip(cells, found["rows"], strict=True):
                line.append(_mean(row["results"].get(column), name))
            for line, its in zip(below, found["references"].values(), strict=True):
                line.append(f"{its[name]:.2f}" if name in its else "")
    return columns, [*cells, *below]


def _mean(its: Mapping[str, Any] | None, name: str) -> str:
    if its is None or name not in its["mean"]:
        return "failed" if its and any(one["error"] for one in its["runs"]) else ""
    deviation = its["deviation"][name]
    return f"{its['mean'][name]:.2f}" + ("" if deviation is None else f" ± {deviation:.2f}")


def _costs(found: Found) -> Iterator[list[str]]:
    for row in found["rows"]:
        for column, its in row["results"].items():
            runs = [one for one in its["runs"] if one["views"] is not None]
            if runs:
                numbers = [_average(runs, key) for key in ("epochs", "images", "views", "cpu_minutes", "wall_minutes")]
                numbers += last_and_best(runs) or (None, None)
                digits = (0, 0, 0, 1, 1, 1, 1)
                shown = [f"{n:,.{d}f}" if n is not None else "" for n, d in zip(numbers, digits, strict=True)]
                yield [f"{row['label']}{_COLUMNS[column]}", str(len(runs)), *shown]


def last_and_best(runs: Sequence[Mapping[str, Any]]) -> tuple[float, float] | None:
    """k-NN accuracy in percent at the last look of a training and at its best one; None where no training looked.

    Some tables in print have the best epoch, which was chosen by the images that it is told of.

    Args:
        runs: of a row; the mean of those that looked is taken.
    """
    looks = [[accuracy for *_, accuracy in one["curve"]] for one in runs if one.get("curve")]
    if not looks:
        return None
    return fmean(its[-1] for its in looks), fmean(max(its) for its in looks)


def _average(runs: Sequence[Mapping[str, Any]], key: str) -> float | None:
    numbers = [one[key] for one in runs if one[key] is not None]
    return sum(numbers) / len(numbers) if numbers else None


def _row(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cell.replace('|', '∣') for cell in cells)} |"


def _threads(count: int) -> str:
    return f"{count} thread{'' if count == 1 else 's'}"
