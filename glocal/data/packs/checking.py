"""Whether the files of a pack are still what was written."""

from __future__ import annotations

import zlib
from pathlib import Path
from typing import NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq

from glocal.console import progress_of
from glocal.data.packs.layout import INDEX, ROWS, read_about
from glocal.data.sources.names import Names
from glocal.errors import GlocalError
from glocal.files import sha256


class Damage(NamedTuple):
    """A file of a pack that is not what was written: its name, what is wrong, and the names of images that are lost."""

    file: str
    reason: str
    images: list[str]


def check_pack(folder: str | Path, *, progress: bool = True) -> list[Damage]:
    """Compares the files of a pack with the checksums that were written with it.

    Args:
        folder: the pack.
        progress: show how far it is.

    Returns:
        The damaged files; none where all is as it was.

    Raises:
        GlocalError: it is no pack, or not a finished one.
    """
    place = Path(folder)
    about = read_about(place)
    if not about.finished:
        raise GlocalError(f"{place}: the pack is not finished; the same glocal pack goes on with it")
    found = []
    rows: pa.Table | None = None
    if wrong := _wrong(place / INDEX, None, about.index):
        found.append(Damage(INDEX, wrong, []))
    else:
        rows = pq.read_table(place / INDEX, schema=ROWS)
    first = 0
    with progress_of(f"checking {place}", "shards", len(about.shards), visible=progress) as advance:
        for shard in about.shards:
            if wrong := _wrong(place / shard.file, shard.bytes, shard.sha256):
                own = None if rows is None else rows.slice(first, shard.images)
                found.append(Damage(shard.file, wrong, [] if own is None else damaged_images(place / shard.file, own)))
            first += shard.images
            advance(1)
    return found


def damaged_images(path: Path, rows: pa.Table) -> list[str]:
    """The names of those images of a shard whose bytes are not those that their checksums are of.

    Args:
        path: the shard.
        rows: of the index, its own.
    """
    names = Names(rows["name"].combine_chunks())
    try:
        with pa.OSFile(str(path)) as file:
            places = zip(*(rows[column].to_pylist() for column in ("offset", "bytes", "crc32")), strict=True)
            whole = [zlib.crc32(file.read_at(length, offset)) == known for offset, length, known in places]
    except OSError:
        return list(names)
    return [name for name, good in zip(names, whole, strict=True) if not good]


def _wrong(path: Path, size: int | None, known: str) -> str:
    """What is wrong with a file, in words; "" where nothing is."""
    try:
        if size is not None and path.stat().st_size != size:
            return f"has {path.stat().st_size:,} bytes, not {size:,}"
        return "" if sha256(path) == known else "has other bytes than were written"
    except FileNotFoundError:
        return "is not there"
    except OSError as error:
        return f"cannot be read: {error.strerror}"
