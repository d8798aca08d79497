"""The pictures of `growth.py`: measured lines with dots, what limits them dashed in the same colour."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter, NullLocator
from PIL import Image

MEASURED = ("#1f5fa8", "#b0772b", "#3f8f4f")
LIMITS = ("#777777", "#000000")
MARKERS = "os^"


@dataclass(frozen=True)
class Line:
    """Numbers `y` over `x`; `limit` is what the measured ones cannot pass, of the line `like` alone or of all."""

    name: str
    x: Sequence[int]
    y: Sequence[float]
    limit: bool = False
    like: str = ""


@dataclass(frozen=True)
class Panel:
    title: str
    x_label: str
    y_label: str
    lines: Sequence[Line]
    log_x: bool = False
    log_y: bool = False


def draw(found: Mapping[str, Any], folder: Path) -> None:
    """Draws performance-NAME.png for each measured part."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, panels in found.items():
        if name == "machine":
            continue
        figure = Figure(figsize=(max(6.0, 4.4 * len(panels)), 4.2), layout="constrained")
        for axes, panel in zip(figure.subplots(1, len(panels), squeeze=False)[0], panels, strict=True):
            draw_panel(axes, Panel(**{**panel, "lines": [Line(**line) for line in panel["lines"]]}))
        drawn = io.BytesIO()
        figure.savefig(drawn, dpi=100, bbox_inches="tight", pad_inches=0.1)
        with Image.open(drawn) as picture:  # few colours make a small file
            picture.convert("RGB").quantize(64).save(folder / f"performance-{name}.png", optimize=True)


def draw_panel(axes: Axes, panel: Panel) -> None:
    measured = [line for line in panel.lines if not line.limit]
    limits = [line for line in panel.lines if line.limit]
    for line, color, marker in zip(measured, MEASURED, MARKERS, strict=False):
        axes.plot(line.x, line.y, color=color, marker=marker, markersize=5, label=line.name)
    colors = {line.name: color for line, color in zip(measured, MEASURED, strict=False)}
    for number, line in enumerate(limits):
        color = colors.get(line.like, LIMITS[number % len(LIMITS)])
        axes.plot(line.x, line.y, color=color, linestyle="--", linewidth=1.2, label=line.name)
    if panel.log_x:
        axes.set_xscale("log", base=2)
    axes.set_xticks(panel.lines[0].x, [str(x) for x in panel.lines[0].x])
    axes.xaxis.set_minor_locator(NullLocator())
    if panel.log_y:
        axes.set_yscale("log")
        axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,g}"))
        axes.yaxis.set_minor_formatter(NullFormatter())
    else:
        axes.set_ylim(bottom=0)
    axes.set_xlabel(panel.x_label)
    axes.set_ylabel(panel.y_label)
    axes.set_title(panel.title, fontsize=10, loc="left")
    axes.grid(alpha=0.3)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(loc="upper center", bbox_to_anchor=(0.5, -0.16), ncols=1, frameon=False, fontsize=8)
