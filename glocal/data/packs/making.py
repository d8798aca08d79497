"""Packing the files of many images into a few large ones."""

from __future__ import annotations

import os
import shutil
import zlib
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import IO, Any, NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq

from glocal.console import note, progress_of
from glocal.data.lanes.skipped import tell_unreadable
from glocal.data.packs.checking import damaged_images, wrong_files
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
from glocal.locking import alone
from glocal.signals import Stopped, StopSignals

_WRITERS: dict[To, type[TarShard] | type[ParquetShard]] = {"parquet": ParquetShard, "tar": TarShard}
_AT_ONCE, _READERS = 64, 8  # files that are read ahead, and threads that read: a network answers many as fast as one
_LOCK, _NAMED = ".lock", 3
_TO_WRITE = -2  # bytes of a shard that no file has
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
    check: bool = False,
    progress: bool = True,
) -> About:
    """Writes the files of images, byte for byte, into shards in a folder that is then a source itself.

    The pack has the folder's images, names and classes in the same order: a training on it is that on the folder. An
    image whose file cannot be read is packed as an empty one, which a training replaces as it would have replaced it.

    A pack that was stopped, in whatever way, is continued by the same call, and one whose files are gone or of another
    size is mended: shards that are whole stay as they are.

    Args:
        data: a folder, a list, another pack, or several of these (`glocal.data.sources.opening.open_source`).
        out: the folder of the pack.
        to: parquet, or tar in WebDataset's convention.
        shard_megabytes: no shard is larger, but one of a single image.
        values: arrays and DICOM files are images as well (`data.channels`).
        check: of a finished pack, compare checksums and not sizes alone: shards with other bytes are written again.
        progress: show how far it is.

    Returns:
        What was written.

    Raises:
        GlocalError: wrong options; images that are no files; another pack or other files are in the folder, or another
            call is writing to it; the images are gone, or the folder cannot be written.
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
    try:
        with alone(folder / _LOCK):
            before = _begun(folder, about)
            if before is not None and before.finished:
                wrong = wrong_files(folder, before, whole=check, progress=progress)
                if not wrong:
                    shutil.rmtree(folder / UNFINISHED, ignore_errors=True)
                    return before
                some = ", ".join(f"{name} {reason}" for name, reason in list(wrong.items())[:_NAMED])
                note(f"{folder}: {some}{', …' if len(wrong) > _NAMED else ''}: written again")
                _reopen(folder, before, wrong)
            write_about(folder, about)
            return _packed(source, folder, about, progress=progress)
    except BlockingIOError:
        raise GlocalError(
            f"--out {folder}: another glocal pack is writing there; wait for it, or choose another folder"
        ) from None
    except OSError as error:
        raise GlocalError(
            f"{folder}: cannot be written: {error.strerror or error}; the same command goes on when that is mended"
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
    shards: list[Shard] = []
    first = 0
    broken: list[BrokenImageError] = []
    with (
        StopSignals() as stop,
        ThreadPoolExecutor(_READERS) as pool,
        progress_of(f"packing {source.name}", "images", len(source), visible=progress) as advance,
    ):

        def noted(images: Iterable[_Read]) -> Iterator[_Read]:
            for image in images:
                if stop.received is not None:
                    raise Stopped(f"stopped after {image.number:,} of {len(source):,} images", stop.received)
                yield image
                advance(1)

        while shard := _shard_before(source, folder, len(shards), first):  # of a call before
            if shard.bytes != _size_of(folder / shard.file):
                images = _Ahead(noted(_read(source, first, first + shard.images, pool, broken)))
                shard = _write_shard(source, folder, about, len(shards), images)
                known = images.next is None  # else its images have changed meanwhile, and not all fit
            else:
                known = True
                advance(shard.images)
            shards.append(shard)
            first += shard.images
            if not known:
                break
        images = _Ahead(noted(_read(source, first, len(source), pool, broken)))
        while images.next is not None:
            shards.append(_write_shard(source, folder, about, len(shards), images))
    tell_unreadable(source.name, len(source), broken, "are packed as empty files")
    parts = [pq.read_table(unfinished / f"{number:05d}.parquet", schema=ROWS) for number in range(len(shards))]
    write_atomically(folder / INDEX, lambda file: _write_index(file, parts))
    finished = replace(about, shards=tuple(shards), index=sha256(folder / INDEX))
    write_about(folder, finished)
    shutil.rmtree(unfinished, ignore_errors=True)
    return finished


def _shard_before(source: Source, folder: Path, number: int, first: int) -> Shard | None:
    """A shard of a call before whose own images come next, of the same sizes; its file may be gone."""
    try:
        rows = pq.read_table(folder / UNFINISHED / f"{number:05d}.parquet")
        shard = Shard(**{k.decode(): v.decode() for k, v in rows.schema.metadata.items()})  # type: ignore[arg-type]
        shard = replace(shard, images=int(shard.images), bytes=int(shard.bytes))
        names = Names(rows["name"].combine_chunks())
        same = names == source.keys[first : first + len(names)]
        if same and all(_size(source, first + n) == size for n, size in enumerate(rows["bytes"].to_pylist())):
            return shard
    except (OSError, pa.ArrowException, TypeError, KeyError, ValueError, AttributeError):
        pass
    return None


def _size(source: Source, index: int) -> int:
    """Bytes of an image's file now; −1 where it cannot be read."""
    try:
        path = source.file(index) if hasattr(source, "file") else None
        return os.stat(path).st_size if isinstance(path, str | Path) else len(source.content(index))  # type: ignore[attr-defined]
    except (OSError, BrokenImageError):
        return -1


def _size_of(path: Path) -> int:
    """Bytes of a file; −1 where there is none."""
    try:
        return path.stat().st_size
    except OSError:
        return -1


def _read(
    source: Any, first: int, end: int, pool: ThreadPoolExecutor, broken: list[BrokenImageError]
) -> Iterator[_Read]:
    """The files of the images from `first` up to `end`, in order; of an unreadable one an empty content.

    Raises:
        GlocalError: the folder of an image is gone.
    """

    def content(index: int) -> bytes | BrokenImageError:
        try:
            return bytes(source.content(index))
        except BrokenImageError as error:
            return error

    for begin in range(first, end, _AT_ONCE):
        indices = range(begin, min(begin + _AT_ONCE, end))
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
    _write_part(folder, number, shard, rows)
    return shard


def _write_part(folder: Path, number: int, shard: Shard, rows: pa.Table) -> None:
    """What is known of a shard while the pack is not finished: its part of the index."""
    known = {"file": shard.file, "images": str(shard.images), "bytes": str(shard.bytes), "sha256": shard.sha256}
    kept = rows.replace_schema_metadata(known)
    write_atomically(folder / UNFINISHED / f"{number:05d}.parquet", lambda file: pq.write_table(kept, file))


def _reopen(folder: Path, about: About, wrong: Mapping[str, str]) -> None:
    """Makes a finished pack one that was stopped, of which the wrong files are still to be written."""
    shutil.rmtree(folder / UNFINISHED, ignore_errors=True)
    if INDEX in wrong:  # and what lies where is not known
        return
    (folder / UNFINISHED).mkdir()
    rows, first = pq.read_table(folder / INDEX, schema=ROWS), 0
    for number, shard in enumerate(about.shards):
        there = replace(shard, bytes=_TO_WRITE) if shard.file in wrong else shard
        _write_part(folder, number, there, rows.slice(first, shard.images))
        first += shard.images


def _write_index(file: IO[bytes], parts: list[pa.Table]) -> None:
    with pq.ParquetWriter(file, ROWS, compression="zstd") as writer:
        for part in parts:
            writer.write_table(part.cast(ROWS))
