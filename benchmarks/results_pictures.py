"""The pictures of docs/results.md: k-NN accuracy over CPU minutes; of tables with many rows, every row's measures."""

from __future__ import annotations

from pathlib import Path
from statistics import mean, stdev
from textwrap import fill
from typing import Any

import matplotlib
import numpy as np

matplotlib.use("Agg")
from matplotlib import pyplot
from results_numbers import tuning

ALIKE = {"epochs": "equal epochs", "views": "equal image views", "time": "equal CPU time"}
_FIRST = ("views", "time", "epochs")  # the first that a file has is drawn
_MOST = 12  # rows with a curve of their own


def runs_of(row: dict[str, Any], alike: str) -> list[dict[str, Any]]:
    """The runs of a row that got through."""
    return [run for run in row.get("results", {}).get(alike, {}).get("runs", []) if not run.get("error")]


def values(row: dict[str, Any], alike: str, metric: str) -> list[float]:
    """A metric of a row's runs."""
    return [run["values"][metric] for run in runs_of(row, alike) if metric in run.get("values", {})]


def draw(file: dict[str, Any], folder: Path | None) -> str | None:
    """Draws a file of results and says in words what there is to be seen.

    Args:
        file: of results.
        folder: gets the picture under `picture` of the file; None leaves the one that is there.

    Returns:
        What the picture shows; None where there is nothing to draw.
    """
    alike = next((kind for kind in _FIRST if any(runs_of(row, kind) for row in file["rows"])), None)
    if alike is None:
        return None
    curves = {row["label"]: curve for row in file["rows"] if (curve := _mean_curve(row, alike)) is not None}
    # Curves measured on some training images say less than the rows' own numbers.
    many = len(file["rows"]) > _MOST or not curves or tuning(file)
    if folder is not None:
        figure = _dots(file, alike) if many else _curves(curves)
        folder.mkdir(parents=True, exist_ok=True)
        figure.savefig(folder / file["picture"], dpi=110, metadata={"Software": None})
        pyplot.close(figure)
    if many:
        return f"Each row's mean and deviation over seeds, {ALIKE[alike]}"
    return f"k-NN accuracy over CPU minutes, {ALIKE[alike]}: each row's mean over seeds in front of the others'"


def _curves(found: dict[str, tuple[np.ndarray, np.ndarray]]) -> Any:
    """One small picture a row, its mean over seeds in front of all others'."""
    columns = min(4, len(found))
    rows = -(-len(found) // columns)
    figure, grid = pyplot.subplots(
        rows,
        columns,
        figsize=(2.6 * columns, 2.0 * rows),
        sharex=True,
        sharey=True,
        layout="constrained",
        squeeze=False,
    )
    for axes, label in zip(grid.flat, found, strict=False):
        for other in found.values():
            axes.plot(*other, color="0.8", linewidth=1)
        axes.plot(*found[label], color="C0", linewidth=2, marker="o", markersize=3)
        axes.set_title(fill(label, 28), fontsize=8)  # else long names run into one another
        axes.tick_params(labelsize=7)
    for axes in list(grid.flat)[len(found) :]:
        axes.axis("off")
    figure.supxlabel("CPU minutes", fontsize=8)
    figure.supylabel("k-NN accuracy (%)", fontsize=8)
    return figure


def _dots(file: dict[str, Any], alike: str) -> Any:
    """A line a row and a column a measure, with a dot at the mean and a bar of the deviation."""
    rows = [row for row in file["rows"] if runs_of(row, alike)]
    metrics = file["metrics"]
    figure, grid = pyplot.subplots(
        1,
        len(metrics),
        figsize=(3 + 2.6 * len(metrics), 0.8 + 0.22 * len(rows)),
        sharey=True,
        layout="constrained",
        squeeze=False,
    )
    for axes, (metric, title) in zip(grid.flat, metrics.items(), strict=True):
        for place, row in enumerate(rows):
            if found := values(row, alike, metric):
                spread = stdev(found) if len(found) > 1 else None
                axes.errorbar(mean(found), place, xerr=spread, fmt="o", markersize=4, color="C0", ecolor="0.5")
        axes.set_title(title, fontsize=8)
        axes.tick_params(labelsize=7)
        axes.grid(axis="y", color="0.9")
        axes.set_axisbelow(True)
    grid[0, 0].set_yticks(range(len(rows)), [row["label"] for row in rows])
    grid[0, 0].set_ylim(len(rows) - 0.5, -0.5)
    return figure


def _mean_curve(row: dict[str, Any], alike: str) -> tuple[np.ndarray, np.ndarray] | None:
    """The median of minutes and the mean of accuracy over the runs that have all points, as in the tables."""
    curves = [np.array(run["curve"], dtype=float) for run in runs_of(row, alike) if run.get("curve")]
    if not curves:
        return None
    whole = np.stack([curve for curve in curves if len(curve) == max(map(len, curves))])  # (seeds, points, 3)
    return np.median(whole[..., 1], axis=0), whole[..., 2].mean(axis=0)
