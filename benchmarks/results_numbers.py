"""Means, deviations and differences over seeds, as words in cells of Markdown."""

from __future__ import annotations

import math
from statistics import mean, median, stdev
from typing import Any

from scipy.stats import ttest_ind_from_stats

NUMBERS = {1: "one seed", 2: "two seeds"}


def average(runs: list[dict[str, Any]], key: str) -> float | None:
    """The mean of what the runs have under a key; None where none has it."""
    found = [run[key] for run in runs if run.get(key) is not None]
    return mean(found) if found else None


def minutes_of(runs: list[dict[str, Any]]) -> float | None:
    """The median of the CPU minutes of runs: a faster machine for one changes it little; None where none has them."""
    found = [run["cpu_minutes"] for run in runs if run.get("cpu_minutes") is not None]
    return median(found) if found else None


def shown(found: list[float]) -> str:
    """The mean, with the deviation over seeds where there are several."""
    if not found:
        return "not measured"
    spread = f" ± {stdev(found):.1f}" if len(found) > 1 else ""
    return f"{mean(found):.1f}{spread}" + (f" ({NUMBERS[len(found)]})" if len(found) < 3 else "")


def table(heading: list[str], rows: list[list[str]]) -> str:
    lines = [heading, ["---"] * len(heading), *rows]
    return "\n".join(f"| {' | '.join(cell.replace('|', '/') for cell in line)} |" for line in lines)


def error_of(a: list[float], b: list[float]) -> float | None:
    """The standard error of the difference of two means; None where one of them is of a single seed."""
    if min(len(a), len(b)) < 2:
        return None
    return math.sqrt(stdev(a) ** 2 / len(a) + stdev(b) ** 2 / len(b))


def compared(a: list[float], b: list[float]) -> str:
    """The difference of two rows in one metric, and how it stands to its standard error."""
    if not a or not b:
        return "not measured"
    difference, error = mean(a) - mean(b), error_of(a, b)
    if error is None:
        return f"{difference:+.1f} (one seed)"
    return (
        f"{difference:+.1f} ({abs(difference) / error:.1f})" if error else f"{difference:+.1f} (no spread over seeds)"
    )


def same(a: list[float], b: list[float]) -> bool:
    """Whether two rows are not told apart: by Student's t test at 5 %, or because one of them has a single seed."""
    if error_of(a, b) is None:
        return True
    found = ttest_ind_from_stats(mean(a), stdev(a), len(a), mean(b), stdev(b), len(b))
    return float(found.pvalue) > 0.05


def tuning(file: dict[str, Any]) -> bool:
    """Measured on held-out training images, to choose settings: no answer to which method is best."""
    return "--held-out" in file["command"]
