"""Curves of runs over epochs, those of several runs on one another."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
from bokeh.models import ColumnDataSource, HoverTool
from bokeh.plotting import figure

from glocal.pages.record import Record

COLOURS = ("#1f77b4", "#d95f02", "#2ca02c", "#9467bd", "#8c564b", "#e377c2", "#7f7f7f", "#bcbd22", "#17becf", "#c51b1b")
"""Of runs and of classes; readable on light and dark ground."""

_QUIET = "#888888"
_POINTS = 1_000  # of a curve; metrics.csv of a long run has more lines than a page is wide


class Curve(NamedTuple):
    """One run's line."""

    name: str
    epochs: np.ndarray
    values: np.ndarray


class Chart(NamedTuple):
    """What one picture shows.

    Attributes:
        key: short, for names.
        title: above it.
        curves: one for each run that has it.
        marked: with points, for there are few.
    """

    key: str
    title: str
    curves: list[Curve]
    marked: bool

    def source(self, number: int) -> str:
        """The name of the data of one curve on the page."""
        return f"{self.key}-{number}"


def charts(records: Sequence[Record]) -> list[Chart]:
    """Loss, learning rate, speed, k-NN accuracy, spread and effective rank, as far as the runs have them."""
    return [chart for chart in _all_charts(records) if chart.curves]


def _all_charts(records: Sequence[Record]) -> Iterator[Chart]:
    for title, key in (("loss", "loss"), ("learning rate", "lr"), ("images a second", "images_per_second")):
        lines = [Curve(one.name, *_thinned(one.metrics["epoch"], one.metrics[key])) for one in records if one.metrics]
        yield Chart(key, title, lines, marked=False)
    for title, key in (
        ("k-NN accuracy, %", "knn"),
        ("effective rank of the embeddings", "effective_rank"),
        ("spread of the embeddings (1: even, 0: collapse)", "spread"),
    ):
        lines = [Curve(one.name, *one.measured[key].T) for one in records if key in one.measured]
        yield Chart(key, title, lines, marked=True)


def _thinned(epochs: np.ndarray, values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """At most so many points, each the mean of its neighbours: what a page can show."""
    starts = np.arange(0, len(epochs), -(-len(epochs) // _POINTS))
    count = np.diff([*starts, len(epochs)])
    return np.add.reduceat(epochs, starts) / count, np.add.reduceat(values, starts) / count


def draw(chart: Chart) -> Any:
    """A chart as a Bokeh figure as wide as its place."""
    plot = figure(height=230, sizing_mode="stretch_width", title=chart.title, tools="pan,box_zoom,reset")
    plain(plot)
    for number, (name, epochs, values) in enumerate(chart.curves):
        source = ColumnDataSource({"epoch": epochs, "value": values}, name=chart.source(number))
        colour = COLOURS[number % len(COLOURS)]
        legend = {"legend_label": name} if len(chart.curves) > 1 else {}
        line = plot.line("epoch", "value", source=source, color=colour, line_width=2, **legend)
        if chart.marked or len(epochs) == 1:
            plot.scatter("epoch", "value", source=source, color=colour, size=6, **legend)
        tips = [("epoch", "@epoch{0.0}"), ("value", "@value{0.0000}"), *([("run", name)] if legend else [])]
        plot.add_tools(HoverTool(renderers=[line], tooltips=tips, mode="vline"))
    plot.xaxis.axis_label = "epoch"
    if len(chart.curves) > 1:
        plot.legend.click_policy = "hide"
        plot.legend.background_fill_alpha = 0.0
        plot.legend.border_line_alpha = 0.0
        plot.legend.label_text_color = _QUIET
        plot.legend.label_text_font_size = "11px"
    return plot


def plain(plot: Any) -> None:
    """Nothing of a figure depends on whether the page is light or dark."""
    plot.background_fill_color = plot.border_fill_color = None
    plot.outline_line_color = None
    plot.toolbar.logo = None
    plot.toolbar.autohide = True
    plot.title.text_color = _QUIET
    plot.title.text_font_style = "normal"
    plot.grid.grid_line_color = _QUIET
    plot.grid.grid_line_alpha = 0.25
    for axis in plot.axis:
        axis.axis_label_text_color = axis.major_label_text_color = axis.axis_line_color = _QUIET
        axis.major_tick_line_color = _QUIET
        axis.minor_tick_line_color = None
        axis.axis_label_text_font_style = "normal"
