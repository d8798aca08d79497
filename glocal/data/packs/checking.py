"""Whether the files of a pack are still what was written."""

from __future__ import annotations

import zlib
from pathlib import Path
from typing import NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq

from glocal.console import progress_of
from glocal.data.packs.layout import INDEX, ROWS, About, read_about
from glocal.data.sources.names import Names
from glocal.errors import GlocalError
from glocal.files import sha256
from glocal.regular import check_regular


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
    wrong = wrong_files(place, about, progress=progress)
    rows = None if INDEX in wrong else pq.read_table(place / INDEX, schema=ROWS)
    first = 0
    if INDEX in wrong:
        found.append(Damage(INDEX, wrong[INDEX], []))
    for shard in about.shards:
        if shard.file in wrong:
            own = None if rows is None else rows.slice(first, shard.images)
            images = [] if own is None else damaged_images(place / shard.file, own)
            found.append(Damage(shard.file, wrong[shard.file], images))
        first += shard.images
    return found


def wrong_files(folder: Path, about: About, *, whole: bool = True, progress: bool = True) -> dict[str, str]:
    """What is wrong with the files of a finished pack, by their names.

    Args:
        folder: the pack.
        about: what it says of itself.
        whole: compare the checksums of shards, which takes as long as reading them; else their sizes alone.
        progress: show how far it is.
    """
    found = {INDEX: _wrong(folder / INDEX, None, about.index)}
    with progress_of(f"checking {folder}", "shards", len(about.shards), visible=progress and whole) as advance:
        for shard in about.shards:
            found[shard.file] = _wrong(folder / shard.file, shard.bytes, shard.sha256 if whole else None)
            advance(1)
    return {name: wrong for name, wrong in found.items() if wrong}


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


def _wrong(path: Path, size: int | None, known: str | None) -> str:
    """What is wrong with a file, in words; "" where nothing is."""
    try:
        check_regular(path)
        if size is not None and path.stat().st_size != size:
            return f"has {path.stat().st_size:,} bytes, not {size:,}"
        return "" if known is None or sha256(path) == known else "has other bytes than were written"
    except FileNotFoundError:
        return "is not there"
    except OSError as error:
        return f"cannot be read: {error.strerror}"
