"""Data sets of Hugging Face's `datasets`: Parquet, Arrow, WebDataset's tar files, and names on the Hub."""

from __future__ import annotations

import io
import os
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import torch
from torch import Tensor

from glocal.console import console
from glocal.data.sources.encoded import EncodedImages
from glocal.data.sources.listed import in_order
from glocal.data.sources.names import Names
from glocal.data.sources.own_files import OwnPlace, own_place, read_address
from glocal.errors import BrokenImageError, GlocalError, did_you_mean, in_a_line, shortened
from glocal.regular import check_regular

_OPTIONS = ("image", "label", "name", "config", "revision")
_BUILDERS = {".parquet": "parquet", ".arrow": "arrow", ".tar": "webdataset"}
# The place, and behind a colon that is not an address's own (s3://bucket/…) the split, which may be train[:10%].
_PLACE = re.compile(r"(.*?)(?::([^/:\[]+(?:\[[^\]/]*\])?))?", re.DOTALL)
_LABELS = ("label", "labels", "cls", "class")  # columns of numbers or text that are taken for classes


class _Wanted(NamedTuple):
    """What follows `hf:`: PLACE[:SPLIT][#OPTION=VALUE,…]."""

    place: str
    split: str
    options: dict[str, str]


class Numbers(Sequence[str]):
    """Names of images that have none: the split and their number.

    >>> Numbers("train", 2_000_000_000)[7]
    'train/000000007'
    """

    def __init__(self, split: str, count: int) -> None:
        self.split = split
        self._length = count

    def __len__(self) -> int:
        return self._length

    def __getitem__(self, index: Any) -> Any:
        if isinstance(index, slice):
            return [self._name(number) for number in range(self._length)[index]]
        return self._name(range(self._length)[index])

    def __iter__(self) -> Iterator[str]:
        return map(self._name, range(self._length))

    def _name(self, number: int) -> str:
        return f"{self.split}/{number:09d}"


class DatasetImages(EncodedImages):
    """The images of a data set that `datasets` opens, decoded as those of files are.

    Args:
        text: `hf:` and one of: a name on the Hub; a folder that `save_to_disk` wrote, or one of Parquet, Arrow or tar
            files; such files by a pattern or an address (http, s3, …, whatever `fsspec` knows). Behind it :SPLIT
            (train by default), and #image=COLUMN, label=COLUMN (label= for none), name=COLUMN, config=NAME and
            revision=NAME, joined by commas.

    Attributes:
        digest: by which `datasets` knows its own files.

    Raises:
        GlocalError: `datasets` is not installed; it cannot open this; the columns of images, labels or names are not
            there, or several could be meant. The message lists them.
    """

    def __init__(self, text: str) -> None:
        wanted = _parsed(text)
        found = _opened(text, wanted)
        image, label = _columns(text, found, wanted.options)
        labels, classes = (None, None) if label is None else _labels(text, found, label)
        name = wanted.options.get("name")
        keys = Numbers(wanted.split, len(found)) if name is None else _names(text, found, name)
        super().__init__(text, keys, labels, classes)
        if _is_image(found.features[image]):
            from datasets import Image

            found = found.cast_column(image, Image(decode=False))
        self._rows = found.select_columns([image])
        self._column = image
        self._place = _own_place(wanted.place)
        self.digest = f"hf:{found._fingerprint}"

    def file(self, index: int) -> Path | BinaryIO:
        """The bytes of an image as an open file; its path where the data set has that alone.

        Raises:
            BrokenImageError: the row cannot be read, holds no image, or names a file that is not the data set's own.
        """
        key = self.keys[index]
        try:
            value = self._rows[index][self._column]
            path = value.get("path") if isinstance(value, dict) else None
            content = value.get("bytes") if isinstance(value, dict) else value
            if content is None and path is not None:
                path = self._place.find(path)
                if isinstance(path, str):
                    content = read_address(path, self.decoding.most_pixels, self.decoding.channels or 1)
        except Exception as error:  # of Arrow and of whatever file system it is
            raise BrokenImageError(key, shortened(in_a_line(error), 200)) from None
        if content is not None:
            return io.BytesIO(content)
        if path is None:
            raise BrokenImageError(key, f"no image in column {self._column}")
        return path


def _parsed(text: str) -> _Wanted:
    rest, _, said = text.removeprefix("hf:").partition("#")
    place, split = _PLACE.fullmatch(rest).groups("train")  # type: ignore[union-attr]  # it fits any text
    options = {}
    for part in filter(None, said.split(",")):
        key, equal, value = part.partition("=")
        if not equal or key not in _OPTIONS:
            raise GlocalError(f"{text}: #{part}: write #OPTION=VALUE; {did_you_mean(key, _OPTIONS)}")
        options[key] = value
    if not place:
        raise GlocalError(f"{text}: write hf:NAME, hf:NAME:SPLIT or hf:FOLDER/*.parquet")
    return _Wanted(place, split, options)


def _opened(text: str, wanted: _Wanted) -> Any:
    try:
        import datasets
    except ImportError:
        raise GlocalError(f"{text}: pip install 'glocal[datasets]' brings what opens it") from None
    if not console.is_terminal:
        datasets.disable_progress_bars()
    place, split, options = wanted
    builder = _BUILDERS.get(os.path.splitext(place)[1].lower())
    config, revision = options.get("config"), options.get("revision")
    if "://" not in place and os.path.exists(place):
        try:
            check_regular(place)
        except OSError as error:
            raise GlocalError(f"{text}: cannot be read: {error.strerror}") from None
    saved = any(os.path.isfile(os.path.join(place, name)) for name in ("state.json", "dataset_dict.json"))
    try:
        if builder is not None:
            return datasets.load_dataset(builder, data_files=place, split=split)
        if not saved and "://" not in place:
            return datasets.load_dataset(place, config, split=split, revision=revision)
        found = datasets.load_from_disk(place)
    except Exception as error:  # of `datasets`, of the Hub and of any file system
        raise GlocalError(f"{text}: {in_a_line(error)}") from error
    if isinstance(found, datasets.DatasetDict):
        if split not in found:
            raise GlocalError(f"{text}: there is no split {split}; {did_you_mean(split, found)}")
        return found[split]
    return found


def _own_place(place: str) -> OwnPlace:
    """Where the files lie that rows may name."""
    builder = os.path.splitext(place)[1].lower() in _BUILDERS
    if builder or "://" in place or os.path.isdir(place):
        return own_place(place, folder=not builder)
    from datasets import config
    from huggingface_hub.constants import HF_HUB_CACHE

    kept = os.path.join(HF_HUB_CACHE, f"datasets--{place.replace('/', '--')}")
    return own_place("", folder=True, elsewhere=(f"hf://datasets/{place}", kept, str(config.DOWNLOADED_DATASETS_PATH)))


def _columns(text: str, found: Any, options: dict[str, str]) -> tuple[str, str | None]:
    """The columns of images and of labels."""
    from datasets import ClassLabel

    columns = found.features
    for option in ("image", "label", "name"):
        named = options.get(option)
        if named and named not in columns:
            raise GlocalError(f"{text}: there is no column {named}; {did_you_mean(named, columns)}")
    images = [name for name, kind in columns.items() if _is_image(kind)]
    images = images or [name for name in columns if _holds_bytes(found.data.schema.field(name).type)]
    labels = [name for name, kind in columns.items() if isinstance(kind, ClassLabel)]
    labels = labels or [name for name in columns if name.lower() in _LABELS]
    image = options.get("image") or _only(text, "image", images, columns)
    if image is None:
        raise GlocalError(f"{text}: no column holds images; its columns are {', '.join(columns)}")
    label = options["label"] or None if "label" in options else _only(text, "label", labels, columns)
    return image, label


def _only(text: str, option: str, names: list[str], columns: Any) -> str | None:
    """The only one of several columns; None where there is none."""
    if len(names) > 1:
        raise GlocalError(
            f"{text}: columns {', '.join(names)} could all be meant; add #{option}={names[0]}, or another of its "
            f"columns {', '.join(columns)}"
        )
    return names[0] if names else None


def _is_image(kind: Any) -> bool:
    from datasets import Image

    return isinstance(kind, Image)


def _holds_bytes(kind: pa.DataType) -> bool:
    if pa.types.is_struct(kind):
        return any(field.name == "bytes" and _holds_bytes(field.type) for field in kind)
    return bool(pa.types.is_binary(kind) or pa.types.is_large_binary(kind))


def _values(found: Any, column: str) -> pa.ChunkedArray:
    return found.select_columns([column]).with_format("arrow")[:][column]


def _labels(text: str, found: Any, column: str) -> tuple[Tensor, list[str]]:
    """Class numbers, −1 where there is none, and names of classes."""
    from datasets import ClassLabel

    values, kind = _values(found, column), found.features[column]
    if isinstance(kind, ClassLabel):
        numbers = pc.fill_null(values, -1).to_numpy()
        return torch.from_numpy(numbers.astype(np.int64)), list(kind.names)
    if not (
        pa.types.is_integer(values.type) or pa.types.is_string(values.type) or pa.types.is_large_string(values.type)
    ):
        raise GlocalError(f"{text}: column {column} holds {values.type}, no labels; add #label= to take none")
    names = values.cast(pa.string())
    classes = in_order(set(pc.unique(names).drop_null().to_pylist()))
    places = pc.fill_null(pc.index_in(names, value_set=pa.array(classes, pa.string()), skip_nulls=True), -1)
    return torch.from_numpy(places.to_numpy().astype(np.int64)), classes


def _names(text: str, found: Any, column: str) -> Names:
    values = _values(found, column).cast(pa.string()).cast(pa.large_binary())
    if values.null_count or pc.count_distinct(values).as_py() < len(values):
        raise GlocalError(f"{text}: column {column} does not give each image a name of its own")
    joined = values.combine_chunks()
    return Names(joined if isinstance(joined, pa.LargeBinaryArray) else pa.concat_arrays(joined.chunks))
