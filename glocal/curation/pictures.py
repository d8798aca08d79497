"""Embedded images on sheets."""

from __future__ import annotations

from collections.abc import Sequence

from glocal.embeddings.folder import Embeddings
from glocal.embeddings.pictures import pictures_of
from glocal.report.sheets import Tile


def tiles(
    embeddings: Embeddings, rows: Sequence[int], captions: Sequence[Sequence[str]], marked: Sequence[bool] | None = None
) -> list[Tile]:
    """A tile for each row.

    Args:
        embeddings: of the images.
        rows: which of them.
        captions: lines below each; the image's key goes before them.
        marked: which of them get a frame.
    """
    marks = marked or [False] * len(rows)
    return [
        Tile(picture, [embeddings.keys[row], *lines], embeddings.paths[row], mark)
        for row, picture, lines, mark in zip(rows, pictures_of(embeddings, rows), captions, marks, strict=True)
    ]
