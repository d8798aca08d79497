"""Small pictures of embedded images: those that were kept with them, else made now."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from PIL import Image
from torch import Tensor

from glocal.data.decoding.images import read_image
from glocal.data.decoding.rules import Decoding
from glocal.embeddings.folder import Embeddings
from glocal.errors import BrokenImageError
from glocal.files import unprintable
from glocal.report.sheets import jpeg
from glocal.views.pictures import as_picture


def pictures_of(embeddings: Embeddings, rows: Sequence[int]) -> list[bytes | None]:
    """A JPEG file in memory for each row: the thumbnail, else one of the file, else one of the source's image.

    Args:
        embeddings: of the images.
        rows: which of them.

    Returns:
        None where an image cannot be had any more.
    """
    found = embeddings.thumbnails(rows)
    missing = [place for place, picture in enumerate(found) if picture is None]
    if not missing:
        return found
    wanted = [rows[place] for place in missing]
    paths = embeddings.values("path", wanted)
    paths = [None if path is None else unprintable(path) for path in paths]
    for place, path in zip(missing, paths, strict=True):
        if path is not None:
            found[place] = picture_of_file(path, embeddings.decoding)
    if any(path is None for path in paths):
        _from_source(
            embeddings, found, [place for place, path in zip(missing, paths, strict=True) if path is None], rows
        )
    return found


def _from_source(embeddings: Embeddings, found: list[bytes | None], places: Sequence[int], rows: Sequence[int]) -> None:
    source = embeddings.source
    if source is None:
        return
    indices = embeddings.values("index", [rows[place] for place in places])
    for place, index in zip(places, indices, strict=True):
        found[place] = picture_of(lambda index=index: source[index].image)  # type: ignore[misc]


def picture_of_file(path: str, decoding: Decoding) -> bytes | None:
    """A small picture of an image file; None where it cannot be read."""
    return picture_of(lambda: read_image(path, path, decoding))


def picture_of(read: Callable[[], Tensor]) -> bytes | None:
    """A small picture of an image that `read` gives as (C, H, W); None where it cannot be read."""
    try:
        image = read()
    except BrokenImageError:
        return None
    return jpeg(Image.fromarray(np.ascontiguousarray(as_picture(image).permute(1, 2, 0).numpy())))
