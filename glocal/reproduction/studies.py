"""Which table is reproduced: one of the papers', or one of our own in a file."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

from glocal.errors import GlocalError, did_you_mean
from glocal.papers import PaperRow, PaperTable, find_row, find_table, paper_names
from glocal.plain import read_yaml_file
from glocal.settings import Settings, validated

_MANY, _NAMED = 12, 3  # rows of a table that are named in a message: up to so many all, else the first ones


class Comparison(Settings):
    """Two rows whose difference a table is about."""

    row: str
    over: str
    what: str  # in words: what the one has that the other has not
    printed: tuple[str, str] | None = None  # the same two rows in print: [logo/2/MoCo-LoGo, logo/2/MoCo]


@dataclass(frozen=True)
class Study:
    """A table with what finds it again.

    Attributes:
        name: its place, `sce/2`, or the id of a file's table.
        table: its rows and metrics.
        budget: the one that the file asks for; None where it says nothing.
        comparisons: that the file names, by which others read its results.
        file: that it was read from; empty for a table of the papers.
    """

    name: str
    table: PaperTable
    budget: str | Mapping[str, Any] | None = None
    comparisons: tuple[Comparison, ...] = ()
    file: str = ""


def open_study(table: str | Path) -> Study:
    """A table by its place in the papers, or out of a .yaml file that holds one: `id`, `title`, `place`, `metrics`,
    `notes` and `rows` as in `glocal/papers/*.yaml`, and if it likes `budget` and `comparisons` of its rows.

    Raises:
        GlocalError: there is no such place or file, or it is not as it should be.
    """
    name = str(table)
    if not name.endswith((".yaml", ".yml")):
        if "/" not in name:
            places = ", ".join(paper_names())
            raise GlocalError(f"{name} is no table; name one as sce/2 (papers: {places}) or a .yaml file with one")
        return Study(name, find_table(name)[1])
    raw = read_yaml_file(Path(name), name)
    if not isinstance(raw, Mapping):
        raise GlocalError(f"{name} must hold one table: id, title, place, metrics and rows")
    raw = dict(raw)
    budget = raw.pop("budget", None)
    if not isinstance(budget, str | Mapping | None):
        raise GlocalError(f"{name}: budget must be a name, as small, or keys, as {{like: small, images: 1000}}")
    comparisons = raw.pop("comparisons", None) or []
    if not isinstance(comparisons, list):
        raise GlocalError(f"{name}: comparisons must be a list of {{row: …, over: …, what: …}}")
    compared = tuple(validated(Comparison, one, f"{name}: comparisons") for one in comparisons)
    found = validated(PaperTable, raw, name)
    for label in (label for one in compared for label in (one.row, one.over)):
        found.row(label)  # which says so where there is none
    for place in (place for one in compared for place in one.printed or ()):
        find_row(place)
    return Study(found.id, found, budget, compared, name)


def chosen_rows(table: PaperTable, patterns: Sequence[str] | None) -> list[PaperRow]:
    """The rows whose label fits one of the patterns (`tau=0.2*`); all of them without patterns.

    Raises:
        GlocalError: the table has no rows, or a pattern fits none.
    """
    if not table.rows:
        raise GlocalError(f"table {table.id} has no rows that could be run")
    for pattern in patterns or ():
        if not any(_fits(row, pattern) for row in table.rows):
            raise GlocalError(
                f"no row of table {table.id} is called {pattern!r} (* stands for anything); "
                f"{_labels(table, pattern.strip('*'))}"
            )
    return [row for row in table.rows if not patterns or any(_fits(row, pattern) for pattern in patterns)]


def _labels(table: PaperTable, pattern: str) -> str:
    """The end of an error message: the nearest row, or all of them, or, where these are many, the first ones."""
    labels = [row.label for row in table.rows]
    said = did_you_mean(pattern, labels)
    if len(labels) <= _MANY or not said.startswith("choose from"):
        return said
    return (
        f"it has {len(labels)} rows: {', '.join(labels[:_NAMED])} and {len(labels) - _NAMED} more, see `glocal tables`"
    )


def _fits(row: PaperRow, pattern: str) -> bool:
    return row.label == pattern or fnmatchcase(row.label, pattern)  # a label may have brackets
