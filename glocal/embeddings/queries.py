"""What is searched for: keys of the embeddings, image files, folders of them, images in memory, vectors."""

from __future__ import annotations

import difflib
import os
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import groupby
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import torch
from PIL import Image, ImageOps
from torch import Tensor

from glocal.console import note
from glocal.data.decoding.images import read_image
from glocal.data.decoding.rules import Decoding
from glocal.data.sources.base import Sample, Source
from glocal.data.sources.listed import is_list
from glocal.data.sources.opening import open_source
from glocal.embeddings.folder import Embeddings
from glocal.errors import GlocalError
from glocal.files import printable, unprintable
from glocal.models.given import checked_images

_SOURCES = ("digits", "hf", "shapes", "torchvision")  # that `open_source` opens by other names than paths
_NAMED = 5  # keys that an error names
_SUGGESTS = 50_000  # rows up to which the nearest key is looked for

Queries = (
    str | Path | Source | Tensor | np.ndarray | Image.Image | Sequence[str | Path | Tensor | np.ndarray | Image.Image]
)
"""What `glocal.search` takes: names (keys, files, folders), sources, images (3, H, W) or (B, 3, H, W), or vectors."""


@dataclass(frozen=True)
class Query:
    """One image to search for.

    Attributes:
        name: what it is called in results.
        row: of the same image among the embeddings; −1 where it is not there.
        stored: the vector in that row is the query's: its file has not been written since.
        path: of its file; None where it has none.
        read: gives the image as (3, H, W) uint8; None where only a vector is known.
        vector: (D,) where it was given.
    """

    name: str
    row: int = -1
    stored: bool = False
    path: str | None = None
    read: Callable[[Decoding], Tensor] | None = None
    vector: Tensor | None = None


class QuerySource:
    """Images to search for as a source, for those whose vectors are not known.

    Args:
        queries: each with a `read`.
        decoding: as the images of the embeddings were decoded.
    """

    def __init__(self, queries: Sequence[Query], decoding: Decoding) -> None:
        self.name = "the queries"
        self.classes: list[str] | None = None
        self.labels: Tensor | None = None
        self.keys: Sequence[str] = [query.name for query in queries]
        self._read = [query.read for query in queries]
        self._decoding = decoding

    def __len__(self) -> int:
        return len(self.keys)

    def __getitem__(self, index: int) -> Sample:
        read = self._read[index]
        assert read is not None
        return Sample(read(self._decoding), None, self.keys[index])


def find_queries(embeddings: Embeddings, queries: Queries) -> list[Query]:
    """What is meant by names, images or vectors.

    A name is first a key of the embeddings, then a file, a folder, a list of files (.txt, .csv) or another source, then
    the last part of the path of one key. A file that is among the embeddings, by its absolute path, goes by the vector
    that is there, unless it was written later.

    Raises:
        GlocalError: a name is none of these, or fits several keys; or an image or vector has another shape.
    """
    if isinstance(queries, str | Path):
        return _named(embeddings, [queries])
    if isinstance(queries, Tensor | np.ndarray | Image.Image):
        return list(_given(embeddings, queries))
    if isinstance(queries, Source):
        return _of_source(embeddings, queries)
    several = list(queries)
    if not several:
        raise GlocalError("no queries: give a key, an image file or a folder of them")
    found: list[Query] = []
    for together, group in groupby(enumerate(several, start=1), lambda item: isinstance(item[1], str | Path)):
        if together:  # one pass over the keys for all names
            found += _named(embeddings, [one for _, one in group if isinstance(one, str | Path)])
        else:
            for number, one in group:
                found += [] if isinstance(one, str | Path) else _given(embeddings, one, number)
    return found


def _named(embeddings: Embeddings, names: Sequence[str | Path]) -> list[Query]:
    column = embeddings.column("key")
    texts = [str(name) for name in names]
    keys = rows_of(column, [text if isinstance(name, str) else None for text, name in zip(texts, names, strict=True)])
    found: list[Query] = []
    for text, row in zip(texts, keys, strict=True):
        if row is not None:
            query = _of_row(embeddings, row)
            found.append(query)
            if os.path.isfile(text) and query.path is not None and os.path.abspath(text) != query.path:
                note(f"{text} is a key of {embeddings.folder} and another file here; write ./{text} to search for that")
        elif _is_source(text):
            found += _of_source(embeddings, open_source(text, values=embeddings.about.channels is not None))
        elif os.path.isfile(text):
            found += _of_files(embeddings, [text], [os.path.abspath(text)])
        else:
            found.append(_of_row(embeddings, _by_last_part(embeddings, column, text)))
    return found


def _is_source(text: str) -> bool:
    """Whether a name is that of several images: a folder, a list of files, or a source that is no path."""
    if os.path.exists(text):
        return os.path.isdir(text) or is_list(text)
    return text.partition(":")[0] in _SOURCES


def rows_of(column: pa.ChunkedArray, wanted: Sequence[str | None]) -> list[int | None]:
    """The row of each text in a column, the first of several; None where it is not there."""
    if not wanted:
        return []
    asked = pa.array([None if text is None else printable(text) for text in wanted], pa.string())
    found: list[int | None] = pc.index_in(asked, value_set=column.cast(pa.string()), skip_nulls=True).to_pylist()
    return found


def _by_last_part(embeddings: Embeddings, column: pa.ChunkedArray, text: str) -> int:
    ending = "/" + printable(text).removeprefix("./").lstrip("/")
    rows = np.flatnonzero(np.asarray(pc.ends_with(column, ending)))
    if len(rows) == 1:
        return int(rows[0])
    if len(rows) > 1:
        named = ", ".join(column[int(row)].as_py() for row in rows[:_NAMED])
        more = f" and {len(rows) - _NAMED:,} more" if len(rows) > _NAMED else ""
        raise GlocalError(f"{text}: {len(rows):,} keys of {embeddings.folder} end so, choose one: {named}{more}")
    raise GlocalError(f"{text} is no image file, no folder, and no key of {embeddings.folder}; {_hint(column, text)}")


def _hint(column: pa.ChunkedArray, text: str) -> str:
    """The key that is meant, or those that hold the text, or what a key looks like."""
    near = difflib.get_close_matches(text, column.to_pylist(), n=1) if len(column) <= _SUGGESTS else []
    if near:
        return f"did you mean {near[0]}?"
    holding = column.filter(pc.match_substring(column, printable(text), ignore_case=True))
    if len(holding) > 0:
        more = f" and {len(holding) - _NAMED:,} more" if len(holding) > _NAMED else ""
        return f"keys with it: {', '.join(holding.slice(0, _NAMED).to_pylist())}{more}"
    return f"keys look like {column[0].as_py()}"


def _of_row(embeddings: Embeddings, row: int) -> Query:
    [key], [path] = embeddings.values("key", [row]), embeddings.values("path", [row])
    path = None if path is None else unprintable(path)
    return Query(key, row, stored=True, path=path, read=None if path is None else partial(_read_file, path, key))


def _of_source(embeddings: Embeddings, source: Source) -> list[Query]:
    names = [f"{source.name}/{key}" if os.path.isdir(source.name) else key for key in source.keys]
    if hasattr(source, "files"):
        return _of_files(embeddings, names, source.files())
    reads = [partial(_read_from, source, place) for place in range(len(source))]
    if source.name != embeddings.about.source:
        return [Query(name, read=read) for name, read in zip(names, reads, strict=True)]
    rows = rows_of(embeddings.column("key"), names)  # the images of the embeddings themselves
    return [
        Query(name, -1 if row is None else row, stored=row is not None, read=read)
        for name, row, read in zip(names, rows, reads, strict=True)
    ]


def _of_files(embeddings: Embeddings, names: Sequence[str], paths: Sequence[str]) -> list[Query]:
    """Files by their absolute paths."""
    rows = rows_of(embeddings.column("path"), paths)
    return [
        Query(
            name,
            -1 if row is None else row,
            stored=row is not None and _as_embedded(embeddings, row, path),
            path=path,
            read=partial(_read_file, path, name),
        )
        for name, path, row in zip(names, paths, rows, strict=True)
    ]


def _as_embedded(embeddings: Embeddings, row: int, path: str) -> bool:
    """Whether a file has neither been written nor put in its place (which copying with times hides) since then."""
    try:
        status = os.stat(path)
        return max(status.st_mtime, status.st_ctime) <= embeddings.written(row)
    except OSError:
        return False


def _given(embeddings: Embeddings, images: Tensor | np.ndarray | Image.Image, number: int = 1) -> Iterable[Query]:
    """Images or vectors in memory, called by their number."""
    if isinstance(images, Tensor | np.ndarray) and images.ndim <= 2:
        yield from _given_vectors(embeddings, torch.as_tensor(images), number)
        return
    if isinstance(images, Image.Image):
        images = ImageOps.exif_transpose(images)
    if isinstance(images, Tensor) and images.ndim == 3:
        images = images[None]
    size = embeddings.about.size
    decoding = embeddings.decoding
    for place, image in enumerate(checked_images(images, decoding, size), start=number):
        if decoding.channels is not None:
            image = image.float()
        elif image.is_floating_point():
            image = (image * 255).round_().clamp_(0, 255).byte()
        yield Query(f"image {place}", read=partial(_as_given, image.cpu()))


def _given_vectors(embeddings: Embeddings, vectors: Tensor, number: int) -> Iterable[Query]:
    rows = vectors[None] if vectors.ndim == 1 else vectors
    if rows.ndim != 2 or rows.shape[1] != embeddings.dim:
        raise GlocalError(
            f"vectors of shape {tuple(vectors.shape)}: those of {embeddings.folder} have {embeddings.dim} values; "
            "images have the shape (3, height, width) or (B, 3, height, width)"
        )
    for place, row in enumerate(rows.float().cpu(), start=number):
        yield Query(f"vector {place}", vector=row)


def _read_file(path: str, key: str, decoding: Decoding) -> Tensor:
    return read_image(path, key, decoding)


def _read_from(source: Source, index: int, decoding: Decoding) -> Tensor:
    del decoding  # the source has its own
    return source[index].image


def _as_given(image: Tensor, decoding: Decoding) -> Tensor:
    del decoding
    return image
