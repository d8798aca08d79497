"""Packing the files of many images into a few large ones."""

from __future__ import annotations

import itertools
import os
import shutil
import zlib
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import IO, Any, NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq

from glocal.console import progress_of
from glocal.data.lanes.skipped import tell_unreadable
from glocal.data.packs.checking import damaged_images
from glocal.data.packs.layout import (
    ABOUT,
    INDEX,
    ROWS,
    UNFINISHED,
    About,
    Shard,
    To,
    hash_of_names,
    read_about,
    write_about,
)
from glocal.data.packs.writing import ParquetShard, ShardWriter, TarShard
from glocal.data.sources.base import Source
from glocal.data.sources.names import Names
from glocal.data.sources.opening import Images, names_of, open_source
from glocal.errors import BrokenImageError, GlocalError, did_you_mean
from glocal.files import check_output_folder, sha256, write_atomically
from glocal.signals import Stopped, StopSignals

_WRITERS: dict[To, type[TarShard] | type[ParquetShard]] = {"parquet": ParquetShard, "tar": TarShard}
_AT_ONCE, _READERS = 64, 8  # files that are read ahead, and threads that read: a network answers many as fast as one
_ENDS = 20_000  # bytes of a shard beside its images: the end of a tar file, what a Parquet file says of itself


class _Read(NamedTuple):
    number: int
    name: str
    content: bytes


def pack(
    data: Images,
    out: str | Path,
    to: To = "parquet",
    *,
    shard_megabytes: int = 256,
    values: bool = False,
    progress: bool = True,
) -> About:
    """Writes the files of images, byte for byte, into shards in a folder that is then a source itself.

    The pack has the folder's images, names and classes in the same order: a training on it is that on the folder. An
    image whose file cannot be read is packed as an empty one, which a training replaces as it would have replaced it.

    A pack that was stopped, in whatever way, is continued by the same call: shards that are whole stay as they are.

    Args:
        data: a folder, a list, another pack, or several of these (`glocal.data.sources.opening.open_source`).
        out: the folder of the pack.
        to: parquet, or tar in WebDataset's convention.
        shard_megabytes: no shard is larger, but one of a single image.
        values: arrays and DICOM files are images as well (`data.channels`).
        progress: show how far it is.

    Returns:
        What was written.

    Raises:
        GlocalError: wrong options; images that are no files; another pack or other files are in the folder; the images
            are gone, or the folder cannot be written.
        Stopped: Ctrl-C, SIGTERM or another signal that means stop (`glocal.signals`).

    >>> glocal.pack("photos/", "packed/photos")  # doctest: +SKIP
    """
    if to not in _WRITERS:
        raise GlocalError(f"--to {to}: {did_you_mean(to, _WRITERS)}")
    if shard_megabytes < 1:
        raise GlocalError(f"--shard-megabytes {shard_megabytes}: a shard takes at least 1")
    folder = Path(out)
    source = open_source(data, without=folder, values=values)
    if not hasattr(source, "content"):
        raise GlocalError(f"{source.name}: its images are no files; folders, lists and packs can be packed")
    check_output_folder(folder)
    named = names_of(source)
    about = About(
        to,
        named if isinstance(named, str) else " + ".join(named),
        len(source),
        hash_of_names(source.keys),
        source.classes,
        shard_megabytes,
    )
    before = _begun(folder, about)
    if before is not None and before.finished:
        shutil.rmtree(folder / UNFINISHED, ignore_errors=True)
        return before
    try:
        write_about(folder, about)
        return _packed(source, folder, about, progress=progress)
    except OSError as error:
        raise GlocalError(
            f"{folder}: cannot be written: {error.strerror}; the same command goes on when that is mended"
        ) from error


def _begun(folder: Path, about: About) -> About | None:
    """What the folder's pack says; None where there is none.

    Raises:
        GlocalError: it is of other images, or the folder holds something else.
    """
    if not (folder / ABOUT).is_file():
        other = next((name for name in sorted(os.listdir(folder)) if not name.startswith(".")), None)
        if other is not None:
            raise GlocalError(f"--out {folder}: it holds {other}; give a folder of its own to the pack")
        return None
    before = read_about(folder)
    for what, old, new in (
        ("packed to", before.to, about.to),
        ("number of images", before.images, about.images),
        ("names of images", before.names, about.names),
        ("classes", before.classes, about.classes),
        ("megabytes of a shard", before.shard_megabytes, about.shard_megabytes),
    ):
        if old != new:
            shown = "are others" if what in {"names of images", "classes"} else f"{old}, not {new}"
            raise GlocalError(f"--out {folder}: it holds another pack ({what}: {shown}); choose another folder")
    return before


def _packed(source: Source, folder: Path, about: About, *, progress: bool) -> About:
    unfinished = folder / UNFINISHED
    unfinished.mkdir(exist_ok=True)
    for path in (*folder.glob(".*.part"), *unfinished.glob(".*.part")):  # of a process that was killed
        path.unlink(missing_ok=True)
    shards = _whole_shards(source, folder)
    first = sum(shard.images for shard in shards)
    broken: list[BrokenImageError] = []
    with (
        StopSignals() as stop,
        ThreadPoolExecutor(_READERS) as pool,
        progress_of(f"packing {source.name}", "images", len(source), done=first, visible=progress) as advance,
    ):

        def noted(images: Iterable[_Read]) -> Iterator[_Read]:
            for image in images:
                if stop.received is not None:
                    raise Stopped(f"stopped after {image.number:,} of {len(source):,} images", stop.received)
                yield image
                advance(1)

        images = _Ahead(noted(_read(source, first, pool, broken)))
        while images.next is not None:
            shards.append(_write_shard(source, folder, about, len(shards), images))
    tell_unreadable(source.name, len(source), broken, "are packed as empty files")
    parts = [pq.read_table(unfinished / f"{number:05d}.parquet", schema=ROWS) for number in range(len(shards))]
    write_atomically(folder / INDEX, lambda file: _write_index(file, parts))
    finished = replace(about, shards=tuple(shards), index=sha256(folder / INDEX))
    write_about(folder, finished)
    shutil.rmtree(unfinished, ignore_errors=True)
    return finished


def _whole_shards(source: Source, folder: Path) -> list[Shard]:
    """The shards of a call before that can stay: their own images come next, of the same sizes."""
    found: list[Shard] = []
    first = 0
    for number in itertools.count():
        path = folder / UNFINISHED / f"{number:05d}.parquet"
        try:
            rows = pq.read_table(path)
            shard = Shard(**{k.decode(): v.decode() for k, v in rows.schema.metadata.items()})  # type: ignore[arg-type]
            shard = replace(shard, images=int(shard.images), bytes=int(shard.bytes))
            names = Names(rows["name"].combine_chunks())
            same = names == source.keys[first : first + len(names)]
            if not (same and (folder / shard.file).stat().st_size == shard.bytes):
                return found
            if not all(_size(source, first + n) == size for n, size in enumerate(rows["bytes"].to_pylist())):
                return found
        except (OSError, pa.ArrowException, TypeError, KeyError, ValueError, AttributeError):
            return found
        found.append(shard)
        first += shard.images
    raise AssertionError


def _size(source: Source, index: int) -> int:
    """Bytes of an image's file now; −1 where it cannot be read."""
    try:
        path = source.file(index) if hasattr(source, "file") else None
        return os.stat(path).st_size if isinstance(path, str | Path) else len(source.content(index))  # type: ignore[attr-defined]
    except (OSError, BrokenImageError):
        return -1


def _read(source: Any, first: int, pool: ThreadPoolExecutor, broken: list[BrokenImageError]) -> Iterator[_Read]:
    """The files of the images from `first` on, in order; of an unreadable one an empty content.

    Raises:
        GlocalError: the folder of an image is gone.
    """

    def content(index: int) -> bytes | BrokenImageError:
        try:
            return bytes(source.content(index))
        except BrokenImageError as error:
            return error

    for begin in range(first, len(source), _AT_ONCE):
        indices = range(begin, min(begin + _AT_ONCE, len(source)))
        for index, found in zip(indices, pool.map(content, indices), strict=True):
            if isinstance(found, BrokenImageError):
                if found.gone:
                    raise GlocalError(f"{found.gone} is gone, with {found.key} in it; when it is back, pack again")
                broken.append(found)
                found = b""
            yield _Read(index, source.keys[index], found)


class _Ahead:
    """Images of which the next one can be looked at."""

    def __init__(self, images: Iterator[_Read]) -> None:
        self._images = images
        self.next = next(images, None)

    def take(self) -> _Read:
        """The next one, behind which another comes to be the next."""
        taken = self.next
        assert taken is not None
        self.next = next(self._images, None)
        return taken


def _write_shard(source: Source, folder: Path, about: About, number: int, images: _Ahead) -> Shard:
    """Writes one shard and its part of the index, and looks whether each image lies where that says."""
    path = folder / f"shard-{number:05d}.{about.to}"
    columns: dict[str, list[Any]] = {name: [] for name in ROWS.names}
    limit = about.shard_megabytes * 1_000_000 - _ENDS

    def write(file: IO[bytes]) -> None:
        writer: ShardWriter = _WRITERS[about.to](file, about.classes)
        filled = 0
        while (following := images.next) is not None:
            room = len(following.content) + writer.beside + 16 * len(following.name)
            if filled and filled + room > limit:
                break
            filled += room
            index, name, content = images.take()
            label = -1 if source.labels is None else int(source.labels[index])
            writer.add(index, name, label, content)
            for column, value in (
                ("name", name.encode("utf-8", "surrogateescape")),
                ("label", label),
                ("shard", number),
                ("bytes", len(content)),
                ("crc32", zlib.crc32(content)),
            ):
                columns[column].append(value)
        columns["offset"] = writer.finish()

    write_atomically(path, write)
    rows = pa.table(columns, ROWS)
    if wrong := damaged_images(path, rows):
        raise GlocalError(f"{path}: {wrong[0]} does not lie there as it was written; the disk may be failing")
    shard = Shard(path.name, len(rows), path.stat().st_size, sha256(path))
    known = {"file": shard.file, "images": str(shard.images), "bytes": str(shard.bytes), "sha256": shard.sha256}
    kept = rows.replace_schema_metadata(known)
    write_atomically(folder / UNFINISHED / f"{number:05d}.parquet", lambda file: pq.write_table(kept, file))
    return shard


def _write_index(file: IO[bytes], parts: list[pa.Table]) -> None:
    with pq.ParquetWriter(file, ROWS, compression="zstd") as writer:
        for part in parts:
            writer.write_table(part.cast(ROWS))
