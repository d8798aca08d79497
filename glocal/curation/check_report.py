"""A report of `glocal check` as a table, a CSV file and a page of pictures."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rich.table import Table
from rich.text import Text

from glocal.console import name_cell
from glocal.curation.findings import Finding, Flagged, Part, Report
from glocal.data.decoding.rules import Decoding
from glocal.embeddings.pictures import picture_of_file
from glocal.files import write_csv
from glocal.report.sheets import Section, Tile, write_sheet

_EXAMPLES, _SHOWN = 2, 24


def table(report: Report) -> Table:
    """The findings, for the eye."""
    made = Table(title=Text("\n").join(map(name_cell, report.summary)), title_justify="left", show_lines=True)
    for column in ("what", "how many", "for example", "advice"):
        made.add_column(column, overflow="fold")
    for finding in report.findings:
        name, amount, advice = map(name_cell, (finding.name, finding.amount, finding.advice))
        made.add_row(name, amount, Text("\n").join(map(name_cell, _examples(finding))), advice)
    return made


def _examples(finding: Finding) -> list[str]:
    shown = list(finding.examples) or [f"{image.key} ({image.detail})" for image in finding.images]
    more = len(shown) - _EXAMPLES
    return [*shown[:_EXAMPLES], *(["…"] if more > 0 else [])]


def _group(image: Flagged) -> int | None:
    """The number of an image's group, from 1."""
    return None if image.group is None else image.group + 1


def write_table(report: Report, path: Path) -> None:
    """Writes a line for each finding and image as CSV; findings that are not about images have no key."""
    rows: list[tuple[Any, ...]] = []
    for finding in report.findings:
        rows += [
            (finding.name, finding.severity, image.part, image.key, _group(image), image.detail, image.path)
            for image in finding.images
        ] or [(finding.name, finding.severity, "", "", None, f"{finding.amount}: {', '.join(finding.examples)}", None)]
    write_csv(path, ("finding", "severity", "part", "key", "group", "detail", "path"), rows)


def write_page(report: Report, path: Path) -> None:
    """Writes up to 24 images of each finding as a sheet; leaked ones, framed, before what they are copies of."""
    sections = [
        Section(f"{finding.name}: {finding.amount}", _tiles(finding, report.decoding), [finding.advice])
        for finding in report.findings
        if any(image.path for image in finding.images)
    ]
    write_sheet(path, "What was found", sections, report.summary)


def _tiles(finding: Finding, decoding: Mapping[Part, Decoding]) -> list[Tile]:
    tiles = []
    for image in finding.images[:_SHOWN]:
        group = [] if image.group is None else [f"group {_group(image)}"]
        picture = None if image.path is None else picture_of_file(image.path, decoding[image.part])
        tiles.append(Tile(picture, [image.key, image.detail, *group], image.path, image.twin is not None))
        if image.twin is not None:
            tiles.append(Tile(picture_of_file(image.twin, decoding["data"]), ["learned from"], image.twin))
    return tiles
