"""docs/results.md out of benchmarks/results/*.json, and out of nothing else.

    python benchmarks/results_page.py

Every number of the page is computed from the runs in these files; what they lack is said to be missing.
"""

from __future__ import annotations

import argparse
import json
import math
from collections import defaultdict
from pathlib import Path
from statistics import mean, stdev
from typing import Any

ROOT = Path(__file__).parents[1]
NUMBERS = {1: "one seed", 2: "two seeds", 3: "three seeds"}
BUDGETS = {"epochs": "equal epochs", "views": "equal views", "time": "equal CPU time"}


def values(row: dict[str, Any], budget: str, metric: str) -> list[float]:
    """A metric of a row's runs, without those that failed."""
    runs = row.get("results", {}).get(budget, {}).get("runs", [])
    return [run["values"][metric] for run in runs if not run.get("error") and metric in run.get("values", {})]


def shown(found: list[float]) -> str:
    """The mean, with the deviation over seeds where there are several."""
    if not found:
        return "not measured"
    return f"{mean(found):.1f}" + (f" ± {stdev(found):.1f}" if len(found) > 1 else " (one seed)")


def table(heading: list[str], rows: list[list[str]]) -> str:
    lines = [heading, ["---"] * len(heading), *rows]
    return "\n".join(f"| {' | '.join(cell.replace('|', '/') for cell in line)} |" for line in lines)


def compared(a: list[float], b: list[float], title: str) -> str:
    """The difference of two rows in one metric, and how it stands to its standard error."""
    if not a or not b:
        return f"not measured in {title}"
    seeds = NUMBERS.get(min(len(a), len(b)), f"{min(len(a), len(b))} seeds")
    difference = mean(a) - mean(b)
    if min(len(a), len(b)) < 2:
        return f"{difference:+.1f} {title} ({seeds}: no error is known)"
    error = math.sqrt(stdev(a) ** 2 / len(a) + stdev(b) ** 2 / len(b))
    times = f"difference is {abs(difference) / error:.1f} times its standard error" if error else "no spread over seeds"
    return f"{difference:+.1f} {title} ({seeds}, {times})"


def best(files: list[dict[str, Any]]) -> str:
    """For each budget and metric the best row, and those within two of its standard deviations."""
    groups: dict[tuple[str, ...], dict[str, list[float]]] = defaultdict(dict)
    for file in files:
        budget = file.get("budget", {})
        where = [str(budget.get(key, "not said")) for key in ("network", "images", "minutes")]
        for row in file["rows"]:
            for kind in row.get("results", {}):
                for metric, title in file["metrics"].items():
                    if found := values(row, kind, metric):
                        name = f"{row['label']} ({file['table']})"
                        groups[(*where, BUDGETS.get(kind, kind), title)][name] = found
    rows = []
    for where_, entries in sorted(groups.items()):
        first = max(entries, key=lambda name: mean(entries[name]))
        top = entries[first]
        spread = 2 * stdev(top) if len(top) > 1 else 0.0
        equal = [n for n, found in entries.items() if n != first and mean(top) - mean(found) <= spread]
        said = ", ".join(equal) or ("none" if len(top) > 1 else "not known from one seed")
        rows.append([*where_, first, shown(top), said])
    heading = ["network", "images", "minutes", "compared at", "metric", "best", "value", "equal to it"]
    return table(heading, rows) if rows else "Nothing has been measured yet."


def published(file: dict[str, Any]) -> str:
    """Published beside measured."""
    rows = []
    for row in file["rows"]:
        for metric, number in (row.get("published") or {}).items():
            for kind in row.get("results") or {"epochs": {}}:
                found = shown(values(row, kind, metric))
                title = file["metrics"].get(metric, metric)
                rows.append([row["label"], title, str(number), found, BUDGETS.get(kind, kind)])
    return table(["row", "metric", "published", "measured", "at"], rows) if rows else ""


def section(file: dict[str, Any]) -> str:
    """A table of one file, and what it compares."""
    kinds = [k for k in BUDGETS if any(k in row.get("results", {}) for row in file["rows"])]
    columns = [(kind, metric) for kind in kinds for metric in file["metrics"]]
    titles = [f"{file['metrics'][metric]}, {BUDGETS[kind]}" for kind, metric in columns]
    rows, faults = [], []
    for row in file["rows"]:
        runs = [run for kind in kinds for run in row.get("results", {}).get(kind, {}).get("runs", [])]
        done = [run for run in runs if not run.get("error")]
        faults += [f"{row['label']}, seed {run['seed']}: {run['error']}" for run in runs if run.get("error")]
        if row.get("cannot_run"):
            faults.append(f"{row['label']} was not run: {row['cannot_run']}")
        about = [
            ", ".join(map(str, sorted({run[key] for run in done if key in run}))) or "–" for key in ("seed", "epochs")
        ]
        minutes = [run["cpu_minutes"] for run in done if run.get("cpu_minutes") is not None]
        about.append(f"{mean(minutes):.0f}" if minutes else "–")
        rows.append([row["label"], *about, *(shown(values(row, kind, metric)) for kind, metric in columns)])
    for name, found in file.get("references", {}).items():
        cells = [f"{found[m]:.1f}" if found.get(m) is not None else "not measured" for _, m in columns]
        rows.append([f"reference: {name}", "–", "–", "–", *cells])
    machine = ", ".join(f"{key} {value}" for key, value in file.get("machine", {}).items())
    parts = [f"## {file['title']}", f"    {file['command']}", f"Measured {file.get('date', '')} on: {machine or '–'}."]
    parts.append(table(["row", "seeds", "epochs", "CPU minutes", *titles], rows))
    by_label = {row["label"]: row for row in file["rows"]}
    for one in file.get("comparisons", []):
        a, b = by_label[one["row"]], by_label[one["over"]]
        for kind in kinds:
            said = [compared(values(a, kind, m), values(b, kind, m), title) for m, title in file["metrics"].items()]
            parts.append(f"{one['what']}, {BUDGETS[kind]}: {'; '.join(said)}.")
    parts += [f"Missing: {fault}." for fault in faults]
    return "\n\n".join(parts)


def curves(file: dict[str, Any], images: Path) -> None:
    """Draws k-NN accuracy over CPU minutes, one line a run that has a curve."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(5, 3), layout="constrained")
    for number, row in enumerate(file["rows"]):
        runs = [run for kind in row.get("results", {}).values() for run in kind.get("runs", []) if run.get("curve")]
        for place, run in enumerate(runs):
            _, minutes, accuracy = zip(*run["curve"], strict=True)
            axes.plot(minutes, accuracy, color=f"C{number % 10}", label=row["label"] if place == 0 else None)
    axes.set(xlabel="CPU minutes", ylabel="k-NN accuracy (%)")
    axes.legend(fontsize=7)
    images.mkdir(parents=True, exist_ok=True)
    figure.savefig(images / f"results-{file['table']}.png", dpi=100, metadata={"Software": None})
    pyplot.close(figure)


def page(folder: Path, images: Path | None = None) -> str:
    """The whole page; with `images`, the pictures of curves are drawn into that folder.

    Args:
        folder: of the files of results.
        images: gets the pictures; None leaves those that are there.
    """
    files = [json.loads(path.read_text(encoding="utf-8")) for path in sorted(folder.glob("*.json"))]
    parts = ["# Results", "Made by `benchmarks/results_page.py` out of `benchmarks/results/`; ± is over seeds."]
    if not files:
        return "\n\n".join([*parts, "Nothing has been measured yet."]) + "\n"
    parts += ["## Which method should I use for N images, M minutes, this network?", best(files)]
    if tables := [f"{file['title']}:\n\n{found}" for file in files if (found := published(file))]:
        parts += ["## Published and measured", *tables]
    for file in files:
        parts.append(section(file))
        if any(run.get("curve") for row in file["rows"] for k in row.get("results", {}).values() for run in k["runs"]):
            if images is not None:
                curves(file, images)
            parts.append(f"![k-NN accuracy over CPU minutes](images/results-{file['table']}.png)")
    return "\n\n".join(parts) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0] if __doc__ else None)
    parser.add_argument("--results", type=Path, default=ROOT / "benchmarks" / "results")
    parser.add_argument("--out", type=Path, default=ROOT / "docs" / "results.md")
    given = parser.parse_args()
    given.out.write_text(page(given.results, given.out.parent / "images"), encoding="utf-8")


if __name__ == "__main__":
    main()
