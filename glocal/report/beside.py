"""What is in print beside what was measured: a point for each, a line of points for each row."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import matplotlib
from matplotlib.figure import Figure

from glocal.report.pictures import plain, save_picture

matplotlib.use("Agg")

_IN_PRINT = "published"
_COLORS = ("#1f5fa8", "#b0772b", "#2f7d4f")
_LINES = ("dotted", "dashed", "dashdot")
_LONG = 40  # characters of a row's label that are shown
_MOST = 4  # panels beside one another


class Point(NamedTuple):
    """A number, with its standard deviation where it is a mean of several."""

    value: float
    deviation: float | None = None


class Panel(NamedTuple):
    """One metric: its title, the points of each row by series, and lines that all rows are compared with."""

    title: str
    rows: Sequence[Mapping[str, Point]]
    lines: Mapping[str, float]


def draw_beside(path: Path, title: str, labels: Sequence[str], panels: Sequence[Panel]) -> None:
    """Draws panels side by side, the rows from top to bottom.

    Args:
        path: the picture.
        title: above all.
        labels: of the rows.
        panels: one for each metric.
    """
    across = min(_MOST, len(panels))
    down = -(-len(panels) // across)
    size = (3.2 + 3.2 * across, down * (1.8 + 0.3 * len(labels)))
    figure = Figure(figsize=size, layout="constrained")
    axes = figure.subplots(down, across, sharey=True, squeeze=False).flatten()
    series = list(dict.fromkeys(name for panel in panels for row in panel.rows for name in row))
    series.sort(key=lambda name: name != _IN_PRINT)
    colors = dict(zip((name for name in series if name != _IN_PRINT), _COLORS, strict=False))
    handles = {}
    for axis, panel in zip(axes, panels, strict=False):
        for place, name in enumerate(series):
            shift = 0.14 * (place - (len(series) - 1) / 2)
            found = [(number, row[name]) for number, row in enumerate(panel.rows) if name in row]
            if not found:
                continue
            handles[name] = axis.errorbar(
                [point.value for _, point in found],
                [number + shift for number, _ in found],
                xerr=[point.deviation or 0.0 for _, point in found],
                fmt="D" if name == _IN_PRINT else "o",
                color=colors.get(name, "#777777"),
                markersize=5,
                capsize=2,
            )
        for style, (name, value) in zip(_LINES, panel.lines.items(), strict=False):
            handles[name] = axis.axvline(value, color="#444444", linestyle=style, linewidth=1)
        axis.set_title(plain(panel.title), fontsize="medium")
        axis.grid(axis="x", alpha=0.3)
        axis.set_yticks(range(len(labels)), [plain(_short(label)) for label in labels])
    for axis in axes[len(panels) :]:
        axis.set_axis_off()
    axes[0].set_ylim(len(labels) - 0.5, -0.5)
    figure.suptitle(plain(title), wrap=True, fontsize="medium")
    several = any(point.deviation for panel in panels for row in panel.rows for point in row.values())
    figure.legend(
        handles.values(),
        handles.keys(),
        loc="outside lower center",
        ncols=min(5, len(handles)),
        title="bars: standard deviation over seeds" if several else None,
    )
    save_picture(figure, path, dpi=110)


def _short(label: str) -> str:
    return label if len(label) <= _LONG else f"{label[: _LONG - 1]}…"
