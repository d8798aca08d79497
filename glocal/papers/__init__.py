"""The numbers that the four papers print, as data: one YAML file for each paper, cell by cell.

`glocal tables` lists the tables, `glocal tables sce/2` prints one, and a recipe's `published` is taken from here.

    paper: sce                       # the file's stem
    title, authors, venue            # of the paper
    source: …                        # the text that the numbers were read from
    tables:
      - id: "2"                      # as printed; figures: figure-1
        title, place                 # what it shows; where it stands
        metrics:                     # the columns: how each is printed, and how this package measures it
          linear: {title: linear top-1 (%), protocol: linear, settings: {linear.style: sce}, result: top1}
          knn: {title: k-NN (%), protocol: knn, setting: "k=1", result: top1}  # which of a protocol's measurements
          mine: {title: …, protocol: null, why: why this package does not measure it}
        notes: []                    # contradictions in print, errors of reading
        rows:
          - {label: …, values: {linear: 90.34}, recipe: sce-cifar10, settings: {method.temperature: 0.2}, notes: []}
          - {label: …, values: {linear: 90.34}, cannot_run: which system or data is missing}

A row may change how it is measured: `evaluation: {linear: {settings: {linear.style: moco}}}`.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from importlib import resources
from typing import Any, NamedTuple, Self

import yaml
from pydantic import Field, model_validator

from glocal.errors import GlocalError, did_you_mean
from glocal.settings import Settings, validated


class Metric(Settings):
    """A column: how a number is printed, and how `glocal evaluate` measures it."""

    title: str  # as it is printed, with its unit in brackets: linear top-1 (%)
    protocol: str | None  # null: the package does not measure it, and `why` says so
    settings: dict[str, Any] = Field(default_factory=dict)  # of the protocol, by dotted path: {linear.style: sce}
    result: str | None = None  # the metric among those that the protocol reports: top1
    setting: str = "*"  # which of the protocol's measurements, as a glob: "k=1", "1 % of labels*", "*: boxes"
    why: str = ""  # there is no protocol

    @model_validator(mode="after")
    def _check(self) -> Self:
        if (self.protocol is None) != bool(self.why):
            raise ValueError("a metric has either a protocol or a sentence (why) that says why there is none")
        if (self.protocol is None) != (self.result is None):
            raise ValueError("a protocol goes with the result that is taken from it")
        return self


class Evaluation(Settings):
    """What differs from its column in how one row is measured."""

    settings: dict[str, Any] = Field(default_factory=dict)  # on top of the metric's
    setting: str | None = None  # instead of the metric's


class PaperRow(Settings):
    """One printed row, or one cell where neighbouring cells belong to different trainings."""

    label: str
    values: dict[str, float | None]  # by metric; null: printed as a dash
    recipe: str | None = None  # in the package
    settings: dict[str, Any] = Field(default_factory=dict)  # on top of the recipe, by dotted path
    evaluation: dict[str, Evaluation] = Field(default_factory=dict)  # by metric
    cannot_run: str = ""  # which system or data is missing
    notes: list[str] = Field(default_factory=list)

    @model_validator(mode="after")
    def _check(self) -> Self:
        if (self.recipe is None) != bool(self.cannot_run):
            raise ValueError(f"row {self.label!r} has either a recipe or a reason why it cannot be run (cannot_run)")
        if self.cannot_run and (self.settings or self.evaluation):
            raise ValueError(f"row {self.label!r} cannot be run, so it has no settings")
        return self


class PaperTable(Settings):
    """A table or a figure."""

    id: str
    title: str
    place: str
    metrics: dict[str, Metric] = Field(default_factory=dict)
    notes: list[str] = Field(default_factory=list)
    rows: list[PaperRow] = Field(default_factory=list)

    @model_validator(mode="after")
    def _check(self) -> Self:
        labels = [row.label for row in self.rows]
        for row in self.rows:
            if labels.count(row.label) > 1:
                raise ValueError(f"table {self.id} has two rows {row.label!r}")
            unknown = (row.values.keys() | row.evaluation.keys()) - self.metrics.keys()
            if unknown:
                metric = sorted(unknown)[0]
                mend = did_you_mean(metric, self.metrics)
                raise ValueError(f"table {self.id}, row {row.label!r}: there is no metric {metric!r}; {mend}")
        return self

    def row(self, label: str) -> PaperRow:
        """The row of that label.

        Raises:
            GlocalError: there is none.
        """
        found = next((row for row in self.rows if row.label == label), None)
        if found is None:
            mend = did_you_mean(label, [row.label for row in self.rows])
            raise GlocalError(f"table {self.id} has no row {label!r}; {mend}")
        return found

    def metric_of(self, row: PaperRow, name: str) -> Metric:
        """How a row's number is measured: the column's metric with what differs in the row."""
        metric, own = self.metrics[name], row.evaluation.get(name)
        if own is None:
            return metric
        return metric.model_copy(
            update={"settings": {**metric.settings, **own.settings}, "setting": own.setting or metric.setting}
        )

    def shown(self, name: str, value: float | None) -> str:
        """A number of a column with as many decimals as the column is printed with."""
        if value is None:
            return "–"
        return f"{value:.{self._decimals(name)}f}"

    def _decimals(self, name: str) -> int:
        printed = (row.values.get(name) for row in self.rows)
        return max((len(f"{value:g}".partition(".")[2]) for value in printed if value is not None), default=0)


class Paper(Settings):
    """A paper's tables, in the order of print."""

    paper: str
    title: str
    authors: str
    venue: str
    source: str
    tables: list[PaperTable] = Field(min_length=1)

    @model_validator(mode="after")
    def _check(self) -> Self:
        ids = [table.id for table in self.tables]
        twice = next((one for one in ids if ids.count(one) > 1), None)
        if twice is not None:
            raise ValueError(f"there are two tables {twice!r}")
        return self


class Published(NamedTuple):
    """A row with where it stands."""

    paper: Paper
    table: PaperTable
    row: PaperRow

    @property
    def place(self) -> str:
        """What finds it again (`find_row`)."""
        return f"{self.paper.paper}/{self.table.id}/{self.row.label}"

    @property
    def text(self) -> str:
        """The row's numbers in a line.

        >>> find_row("sce/2/tau=0.2 target=0.10 CIFAR10").text
        '90.34 % linear top-1 (sce/2)'
        """
        numbers = []
        for name, value in self.row.values.items():
            title, number = self.table.metrics[name].title, self.table.shown(name, value)
            percent = title.endswith("(%)")
            numbers.append(f"{number} % {title.removesuffix('(%)').strip()}" if percent else f"{number} {title}")
        return f"{', '.join(numbers)} ({self.paper.paper}/{self.table.id})"


def paper_names() -> list[str]:
    """The papers whose tables are in the package, sorted.

    >>> "sce" in paper_names()
    True
    """
    files = resources.files("glocal.papers").iterdir()
    return sorted(file.name.removesuffix(".yaml") for file in files if file.name.endswith(".yaml"))


@cache
def load_paper(name: str) -> Paper:
    """A paper by the stem of its file.

    Raises:
        GlocalError: there is none, or its file is not as it should be.
    """
    if name not in paper_names():
        raise GlocalError(f"there is no paper {name!r}; {did_you_mean(name, paper_names())}")
    text = resources.files("glocal.papers").joinpath(f"{name}.yaml").read_text(encoding="utf-8")
    raw = yaml.load(text, Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader))  # the tables are long
    if not isinstance(raw, Mapping) or raw.get("paper") != name:
        raise GlocalError(f"papers/{name}.yaml must say paper: {name}")
    return validated(Paper, raw, f"papers/{name}.yaml")


def find_table(place: str) -> tuple[Paper, PaperTable]:
    """A table by its place, `sce/2`.

    Raises:
        GlocalError: no such place.
    """
    name, _, id_ = place.partition("/")
    paper = load_paper(name)
    found = next((table for table in paper.tables if table.id == id_), None)
    if found is None:
        raise GlocalError(f"{name} has no table {id_!r}; it has {', '.join(table.id for table in paper.tables)}")
    return paper, found


def find_row(place: str) -> Published:
    """A row by its place, `sce/2/tau=0.2 target=0.10 CIFAR10`.

    Raises:
        GlocalError: no such place.
    """
    name, id_, label = [*place.split("/", 2), "", ""][:3]
    paper, table = find_table(f"{name}/{id_}")
    return Published(paper, table, table.row(label))
