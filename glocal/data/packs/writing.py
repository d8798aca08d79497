"""Shards as they are written: images' files in Parquet or tar, so that each lies in one piece at a known place."""

from __future__ import annotations

import io
import json
import os
import re
import tarfile
from typing import IO, Any, ClassVar, Protocol

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from glocal.errors import GlocalError
from glocal.files import printable

_BLOCK = 512  # bytes of a member's header in a tar file
_GROUP_BYTES, _GROUP_ROWS = 16_000_000, 1000  # after which a group of rows ends: what a reader of Parquet has to take
_ONE_PAGE = 2**31 - 1
_LARGEST = 2**31 - 2**20  # bytes of a value in Parquet
_ENDING = re.compile(r"[a-z0-9]{1,8}")


class ShardWriter(Protocol):
    """Writes images' files into a shard.

    Attributes:
        beside: bytes that an image takes beside its file and 16 for each letter of its name, at most.
    """

    beside: ClassVar[int]

    def add(self, number: int, name: str, label: int, content: bytes) -> None:
        """Adds one.

        Args:
            number: its place among all images.
            name: as the source knows it.
            label: −1 for none.
            content: its file.
        """
        ...

    def finish(self) -> list[int]:
        """Ends the shard; where each image's bytes begin in it."""
        ...


class TarShard:
    """A tar file in WebDataset's convention: NUMBER.jpg, NUMBER.json and, of labelled images, NUMBER.cls.

    Names of images are in the JSON alone, so no member is named by anything but a number.

    Args:
        file: an empty file, open for writing.
        classes: names of the classes, or None.
    """

    beside: ClassVar[int] = 4096  # headers of three members, and what fills their blocks

    def __init__(self, file: IO[bytes], classes: list[str] | None) -> None:
        self._tar = tarfile.TarFile(fileobj=file, mode="w", format=tarfile.USTAR_FORMAT)
        self._classes = classes
        self._offsets: list[int] = []

    def add(self, number: int, name: str, label: int, content: bytes) -> None:
        """As `ShardWriter.add`."""
        ending = os.path.splitext(name)[1].lower().removeprefix(".")
        about: dict[str, Any] = {"name": name}
        self._offsets.append(self._tar.offset + _BLOCK)
        self._member(f"{number:09d}.{ending if _ENDING.fullmatch(ending) else 'bin'}", content)
        if self._classes is not None and label >= 0:
            about |= {"label": label, "class": self._classes[label]}
            self._member(f"{number:09d}.cls", str(label).encode())
        self._member(f"{number:09d}.json", json.dumps(about).encode())

    def finish(self) -> list[int]:
        """As `ShardWriter.finish`."""
        self._tar.close()
        return self._offsets

    def _member(self, name: str, content: bytes) -> None:
        member = tarfile.TarInfo(name)  # of no time and no owner: the same images make the same file
        member.size = len(content)
        self._tar.addfile(member, io.BytesIO(content))


class ParquetShard:
    """A Parquet file with the columns `image` (bytes and path), `name` and, of labelled images, `label`.

    Hugging Face's `datasets` knows `image` for an image and `label` for a class. Images' bytes are neither compressed
    nor coded, and those of a group of rows are in one page: they are the last bytes of their column, one image after
    another, each behind four bytes that tell its length. So their places are known.

    Args:
        file: an empty file, open for writing.
        classes: names of the classes, or None.
    """

    beside: ClassVar[int] = 256

    def __init__(self, file: IO[bytes], classes: list[str] | None) -> None:
        features: dict[str, Any] = {"image": {"_type": "Image"}, "name": {"dtype": "string", "_type": "Value"}}
        text, whole = pa.string(), pa.int64()
        # Nothing is ever missing; but columns that say so are not what `datasets` makes of these features.
        fields = [pa.field("image", pa.struct([("bytes", pa.binary()), ("path", text)])), pa.field("name", text)]
        self._labelled = classes is not None
        if classes is not None:
            features["label"] = {"names": [printable(name) for name in classes], "_type": "ClassLabel"}
            fields.append(pa.field("label", whole))
        said = json.dumps({"info": {"features": features}})
        self._schema = pa.schema(fields, {"huggingface": said})
        self._writer = pq.ParquetWriter(
            file,
            self._schema,
            use_dictionary=False,
            compression={"image.bytes": "none", **dict.fromkeys(("image.path", "name", "label"), "zstd")},
            write_statistics=False,
            data_page_size=_ONE_PAGE,
            data_page_version="1.0",
        )
        self._rows: list[dict[str, Any]] = []
        self._lengths: list[list[int]] = [[]]
        self._filled = 0

    def add(self, number: int, name: str, label: int, content: bytes) -> None:
        """As `ShardWriter.add`.

        Raises:
            GlocalError: the file is larger than Parquet allows.
        """
        if len(content) > _LARGEST:
            raise GlocalError(f"{name}: {len(content):,} bytes are more than Parquet takes for one value; use --to tar")
        text = printable(name)
        row = {"image": {"bytes": content, "path": text}, "name": text}
        self._rows.append({**row, "label": label} if self._labelled else row)
        self._lengths[-1].append(len(content))
        self._filled += len(content)
        if self._filled >= _GROUP_BYTES or len(self._rows) == _GROUP_ROWS:
            self._end_group()

    def finish(self) -> list[int]:
        """As `ShardWriter.finish`."""
        if self._rows:
            self._end_group()
        self._writer.close()
        metadata = self._writer.writer.metadata
        offsets: list[int] = []
        for number, lengths in enumerate(self._lengths[:-1]):
            group = metadata.row_group(number)
            columns = [group.column(place) for place in range(group.num_columns)]
            chunk = next(column for column in columns if column.path_in_schema == "image.bytes")
            end = chunk.data_page_offset + chunk.total_compressed_size
            sizes = np.array(lengths) + 4
            offsets += (end - sizes.sum() + sizes.cumsum() - np.array(lengths)).tolist()
        return offsets

    def _end_group(self) -> None:
        self._writer.write_table(pa.Table.from_pylist(self._rows, self._schema), row_group_size=len(self._rows))
        self._rows, self._filled = [], 0
        self._lengths.append([])
