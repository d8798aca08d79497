"""Measures of all images of a source: each file read and decoded once, and not again while it stays as it is."""

from __future__ import annotations

import hashlib
import os
import time
from collections.abc import Iterator
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

from glocal.console import note, progress_of, warn
from glocal.curation.hashes import hash_picture
from glocal.curation.measures import digest_of, kind_of, small_picture, tones_of
from glocal.curation.worked import applied
from glocal.data.sources.base import Source
from glocal.data.sources.opening import names_of
from glocal.errors import BrokenImageError
from glocal.files import printable, write_atomically
from glocal.signals import Stopped, StopSignals

VERSION = 2  # of the measures: those of another are not used
GRID = 16
_KEPT_AFTER = 20.0  # seconds of work that an end by force may cost

SCHEMA = pa.schema(
    [
        ("reason", pa.string()),  # why it cannot be read; null of readable images
        ("digest", pa.binary(32)),
        ("hash", pa.uint64()),  # null where none was wanted
        ("mirrored", pa.uint64()),  # that of the mirror image
        (
            "grid",
            pa.binary(GRID * GRID),
        ),  # grey values of the image at GRID × GRID pixels; null where no hash was wanted
        ("width", pa.int32()),
        ("height", pa.int32()),
        ("format", pa.string()),
        ("mode", pa.string()),
        ("orientation", pa.int8()),
        ("animated", pa.bool_()),
        ("transparent", pa.bool_()),
        ("light", pa.float32()),
        ("shade", pa.float32()),
        ("range", pa.float32()),
        ("chroma", pa.float32()),
        ("sharpness", pa.float32()),
    ]
)
"""Columns of the measures of images (`glocal.curation.measures` says what they mean)."""

_FILES = pa.schema([("path", pa.string()), ("bytes", pa.int64()), ("changed", pa.int64())])


def measure_image(source: Source, hashed: bool, index: int) -> dict[str, Any]:
    """The measures of one image of a source, with the names of `SCHEMA`; of an unreadable one only the reason.

    Args:
        source: of the image; a file is read and decoded once.
        hashed: with the perceptual hash.
        index: which image.
    """
    try:
        if hasattr(source, "open"):
            stored = source.open(index)
            picture, content, (height, width) = small_picture(stored), stored.content, stored.size
            kind = kind_of(content)
        else:
            content = source[index].image
            picture, (height, width), kind = small_picture(content), content.shape[1:], None
    except BrokenImageError as error:
        return {"reason": printable(error.reason)}
    found = {"digest": digest_of(content), "width": width, "height": height, **tones_of(picture)._asdict()}
    if kind is not None:
        found.update(kind._asdict())
    if hashed:
        found["hash"], found["mirrored"], _ = hash_picture(picture)
        found["grid"] = picture.convert("L").resize((GRID, GRID), Image.Resampling.BOX).tobytes()
    return found


def measure_all(
    source: Source,
    *,
    hashed: bool = True,
    cache: Path | None = None,
    workers: int | None = None,
    progress: bool = False,
) -> pa.Table:
    """The measures of all images of a source, a row for each in order.

    Those of files are kept: of a file whose size and time of change are the same they are not made again.

    Args:
        source: the images.
        hashed: with perceptual hashes.
        cache: folder for what was measured; None keeps nothing.
        workers: processes that read and decode; None chooses.
        progress: show how far it is.

    Raises:
        Stopped: after a signal that means stop; what was measured is kept.
    """
    files = _files(source) if cache is not None else None
    kept = None if files is None or cache is None else _Kept(cache, source, hashed)
    known: np.ndarray = np.full(len(source), -1) if files is None or kept is None else kept.rows(files)
    todo = np.flatnonzero(known < 0)
    made = [] if kept is None or kept.table is None else [kept.table.select(SCHEMA.names)]
    before = len(made[0]) if made else 0
    known[todo] = before + np.arange(len(todo))
    made += _measured(source, todo, hashed, workers, progress, files, kept)
    if not made:
        return SCHEMA.empty_table()
    table = pa.concat_tables(made).take(pa.array(known))
    if kept is not None and files is not None and len(todo):
        kept.replace(files, table)
    return table


def _measured(
    source: Source,
    todo: np.ndarray,
    hashed: bool,
    workers: int | None,
    progress: bool,
    files: pa.Table | None,
    kept: _Kept | None,
) -> Iterator[pa.Table]:
    """Measures some images, and gives what is measured to the store now and then, and before it stops."""
    rows: list[dict[str, Any]] = []
    done = 0
    since = time.monotonic()
    begun = len(source) - len(todo)

    def keep() -> pa.Table:
        nonlocal rows, since
        part = pa.Table.from_pylist(rows, SCHEMA)
        if kept is not None and files is not None:
            kept.add(files.take(pa.array(todo[done - len(rows) : done])), part)
        rows, since = [], time.monotonic()
        return part

    function = partial(measure_image, source, hashed)
    with (
        StopSignals() as stop,
        progress_of(f"checking {source.name}", "images", len(source), done=begun, visible=progress) as advance,
        closing(applied(function, todo.tolist(), workers=workers)) as parts,  # its processes end with this block
    ):
        for some in parts:
            rows += some
            done += len(some)
            advance(len(some))
            if stop.received is not None and done < len(todo):
                keep()
                raise Stopped(f"stopped after {begun + done:,} of {len(source):,} images", stop.received)
            if time.monotonic() - since > _KEPT_AFTER:
                yield keep()
        if rows:
            yield keep()


def _files(source: Source) -> pa.Table | None:
    """Path, size and time of change of each file of a source; None of sources that are no files."""
    if not hasattr(source, "files"):
        return None
    paths = source.files()
    states = [_state(path) for path in paths]
    return pa.table(
        {
            "path": [printable(path) for path in paths],
            "bytes": [s[0] for s in states],
            "changed": [s[1] for s in states],
        },
        _FILES,
    )


def _state(path: str) -> tuple[int, int]:
    try:
        status = os.stat(path)
    except OSError:  # it is measured, and told as unreadable
        return -1, -1
    return status.st_size, status.st_mtime_ns


class _Kept:
    """What was measured of a source's files before, in a folder of Parquet files.

    Args:
        cache: folder of all sources.
        source: the images.
        hashed: with perceptual hashes.
    """

    def __init__(self, cache: Path, source: Source, hashed: bool) -> None:
        names = names_of(source)
        decoding = str(getattr(source, "decoding", ""))
        where = [os.path.abspath(name) for name in ([names] if isinstance(names, str) else names)]
        content = "\0".join([str(VERSION), str(hashed), decoding, *where])
        self.folder = cache / hashlib.sha256(os.fsencode(content)).hexdigest()[:32]
        self.parts = sorted(self.folder.glob("*.parquet"))
        self.table: pa.Table | None = None
        found = [table for table in map(_readable, self.parts) if table is not None]
        if found:
            self.table = pa.concat_tables(found)

    def rows(self, files: pa.Table) -> np.ndarray:
        """For each file the row of its measures in `table`; −1 where there are none of it as it is now."""
        if self.table is None:
            return np.full(len(files), -1)
        places = {key: row for row, key in enumerate(_keys(self.table))}
        return np.array([places.get(key, -1) for key in _keys(files)], dtype=np.int64)

    def add(self, files: pa.Table, measures: pa.Table) -> None:
        """Keeps some more."""
        self._write(files, measures)

    def replace(self, files: pa.Table, measures: pa.Table) -> None:
        """Keeps these, and nothing else: one file in place of many, without images that are gone."""
        if self._write(files, measures):
            for path in self.parts[:-1]:
                path.unlink(missing_ok=True)
            self.parts = self.parts[-1:]

    def _write(self, files: pa.Table, measures: pa.Table) -> bool:
        table = pa.table([*files.columns, *measures.columns], pa.schema([*files.schema, *measures.schema]))
        path = self.folder / f"{time.time_ns():020d}-{os.getpid()}.parquet"
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            write_atomically(path, lambda file: pq.write_table(table, file, compression="zstd"))
        except OSError as error:  # costs only the time to measure again
            warn(f"{self.folder}: what was measured cannot be kept there: {error}")
            return False
        self.parts.append(path)
        return True


def _keys(files: pa.Table) -> Iterator[tuple[str, int, int]]:
    return zip(*(files.column(name).to_pylist() for name in _FILES.names), strict=True)


def _readable(path: Path) -> pa.Table | None:
    try:
        table = pq.read_table(path, memory_map=True)
        return table if table.schema.names == [*_FILES.names, *SCHEMA.names] else None
    except (pa.ArrowException, OSError) as error:
        note(f"{path} is damaged ({error}); its images are measured anew")
        return None
