"""What lies where in a pack: a folder of shards, a table of the images in them, and a file that tells of both.

- `shard-00000.parquet`, … or `shard-00000.tar`, …: the images' files, byte for byte, which other programs read too.
- `index.pack`, a Parquet file: for each image its name, label, shard, place and checksum.
- `glocal-pack.json`: the shards with their checksums, and the names of the classes.
- `unfinished/`, until the pack is whole: the part of the table for each shard that is.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Literal

import pyarrow as pa
from pydantic import Field, TypeAdapter

from glocal.errors import GlocalError
from glocal.files import write_text
from glocal.regular import open_regular

ABOUT, INDEX, UNFINISHED = "glocal-pack.json", "index.pack", "unfinished"
FORMAT = 1

To = Literal["parquet", "tar"]
_Count = Annotated[int, Field(ge=0)]

ROWS = pa.schema(
    [
        pa.field("name", pa.large_binary(), nullable=False),
        pa.field("label", pa.int64(), nullable=False),
        pa.field("shard", pa.int32(), nullable=False),
        pa.field("offset", pa.int64(), nullable=False),
        pa.field("bytes", pa.int64(), nullable=False),
        pa.field("crc32", pa.uint32(), nullable=False),
    ]
)
"""Columns of the index: the label is −1 for an image without one, the offset counts bytes in the shard."""


@dataclass(frozen=True)
class Shard:
    """One file of a pack: its name, how many images and bytes it holds, and the SHA-256 of these bytes."""

    file: Annotated[str, Field(pattern=r"^[a-z0-9.-]+$")]
    images: _Count
    bytes: _Count
    sha256: str


@dataclass(frozen=True)
class About:
    """What `glocal-pack.json` says.

    Attributes:
        to: the kind of the shards.
        source: what was packed.
        images: how many there are.
        names: SHA-256 of their names in order.
        classes: names of the classes, or None.
        shard_megabytes: the largest size of a shard, but of one with a single image.
        shards: none until the pack is finished.
        index: SHA-256 of the index; "" until the pack is finished.
    """

    to: To
    source: str
    images: _Count
    names: str
    classes: list[str] | None
    shard_megabytes: _Count
    shards: tuple[Shard, ...] = ()
    index: str = ""

    @property
    def finished(self) -> bool:
        return bool(self.index)


_ABOUT = TypeAdapter(About)


def is_pack(folder: str | Path) -> bool:
    """Whether a folder is a pack, finished or not."""
    return os.path.isfile(os.path.join(folder, ABOUT))


def read_about(folder: Path) -> About:
    """What a pack says of itself.

    Raises:
        GlocalError: it cannot be read, is damaged, or was written by a newer version.
    """
    path = folder / ABOUT
    try:
        with open_regular(path) as file:
            text = file.read()
        number = json.loads(text)["format"]
        if number == FORMAT:
            return _ABOUT.validate_json(text, strict=True)
    except OSError as error:
        raise GlocalError(f"{path}: cannot be read: {error.strerror}") from None
    except (ValueError, KeyError, TypeError, RecursionError):
        raise GlocalError(f"{path} is damaged; remove {folder} and pack the images again") from None
    raise GlocalError(f"{path}: format {number} is not known here, only {FORMAT}; use the version that wrote it")


def write_about(folder: Path, about: About) -> None:
    """Writes it, whole or not at all."""
    write_text(folder / ABOUT, json.dumps({"format": FORMAT, **asdict(about)}, indent=2) + "\n")


def hash_of_names(names: Iterable[str]) -> str:
    """SHA-256 of names in their order."""
    found = hashlib.sha256()
    for name in names:
        found.update(name.encode("utf-8", "surrogateescape") + b"\0")
    return found.hexdigest()
