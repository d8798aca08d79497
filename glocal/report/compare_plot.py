"""The picture of a comparison: a line for each number, a dot for each run."""

from __future__ import annotations

import textwrap
from itertools import groupby
from pathlib import Path

from glocal.report.comparison import ComparedRow, Comparison
from glocal.report.pictures import plain, save_picture, shortened

_LINE = 0.3  # inches for each number
_PANEL = 0.75  # for the title and the axis of each protocol
_MARKERS = "osD^vP*X"


def draw_comparison(comparison: Comparison, path: Path) -> None:
    """Draws what is measured in percent, a panel for each protocol and its images; nothing where nothing is."""
    from matplotlib import colormaps
    from matplotlib.figure import Figure
    from matplotlib.lines import Line2D

    rows = [row for row in comparison.rows if row.percent and any(value is not None for value in row.values)]
    panels = [(key, list(group)) for key, group in groupby(rows, key=lambda row: (row.protocol, row.images))]
    if not panels:
        return
    heights = [_PANEL + _LINE * len(group) for _, group in panels]
    names = [_named(run.name, run.published) for run in comparison.runs]
    legend = 0.22 * sum(name.count("\n") + 1 for name in names) + 0.3
    figure = Figure(figsize=(9, sum(heights) + legend), layout="constrained")
    grid = figure.subplots(len(panels), 1, squeeze=False, height_ratios=heights)
    dots: list[Line2D] = []
    for axes, ((protocol, images), group) in zip(grid[:, 0], panels, strict=True):
        lines = range(len(group))
        for line, row in enumerate(group):
            known = [value for value in row.values if value is not None]
            axes.plot([min(known), max(known)], [line, line], color="0.8", linewidth=2, zorder=1)
            highest = f"{max(known):.1f}"
            axes.annotate(highest, (max(known), line), (9, 0), textcoords="offset points", va="center", fontsize=8)
        dots = []
        for place in range(len(names)):
            known_lines = [line for line in lines if group[line].values[place] is not None]
            values = [group[line].values[place] for line in known_lines]
            deviations = [group[line].deviations[place] or 0 for line in known_lines]
            color = colormaps["tab10"](place % 10)
            if any(deviations):
                axes.errorbar(values, known_lines, xerr=deviations, fmt="none", color=color, capsize=3, zorder=2)
            marker = _MARKERS[place % len(_MARKERS)]
            dots += axes.plot(values, known_lines, marker, color=color, markersize=7, alpha=0.9, zorder=3)
        axes.set_yticks(list(lines), [_label(row) for row in group], fontsize=9)
        axes.set_ylim(len(group) - 0.5, -0.5)
        axes.grid(axis="x", alpha=0.3)
        axes.margins(x=0.1)
        axes.spines[["top", "right", "left"]].set_visible(False)
        axes.tick_params(axis="y", length=0)
        axes.set_title(plain(shortened(f"{protocol}: {images}", 90)), fontsize=10, loc="left")
    grid[-1, 0].set_xlabel("percent")
    figure.legend(dots, names, loc="outside upper left", frameon=False, fontsize=9)
    save_picture(figure, path)


def _label(row: ComparedRow) -> str:
    return plain(f"{shortened(row.setting, 40)}  {row.metric}")


def _named(name: str, published: str) -> str:
    # " " because names that begin with _ would be left out
    text = f" {name}" + (f" (published: {published})" if published else "")
    return plain("\n".join(textwrap.wrap(text, 100, drop_whitespace=False)))
