"""Sources: sequences of images, each named by one string."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple, Protocol, runtime_checkable

import numpy as np
import torch
from torch import Tensor

from glocal.errors import GlocalError, did_you_mean

if TYPE_CHECKING:
    from glocal.data.images import StoredImage


class Sample(NamedTuple):
    """One image: (3, H, W) uint8 RGB, its class number if there are classes, and its name in the source."""

    image: Tensor
    label: int | None
    key: str


PartnerRule = Callable[[int, Tensor], Tensor]
"""(epoch, (B,) indices) → (B,) indices of the images that come along with them."""


@runtime_checkable
class Source(Protocol):
    """A sequence of images.

    A source whose images lie in memory also has `images() -> Tensor`, (N, 3, H, W) uint8; one whose images are files
    of their own has `files() -> list[str]`, their absolute paths, and may have `open(index) -> StoredImage`.

    Attributes:
        name: the string that `open_source` opens it by.
        classes: names of the classes; None for unlabelled images.
        labels: (N,) int64, known without reading an image; None for unlabelled images.
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
        images: (N, 3, H, W) uint8.
        labels: (N,) int64, or None.
        classes: names of the classes, or None.
    """

    def __init__(self, name: str, images: Tensor, labels: Tensor | None, classes: list[str] | None) -> None:
        self.name = name
        self._images = images
        self.labels = labels
        self.classes = classes
        self.keys: Sequence[str] = [f"{name}/{number}" for number in range(len(images))]

    def __len__(self) -> int:
        return len(self._images)

    def __getitem__(self, index: int) -> Sample:
        label = None if self.labels is None else int(self.labels[index])
        return Sample(self._images[index], label, self.keys[index])

    def images(self) -> Tensor:
        """All images, (N, 3, H, W) uint8."""
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
        self.keys: Sequence[str] = [source.keys[index] for index in indices.tolist()]
        if hasattr(source, "images"):
            self.images = partial(_images_at, source.images, indices)  # not a closure: it has to pickle
        if hasattr(source, "open"):
            self.open = partial(_open_at, source.open, indices)

    def __len__(self) -> int:
        return len(self.indices)

    def __getitem__(self, index: int) -> Sample:
        return self.source[int(self.indices[index])]


def fingerprint(source: Source) -> str | None:
    """A hash of a source's images: of their bytes where they lie in memory, of path, size and time of change of files.

    None where neither can be known.
    """
    if isinstance(source, Subset):
        whole = fingerprint(source.source)
        return None if whole is None else _digest([whole.encode(), source.indices.numpy().tobytes()])
    if hasattr(source, "images"):
        images: Tensor = source.images()
        return _digest([str(tuple(images.shape)).encode(), np.ascontiguousarray(images.numpy()).data])
    if hasattr(source, "files"):
        found = ((path, os.stat(path)) for path in source.files())
        values = getattr(getattr(source, "decoding", None), "value_range", None)
        of_files = (f"{path}\0{status.st_size}\0{status.st_mtime_ns}\0".encode() for path, status in found)
        return _digest(chain([] if values is None else [f"{values}\0".encode()], of_files))
    return None


def _digest(parts: Iterable[bytes | memoryview]) -> str:
    found = hashlib.sha256()
    for part in parts:
        found.update(part)
    return found.hexdigest()


def _images_at(images: Callable[[], Tensor], indices: Tensor) -> Tensor:
    return images()[indices]


def _open_at(opened: Callable[[int], StoredImage], indices: Tensor, index: int) -> StoredImage:
    return opened(int(indices[index]))


def _digits(split: str) -> Source:
    """scikit-learn's 1,797 handwritten digits, 8×8 grey, enlarged to 32×32; the last 360 are the test split."""
    from sklearn.datasets import load_digits

    found = load_digits()
    part = slice(None, 1437) if split == "train" else slice(1437, None)
    grey = torch.from_numpy(found.images[part]).float()[:, None] * (255 / 16)
    large = torch.nn.functional.interpolate(grey, size=(32, 32), mode="bicubic", antialias=True)
    images = large.round().clamp(0, 255).byte().expand(-1, 3, -1, -1).contiguous()
    labels = torch.from_numpy(found.target[part]).long()
    return MemorySource(f"digits:{split}", images, labels, [str(digit) for digit in range(10)])


def open_source(name: str | Path | Source) -> Source:
    """Opens a source by its name.

    - a folder of images, nested or flat: `photos/`
    - `shapes`, `shapes:test`, `shapes:train:20000`: drawn by the package (`glocal.data.shapes`)
    - `digits`, `digits:test`: scikit-learn's handwritten digits at 32×32
    - `torchvision:CIFAR10`, `torchvision:CIFAR10:test`, `torchvision:STL10:unlabeled`, …: torchvision's data sets

    `NAME@imagenet100` keeps the images of the classes in a list of the package, `NAME@FILE.txt` those of a file's
    (`glocal.data.classes`). A folder that exists goes before a data set of the same name.

    Raises:
        GlocalError: no such folder or data set; the message names the nearest.
    """
    if not isinstance(name, str | Path):
        return name
    text = str(name)
    if "@" in text and not os.path.exists(text):
        from glocal.data.classes import only_classes

        whole, _, classes = text.rpartition("@")
        return only_classes(open_source(whole), classes)
    kind, *parts = text.split(":")
    if isinstance(name, str) and not os.path.isdir(text):
        if kind == "shapes":
            from glocal.data.shapes import Shapes

            if len(parts) > 2 or not all(part.isdecimal() for part in parts[1:]):
                raise GlocalError(f"{text}: write shapes, shapes:test or shapes:train:20000")
            return Shapes(parts[0] if parts else "train", int(parts[1]) if len(parts) == 2 else None)
        if kind == "digits":
            split = ":".join(parts) or "train"
            if split not in {"train", "test"}:
                raise GlocalError(f"{text}: {did_you_mean(split, ['train', 'test'])}")
            return _digits(split)
        if kind == "torchvision":
            from glocal.data.torchvision import open_torchvision

            return open_torchvision(parts[0] if parts else "", ":".join(parts[1:]) or "train")
    from glocal.data.folder import ImageFolder

    return ImageFolder(text)
