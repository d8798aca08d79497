"""Perceptual hashes of the images behind a folder of embeddings, computed once and kept beside them.

The hash is `imagehash.phash`: which of the lowest 64 frequencies of the grey image at 32×32 pixels are above their
median. It stays when an image is resized, compressed or turned grey. That of the mirrored image is kept too, so that
mirrored copies are found; crops change it, and are left to the embeddings.
"""

from __future__ import annotations

import hashlib
import io
import os
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image, ImageOps

from glocal.console import note, progress_bar, tell, warn
from glocal.curation.bits import hash_distance
from glocal.curation.worked import applied
from glocal.data.decoding.images import open_image
from glocal.data.decoding.reading import read_file
from glocal.embeddings.folder import ABOUT, Embeddings
from glocal.errors import BrokenImageError, GlocalError, counted
from glocal.files import write_atomically

KEPT = "hashes.parquet"
_FORMAT = b"1"
_SIDE = 32  # of the image that `imagehash.phash` transforms
_BLANK = 2.0  # grey levels: the spread below which noise decides the hash
_THUMBNAILS = 4096  # at a time
_SAVED = 60  # seconds of work that may be lost
_LONG = 60  # seconds of work that are worth a line

FILE, THUMBNAIL, MISSING, BROKEN = 1, 2, 3, 4
"""What the hash of a row is of, or why it has none; 0 where nothing is known yet."""


@dataclass(frozen=True)
class Hashes:
    """What is known of the images of a folder of embeddings, row by row.

    Attributes:
        state: (N,) uint8: FILE, THUMBNAIL (of images that are no files, or are no longer there), MISSING, BROKEN.
        straight: (N,) uint64, the hash of the image.
        mirrored: (N,) uint64, the hash of the mirrored image.
        spread: (N,) float32, standard deviation of its grey levels at 32×32 pixels.
        content: (N,) uint64, a hash of the file's bytes; 0 where there is no file.
        bytes: (N,) int64, the file's size; 0 where there is no file.
        time: (N,) int64, when the file was changed last, in nanoseconds.
        place: (N,) uint64, a hash of the file's path.
    """

    state: np.ndarray
    straight: np.ndarray
    mirrored: np.ndarray
    spread: np.ndarray
    content: np.ndarray
    bytes: np.ndarray
    time: np.ndarray
    place: np.ndarray

    @classmethod
    def empty(cls, rows: int) -> Hashes:
        """Nothing known of so many rows."""
        return cls(**{field.name: np.zeros(rows, _TYPES[field.name]) for field in fields(cls)})

    def __len__(self) -> int:
        return len(self.state)

    @property
    def usable(self) -> np.ndarray:
        """(N,) bool: there is a hash, and the image is not blank."""
        return np.isin(self.state, (FILE, THUMBNAIL)) & (self.spread >= _BLANK)

    def distance(self, first: np.ndarray, second: np.ndarray) -> np.ndarray:
        """In how many of 64 bits the hashes of rows differ, the one mirrored if that is nearer, uint8."""
        straight = hash_distance(self.straight[first], self.straight[second])
        one = hash_distance(self.straight[first], self.mirrored[second])
        other = hash_distance(self.mirrored[first], self.straight[second])
        return np.minimum(straight, np.minimum(one, other))

    def same_bytes(self, first: np.ndarray, second: np.ndarray) -> np.ndarray:
        """Whether the files of rows hold the same bytes."""
        files = (self.state[first] == FILE) & (self.state[second] == FILE)
        return files & (self.content[first] == self.content[second]) & (self.bytes[first] == self.bytes[second])


_TYPES: dict[str, Any] = {
    "state": np.uint8,
    "straight": np.uint64,
    "mirrored": np.uint64,
    "spread": np.float32,
    "content": np.uint64,
    "bytes": np.int64,
    "time": np.int64,
    "place": np.uint64,
}


class _Job(NamedTuple):
    row: int
    key: str
    path: str | None
    thumbnail: bytes | None


class _Done(NamedTuple):
    row: int
    values: dict[str, Any]
    reason: str | None


def hash_images(embeddings: Embeddings, *, workers: int | None = None, progress: bool = True) -> Hashes:
    """Perceptual hashes of the images of a folder of embeddings.

    They are kept in `hashes.parquet` in that folder while they are computed, and taken from there as long as a file's
    path, size and time are the same. Where an image is no file, or its file is gone, its thumbnail is hashed.

    Args:
        embeddings: of the images.
        workers: processes that decode; None chooses, 0 takes this one.
        progress: show a progress bar; where there is no terminal, one line says how long it takes, if that is long.

    Raises:
        GlocalError: `imagehash` is not installed.
    """
    check_imagehash()
    hashes = _kept(embeddings)
    paths = embeddings.paths
    sizes, times, places = _look_at(paths)
    there = sizes >= 0
    is_file = np.array([path is not None for path in paths])
    same = (hashes.bytes == sizes) & (hashes.time == times) & (hashes.place == places)
    fresh = np.isin(hashes.state, (FILE, BROKEN)) & there & same
    fresh |= (hashes.state == THUMBNAIL) & ~there
    for field in fields(Hashes):
        getattr(hashes, field.name)[~fresh] = 0
    hashes.place[:] = places
    rows = (~fresh).nonzero()[0]
    if len(rows):
        _compute(embeddings, hashes, rows, there, workers, progress)
    _tell_of_missing(embeddings, hashes, is_file & ~there)
    return hashes


def check_imagehash() -> None:
    """Raises GlocalError where `imagehash` is not installed."""
    try:
        import imagehash  # noqa: F401
    except ImportError:
        raise GlocalError(
            "perceptual hashes need imagehash: pip install 'glocal[duplicates]'; --no-hashes goes without them"
        ) from None


def _look_at(paths: Sequence[str | None]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Sizes (−1 where there is no file), times and hashes of paths."""
    sizes, times = np.full(len(paths), -1, np.int64), np.zeros(len(paths), np.int64)
    places = np.zeros(len(paths), np.uint64)
    for row, path in enumerate(paths):
        if path is None:
            continue
        places[row] = _digest(os.fsencode(path))
        try:
            found = os.stat(path)
        except (OSError, ValueError):
            continue
        sizes[row], times[row] = found.st_size, found.st_mtime_ns
    return sizes, times, places


def _digest(content: bytes) -> int:
    return int.from_bytes(hashlib.blake2b(content, digest_size=8).digest(), "little")


def _compute(
    embeddings: Embeddings,
    hashes: Hashes,
    rows: np.ndarray,
    there: np.ndarray,
    workers: int | None,
    progress: bool,
) -> None:
    """Fills in rows, and saves now and then and whatever happens."""
    begun = saved = time.monotonic()
    told = False
    done = 0
    broken: list[str] = []
    try:
        with progress_bar("images", visible=progress) as bar:
            task = bar.add_task("perceptual hashes", total=len(rows))
            for batch in _results(embeddings, rows, there, workers):
                for row, values, reason in batch:
                    for name, value in values.items():
                        getattr(hashes, name)[row] = value
                    if reason is not None:
                        broken.append(f"{embeddings.keys[row]}: {reason}")
                done += len(batch)
                bar.update(task, advance=len(batch))
                now = time.monotonic()
                if not told and now - begun > 5:
                    told = True
                    left = (now - begun) / done * (len(rows) - done)
                    if progress and bar.disable and left > _LONG:
                        tell(f"perceptual hashes of {len(rows):,} images: about {left / 60:.0f} min left")
                if now - saved > _SAVED:
                    save_hashes(embeddings.folder, hashes)
                    saved = time.monotonic()
    finally:
        save_hashes(embeddings.folder, hashes)
    if broken:
        warn(f"{counted(len(broken), 'image')} cannot be decoded and take part without hashes, the first: {broken[0]}")


def _results(
    embeddings: Embeddings, rows: np.ndarray, there: np.ndarray, workers: int | None
) -> Iterator[Sequence[_Done]]:
    """What is found for rows: files in other processes, thumbnails in this one, where pyarrow can read them."""
    paths, keys = embeddings.paths, embeddings.keys
    files = [_Job(row, keys[row], paths[row], None) for row in rows[there[rows]].tolist()]
    yield from applied(_hashed, files, workers=workers)
    others = rows[~there[rows]].tolist()
    for start in range(0, len(others), _THUMBNAILS):
        few = others[start : start + _THUMBNAILS]
        for row, thumbnail in zip(few, embeddings.thumbnails(few), strict=True):
            yield [_hashed(_Job(row, keys[row], None, thumbnail))]


def _hashed(job: _Job) -> _Done:
    """What a process finds for an image."""
    row, key, path, thumbnail = job
    if path is None and thumbnail is None:
        return _Done(row, {"state": MISSING}, None)
    known: dict[str, Any] = {}
    try:
        if path is not None:
            status = os.stat(path)
            content = read_file(path)
            known = {"bytes": status.st_size, "time": status.st_mtime_ns, "content": _digest(content)}
        else:
            content = thumbnail or b""
        straight, mirrored, spread = hash_content(content, key)
    except FileNotFoundError:
        return _Done(row, {"state": MISSING}, None)
    except (OSError, BrokenImageError) as error:
        return _Done(row, {"state": BROKEN, **known}, getattr(error, "reason", None) or str(error))
    state = THUMBNAIL if path is None else FILE
    return _Done(row, {"state": state, "straight": straight, "mirrored": mirrored, "spread": spread, **known}, None)


def hash_content(content: bytes, key: str) -> tuple[int, int, float]:
    """The perceptual hashes of an image file in memory and of its mirror image, and the spread of its grey levels.

    Raises:
        BrokenImageError: it cannot be decoded.
    """
    stored = open_image(io.BytesIO(content), key)
    height, width = stored.size
    factor = stored.reduction([(0, 0, width, height)], [_SIDE])
    reduced = factor > 1
    image = stored.read_reduced(factor).image if reduced else Image.fromarray(stored.read().permute(1, 2, 0).numpy())
    return hash_picture(image)


def hash_picture(image: Image.Image) -> tuple[int, int, float]:
    """The perceptual hashes of an image and of its mirror image, and the spread of its grey levels."""
    from imagehash import phash

    small = image.convert("L").resize((_SIDE, _SIDE), Image.Resampling.LANCZOS)  # as phash does
    straight, mirrored = (
        int.from_bytes(np.packbits(phash(one).hash).tobytes(), "big") for one in (small, ImageOps.mirror(small))
    )
    return straight, mirrored, float(np.asarray(small, np.float32).std())


def save_hashes(folder: Path, hashes: Hashes) -> None:
    """Keeps hashes beside the embeddings that they are of; where the folder cannot be written, a warning says so."""
    table = pa.table({field.name: getattr(hashes, field.name) for field in fields(Hashes)})
    table = table.replace_schema_metadata({"format": _FORMAT, "embeddings": _stamp(folder)})
    try:
        write_atomically(folder / KEPT, lambda file: pq.write_table(table, file, compression="zstd"))
    except OSError as error:
        warn(f"{folder / KEPT} cannot be written ({error.strerror}): the hashes will be computed again")


def _stamp(folder: Path) -> bytes:
    """Another one for embeddings that were written anew."""
    return str((folder / ABOUT).stat().st_mtime_ns).encode()


def _kept(embeddings: Embeddings) -> Hashes:
    """What an earlier command has written; nothing known where that is of other rows or cannot be read."""
    path = embeddings.folder / KEPT
    if not path.is_file():
        return Hashes.empty(len(embeddings))
    try:
        table = pq.read_table(path)
        if (table.schema.metadata or {}).get(b"format") != _FORMAT or len(table) != len(embeddings):
            return Hashes.empty(len(embeddings))
        hashes = Hashes(**{name: table.column(name).to_numpy().astype(kind) for name, kind in _TYPES.items()})
        if table.schema.metadata.get(b"embeddings") != _stamp(embeddings.folder):
            hashes.state[hashes.state == THUMBNAIL] = 0  # thumbnails have no time of their own
        return hashes
    except (pa.ArrowException, KeyError, OSError, ValueError):
        note(f"{path} cannot be read: the hashes are computed again")
        return Hashes.empty(len(embeddings))


def _tell_of_missing(embeddings: Embeddings, hashes: Hashes, gone: np.ndarray) -> None:
    """Says which files are no longer where they were."""
    if gone.any():
        rows = gone.nonzero()[0]
        shown = int((hashes.state[rows] == THUMBNAIL).sum())
        what = "their thumbnails were hashed" if shown == len(rows) else "they take part by their embeddings alone"
        if 0 < shown < len(rows):
            what = f"the thumbnails of {shown} were hashed, the others take part by their embeddings alone"
        first = embeddings.paths[int(rows[0])]
        warn(f"{counted(len(rows), 'file')} no longer where {embeddings.folder} says, {first} among them: {what}")
