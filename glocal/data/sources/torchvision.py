"""torchvision's classification data sets as sources."""

from __future__ import annotations

import inspect
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torchvision import datasets

from glocal.data.sources.base import MemorySource, Sample, Source
from glocal.errors import GlocalError, did_you_mean


def data_folder() -> Path:
    """Where downloads go: $GLOCAL_DATA, or ~/.cache/glocal."""
    return Path(os.environ.get("GLOCAL_DATA") or Path.home() / ".cache" / "glocal")


def _names() -> list[str]:
    return [
        name
        for name, kind in vars(datasets).items()
        if inspect.isclass(kind)
        and issubclass(kind, datasets.VisionDataset)
        and {"train", "split", "image_set"} & set(inspect.signature(kind).parameters)
    ]


def is_downloaded(name: str) -> bool:
    """Whether the files of a data set of torchvision are in `data_folder()`, as far as their folder tells."""
    kind = getattr(datasets, name, None)
    return (data_folder() / str(getattr(kind, "base_folder", name.lower()))).exists()


def open_torchvision(name: str, split: str) -> Source:
    """Opens a data set of torchvision, downloaded to `data_folder()` where that is needed and possible.

    Args:
        name: its class, e.g. CIFAR10, STL10.
        split: train, test, or another one that the data set knows (STL10: unlabeled).

    Raises:
        GlocalError: unknown name or split, or the files are missing and cannot be fetched.
    """
    if name not in _names():
        raise GlocalError(f"torchvision:{name}: {did_you_mean(name, _names())}")
    kind = getattr(datasets, name)
    parameters = inspect.signature(kind).parameters
    full = f"torchvision:{name}:{split}"
    options: dict[str, Any] = {}
    if "train" in parameters:
        if split not in {"train", "test"}:
            raise GlocalError(f"{full}: {did_you_mean(split, ['train', 'test'])}")
        options["train"] = split == "train"
    else:
        options["split" if "split" in parameters else "image_set"] = split
    if "download" in parameters:
        options["download"] = True
    folder = data_folder()
    try:
        folder.mkdir(parents=True, exist_ok=True)
        found = kind(str(folder), **options)
    except ValueError as error:
        raise GlocalError(f"{full}: {' '.join(str(error).split())}") from error
    except (OSError, RuntimeError) as error:
        raise GlocalError(
            f"{full}: its files are not in {folder} and cannot be fetched ({' '.join(str(error).split())}); put "
            "them there as torchvision expects them, or set GLOCAL_DATA to the folder that holds them"
        ) from error
    pixels = getattr(found, "data", None)
    if isinstance(pixels, np.ndarray | torch.Tensor) and pixels.ndim in (3, 4):
        return _in_memory(full, found, torch.as_tensor(pixels))
    return TorchvisionSource(full, found)


def _in_memory(name: str, found: Any, pixels: torch.Tensor) -> Source:
    if pixels.ndim == 3:  # grey, (N, H, W)
        pixels = pixels[:, None].expand(-1, 3, -1, -1)
    elif pixels.shape[-1] == 3:  # (N, H, W, 3)
        pixels = pixels.permute(0, 3, 1, 2)
    labels = getattr(found, "targets", getattr(found, "labels", None))
    target = None if labels is None else torch.as_tensor(labels).long()
    if target is None or bool((target < 0).all()):  # STL10's unlabelled images carry −1
        return MemorySource(name, pixels.contiguous(), None, None)
    classes = getattr(found, "classes", None) or [str(number) for number in range(int(target.max()) + 1)]
    return MemorySource(name, pixels.contiguous(), target, [str(name) for name in classes])


class TorchvisionSource:
    """A data set of torchvision that reads its images from files.

    Args:
        name: the source's name.
        found: the data set.
    """

    def __init__(self, name: str, found: Any) -> None:
        self.name = name
        self._found = found
        self.keys: Sequence[str] = [f"{name}/{number}" for number in range(len(found))]
        labels = next((getattr(found, key) for key in ("_labels", "targets", "labels") if hasattr(found, key)), None)
        self.labels = None if labels is None else torch.as_tensor(labels).long()
        classes = getattr(found, "classes", None)
        if self.labels is not None and classes is None:
            classes = [str(number) for number in range(int(self.labels.max()) + 1)]
        self.classes: list[str] | None = None if self.labels is None else [str(label) for label in classes or ()]

    def __len__(self) -> int:
        return len(self.keys)

    def __getitem__(self, index: int) -> Sample:
        image = self._found[index][0]
        if not isinstance(image, Image.Image):
            raise GlocalError(f"{self.name}: image {index} is a {type(image).__name__}, not an image")
        label = None if self.labels is None else int(self.labels[index])
        pixels = torch.from_numpy(np.array(image.convert("RGB"))).permute(2, 0, 1)
        return Sample(pixels, label, self.keys[index])
