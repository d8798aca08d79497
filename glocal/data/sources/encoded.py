"""Images that are read as the files that they are or were, from a folder, from a shard or from a table."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import BinaryIO

import numpy as np
from torch import Tensor

from glocal.data.decoding.channels import StoredChannels
from glocal.data.decoding.headers import image_size, stored_values
from glocal.data.decoding.images import open_stored, read_bytes, read_image
from glocal.data.decoding.rules import Decoding
from glocal.data.decoding.stored import StoredImage
from glocal.data.sources.base import Sample
from glocal.errors import BrokenImageError


class EncodedImages:
    """A source whose images are encoded, as JPEG, PNG or otherwise; `file` says where.

    Args:
        name: what `open_source` opens it by.
        keys: a name for each image.
        labels: (N,) int64, or None.
        classes: names of the classes, or None.

    Attributes:
        decoding: how the images are read.
    """

    def __init__(self, name: str, keys: Sequence[str], labels: Tensor | None, classes: list[str] | None) -> None:
        self.name = name
        self.keys = keys
        self.labels = labels
        self.classes = classes
        self.decoding = Decoding()

    def file(self, index: int) -> str | Path | BinaryIO:
        """The path of an image, or its bytes as an open file.

        Raises:
            BrokenImageError: it is not there.
        """
        raise NotImplementedError

    def __len__(self) -> int:
        return len(self.keys)

    def __getitem__(self, index: int) -> Sample:
        key = self.keys[index]
        label = -1 if self.labels is None else int(self.labels[index])
        return Sample(read_image(self.file(index), key, self.decoding), None if label < 0 else label, key)

    def open(self, index: int) -> StoredImage | StoredChannels:
        """An image before it is decoded; raises BrokenImageError where even its header cannot be read."""
        return open_stored(self.file(index), self.keys[index], self.decoding)

    def content(self, index: int) -> bytes:
        """The bytes of an image's file; raises BrokenImageError where they cannot be read."""
        return read_bytes(self.file(index), self.keys[index])

    def stored_values(self, index: int, *, deep: bool = False) -> tuple[str, np.ndarray] | None:
        """Mode and values of an image as they are stored (`glocal.data.decoding.headers.stored_values`)."""
        try:
            return stored_values(self.file(index), self.decoding, deep=deep)
        except BrokenImageError:
            return None

    def sizes_of(self, indices: Sequence[int]) -> list[tuple[int, int]]:
        """Heights and widths from the headers of some images, unreadable ones left out."""
        sizes = []
        for index in indices:
            try:
                of_values = self.decoding.channels is not None
                sizes.append(self.open(index).size if of_values else image_size(self.file(index), self.decoding))
            except BrokenImageError:
                continue
        return sizes
