"""A folder of embeddings, opened without reading them: vectors stay in their files until they are asked for."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from pydantic import ValidationError
from torch import Tensor

from glocal.data.decoding.channels import ChannelAxis
from glocal.data.decoding.rules import Decoding
from glocal.data.ranges import decode_as
from glocal.data.sources.base import Source
from glocal.data.sources.opening import open_source
from glocal.embeddings.shards import map_vectors
from glocal.errors import GlocalError
from glocal.files import unprintable
from glocal.plain import read_json
from glocal.settings import Settings
from glocal.views.crops import Interpolation

FORMAT = 1
ABOUT = "embeddings.json"
SHARD_ROWS = 4096


class About(Settings):
    """What `embeddings.json` says of a folder of embeddings.

    Attributes:
        format: of the folder.
        backbone: as it was named to `glocal embed`, so that queries go through the same one; a path is absolute.
        weights: the file of weights that was given beside it, an absolute path.
        label: what the backbone calls itself.
        fingerprint: of its weights; None where it has none.
        source: the images, by name.
        images: how many the source has.
        images_fingerprint: of the images, or of their files; None where it cannot be known.
        size: side of the squares that the backbone saw.
        interpolation: how they were resized.
        value_range: grey values beyond 8 bits that became black and white; None where all images have 8 bits.
        channels, channel_axis: of images whose values came in their own units (`Decoding`); None: they were RGB.
        precision: in which the network computed: fp32 or bf16.
        dim: of a vector.
        classes: names of the classes; None for unlabelled images.
        tokens: patches and width of the patch tokens; None where they were not kept.
        thumbnails: the longer side of the small pictures; None where there are none.
        shard_rows: shard k holds the images at the source's positions k · shard_rows to (k + 1) · shard_rows − 1.
        complete: all images of the source are there, but for unreadable ones.
    """

    format: int = FORMAT
    backbone: str
    weights: str | None = None
    label: str
    fingerprint: str | None
    source: str | list[str]
    images: int
    images_fingerprint: str | None = None
    size: int
    interpolation: Interpolation = "bilinear"
    value_range: tuple[float, float] | None = None
    channels: int | None = None
    channel_axis: ChannelAxis | None = None
    precision: Literal["fp32", "bf16"] = "fp32"
    dim: int
    classes: list[str] | None = None
    tokens: tuple[int, int] | None = None
    thumbnails: int | None = None
    shard_rows: int = SHARD_ROWS
    complete: bool = False

    @property
    def shards(self) -> range:
        """The numbers of all shards."""
        return range(-(-self.images // self.shard_rows))


class Embeddings:
    """Embeddings of images, row by row in the order of their source; unreadable images have no row.

    Args:
        folder: what `glocal embed --out` wrote.

    Attributes:
        folder: as given.
        about: what is known of all of them.

    Raises:
        GlocalError: there are none, they are not complete, or a file is missing or damaged.
    """

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder)
        self.about = read_about(self.folder)
        if not self.about.complete:
            raise GlocalError(f"{folder} is not complete; the same `glocal embed` command goes on with it")
        self.shards = [shard_path(self.folder, number) for number in self.about.shards]
        lost = next((path for path in self.shards if not path.exists()), None)
        if lost is not None:
            raise GlocalError(f"{lost} is missing; the same `glocal embed` command computes it again")
        self._vectors = [map_vectors(path) for path in self.shards]
        if not self._vectors:
            raise GlocalError(f"{folder} holds no embeddings")
        self._begin = np.cumsum([0, *(len(vectors) for vectors in self._vectors)])

    def __len__(self) -> int:
        return int(self._begin[-1])

    def __str__(self) -> str:
        size = sum(path.stat().st_size for path in self.shards)
        kept = f"{len(self):,} images, {self.dim:,} features each, {size / 1e6:,.1f} MB"
        missing = self.about.images - len(self)
        return f"{self.folder}: {kept}" + (f"; {missing:,} cannot be read (skipped.txt)" if missing else "")

    @property
    def decoding(self) -> Decoding:
        """How the images were decoded."""
        return Decoding(self.about.value_range, None, self.about.channels, self.about.channel_axis)

    @property
    def dim(self) -> int:
        """Width of a vector."""
        return self.about.dim

    def rows(self, start: int, stop: int, *, out: Tensor | None = None) -> Tensor:
        """Vectors of some rows in order, (stop − start, D) float32; only these are read.

        Args:
            start, stop: the rows, 0 ≤ start ≤ stop ≤ the number of images.
            out: memory on the CPU for as many rows or more, (n, D) float32. Blocks that are read one after another are
                read into the same memory several times as fast as into new memory.

        Raises:
            GlocalError: there are no such rows.
        """
        if not 0 <= start <= stop <= len(self):
            raise GlocalError(f"{self.folder}: there are no rows {start} to {stop}; it has {len(self):,}, from 0 on")
        found = torch.empty(stop - start, self.dim) if out is None else out[: stop - start]
        values = found.numpy()
        for vectors, begin in zip(self._vectors, self._begin[:-1].tolist(), strict=True):
            low, high = max(start, begin), min(stop, begin + len(vectors))
            if low < high:
                np.copyto(values[low - start : high - start], vectors[low - begin : high - begin])
        return found

    def chunks(self, size: int = 65_536) -> Iterator[tuple[int, Tensor]]:
        """All vectors, some rows at a time.

        Yields:
            the number of the first row, and vectors (size, D) float32; fewer in the end.
        """
        for start in range(0, len(self), size):
            yield start, self.rows(start, min(start + size, len(self)))

    def take(self, rows: Sequence[int] | Tensor) -> Tensor:
        """Vectors of rows in any order, (n, D) float32.

        Args:
            rows: their numbers, from 0 on, or a mask with one truth value an image.

        Raises:
            GlocalError: there are no such rows.
        """
        wanted = self._numbers(rows)
        shard = np.searchsorted(self._begin, wanted, side="right") - 1
        found = np.empty((len(wanted), self.dim), np.float32)
        for number in np.unique(shard):
            here = shard == number
            found[here] = self._vectors[number][wanted[here] - self._begin[number]]
        return torch.from_numpy(found)

    def column(self, name: str) -> pa.ChunkedArray:
        """A column of all rows: index, key, path, label, width, height, tokens, thumbnail.

        Raises:
            GlocalError: it was not kept.
        """
        try:
            return pa.chunked_array(
                [part for path in self.shards for part in pq.read_table(path, columns=[name]).column(name).chunks]
            )
        except (pa.ArrowException, KeyError, OSError) as error:
            raise GlocalError(f"{self.folder}: column {name!r} cannot be read: {error}") from error

    def has(self, name: str) -> bool:
        """Whether a column was kept."""
        return name in pq.read_schema(self.shards[0]).names

    def thumbnails(self, rows: Sequence[int]) -> list[bytes | None]:
        """Thumbnails as JPEG files in memory; None where there are none."""
        return self.values("thumbnail", rows) if self.has("thumbnail") else [None] * len(rows)

    def values(self, name: str, rows: Sequence[int] | Tensor) -> list[Any]:
        """What a column holds for some rows (as for `take`) in any order; only their shards are read.

        Raises:
            GlocalError: it was not kept, or there are no such rows.
        """
        wanted = self._numbers(rows)
        shard = np.searchsorted(self._begin, wanted, side="right") - 1
        found: list[Any] = [None] * len(wanted)
        for number in np.unique(shard).tolist():
            here = np.flatnonzero(shard == number)
            try:
                column = pq.read_table(self.shards[number], columns=[name]).column(name)
            except (pa.ArrowException, KeyError, OSError) as error:
                raise GlocalError(f"{self.folder}: column {name!r} cannot be read: {error}") from error
            for place, one in zip(here, column.take(wanted[here] - self._begin[number]).to_pylist(), strict=True):
                found[place] = one
        return found

    def _numbers(self, rows: Sequence[int] | Tensor) -> np.ndarray:
        """Rows as users name them as numbers, (n,) int64."""
        wanted = np.asarray(rows)
        if wanted.dtype == bool and wanted.shape == (len(self),):
            return np.flatnonzero(wanted)
        if wanted.ndim != 1 or (wanted.dtype.kind not in "iu" and wanted.size):
            raise GlocalError(
                f"{self.folder}: rows are a list of whole numbers, or a mask of {len(self):,} truth values, not "
                f"{wanted.dtype} of shape {wanted.shape}"
            )
        wrong = wanted[(wanted < 0) | (wanted >= len(self))]
        if wrong.size:
            raise GlocalError(f"{self.folder}: there is no row {wrong[0]}; it has {len(self):,}, from 0 on")
        return wanted.astype(np.int64)

    def written(self, row: int) -> float:
        """When the shard of a row was written, in seconds of the file system's clock."""
        return self.shards[int(np.searchsorted(self._begin, row, side="right")) - 1].stat().st_mtime

    @cached_property
    def keys(self) -> list[str]:
        """Names of the images in their source, printable (`glocal.files.printable`)."""
        return self.column("key").to_pylist()  # type: ignore[no-any-return]

    @cached_property
    def paths(self) -> list[str | None]:
        """Absolute paths of the images, as they are opened; None for those that are no files."""
        return [None if path is None else unprintable(path) for path in self.column("path").to_pylist()]

    @cached_property
    def labels(self) -> list[str | None]:
        """Names of the images' classes; None for images without one."""
        return self.column("label").to_pylist()  # type: ignore[no-any-return]

    @property
    def signature(self) -> str:
        """A hash that is another one when embeddings were written anew: of their files' names, sizes and times."""
        found = hashlib.sha256(f"{self.about.fingerprint} {len(self)} {self.dim}".encode())
        for path in self.shards:
            status = path.stat()
            found.update(f"{path.name} {status.st_size} {status.st_mtime_ns}".encode())
        return found.hexdigest()

    @cached_property
    def source(self) -> Source | None:
        """The images themselves; None where they cannot be opened any more, or are no longer as many."""
        try:
            source = open_source(self.about.source, values=self.about.channels is not None)
        except GlocalError:
            return None
        decode_as(source, self.decoding)
        return source if len(source) == self.about.images else None

    @cached_property
    def sizes(self) -> np.ndarray:
        """Width and height of the images in pixels, (N, 2) int32."""
        return np.stack([np.asarray(self.column(name)) for name in ("width", "height")], axis=1)

    @cached_property
    def places(self) -> dict[str, int]:
        """The row of each key."""
        return {key: row for row, key in enumerate(self.keys)}


def read_about(folder: Path) -> About:
    """What `embeddings.json` in a folder says.

    Raises:
        GlocalError: there is no such folder or file, or it is of another format.
    """
    path = folder / ABOUT
    if not path.is_file():
        what, out = "there is no such folder", str(folder)
        if folder.exists():  # of images, or a run: embeddings have a folder of their own
            what, out = f"there is no {ABOUT} in it", f"embeddings/{folder.resolve().name}"
        raise GlocalError(f"{folder}: {what}; `glocal embed BACKBONE DATA --out {out}` makes embeddings")
    try:
        content: dict[str, Any] = read_json(path)
        if content.get("format") != FORMAT:
            raise GlocalError(f"{path}: format {content.get('format')!r}, but this glocal reads {FORMAT}")
        return About(**content)
    except (ValueError, TypeError, AttributeError, ValidationError) as error:
        raise GlocalError(f"{path} is damaged: {' '.join(str(error).split())[:200]}") from error


def shard_paths(folder: Path) -> list[Path]:
    """The shards of a folder, in order."""
    return sorted(folder.glob("shard-*.parquet"))


def shard_path(folder: Path, number: int) -> Path:
    """The file of a shard, by its number from 0."""
    return folder / f"shard-{number:05d}.parquet"
