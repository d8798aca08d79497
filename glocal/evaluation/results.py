"""Results of an evaluation as a table, JSON and CSV."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from rich.table import Table
from rich.text import Text

from glocal.console import warn
from glocal.errors import GlocalError
from glocal.files import write_text


class Row(NamedTuple):
    """One number: what it was measured on, by which protocol, with which chosen or given setting."""

    images: str
    protocol: str
    setting: str
    metric: str
    value: float


def rows(result: Mapping[str, Any]) -> Iterator[Row]:
    """Everything that was measured."""
    for protocol, found in result["protocols"].items():
        images = f"{found['train']['name']} → {found['test']['name']}" if "train" in found else found["data"]
        for entry in found["results"]:
            for metric, value in entry["metrics"].items():
                yield Row(images, protocol, entry["setting"], metric, value)


def table(result: Mapping[str, Any]) -> Table:
    """A table for the terminal."""
    found = list(rows(result))
    images = sorted({row.images for row in found})
    one = len(images) == 1
    title = f"{result['backbone']}: {images[0]}" if one else result["backbone"]
    shown = Table(title=Text(title), title_justify="left")
    for column in ("protocol", *(() if one else ("images",)), "setting", "metric"):
        shown.add_column(column)
    shown.add_column("value", justify="right")
    for row in found:
        place = () if one else (Text(row.images),)
        shown.add_row(row.protocol, *place, Text(row.setting), row.metric, f"{row.value:.2f}")
    return shown


def save(result: Mapping[str, Any], folder: Path) -> tuple[Path, Path]:
    """Writes evaluation.json (everything) and evaluation.csv (a line for each number) and returns their paths.

    What is there of the same backbone (by its fingerprint) by other protocols stays.
    """
    folder.mkdir(parents=True, exist_ok=True)
    paths = folder / "evaluation.json", folder / "evaluation.csv"
    before: dict[str, Any] = {}
    if paths[0].exists():
        try:
            before = load(folder)
        except GlocalError as error:
            warn(f"{error}; it is replaced")
    same = before.get("fingerprint") is not None and before["fingerprint"] == result["fingerprint"]
    kept = before["protocols"] if same else {}
    whole = {**result, "protocols": {**kept, **result["protocols"]}}
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["backbone", *Row._fields])
    for row in rows(whole):
        writer.writerow([result["backbone"], *row])
    write_text(paths[0], json.dumps(whole, indent=2, ensure_ascii=False) + "\n")
    write_text(paths[1], text.getvalue())
    return paths


def load(folder: Path) -> dict[str, Any]:
    """Reads the evaluation.json of a folder.

    Raises:
        GlocalError: there is none, or it is no evaluation of this package.
    """
    path = folder / "evaluation.json"
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise GlocalError(f"there is no {path}; `glocal evaluate` writes it") from None
    except (OSError, ValueError) as error:
        raise GlocalError(f"{path}: cannot be read: {error}") from error
    if not isinstance(found, dict) or not isinstance(found.get("protocols"), dict):
        raise GlocalError(f"{path} is no evaluation of glocal")
    return found
