"""Images that a file lists: one path a line, or a table (CSV) of paths and labels."""

from __future__ import annotations

import csv
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import torch

from glocal.data.sources.folder import ImageFiles
from glocal.errors import GlocalError
from glocal.regular import open_regular_text


class _Line(NamedTuple):
    number: int
    path: str
    label: str | None


def is_list(name: str | Path) -> bool:
    """Whether a name is that of a list of images by its ending."""
    return os.path.splitext(name)[1].lower() in {".txt", ".csv"}


class ListedImages(ImageFiles):
    """The images that a list names; paths count from the list's folder, and are the images' keys.

    - NAME.txt: one path a line; empty lines and lines that start with # say nothing.
    - NAME.csv: the first line names the columns, `path` and, if wanted, `label`. Labels are names or numbers; the
      classes are in the order of the names, of the numbers where all are whole numbers. A line without a label is an
      image that has none.

    Args:
        file: the list.

    Raises:
        GlocalError: the list cannot be read, is empty, or names a file that is not there, or twice; a table has other
            columns. The message names the line.
    """

    def __init__(self, file: str | Path) -> None:
        path = Path(file)
        lines = list(_lines(path))
        if not lines:
            raise GlocalError(f"{path}: the list is empty; write one path of an image a line")
        first: dict[str, int] = {}
        for number, key, _ in lines:
            where = f"{path}, line {number}"
            before = first.setdefault(os.path.normpath(key), number)
            if before != number:
                raise GlocalError(f"{where}: {key} stands on line {before} already")
            if not os.path.isfile(path.parent / key):
                list_ = f"; {path.name} is read as a list of images" if number == 1 else ""
                raise GlocalError(f"{where}: {_missing(path.parent / key)}{list_}")
        keys = [line.path for line in lines]
        names = [line.label for line in lines if line.label is not None]
        if not names:
            super().__init__(path.parent, keys, name=str(file))
            return
        classes = in_order(set(names))
        place = {label: number for number, label in enumerate(classes)}
        labels = torch.tensor([-1 if line.label is None else place[line.label] for line in lines])
        super().__init__(path.parent, keys, labels, classes, name=str(file))


def in_order(classes: set[str]) -> list[str]:
    """Names of classes in their order: by number where all are whole numbers.

    >>> in_order({"10", "9"}), in_order({"10", "9", "cat"})
    (['9', '10'], ['10', '9', 'cat'])
    """
    if all(name.isascii() and name.isdecimal() for name in classes):
        return sorted(classes, key=lambda name: (int(name), name))
    return sorted(classes)


def _missing(path: Path) -> str:
    return f"{path} is a folder; list its images" if os.path.isdir(path) else f"there is no file {path}"


def _lines(path: Path) -> Iterator[_Line]:
    try:
        with open_regular_text(path, errors="surrogateescape", newline="") as file:
            if path.suffix.lower() == ".csv":
                yield from _of_table(path, csv.DictReader(file))
            else:
                for number, line in enumerate(file, start=1):
                    text = line.strip()
                    if text and not text.startswith("#"):
                        yield _Line(number, text, None)
    except OSError as error:
        raise GlocalError(f"{path}: cannot be read: {error.strerror}") from None
    except csv.Error as error:
        raise GlocalError(f"{path}: cannot be read as CSV: {error}") from None


def _of_table(path: Path, table: csv.DictReader[str]) -> Iterator[_Line]:
    columns: Sequence[str] = [name.strip() for name in table.fieldnames or ()]
    if sorted(columns) not in (["path"], ["label", "path"]):
        raise GlocalError(
            f"{path}: its first line must be path,label (or path alone), not {','.join(columns) or 'empty'}"
        )
    table.fieldnames = columns
    for row in table:
        key, label = (row["path"] or "").strip(), (row.get("label") or "").strip()
        if not key or None in row:
            expected = "a path" if len(columns) == 1 else "a path and a label"
            raise GlocalError(f"{path}, line {table.line_num}: {expected} is expected, quoted where it has a comma")
        yield _Line(table.line_num, key, label or None)
