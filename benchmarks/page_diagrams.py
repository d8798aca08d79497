"""The diagrams of the pages, which show an idea and no image: boxes with arrows for how a batch or a loss comes about,
cells for which pairs are positive and negative, and bars for how much each image counts as a target.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from matplotlib import pyplot
from matplotlib.colors import ListedColormap
from matplotlib.patches import FancyArrowPatch, FancyBboxPatch, Rectangle
from page_scene import COLOURS, INK, PALE


def boxes(axes: Any, placed: dict[str, tuple[float, float, str, str]], size: tuple[float, float] = (1.7, 0.7)) -> None:
    """Boxes with words, each at a place in a colour."""
    for x, y, text, colour in placed.values():
        shape = FancyBboxPatch(
            (x, y), *size, boxstyle="round,pad=0.02,rounding_size=0.12", facecolor=colour, edgecolor=INK
        )
        axes.add_patch(shape)
        axes.text(x + size[0] / 2, y + size[1] / 2, text, ha="center", va="center", fontsize=9, color=INK)


def arrow(
    axes: Any, start: tuple[float, float], end: tuple[float, float], text: str = "", *, dashed: bool = False
) -> None:
    """An arrow, with a word in its middle."""
    style = "--" if dashed else "-"
    axes.add_patch(FancyArrowPatch(start, end, arrowstyle="-|>", mutation_scale=12, color=INK, linestyle=style))
    if text:
        axes.text((start[0] + end[0]) / 2, (start[1] + end[1]) / 2 + 0.12, text, ha="center", fontsize=8, color=INK)


def blank(width: float, height: float, wide: float = 9.6) -> tuple[Any, Any]:
    """A figure to draw boxes and arrows on."""
    figure, axes = pyplot.subplots(figsize=(wide, wide * height / width), layout="constrained")
    axes.set_xlim(0, width)
    axes.set_ylim(0, height)
    axes.set_axis_off()
    return figure, axes


def draw_prediction() -> Any:
    """BYOL and SimSiam: a prediction of the other view that nothing pushes apart."""
    figure, axes = blank(12, 3.2)
    placed = {
        "first": (0.1, 2.1, "first view", PALE),
        "net": (2.5, 2.1, "network", "#cfe3f2"),
        "head": (4.9, 2.1, "projector", "#cfe3f2"),
        "predictor": (7.3, 2.1, "predictor", "#cfe3f2"),
        "second": (0.1, 0.4, "second view", PALE),
        "their net": (2.5, 0.4, "network", "#f8dcc4"),
        "their head": (4.9, 0.4, "projector", "#f8dcc4"),
        "loss": (10.1, 1.25, "cosine", "#d9efe6"),
    }
    boxes(axes, placed)
    for y in (2.45, 0.75):
        for x in (1.8, 4.2, 6.6):
            if y > 1 or x < 6:
                arrow(axes, (x, y), (x + 0.7, y))
    arrow(axes, (9.0, 2.45), (10.1, 1.75))
    arrow(axes, (6.6, 0.75), (10.1, 1.4), "no gradient", dashed=True)
    arrow(axes, (3.35, 2.1), (3.35, 1.1), dashed=True)
    axes.text(3.5, 1.55, "BYOL: follows slowly;  SimSiam: the same weights", fontsize=8, color=INK)
    return figure


def draw_lanes() -> Any:
    """The resident and the streaming lane."""
    figure, axes = blank(12, 4.3)
    size = (2.0, 0.8)
    placed = {
        "draw": (0.1, 1.75, "draw crops and\ncolours: counters", PALE),
        "held": (3.2, 3.0, "images in memory\nof the device", "#cfe3f2"),
        "cut": (6.3, 3.0, "crops of the whole\nbatch at once", "#cfe3f2"),
        "workers": (3.2, 0.5, "workers: decode\neach file once", "#f8dcc4"),
        "their cut": (6.3, 0.5, "workers: all crops\nof the image", "#f8dcc4"),
        "colour": (9.6, 1.75, "colours on the\ndevice, then train", "#d9efe6"),
    }
    boxes(axes, placed, size)
    arrow(axes, (2.1, 2.4), (3.2, 3.3))
    arrow(axes, (2.1, 1.9), (3.2, 1.0))
    arrow(axes, (5.2, 3.4), (6.3, 3.4))
    arrow(axes, (5.2, 0.9), (6.3, 0.9))
    arrow(axes, (8.3, 3.3), (9.6, 2.4))
    arrow(axes, (8.3, 1.0), (9.6, 1.9))
    axes.text(5.75, 4.0, "resident lane: small images of one size", ha="center", fontsize=9, color=INK)
    axes.text(5.75, 0.1, "streaming lane: photographs, large sets", ha="center", fontsize=9, color=INK)
    return figure


def draw_contrast() -> Any:
    """Which pairs SimCLR and MoCo call positive and negative."""
    figure, axes = pyplot.subplots(1, 2, figsize=(9.6, 3.0), layout="constrained", width_ratios=(1, 1.5))
    batch = 4
    own = np.zeros((2 * batch, 2 * batch))
    for row in range(2 * batch):
        own[row, (row + batch) % (2 * batch)] = 1
        own[row, row] = 2
    queue = np.zeros((batch, batch + 10))
    queue[:, batch:] = 0
    queue[:, :batch] = 2
    queue[range(batch), range(batch)] = 1
    colours = ListedColormap(["#cfe3f2", COLOURS[2], "#f5f5f5"])
    for place, cells, title in (
        (axes[0], own, "SimCLR: all views of the batch"),
        (axes[1], queue, "MoCo: keys of the batch, then the queue"),
    ):
        place.imshow(cells, cmap=colours, vmin=0, vmax=2)
        place.set_xticks(np.arange(-0.5, cells.shape[1]), [])
        place.set_yticks(np.arange(-0.5, cells.shape[0]), [])
        place.grid(color="white", linewidth=2)
        place.tick_params(length=0)
        place.set_title(title, fontsize=9, color=INK)
        place.set_ylabel("queries", fontsize=9)
        for side in place.spines.values():
            side.set_visible(False)
    figure.legend(
        handles=[Rectangle((0, 0), 1, 1, color=c) for c in (COLOURS[2], "#cfe3f2", "#f5f5f5")],
        labels=["positive: pulled", "negative: pushed", "left out"],
        loc="outside lower center",
        ncols=3,
        fontsize=8,
        frameon=False,
    )
    return figure


def draw_soft() -> Any:
    """The target of contrast and that of SCE, for one image and five others."""
    likeness = torch.tensor([0.78, 0.55, 0.3, 0.1, -0.1])  # an example: cosines with five other images
    soft = torch.softmax(likeness / 0.1, dim=0)
    names = ["the other\nview", *[f"cosine\n{value:.2f}" for value in likeness]]
    targets = {
        "contrast: the other view alone": [1.0, *[0.0] * 5],
        "SCE, λ = 0.5: half of it for what is alike": [0.5, *(0.5 * soft).tolist()],
        "ReSSL: only how alike the others are": [0.0, *soft.tolist()],
    }
    figure, axes = pyplot.subplots(1, 3, figsize=(9.6, 2.7), sharey=True, layout="constrained")
    for place, (title, heights), colour in zip(axes, targets.items(), COLOURS, strict=False):
        place.bar(range(6), heights, color=colour)
        place.set_xticks(range(6), names, fontsize=7)
        place.set_title(title, fontsize=9, color=INK)
        place.spines[["top", "right"]].set_visible(False)
    axes[0].set_ylabel("target", fontsize=9)
    return figure
