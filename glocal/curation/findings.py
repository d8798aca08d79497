"""What `glocal check` finds: images, findings, reports, and a set of images with its measures."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Literal, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from glocal.data.decoding.rules import Decoding
from glocal.data.sources.base import Source

BLANK = 10.0
"""Range of every channel, of 255, below which an image is blank."""

Severity = Literal["bad", "odd", "note"]
Part = Literal["data", "test"]


class Flagged(NamedTuple):
    """An image that something was found about.

    Attributes:
        part: of `data` or of `test`.
        key: its name there.
        path: of its file; None where it has none.
        detail: what was found, in a few words.
        group: images of one number belong together; None where they stand alone.
        twin: path of the image in the other set that it is a copy of; None where there is none.
    """

    part: Part
    key: str
    path: str | None
    detail: str
    group: int | None = None
    twin: str | None = None


@dataclass(frozen=True)
class Finding:
    """Something that was found.

    Attributes:
        name: one word or two, the same in every report.
        severity: `bad` makes results wrong, `odd` is worth a look, `note` is to be known.
        amount: how many, in words.
        advice: what to do, or what glocal does.
        images: which, all of them; none where it is not about images.
        examples: a few, in words.
    """

    name: str
    severity: Severity
    amount: str
    advice: str
    images: Sequence[Flagged] = ()
    examples: Sequence[str] = ()


@dataclass(frozen=True)
class Report:
    """What `check` found.

    Attributes:
        summary: of each set of images, a line.
        findings: the worst first.
        notes: what could not be looked at, and why.
        decoding: how the images of each part are decoded.
    """

    summary: Sequence[str]
    findings: Sequence[Finding]
    notes: Sequence[str] = field(default_factory=tuple)
    decoding: Mapping[Part, Decoding] = field(default_factory=dict)

    @property
    def clean(self) -> bool:
        """Nothing was found that is more than a note."""
        return all(finding.severity == "note" for finding in self.findings)

    def __getitem__(self, name: str) -> Finding:
        """The finding of that name; raises KeyError where there is none."""
        for finding in self.findings:
            if finding.name == name:
                return finding
        raise KeyError(name)

    def __contains__(self, name: str) -> bool:
        return any(finding.name == name for finding in self.findings)


class CheckedSet:
    """A set of images and its measures, by column."""

    def __init__(self, part: Part, source: Source, measures: pa.Table) -> None:
        self.part = part
        self.source = source
        self.measures = measures
        self.keys = source.keys
        self.paths: Sequence[str | None] = source.files() if hasattr(source, "files") else [None] * len(source)
        self.readable = ~self.has("reason")

    def __len__(self) -> int:
        return len(self.keys)

    def has(self, name: str) -> np.ndarray:
        """Whether a measure is known, (N,) bool."""
        return np.asarray(pc.is_valid(self.measures.column(name)))

    def column(self, name: str) -> np.ndarray:
        """A measure of all images, 0 where there is none."""
        column = self.measures.column(name)
        empty: Any = "" if pa.types.is_string(column.type) else pa.scalar(0).cast(column.type)
        return np.asarray(pc.fill_null(column, empty))

    def numbers(self, name: str) -> np.ndarray:
        """A measure as float64, NaN where there is none."""
        return np.asarray(self.measures.column(name).cast(pa.float64()).fill_null(np.nan), np.float64)

    @cached_property
    def sides(self) -> np.ndarray:
        """Width and height, (N, 2) float64, NaN of unreadable images."""
        return np.stack([self.numbers("width"), self.numbers("height")], axis=1)

    @cached_property
    def blank(self) -> np.ndarray:
        """Which images are of one tone, (N,) bool."""
        return self.numbers("range") < BLANK

    def flagged(
        self, rows: np.ndarray, detail: Callable[[int], str], groups: np.ndarray | None = None
    ) -> list[Flagged]:
        return [
            Flagged(
                self.part, self.keys[row], self.paths[row], detail(row), None if groups is None else int(groups[place])
            )
            for place, row in enumerate(rows.tolist())
        ]


def about(
    one: CheckedSet, name: str, severity: Severity, which: np.ndarray, advice: str, detail: Callable[[int], str]
) -> Iterator[Finding]:
    """A finding about the images for which `which` is true, if there are any."""
    rows = np.flatnonzero(which)
    if len(rows):
        yield Finding(name, severity, f"{len(rows):,}", advice, one.flagged(rows, detail))
