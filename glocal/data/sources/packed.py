"""A pack as a source: any image is read from its place in its shard."""

from __future__ import annotations

import hashlib
import io
import os
import zlib
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch

from glocal.data.packs.layout import ABOUT, INDEX, ROWS, About, read_about
from glocal.data.sources.encoded import EncodedImages
from glocal.data.sources.names import Names
from glocal.errors import BrokenImageError, GlocalError
from glocal.files import sha256
from glocal.regular import check_regular

_MEND = "the same glocal pack writes it again"
_OPEN = 64  # shards that a process keeps open


class PackedImages(EncodedImages):
    """The images of a folder that `glocal pack` wrote, with the names and classes that they had.

    Args:
        folder: the pack.

    Attributes:
        digest: a hash of all images.

    Raises:
        GlocalError: the pack is not finished, a shard is missing or has another size, or the index is damaged.
    """

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder)
        about = read_about(self.folder)
        if not about.finished:
            raise GlocalError(f"{folder}: the pack is not finished; the same glocal pack goes on with it")
        for shard in about.shards:
            self._check_there(self.folder / shard.file, shard.bytes)
        index = self.folder / INDEX
        self._check_there(index, None)
        if sha256(index) != about.index:
            raise GlocalError(f"{index} is damaged; {_MEND}")
        rows = pq.read_table(index, schema=ROWS)
        if not _fits(about, rows):
            raise GlocalError(f"{self.folder / ABOUT} is damaged; remove {folder} and pack the images again")
        labels = None if about.classes is None else torch.from_numpy(rows["label"].to_numpy().copy())
        super().__init__(str(folder), Names(rows["name"].combine_chunks()), labels, about.classes)
        columns = ("shard", "offset", "bytes", "crc32")
        self._shard, self._offset, self._bytes, self._crc = (rows[name].to_numpy().copy() for name in columns)
        self._shards = [self.folder / shard.file for shard in about.shards]
        self._open: dict[int, pa.OSFile] = {}
        self._process = os.getpid()
        self.digest = hashlib.sha256("\0".join([about.index, *(s.sha256 for s in about.shards)]).encode()).hexdigest()

    def _check_there(self, path: Path, size: int | None) -> None:
        try:
            check_regular(path)
            found = path.stat().st_size
        except OSError as error:
            raise GlocalError(f"{path}: cannot be read: {error.strerror}; {_MEND}") from None
        if size is not None and found != size:
            raise GlocalError(f"{path} has {found:,} bytes, not {size:,}; {_MEND}")

    def file(self, index: int) -> BinaryIO:
        """The bytes of an image as an open file.

        Raises:
            BrokenImageError: its shard cannot be read, or has other bytes there than were written.
        """
        key, number = self.keys[index], int(self._shard[index])
        path = self._shards[number]
        try:
            content = self._shard_file(number).read_at(int(self._bytes[index]), int(self._offset[index]))
        except OSError as error:
            gone = str(path) if isinstance(error, FileNotFoundError) else ""
            raise BrokenImageError(key, f"{path.name} cannot be read: {error.strerror or error}", gone) from None
        if zlib.crc32(content) != self._crc[index]:
            raise BrokenImageError(key, f"{path.name} is damaged there")
        return io.BytesIO(content)

    def _shard_file(self, number: int) -> pa.OSFile:
        """A shard, opened in this process. One that is put away is closed when the last who reads from it is done."""
        if self._process != os.getpid():  # a copy of the process that opened them
            self._open, self._process = {}, os.getpid()
        found = self._open.get(number)
        if found is None:
            found = pa.OSFile(str(self._shards[number]))
            if len(self._open) >= _OPEN:
                self._open.clear()
            self._open[number] = found
        return found

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_open": {}}


def _fits(about: About, rows: pa.Table) -> bool:
    """Whether what a pack says of itself is of its index: as many images, in these shards, of no more classes."""
    counts = [0] * len(about.shards)
    for number, count in zip(*np.unique(rows["shard"].to_numpy(), return_counts=True), strict=True):
        if not 0 <= number < len(counts):
            return False
        counts[number] = int(count)
    classes = len(about.classes or ())
    labelled = about.classes is None or bool((rows["label"].to_numpy() < classes).all())
    return labelled and counts == [shard.images for shard in about.shards] and len(rows) == about.images
