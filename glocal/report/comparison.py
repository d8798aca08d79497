"""What a comparison of runs holds: rows of numbers, a column for each run."""

from __future__ import annotations

from typing import NamedTuple


class ComparedRun(NamedTuple):
    """A run, or a model that only was evaluated.

    Attributes:
        name: unique among those that are compared.
        folder: that was given.
        backbone: as the evaluation names it.
        reproduces, published: of the run's recipe; "" where there is none.
    """

    name: str
    folder: str
    backbone: str
    reproduces: str
    published: str


class ComparedRow(NamedTuple):
    """One number of each run; None where a run does not have it.

    Attributes:
        images: what was measured on.
        protocol, metric: as in the evaluations.
        setting: without what each run chose for itself.
        percent: whether it is a share of 100, of which more is better.
        values: for each run.
        deviations: over seeds or samples, for each run.
        chosen: the whole setting of each run.
    """

    images: str
    protocol: str
    setting: str
    metric: str
    percent: bool
    values: tuple[float | None, ...]
    deviations: tuple[float | None, ...]
    chosen: tuple[str | None, ...]

    @property
    def best(self) -> tuple[int, ...]:
        """The runs with the highest number as it is printed, where there are two to choose from."""
        known = {place: round(value, 2) for place, value in enumerate(self.values) if value is not None}
        if not self.percent or len(known) < 2:
            return ()
        return tuple(place for place, value in known.items() if value == max(known.values()))


class Comparison(NamedTuple):
    """Rows of numbers, a column for each run, and what a reader has to know about them."""

    runs: tuple[ComparedRun, ...]
    rows: tuple[ComparedRow, ...]
    notes: tuple[str, ...]
