"""Small pictures of embedded images, for sheets."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from PIL import Image

from glocal.data.sources.decoding import read_image
from glocal.embeddings.folder import Embeddings
from glocal.errors import BrokenImageError
from glocal.report.sheets import Tile, jpeg


def tiles(
    embeddings: Embeddings, rows: Sequence[int], captions: Sequence[Sequence[str]], marked: Sequence[bool] | None = None
) -> list[Tile]:
    """A tile for each row: the thumbnail that was kept, else one made of the file, else an empty place.

    Args:
        embeddings: of the images.
        rows: which of them.
        captions: lines below each; the image's key goes before them.
        marked: which of them get a frame.
    """
    paths = [embeddings.paths[row] for row in rows]
    kept = embeddings.thumbnails(rows)
    marks = marked or [False] * len(rows)
    return [
        Tile(picture or thumbnail_of(path), [embeddings.keys[row], *lines], path, mark)
        for row, path, picture, lines, mark in zip(rows, paths, kept, captions, marks, strict=True)
    ]


def thumbnail_of(path: str | None) -> bytes | None:
    """A small picture of an image file; None where there is no file, or it cannot be read."""
    if path is None:
        return None
    try:
        return jpeg(Image.fromarray(np.ascontiguousarray(read_image(path, path).permute(1, 2, 0).numpy())))
    except BrokenImageError:
        return None
