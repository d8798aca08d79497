"""What a source of images is, one in memory, and a part of one."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NamedTuple, Protocol, runtime_checkable

import torch
from torch import Tensor

from glocal.data.sources.names import Names


class Sample(NamedTuple):
    """One image, its class number if there are classes, and its name in the source.

    The image is (3, H, W) uint8 RGB; where `Decoding.channels` is a number (C, H, W) float32 in its own units.
    """

    image: Tensor
    label: int | None
    key: str


PartnerRule = Callable[[int, Tensor], Tensor]
"""(epoch, (B,) indices) → (B,) indices of the images that come along with them."""


@runtime_checkable
class Source(Protocol):
    """A sequence of images.

    A source whose images lie in memory also has `images() -> Tensor`, (N, 3, H, W) uint8; one whose images are files
    of their own has `files() -> list[str]`, their absolute paths, and one whose images are encoded
    `open(index) -> StoredImage` and `content(index) -> bytes`.

    Attributes:
        name: the string that `open_source` opens it by.
        classes: names of the classes; None for unlabelled images.
        labels: (N,) int64, known without reading an image, −1 for an image without one; None for unlabelled images.
        keys: a unique name for each image.
    """

    name: str
    classes: list[str] | None
    labels: Tensor | None
    keys: Sequence[str]

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> Sample:
        """Reads an image; raises BrokenImageError where that fails."""
        ...


class MemorySource:
    """A source over images in memory.

    Args:
        name: what it is called.
        images: (N, 3, H, W) uint8; or (N, C, H, W) of any type, C channels of values (`data.channels`).
        labels: (N,) int64, −1 for an image without one, or None.
        classes: names of the classes, or None.
    """

    def __init__(self, name: str, images: Tensor, labels: Tensor | None, classes: list[str] | None) -> None:
        self.name = name
        rgb = images.dtype == torch.uint8 and images.shape[1] == 3
        self._images = images if rgb else images.float()
        self.labels = labels
        self.classes = classes
        self.keys: Sequence[str] = [f"{name}/{number}" for number in range(len(images))]

    def __len__(self) -> int:
        return len(self._images)

    def __getitem__(self, index: int) -> Sample:
        label = -1 if self.labels is None else int(self.labels[index])
        return Sample(self._images[index], None if label < 0 else label, self.keys[index])

    def images(self) -> Tensor:
        """All images, (N, 3, H, W) uint8 or (N, C, H, W) float32."""
        return self._images


class Subset:
    """Some images of a source, in the given order.

    Args:
        source: the whole.
        indices: (M,) int64 positions in it.
    """

    def __init__(self, source: Source, indices: Tensor) -> None:
        self.source = source
        self.indices = indices
        self.name = f"{source.name}[{len(indices)}]"
        self.classes = source.classes
        self.labels = None if source.labels is None else source.labels[indices]
        keys = source.keys
        self.keys: Sequence[str] = (
            keys.take(indices.numpy()) if isinstance(keys, Names) else [keys[index] for index in indices.tolist()]
        )
        # What a source can do beside, its parts can; not by closures, for they have to pickle.
        for name, function in (
            ("images", _images_at),
            ("open", _one_at),
            ("content", _one_at),
            ("stored_values", _one_at),
            ("sizes_of", _some_at),
            ("files", _files_at),
        ):
            if hasattr(source, name):
                setattr(self, name, partial(function, getattr(source, name), indices))

    def __len__(self) -> int:
        return len(self.indices)

    def __getitem__(self, index: int) -> Sample:
        return self.source[int(self.indices[index])]


def _images_at(images: Callable[[], Tensor], indices: Tensor) -> Tensor:
    return images()[indices]


def _one_at(function: Callable[..., Any], indices: Tensor, index: int, **options: Any) -> Any:
    return function(int(indices[index]), **options)


def _some_at(function: Callable[[Sequence[int]], Any], indices: Tensor, places: Sequence[int]) -> Any:
    return function(indices[list(places)].tolist())


def _files_at(files: Callable[[], list[str]], indices: Tensor) -> list[str]:
    found = files()
    return [found[index] for index in indices.tolist()]
