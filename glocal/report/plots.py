"""Pictures of a run: the loss curve, and what the views look like."""

from __future__ import annotations

import math
from itertools import islice
from pathlib import Path

import matplotlib
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from glocal.config import AnyRecipe
from glocal.data.lanes.choice import Lane
from glocal.report.pictures import plain, save_picture, shown_views
from glocal.training.log import monitor_series, read_metrics

matplotlib.use("Agg")

_IMAGES = 8
_MOST_VIEWS = 10
_FEW_POINTS = 3


def draw_loss(folder: Path) -> None:
    """Draws the loss, the learning rate and, where it was measured, the k-NN accuracy over the epochs to loss.png."""
    metrics = read_metrics(folder)
    if not metrics:
        return
    knn = monitor_series(folder, "knn")
    figure = Figure(figsize=(7, 6 if knn else 4), layout="constrained")
    axes, *below = figure.subplots(2 if knn else 1, sharex=True, squeeze=False, height_ratios=[2, 1] if knn else None)[
        :, 0
    ]
    marker = "o" if len(metrics["epoch"]) <= _FEW_POINTS else ""  # a line of one point shows nothing
    lines = axes.plot(metrics["epoch"], metrics["loss"], color="#1f5fa8", marker=marker, label="loss")
    axes.set_ylabel("loss")
    axes.grid(alpha=0.3)
    other = axes.twinx()
    lines += other.plot(
        metrics["epoch"], metrics["lr"], color="#b0772b", marker=marker, alpha=0.7, label="learning rate"
    )
    other.set_ylabel("learning rate")
    figure.legend(handles=lines, loc="outside lower center", ncols=len(lines))  # inside, it covers one of the lines
    axes.set_title(plain(folder.name))
    axes.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
    if marker:  # about a single point, the axis would be a thousandth of an epoch wide
        axes.set_xlim(0, 1.05 * math.ceil(metrics["epoch"][-1]))
        other.set_ylim(bottom=0)  # else single points of both lie on one another
    for accuracy in below:
        # Steps are whole batches, so that an epoch has as many everywhere.
        epochs = [step * metrics["epoch"][-1] / metrics["step"][-1] for step, _ in knn]
        accuracy.plot(epochs, [value for _, value in knn], color="#2f7d4f", marker="o", markersize=3)
        accuracy.set_ylabel("k-NN top-1, %")
        accuracy.grid(alpha=0.3)
    (below or [axes])[-1].set_xlabel("epoch")
    save_picture(figure, folder / "loss.png", dpi=110)


def draw_views(lane: Lane, recipe: AnyRecipe, path: Path) -> None:
    """Draws the views of the first images of the first batch: a column for each image, a row for each view.

    Args:
        lane: gives the views.
        recipe: names them.
        path: the PNG file.
    """
    views = next(islice(lane.batches(0, 1), 1))
    names = [view.name for view in lane.plan.views][:_MOST_VIEWS]
    shown = min(_IMAGES, len(views.index))
    figure = Figure(figsize=(1.2 * shown + 0.8, 1.2 * len(names) + 0.3), layout="constrained")
    grid = figure.subplots(len(names), shown, squeeze=False)
    for row, name in enumerate(names):
        pixels = shown_views(views.images[row][:shown].cpu(), recipe.data).permute(0, 2, 3, 1)
        for column in range(shown):
            axes = grid[row][column]
            axes.imshow(pixels[column].numpy(), interpolation="nearest")
            axes.set_xticks([])
            axes.set_yticks([])
            if column == 0:
                axes.set_ylabel(f"{name}\n{pixels.shape[1]} px", fontsize=8)
    save_picture(figure, path, dpi=110)
