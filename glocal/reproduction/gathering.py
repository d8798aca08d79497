"""What the jobs of a table have found, as one mapping: what is written as JSON, Markdown and a picture."""

from __future__ import annotations

import glob
import os
import platform
import statistics
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch

import glocal
from glocal.papers import PaperRow, PaperTable
from glocal.reproduction.equal import EQUAL
from glocal.reproduction.jobs import JOB, RESULT, read_result

_OF_A_RUN = (
    "seed",
    "epochs",
    "images",
    "views",
    "cpu_minutes",
    "wall_minutes",
    "values",
    "curve",
    "error",
    "date",
    "machine",
)


def slug(label: str) -> str:
    """A row's label as a part of a folder's name.

    >>> slug("m=10000 k=40, 2 × 224")
    'm=10000_k=40__2___224'
    """
    return "".join(c if c.isascii() and (c.isalnum() or c in "=.-_") else "_" for c in label)[:100]


def folder_names(table: PaperTable) -> dict[str, str]:
    """With what the folders of each row's runs begin, by label: no two begin alike."""
    found: dict[str, str] = {}
    for row in table.rows:
        name, number = slug(row.label), 2
        while name in found.values():
            name, number = f"{slug(row.label)}.{number}", number + 1
        found[row.label] = name
    return found


def runs_of(out: Path, name: str) -> list[Path]:
    """The folders of a row's runs, with a result or without."""
    return [path.parent for path in sorted((out / "runs").glob(f"{glob.escape(name)},seed=*/{JOB}"))]


def results_of(out: Path, name: str) -> list[Path]:
    """The folders of a row's runs that have a result."""
    return [path.parent for path in sorted((out / "runs").glob(f"{glob.escape(name)},seed=*/{RESULT}"))]


def row_of(row: PaperRow, name: str, out: Path, *, cannot_run: str, notes: Sequence[str]) -> dict[str, Any]:
    """A row with what is in print and what its runs measured.

    Args:
        row: as printed.
        name: with which its runs' folders begin.
        out: the folder of the table.
        cannot_run: why it cannot be run; empty where it can.
        notes: of the row.
    """
    by_column: dict[str, list[dict[str, Any]]] = {}
    for found in _results(row.label, name, out):
        by_column.setdefault(found.get("equal", "epochs"), []).append(found)
    results = {
        column: _together(sorted(by_column[column], key=lambda one: int(one["seed"])))
        for column in EQUAL
        if column in by_column
    }
    return {
        "label": row.label,
        "recipe": row.recipe,
        "settings": row.settings,
        "published": {name: value for name, value in row.values.items() if value is not None},
        "cannot_run": cannot_run,
        "notes": list(notes),
        "results": results,
    }


def _results(label: str, name: str, out: Path) -> Iterator[dict[str, Any]]:
    for folder in results_of(out, name):
        found = read_result(folder)
        if found is not None and found.get("row") == label:
            yield found


def _together(runs: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """The runs of a row that differ in their seeds alone, with mean and sample standard deviation of each metric."""
    empty = {"values": {}, "curve": [], "error": ""}
    listed = [{key: one.get(key, empty.get(key)) for key in _OF_A_RUN} for one in runs]
    values: dict[str, list[float]] = {}
    for one in listed:
        for name, value in one["values"].items():
            values.setdefault(name, []).append(value)
    return {
        "runs": listed,
        "mean": {name: statistics.fmean(of_all) for name, of_all in values.items()},
        "deviation": {name: statistics.stdev(of_all) if len(of_all) > 1 else None for name, of_all in values.items()},
    }


def machine(device: str) -> dict[str, Any]:
    """What this process computes on, and by which versions.

    Args:
        device: cpu, cuda or mps.
    """
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return {
        "cpu": _processor(),
        **({"gpu": torch.cuda.get_device_name()} if device == "cuda" else {}),
        "device": device,
        "cores": cores,
        "threads": torch.get_num_threads(),
        "torch": str(torch.__version__),
        "python": platform.python_version(),
        "glocal": glocal.__version__,
    }


def _processor() -> str:
    with suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()
