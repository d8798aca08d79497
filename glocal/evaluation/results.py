"""Results of an evaluation as a table, JSON and CSV."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from rich.table import Table

from glocal.files import write_text


def rows(result: Mapping[str, Any]) -> Iterator[tuple[str, str, str, float]]:
    """Protocol, chosen or given setting, metric and value of everything that was measured."""
    for protocol, found in result["protocols"].items():
        for entry in found["results"]:
            for metric, value in entry["metrics"].items():
                yield protocol, entry["setting"], metric, value


def table(result: Mapping[str, Any]) -> Table:
    """A table for the terminal."""
    title = f"{result['backbone']}: {result['train']['name']} → {result['test']['name']}"
    shown = Table(title=title, title_justify="left")
    for column in ("protocol", "setting", "metric"):
        shown.add_column(column)
    shown.add_column("value", justify="right")
    for protocol, setting, metric, value in rows(result):
        shown.add_row(protocol, setting, metric, f"{value:.2f}")
    return shown


def save(result: Mapping[str, Any], folder: Path) -> tuple[Path, Path]:
    """Writes evaluation.json (everything) and evaluation.csv (a line for each number) and returns their paths."""
    folder.mkdir(parents=True, exist_ok=True)
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["backbone", "train", "test", "protocol", "setting", "metric", "value"])
    for row in rows(result):
        writer.writerow([result["backbone"], result["train"]["name"], result["test"]["name"], *row])
    paths = folder / "evaluation.json", folder / "evaluation.csv"
    write_text(paths[0], json.dumps(result, indent=2, ensure_ascii=False) + "\n")
    write_text(paths[1], text.getvalue())
    return paths
