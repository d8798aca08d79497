"""The first tables of docs/results.md: the best method for so many images, minutes and this network."""

from __future__ import annotations

import shlex
from collections import defaultdict
from statistics import mean
from typing import Any, NamedTuple

from results_numbers import minutes_of, same, shown, table, tuning
from results_pictures import ALIKE, runs_of, values

BRACKETS = (1, 2, 3, 5, 10, 20, 60, 180)  # CPU minutes of training
NAMES = {
    "cifar10/train": "CIFAR-10",
    "cifar10-second/train": "CIFAR-10, the second 1,000 images of each class",
    "photographs/train": "photographs",
    "shapes:train:10000": "drawn shapes",
}


class Entry(NamedTuple):
    """A row with the CPU minutes that its runs took, and its measures; rows of one method differ in settings alone."""

    label: str
    method: tuple[str, str]
    minutes: float
    measures: dict[str, list[float]]


def data_of(file: dict[str, Any]) -> str:
    """The images that a file's rows learned from, by what its command names."""
    words = shlex.split(file["command"])
    name = words[words.index("--data") + 1] if "--data" in words else "its own images"
    name = NAMES.get(name, name)
    count = file.get("budget", {}).get("images")
    return f"{count:,} of {name}" if count else name


def best(files: list[dict[str, Any]]) -> str:
    """For each set of images and network a table: by minutes the best row in each measure, and the best other method.

    Rows that change a method's settings are parts of a comparison. They are left out where others are, but for those
    that are called by a method: `SimCLR, temperature 0.2`; where these are of one method, all are there. Where one
    method alone was measured, there is no choice.
    """
    methods = tuple(row["label"] for file in files for row in file["rows"] if not changes_method(row))
    groups: dict[tuple[str, str], list[Entry]] = defaultdict(list)
    changed: dict[tuple[str, str], list[Entry]] = defaultdict(list)
    for file in (file for file in files if not tuning(file)):
        data, usual = data_of(file), file.get("budget", {}).get("network") or "–"
        for row in file["rows"]:
            where = data, str(row.get("network") or usual)
            kept = not changes_method(row) or str(row["label"]).startswith(methods)
            (groups if kept else changed)[where].extend(_entries(file, row))
    for where, entries in changed.items():
        if len({one.method for one in groups[where]}) < 2:
            groups[where] += entries
    parts = []
    for (data, network), entries in sorted(groups.items()):
        if len({one.method for one in entries}) < 2:
            continue
        titles = list(dict.fromkeys(title for one in entries for title in one.measures))
        rows: list[list[str]] = []
        for most in BRACKETS:
            within = [one for one in entries if one.minutes <= most]
            cells = [first(within, title) for title in titles]
            if within and (not rows or rows[-1][1:] != cells):  # else the answer is that of less time
                rows.append([f"{most}", *cells])
        parts.append(f"{data}; network {network}:\n\n{table(['CPU minutes, up to', *titles], rows)}")
    return "\n\n".join(parts) or "Nothing has been measured on test images yet."


def changes_method(row: dict[str, Any]) -> bool:
    """Whether a row has settings of the method other than its recipe's, one by one or as a whole section."""
    return any(path.split(".")[0] == "method" for path in row.get("settings", {}))


def _entries(file: dict[str, Any], row: dict[str, Any]) -> list[Entry]:
    found = []
    settings = row.get("settings", {})
    named = settings.get("method.name") or settings.get("method", {}).get("name", "")
    method = str(row.get("recipe") or row["label"]), str(named)
    for alike in ALIKE:
        minutes = minutes_of(runs_of(row, alike))
        measures = {title: its for metric, title in file["metrics"].items() if (its := values(row, alike, metric))}
        if minutes is not None and measures:
            found.append(Entry(str(row["label"]), method, minutes, measures))
    return found


def first(entries: list[Entry], title: str) -> str:
    """The best of some rows in one measure, with its minutes, and the best one of another method.

    A row with a single seed counts only where its method has no other: what is a little better once may be chance.
    """
    measured = [one for one in entries if title in one.measures]
    several = {one.method for one in measured if len(one.measures[title]) > 1}
    kept = [one for one in measured if len(one.measures[title]) > 1 or one.method not in several]
    ranked = sorted(kept, key=lambda one: mean(one.measures[title]), reverse=True)
    if not ranked:
        return "–"
    top = ranked[0]
    said = f"**{top.label}** {shown(top.measures[title])} in {top.minutes:.1f} min"
    after = next((one for one in ranked if one.method != top.method), None)
    if after is None:
        return said
    near = " (not told apart)" if same(top.measures[title], after.measures[title]) else ""
    return f"{said}; then {after.label} {shown(after.measures[title])} in {after.minutes:.1f} min{near}"
