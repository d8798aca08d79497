"""Finding the images that a user's file names among those embedded."""

from __future__ import annotations

import csv
import difflib
import os
from collections.abc import Sequence
from pathlib import Path

from glocal.console import note
from glocal.embeddings.folder import Embeddings
from glocal.embeddings.making import SKIPPED
from glocal.errors import GlocalError, counted
from glocal.regular import open_regular_text

_COMPARED = 20_000  # keys that a mistyped one is compared with
_SEVERAL = -1


class Names:
    """The rows of embedded images by key, by path (absolute, or from the folder of the file that names it), or by file
    name where only one image has it.

    Args:
        embeddings: of the images.
    """

    def __init__(self, embeddings: Embeddings) -> None:
        self.embeddings = embeddings
        self._paths = {path: row for row, path in enumerate(embeddings.paths) if path is not None}
        self._last: dict[str, int] = {}
        for row, key in enumerate(embeddings.keys):
            name = os.path.basename(key)
            self._last[name] = _SEVERAL if name in self._last else row
        self._skipped = _unreadable(embeddings.folder)

    def skipped(self, name: str) -> bool:
        """Whether an image is one that could not be read when the others were embedded."""
        last = os.path.basename(name)
        return name in self._skipped or (
            last not in self._last and any(os.path.basename(k) == last for k in self._skipped)
        )

    def row(self, name: str, where: str, folder: Path) -> int:
        """The row of an image.

        Args:
            name: as the user wrote it.
            where: begins the message of an error: the file and the line.
            folder: that relative paths count from.

        Raises:
            GlocalError: no image, or several, have this name.
        """
        row = self.embeddings.places.get(name)
        if row is None:
            row = self._paths.get(os.path.abspath(folder / name))
        if row is None and os.path.basename(name) == name:
            row = self._last.get(name)
        if row == _SEVERAL:
            some = [key for key in self.embeddings.keys if os.path.basename(key) == name][:2]
            raise GlocalError(
                f"{where}: several images are called {name} ({some[0]}, {some[1]}, …); write the whole key"
            )
        if row is None:
            raise GlocalError(f"{where}: {self.embeddings.folder} has no image {name}; {self._nearest(name)}")
        return row

    def _nearest(self, name: str) -> str:
        keys = self.embeddings.keys
        same = [key for key in keys if os.path.basename(key) == os.path.basename(name)]
        begin = [key for key in keys if key[:3] == name[:3]]  # of a million keys, those that are likely near
        for choices in ([*begin[:_COMPARED], *same[:_COMPARED]], keys[:_COMPARED]):
            near = difflib.get_close_matches(name, choices, n=1)
            if near:
                return f"did you mean {near[0]}?"
        return f"its keys look like {keys[0]}"


def _unreadable(folder: Path) -> set[str]:
    try:
        lines = (folder / SKIPPED).read_text(encoding="utf-8").splitlines()
    except OSError:
        return set()
    return {line.partition("\t")[0] for line in lines}


def tell_of_skipped(path: str | Path, skipped: Sequence[str]) -> None:
    """Says which images of a user's file are left out, for they could not be read."""
    if skipped:
        some = ", ".join(skipped[:3]) + (", …" if len(skipped) > 3 else "")
        note(f"{path}: {counted(len(skipped), 'image')} could not be read when the others were embedded: {some}")


HEADERS = ("key", "path", "file", "filename", "file_name", "image", "name")
"""What the column of images is called in the first line of tables."""


def check_all_are_files(embeddings: Embeddings, path: Path) -> None:
    """Looks, before anything is computed, at whether a list of the embedded images can be written.

    Args:
        embeddings: of the images.
        path: of the list.

    Raises:
        GlocalError: an image is no file of its own.
    """
    missing = next((row for row, found in enumerate(embeddings.paths) if found is None), None)
    if missing is not None:
        key = embeddings.keys[missing]
        raise GlocalError(f"{path}: {key} is no file of its own, so no list can name it; write another .csv with --out")


def listed_rows(embeddings: Embeddings, file: str | Path) -> list[int]:
    """The rows of the images that a file names: a list (.txt), one key or path a line, where empty lines and those that
    start with # say nothing; or a table (.csv), its column `key` or `path`, else its first.

    Raises:
        GlocalError: the file cannot be read or is empty, or names an image that is not among the embedded ones, or one
            image twice.
    """
    path = Path(file)
    names = Names(embeddings)
    rows: dict[int, int] = {}
    skipped: list[str] = []
    for number, name in _names_in(path):
        if names.skipped(name):
            skipped.append(name)
            continue
        row = names.row(name, f"{path}, line {number}", path.parent)
        if row in rows:
            raise GlocalError(f"{path}, line {number}: {name} stands on line {rows[row]} already")
        rows[row] = number
    tell_of_skipped(path, skipped)
    if not rows:
        raise GlocalError(f"{path}: the list is empty; write one key or path of an image a line")
    return list(rows)


def _names_in(path: Path) -> list[tuple[int, str]]:
    if path.suffix.lower() == ".csv":
        lines = table_lines(path)
        column = column_of(HEADERS, lines[0][1]) if lines else None
        cells = [(number, cells[column or 0]) for number, cells in lines if len(cells) > (column or 0)]
        return cells if column is None else cells[1:]
    try:
        with open_regular_text(path, errors="surrogateescape") as file:
            text = file.read()
    except OSError as error:
        raise GlocalError(f"{path}: cannot be read: {error.strerror}") from None
    lines_of_text = enumerate((line.strip() for line in text.splitlines()), start=1)
    return [(number, line) for number, line in lines_of_text if line and not line.startswith("#")]


def table_lines(path: Path) -> list[tuple[int, list[str]]]:
    """The lines of a table (CSV) that are not empty: their numbers and cells.

    Raises:
        GlocalError: it cannot be read.
    """
    try:
        with open_regular_text(path, errors="surrogateescape", newline="") as file:
            reader = csv.reader(file)
            return [(reader.line_num, [cell.strip() for cell in cells]) for cells in reader if any(cells)]
    except OSError as error:
        raise GlocalError(f"{path}: cannot be read: {error.strerror}") from None
    except csv.Error as error:
        raise GlocalError(f"{path}: cannot be read as CSV: {error}") from None


def column_of(names: Sequence[str], header: Sequence[str]) -> int | None:
    """Where the first of some names stands in a header, whatever its case; None where none does.

    >>> column_of(("key", "path"), ["id", "Path"])
    1
    """
    low = [cell.lower() for cell in header]
    return next((low.index(name) for name in names if name in low), None)
