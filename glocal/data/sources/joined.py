"""Several sources as one."""

from __future__ import annotations

import bisect
import os
from collections.abc import Sequence
from itertools import accumulate

import numpy as np
import torch
from torch import Tensor

from glocal.console import note
from glocal.data.decoding.channels import StoredChannels
from glocal.data.decoding.rules import Decoding
from glocal.data.decoding.stored import StoredImage
from glocal.data.sources.base import Sample, Source
from glocal.data.sources.listed import in_order
from glocal.errors import BrokenImageError, GlocalError


class JoinedSource:
    """The images of several sources, one after another.

    Classes are joined by their names; where one of the sources has no labels, the whole has none. An image's key is the
    last part of its source's name and its key there, so that the sources may move.

    Args:
        parts: the sources, at least one.

    Attributes:
        names: of the parts; `open_source` opens the whole by them.

    Raises:
        GlocalError: a source is given twice, or an image file is in two of them.
    """

    def __init__(self, parts: Sequence[Source]) -> None:
        self.parts = list(parts)
        self.names = [part.name for part in parts]
        self.name = " + ".join(self.names)
        _check_once(self.parts)
        self._ends = list(accumulate(len(part) for part in parts))
        self.keys: Sequence[str] = [
            f"{title}/{key}" for title, part in zip(titles(self.names), parts, strict=True) for key in part.keys
        ]
        self.decoding = Decoding()  # that of the parts (`glocal.data.ranges.decode_as`)
        self.classes, self.labels = _joined_labels(self.parts)
        if all(hasattr(part, "open") for part in parts):
            self.open = self._open  # sources that cannot do it lack the attribute
        if all(hasattr(part, "content") for part in parts):
            self.content = self._content
        if all(hasattr(part, "files") for part in parts):
            self.files = self._files

    def __len__(self) -> int:
        return self._ends[-1]

    def __getitem__(self, index: int) -> Sample:
        part, place = self._where(index)
        label = None if self.labels is None else int(self.labels[index])
        try:
            return Sample(part[place].image, label, self.keys[index])
        except BrokenImageError as error:
            raise BrokenImageError(self.keys[index], error.reason, error.gone) from None

    def stored_values(self, index: int, *, deep: bool = False) -> tuple[str, np.ndarray] | None:
        """Mode and values of an image as they are stored; None for unreadable files and sources of other kinds."""
        part, place = self._where(index)
        return part.stored_values(place, deep=deep) if hasattr(part, "stored_values") else None

    def sizes_of(self, indices: Sequence[int]) -> list[tuple[int, int]]:
        """Heights and widths of some images, unreadable ones left out."""
        sizes: list[tuple[int, int]] = []
        for part, place in map(self._where, indices):
            if hasattr(part, "sizes_of"):
                sizes += part.sizes_of([place])
                continue
            try:
                height, width = part[place].image.shape[1:]
            except BrokenImageError:
                continue
            sizes.append((height, width))
        return sizes

    def _where(self, index: int) -> tuple[Source, int]:
        index = range(len(self))[index]
        number = bisect.bisect_right(self._ends, index)
        return self.parts[number], index - (self._ends[number - 1] if number else 0)

    def _open(self, index: int) -> StoredImage | StoredChannels:
        part, place = self._where(index)
        try:
            stored: StoredImage | StoredChannels = part.open(place)  # type: ignore[attr-defined]
        except BrokenImageError as error:
            raise BrokenImageError(self.keys[index], error.reason, error.gone) from None
        stored.key = self.keys[index]
        return stored

    def _content(self, index: int) -> bytes:
        part, place = self._where(index)
        try:
            return bytes(part.content(place))  # type: ignore[attr-defined]
        except BrokenImageError as error:
            raise BrokenImageError(self.keys[index], error.reason, error.gone) from None

    def _files(self) -> list[str]:
        return [file for part in self.parts for file in part.files()]  # type: ignore[attr-defined]


def titles(names: Sequence[str]) -> list[str]:
    """The last part of each name, with a number where several end alike.

    >>> titles(["a/photos/", "b/photos", "shapes:test"])
    ['photos (1)', 'photos (2)', 'shapes:test']
    """
    last = [os.path.basename(os.path.normpath(name)) for name in names]
    return [f"{end} ({last[: place + 1].count(end)})" if last.count(end) > 1 else end for place, end in enumerate(last)]


def _check_once(parts: Sequence[Source]) -> None:
    """That no image would be seen twice as often as the others for being named in two ways."""
    names, holder = set(), dict[str, str]()
    for part in parts:
        if part.name in names:
            raise GlocalError(f"{part.name} is given twice")
        names.add(part.name)
        for file in part.files() if hasattr(part, "files") else ():
            if holder.setdefault(file, part.name) != part.name:
                raise GlocalError(f"{part.name}: its image {file} is in {holder[file]} already; give one of the two")


def _joined_labels(parts: Sequence[Source]) -> tuple[list[str] | None, Tensor | None]:
    known = [(part.classes, part.labels) for part in parts if part.classes is not None and part.labels is not None]
    if len(known) < len(parts):
        if known:
            without = next(part.name for part in parts if part.labels is None or part.classes is None)
            note(f"{without} has no labels, so those of the other sources are left out")
        return None, None
    classes = in_order({name for names, _ in known for name in names})
    place = {name: number for number, name in enumerate(classes)}
    labels = [torch.tensor([place[name] for name in names])[numbers] for names, numbers in known]
    return classes, torch.cat(labels)
