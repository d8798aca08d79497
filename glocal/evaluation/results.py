"""Results of an evaluation as a table, JSON and CSV."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from rich.table import Table
from rich.text import Text

from glocal.console import name_cell, note, warn
from glocal.errors import GlocalError
from glocal.files import make_folder, write_csv, write_text
from glocal.plain import read_json

_PERCENT = re.compile(r"(?:top\d+|mean_per_class|mean|pixel_accuracy|mIoU|mP@\d+|[mu]?AP\w*)(?<!_std)")

# Settings beside words and switches that say what is measured, not with how much work.
_TOLD_APART = {"student", "fraction", "fractions", "projector_layers", "patch_mean", "blocks"}


class Row(NamedTuple):
    """One number.

    Attributes:
        images: what it was measured on.
        protocol: the protocol.
        setting: what was chosen or given, in a few words.
        metric, value: the number.
        settings: all settings of the protocol, as JSON.
    """

    images: str
    protocol: str
    setting: str
    metric: str
    value: float
    settings: str


def rows(result: Mapping[str, Any]) -> Iterator[Row]:
    """Everything that was measured."""
    for found in result["protocols"].values():
        settings = json.dumps(found["settings"], ensure_ascii=False)
        for entry in found["results"]:
            for metric, value in entry["metrics"].items():
                yield Row(images_of(found), found["protocol"], entry["setting"], metric, value, settings)


def images_of(found: Mapping[str, Any]) -> str:
    """What one protocol was measured on, in words."""
    return f"{found['train']['name']} → {found['test']['name']}" if "train" in found else found["data"]


def is_percent(metric: str) -> bool:
    """Whether a metric is a share of 100, of which more is better."""
    return _PERCENT.fullmatch(metric) is not None


def shown(metric: str, value: float) -> str:
    """A number for tables: similarities and the like differ in places where percent do not."""
    return f"{value:.2f}" if is_percent(metric.removesuffix("_std")) else f"{value:.4f}"


def table(result: Mapping[str, Any]) -> Table:
    """A table for the terminal."""
    found = list(rows(result))
    images = sorted({row.images for row in found})
    one = len(images) == 1
    title = f"{result['backbone']}: {images[0]}" if one else result["backbone"]
    lines = Table(title=name_cell(title), title_justify="left")
    for column in ("protocol", *(() if one else ("images",)), "setting", "metric"):
        lines.add_column(column)
    lines.add_column("value", justify="right")
    for row in found:
        place = () if one else (name_cell(row.images),)
        lines.add_row(row.protocol, *place, Text(row.setting), row.metric, shown(row.metric, row.value))
    return lines


def remarks(result: Mapping[str, Any]) -> list[str]:
    """What a reader of the numbers has to know beside them: a line each, which goes below the table."""
    return [
        f"{found['protocol']}: {line}" for found in result["protocols"].values() for line in found.get("remarks", ())
    ]


def save(result: Mapping[str, Any], folder: Path) -> tuple[Path, Path]:
    """Writes evaluation.json (everything) and evaluation.csv (a line for each number) and returns their paths.

    What is there of the same backbone (by its fingerprint) stays, unless the same was measured: by the same protocol
    on the same images, with the same words and switches among its settings (`style: moco`) and the same of those that
    name something else to measure (`student`). That is replaced, and a note says which numbers among the settings
    have changed. What is there of another backbone is moved to evaluation-before.json.
    """
    make_folder(folder)
    paths = folder / "evaluation.json", folder / "evaluation.csv"
    kept: list[dict[str, Any]] = []
    if paths[0].exists():
        kept = _others(result, folder)
    whole = {**result, "protocols": {}}
    for found in [*kept, *result["protocols"].values()]:
        number = sum(one["protocol"] == found["protocol"] for one in whole["protocols"].values())
        whole["protocols"][found["protocol"] + (f"-{number + 1}" if number else "")] = found
    write_text(paths[0], json.dumps(whole, indent=2, ensure_ascii=False) + "\n")
    write_csv(paths[1], ["backbone", *Row._fields], ([result["backbone"], *row] for row in rows(whole)))
    return paths


def _others(result: Mapping[str, Any], folder: Path) -> list[dict[str, Any]]:
    """What is in the folder and not in `result`."""
    path = folder / "evaluation.json"
    try:
        before = load(folder)
    except GlocalError as error:
        warn(f"{error}; it is moved to evaluation-before.json")
        path.replace(folder / "evaluation-before.json")
        return []
    if before.get("fingerprint") is None or before["fingerprint"] != result["fingerprint"]:
        note(f"{path} is of another backbone ({before.get('backbone')}): it is moved to evaluation-before.json")
        path.replace(folder / "evaluation-before.json")
        return []
    new = {_identity(found): found["settings"] for found in result["protocols"].values()}
    kept = []
    for found in before["protocols"].values():
        settings = new.get(_identity(found))
        if settings is None:
            kept.append(found)
        elif changed := [
            f"{key} {json.dumps(value)} → {json.dumps(settings.get(key))}"
            for key, value in found["settings"].items()
            if settings.get(key) != value
        ]:
            note(f"{found['protocol']} had been measured with other settings ({', '.join(changed)}): this replaces it")
    return kept


def _identity(found: Mapping[str, Any]) -> tuple[str, str, str]:
    told = {
        key: value for key, value in found["settings"].items() if key in _TOLD_APART or isinstance(value, str | bool)
    }
    return found["protocol"], images_of(found), json.dumps(told, sort_keys=True)


def load(folder: Path) -> dict[str, Any]:
    """Reads the evaluation.json of a folder.

    Raises:
        GlocalError: there is none, or it is no evaluation of this package.
    """
    path = folder / "evaluation.json"
    if not path.exists():
        raise GlocalError(f"there is no {path}; `glocal evaluate` writes it")
    found = read_json(path)
    entries = found.get("protocols") if isinstance(found, dict) else None
    if not isinstance(entries, dict) or not all(isinstance(one, dict) for one in entries.values()):
        raise GlocalError(f"{path} is no evaluation of glocal")
    for name, one in entries.items():
        one.setdefault("protocol", name)
    return found
