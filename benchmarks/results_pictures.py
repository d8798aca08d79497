"""The pictures of docs/results.md: k-NN accuracy over CPU minutes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import matplotlib
import numpy as np

matplotlib.use("Agg")
from matplotlib import pyplot

_ALIKE = ("time", "views", "epochs")  # the first that a file has is drawn


def draw_curves(file: dict[str, Any], folder: Path) -> None:
    """One small picture a row, its mean over seeds in front of all others'.

    Args:
        file: of results.
        folder: gets it under `picture` of the file.
    """
    alike = next(kind for kind in _ALIKE if any(kind in row.get("results", {}) for row in file["rows"]))
    found = {row["label"]: curve for row in file["rows"] if (curve := _mean_curve(row, alike)) is not None}
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
        axes.set_title(label, fontsize=8)
        axes.tick_params(labelsize=7)
    for axes in list(grid.flat)[len(found) :]:
        axes.axis("off")
    figure.supxlabel("CPU minutes", fontsize=8)
    figure.supylabel("k-NN accuracy (%)", fontsize=8)
    folder.mkdir(parents=True, exist_ok=True)
    figure.savefig(folder / file["picture"], dpi=110, metadata={"Software": None})
    pyplot.close(figure)


def _mean_curve(row: dict[str, Any], alike: str) -> tuple[np.ndarray, np.ndarray] | None:
    """Minutes and accuracy, the mean of the runs that have all points."""
    runs = row.get("results", {}).get(alike, {}).get("runs", [])
    curves = [np.array(run["curve"], dtype=float) for run in runs if run.get("curve") and not run.get("error")]
    if not curves:
        return None
    whole = [curve for curve in curves if len(curve) == max(map(len, curves))]
    _, minutes, accuracy = np.mean(whole, axis=0).T
    return minutes, accuracy
