"""docs/results.md out of benchmarks/results/*.json, and out of nothing else.

    python benchmarks/results_page.py

The files are what `glocal reproduce` writes (`reproduced.json`, named after the table). Every number of the page is
computed from the runs in them; what they lack is said to be missing.
"""

from __future__ import annotations

import argparse
import json
import math
from collections.abc import Iterator
from pathlib import Path
from statistics import mean
from typing import Any

from results_best import best, changes_method, data_of
from results_numbers import average, compared, minutes_of, shown, table, tuning
from results_pictures import ALIKE, draw, runs_of, values

from glocal.config import build_recipe, load_mapping
from glocal.papers import find_row
from glocal.reproduction.writing import last_and_best

ROOT = Path(__file__).parents[1]
INTRODUCTION = """\
Every number here was measured by `glocal reproduce` and is computed from the files in `benchmarks/results/` by
`benchmarks/results_page.py`; nothing is typed. ± is the sample standard deviation over seeds. In tables of differences,
the number in brackets is the difference divided by its standard error. Between two equally good rows of three seeds,
2.8 or more turns up once in twenty times; of two seeds, 4.3. Take less for chance. A single seed shows no spread, so
its difference may always be chance. CPU minutes are those of the training alone, one thread a run; of several seeds,
the median. The last column of a table has the k-NN accuracy that was measured while training, at the end and at its
best, for some papers report their best epoch. All other numbers here are from the last epoch. [The
end](#how-the-tables-were-made) has the commands that measure each table again, and what was scaled down from print."""

FIRST = """\
The best row in each measure among those that took so many minutes or less, and the best row of another method. A row
with one seed counts only where its method has no row with more. "Not told apart" means that the difference may be
chance, or that one of the two has a single seed."""

LOOKS = "k-NN in training: last, best (%)"
LOOKS_TUNING = "k-NN in training, of training images: last, best (%)"

BESIDE = """\
Rows whose recipe has a number in print. That number shows what the method reached with its authors' data, network and
hours. The numbers here are of a small network after minutes; neither they nor their order can be held against print:"""


def spent(file: dict[str, Any], alike: str) -> str:
    """What all rows of a file have alike, in round numbers: tables that have the same share an answer."""
    runs = [run for row in file["rows"] for run in runs_of(row, alike)]
    key = {"epochs": "epochs", "views": "views", "time": "cpu_minutes"}[alike]
    all_ = [run[key] for run in runs if run.get(key) is not None]
    if not all_:
        return ALIKE[alike]
    if alike == "time":
        ends = dict.fromkeys(f"{end:.1f}" for end in (min(all_), max(all_)))  # whole epochs: not quite the same
        return f"{' to '.join(ends)} CPU minutes"
    if alike == "views":
        ends = dict.fromkeys(f"{round(end, -3):,}" for end in (min(all_), max(all_)))
        return f"{' to '.join(ends)} image views"
    return f"{min(all_)} epochs"


def also(file: dict[str, Any], kinds: list[str]) -> str:
    """What else the rows of a file have alike that were run in equal epochs alone; empty where nothing."""
    found = []
    done = [runs for row in file["rows"] if (runs := runs_of(row, "epochs"))]
    views = [average(runs, "views") for runs in done]
    for alike, its, apart in (("views", views, 1.0), ("time", list(map(minutes_of, done)), 1.15)):
        known = [value for value in its if value]
        if kinds == ["epochs"] and len(known) == len(its) > 1 and max(known) <= apart * min(known):
            found.append(f"{'about ' * (apart > 1)}{ALIKE[alike]}")
    return f", which is {' and '.join(found)} too" if found else ""


def slower(files: list[dict[str, Any]]) -> str:
    """How far the minutes of one row lie apart over seeds; empty where none has several that differ."""
    apart: dict[str, float] = {}
    for file in files:
        for row in file["rows"]:
            for alike in ALIKE:  # one by one: an epoch of a short training may cost another time than one of a long one
                minutes = [run["cpu_minutes"] for run in runs_of(row, alike) if run.get("cpu_minutes")]
                title = f"{row['label']} ({title_of(file)})"
                if len(minutes) > 1:
                    apart[title] = max(apart.get(title, 1.0), max(minutes) / min(minutes))
    most = max(apart, key=apart.__getitem__, default="")
    if apart.get(most, 1.0) < 1.05:
        return ""
    return (
        "CPU minutes depend on the machine and the day too. The same training took up to "
        f"{apart[most]:.1f} times as long with one seed as with another: {most}."
    )


def published(file: dict[str, Any]) -> str:
    """Published beside measured; empty where nothing is in print."""
    rows = [
        [
            row["label"],
            file["metrics"].get(metric, metric),
            str(number),
            shown(values(row, alike, metric)),
            ALIKE[alike],
        ]
        for row in file["rows"]
        for metric, number in (row.get("published") or {}).items()
        for alike in row.get("results") or ("epochs",)
    ]
    return table(["row", "measure", "published", "measured", "rows have"], rows) if rows else ""


def printed_as(file: dict[str, Any]) -> str:
    """A paper's table, and how much smaller it was trained here."""
    smaller = f", trained here with the budget {name}" if (name := file.get("budget", {}).get("name")) else ""
    return f"{title_of(file)} ({file['table']}){smaller}, measured by the table's own protocol"


def of_recipes(files: list[dict[str, Any]]) -> str:
    """What is in print for the recipes of rows, beside what was measured so much smaller; empty where nothing is."""
    rows: dict[str, list[str]] = {}
    for file in (file for file in files if not tuning(file)):
        for row in file["rows"]:
            alike = max(ALIKE, key=lambda kind: len(runs_of(row, kind)))
            if (name := row.get("recipe", "")) and not changes_method(row) and name not in rows and runs_of(row, alike):
                recipe = build_recipe(load_mapping(name))
                its = [f"{title} {shown(values(row, alike, metric))}" for metric, title in file["metrics"].items()]
                _, epochs, _, minutes, *_ = cells(row, alike, file)
                measured = f"{'; '.join(its[:2])}; {epochs} epochs, {minutes} min"
                rows[name] = [row["label"], recipe.reproduces, recipe.published, measured]
    found = [row for row in rows.values() if row[2]]
    return table(["row", "what is in print", "published", "measured here"], found) if found else ""


def section(file: dict[str, Any]) -> Iterator[str]:
    """A file's table for each way of being equal, what it compares, and what is missing."""
    yield f"## {title_of(file)}"
    kinds = [alike for alike in ALIKE if any(alike in row.get("results", {}) for row in file["rows"])]
    looks = LOOKS_TUNING if tuning(file) else LOOKS
    for alike in kinds:
        yield f"With {ALIKE[alike]}, {spent(file, alike)} a row{also(file, kinds)}; {data_of(file)}:"
        here = [row for row in file["rows"] if in_column(row, alike, kinds)]
        ranked = here if tuning(file) else sorted(here, key=lambda row: rank(row, alike, file))
        rows = [[row["label"], *cells(row, alike, file)] for row in ranked]
        for name, found in file.get("references", {}).items():
            its = [f"{found[m]:.1f}" if found.get(m) is not None else "not measured" for m in file["metrics"]]
            rows.append([f"*{name}*", "–", "–", "–", "–", *its, "–"])
        yield table(["row", "seeds", "epochs", "1,000 views", "CPU minutes", *file["metrics"].values(), looks], rows)
    said = any(one.get("printed") for one in file.get("comparisons", []))
    differences = [
        [one["what"], *([ALIKE[alike]] if len(kinds) > 1 else []), *differing(file, one, alike), *in_print(one, said)]
        for one in file.get("comparisons", [])
        for alike in kinds
        if all(in_column(row_of(file, one[side]), alike, kinds) for side in ("row", "over"))
    ]
    if differences:
        heading = ["difference", *(["rows have"] if len(kinds) > 1 else []), *file["metrics"].values()]
        yield table([*heading, *(["in print"] if said else [])], differences)
    for row in file["rows"]:
        if row.get("cannot_run") and not row.get("results"):
            yield f"- {row['label']} was not run: {row['cannot_run']}."
        for alike in kinds:
            for run in row.get("results", {}).get(alike, {}).get("runs", []):
                if run.get("error"):
                    yield f"- {row['label']}, seed {run['seed']}, failed: {run['error']}."


def in_column(row: dict[str, Any], alike: str, kinds: list[str]) -> bool:
    """Whether a row belongs to a table: it was run so, or in no way at all, which the first table says."""
    ways = [kind for kind in kinds if row.get("results", {}).get(kind, {}).get("runs")]
    return alike in ways or (not ways and alike == kinds[0])


def title_of(file: dict[str, Any]) -> str:
    return f"{file['title'][:1].upper()}{file['title'][1:]}"


def rank(row: dict[str, Any], alike: str, file: dict[str, Any]) -> float:
    """The higher its first measure, the further up stands a row."""
    found = values(row, alike, next(iter(file["metrics"])))
    return -mean(found) if found else math.inf


def differing(file: dict[str, Any], one: dict[str, str], alike: str) -> Iterator[str]:
    """The cells of a comparison, a measure each."""
    a, b = (row_of(file, one[side]) for side in ("row", "over"))
    yield from (compared(values(a, alike, metric), values(b, alike, metric)) for metric in file["metrics"])


def in_print(one: dict[str, Any], said: bool) -> Iterator[str]:
    """The cell of the same difference in a paper's table, where the table of differences has such a column."""
    if not one.get("printed"):
        yield from ["–"] * said
        return
    a, b = (find_row(place) for place in one["printed"])
    differences = [
        f"{a.table.metrics[name].title.removesuffix(' (%)')} {value - other:+.1f}"
        for name, value in a.row.values.items()
        if value is not None and (other := b.row.values.get(name)) is not None
    ]
    yield f"{', '.join(differences)} ({a.paper.paper}/{a.table.id})"


def making(file: dict[str, Any]) -> Iterator[str]:
    """How a file's table was made: commands, machine, and what was scaled down."""
    yield f"### Making of: {file['title']}"
    yield "\n".join(f"    {command}" for command in file["commands"])
    runs = [run for row in file["rows"] for alike in ALIKE for run in runs_of(row, alike)]
    dates = sorted({date for run in runs if (date := run.get("date") or file.get("date"))})
    machines: dict[str, None] = {}
    for machine in [run.get("machine") or file.get("machine") or {} for run in runs] or [file.get("machine", {})]:
        said = ", ".join(f"{key} {value}" for key, value in machine.items() if key != "jobs")
        machines[said or "no machine is named"] = None
    yield " · ".join([*([" to ".join(dict.fromkeys([dates[0], dates[-1]]))] if dates else []), *machines])
    if scaled := file.get("heading"):
        yield "Beside print:"
        yield "\n".join(f"- {line.rstrip('.')}" for line in scaled)


def cells(row: dict[str, Any], alike: str, file: dict[str, Any]) -> Iterator[str]:
    """A row's cells of one kind: seeds, epochs, views, minutes and each measure."""
    done = runs_of(row, alike)
    yield ", ".join(str(run["seed"]) for run in done) or "–"
    yield ", ".join(sorted({str(run["epochs"]) for run in done})) or "–"
    views, minutes = average(done, "views"), minutes_of(done)
    yield "–" if views is None else f"{views / 1000:.0f}"
    yield "–" if minutes is None else f"{minutes:.1f}"
    yield from (shown(values(row, alike, metric)) for metric in file["metrics"])
    found = last_and_best(done)
    yield "–" if found is None else "{:.1f}, {:.1f}".format(*found)


def row_of(file: dict[str, Any], label: str) -> dict[str, Any]:
    """The row of a file that a comparison names.

    Raises:
        SystemExit: there is none.
    """
    found = next((row for row in file["rows"] if row["label"] == label), None)
    if found is None:
        raise SystemExit(f"{file['table']}: a comparison names the row {label!r}, which is not there")
    return found


def read(path: Path) -> dict[str, Any]:
    """A file of results.

    Raises:
        SystemExit: it is none.
    """
    try:
        found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise SystemExit(f"{path} is no JSON: {error}") from error
    missing = {"table", "title", "command", "metrics", "rows"} - found.keys() if isinstance(found, dict) else {"table"}
    if missing:
        raise SystemExit(f"{path} is not what `glocal reproduce` writes: it has no {', '.join(sorted(missing))}")
    return found


def joined(files: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """One entry a table and budget: what was measured of it in several calls has its rows and runs together.

    Raises:
        SystemExit: two files have the same run.
    """
    found: dict[tuple[Any, ...], dict[str, Any]] = {}
    for file in files:
        budget = file.get("budget", {})
        kind = file["table"], *(str(budget.get(key)) for key in ("name", "network", "images", "epochs")), data_of(file)
        kind = *kind, tuning(file)
        others = sum(place[0] == file["table"] for place in found)  # the same table in other budgets
        picture = f"results-{file['table'].replace('/', '-')}{f'-{others + 1}' if others else ''}.png"
        first = found.setdefault(kind, {**file, "rows": [], "commands": [], "picture": picture})
        calls = file.get("commands") or [file["command"]]
        first["commands"] += [call for call in calls if call not in first["commands"]]
        heading = first.get("heading", [])
        first["heading"] = [*heading, *(line for line in file.get("heading", []) if line not in heading)]
        for row in file["rows"]:
            there = next((one for one in first["rows"] if one["label"] == row["label"]), None)
            if there is None:
                first["rows"].append(json.loads(json.dumps(row)))
                continue
            for alike, its in row.get("results", {}).items():
                runs = there.setdefault("results", {}).setdefault(alike, {"runs": []})["runs"]
                twice = {run["seed"] for run in runs} & {run["seed"] for run in its["runs"]}
                if twice:
                    raise SystemExit(f"{file['table']}: seed {min(twice)} of {row['label']!r} is in two files")
                runs += its["runs"]
    for one in found.values():
        if len(one["commands"]) > 1:  # in the order of the files, rows that belong together would stand apart
            one["rows"].sort(key=lambda row: str(row["label"]))
    return list(found.values())


def page(folder: Path, images: Path | None = None) -> str:
    """The whole page; with `images`, the pictures are drawn into that folder.

    Args:
        folder: of the files of results.
        images: gets the pictures; None leaves those that are there.
    """
    files = joined([read(path) for path in sorted(folder.glob("*.json"))])
    if not files:
        return f"# Results\n\n{INTRODUCTION}\n\nNothing has been measured yet.\n"
    which = "## Which method for how many images, minutes and which network"
    parts = ["# Results", INTRODUCTION, *filter(None, [slower(files)]), which, FIRST, best(files)]
    tables = [f"{printed_as(file)}:\n\n{found}" for file in files if (found := published(file))]
    if recipes := of_recipes(files):
        tables.append(f"{BESIDE}\n\n{recipes}")
    if tables:
        parts += ["## Published and measured", *tables]
    ordered = sorted(files, key=tuning)
    for file in ordered:
        heading, *rest = section(file)
        picture = draw(file, images)
        parts += [heading, *([f"![{picture}](images/{file['picture']})"] if picture else []), *rest]
    parts += ["## How the tables were made", *(part for file in ordered for part in making(file))]
    return "\n\n".join(parts) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0] if __doc__ else None)
    parser.add_argument("--results", type=Path, default=ROOT / "benchmarks" / "results")
    parser.add_argument("--out", type=Path, default=ROOT / "docs" / "results.md")
    given = parser.parse_args()
    given.out.write_text(page(given.results, given.out.parent / "images"), encoding="utf-8")


if __name__ == "__main__":
    main()
