"""Finding the images that a user's file names among those embedded."""

from __future__ import annotations

import difflib
import os
from collections.abc import Sequence
from pathlib import Path

from glocal.embeddings.folder import Embeddings
from glocal.errors import GlocalError

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


def listed_rows(embeddings: Embeddings, file: str | Path) -> list[int]:
    """The rows of the images that a list names, one a line; of a line with commas (CSV) unless it is a key, the first
    cell. Empty lines, and those that start with #, say nothing; a first line `key` or `path` is a header.

    Raises:
        GlocalError: the list cannot be read or is empty, or names an image that is not among the embedded ones, or two
            times the same.
    """
    path = Path(file)
    try:
        lines = path.read_text(encoding="utf-8-sig", errors="surrogateescape").splitlines()
    except OSError as error:
        raise GlocalError(f"{path}: cannot be read: {error.strerror}") from None
    names = Names(embeddings)
    rows: dict[int, int] = {}
    for number, line in enumerate(lines, start=1):
        text = line.strip()
        if not text or text.startswith("#"):
            continue
        cell = text if text in embeddings.places else _first_cell(text)
        if not rows and number == 1 and cell.lower() in HEADERS and cell not in embeddings.places:
            continue
        row = names.row(cell, f"{path}, line {number}", path.parent)
        if row in rows:
            raise GlocalError(f"{path}, line {number}: {cell} stands on line {rows[row]} already")
        rows[row] = number
    if not rows:
        raise GlocalError(f"{path}: the list is empty; write one key or path of an image a line")
    return list(rows)


HEADERS = ("key", "path", "file", "filename", "file_name", "image", "name")
"""What the column of images is called in the first line of tables."""


def _first_cell(line: str) -> str:
    import csv

    cells: Sequence[str] = next(csv.reader([line]))
    return cells[0].strip()
