"""How long each row is trained so that all are equal in image views or in time."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from glocal.files import write_text
from glocal.plain import read_json

EQUAL = ("epochs", "views", "time")
"""What all rows can be given alike; each is a column of a table."""

FILE = "equal.json"


def epochs_for(spend: float, cost: float) -> int:
    """The whole epochs that come nearest to spending so much, at least one.

    >>> epochs_for(20000, 10000), epochs_for(20000, 8000), epochs_for(20000, 90000)
    (2, 2, 1)
    """
    return max(1, round(spend / cost))


class Spending:
    """What each row may spend, decided when a column is begun and kept in equal.json: runs go on with their epochs.

    Args:
        out: the folder of the table.
    """

    def __init__(self, out: Path) -> None:
        self._file = out / FILE
        self._kept: dict[str, dict[str, Any]] = {}
        if self._file.exists():
            self._kept = read_json(self._file)

    def costs(self, column: str) -> dict[str, float]:
        """What an epoch of each row costs, of the rows for which that is decided: views, or seconds."""
        return dict(self._kept.get(column, {}).get("costs", {}))

    def spend(self, column: str) -> float | None:
        """What each row may spend; None where that is not decided."""
        return self._kept.get(column, {}).get("spend")

    def decide(self, column: str, costs: Mapping[str, float], epochs: Mapping[str, int]) -> dict[str, int]:
        """The epochs of each row in a column: all spend what the cheapest one spends in the budget's epochs.

        Args:
            column: views or time.
            costs: of an epoch of each row.
            epochs: of each row by the budget.
        """
        costs = {**costs, **self.costs(column)}
        spend = self.spend(column)
        if spend is None:
            spend = min(costs[row] * epochs[row] for row in epochs)
        self._kept[column] = {"spend": spend, "costs": costs}
        write_text(self._file, json.dumps(self._kept, indent=2, ensure_ascii=False) + "\n")
        return {row: epochs_for(spend, costs[row]) for row in epochs}

    def in_words(self, columns: Sequence[str]) -> list[str]:
        """A line for each of the columns that is equal in something else than epochs."""
        lines = []
        views, seconds = self.spend("views"), self.spend("time")
        if "views" in columns and views is not None:
            lines.append(
                f"equal views: whole epochs for about {views:,.0f} image views a row, as the cheapest row of the first "
                "call sees"
            )
        if "time" in columns and seconds is not None:
            lines.append(
                f"equal time: whole epochs for about {seconds / 60:.1f} minutes of training a row, as the cheapest row "
                "of the first call takes"
            )
        return lines
