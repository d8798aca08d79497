"""Folders of images."""

from __future__ import annotations

import difflib
import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from glocal.console import note
from glocal.data.decoding.channels import ENDINGS, how_to_read
from glocal.data.decoding.reading import image_extensions, read_file
from glocal.data.sources.encoded import EncodedImages
from glocal.data.sources.labelled import are_splits, training_part
from glocal.data.sources.listing import list_images, walk
from glocal.errors import GlocalError

_OTHER_SOURCES = ("shapes", "digits", "torchvision:CIFAR10")


class ImageFiles(EncodedImages):
    """Image files that a list names.

    Args:
        folder: the folder that the keys are relative to.
        keys: paths of the images in it.
        labels: (N,) int64, or None.
        classes: names of the classes, or None.
        name: what it is called; the folder by default.
    """

    def __init__(
        self,
        folder: str | Path,
        keys: Sequence[str],
        labels: Tensor | None = None,
        classes: list[str] | None = None,
        *,
        name: str | None = None,
    ) -> None:
        super().__init__(name or str(folder), keys, labels, classes)
        self.folder = Path(folder)

    def file(self, index: int) -> Path:
        """The path of an image."""
        return self.folder / self.keys[index]

    def files(self) -> list[str]:
        """The images' absolute paths."""
        return [os.path.abspath(self.folder / key) for key in self.keys]


class ImageFolder(ImageFiles):
    """All images in a folder and the folders in it, at any depth.

    Their order is that of their paths, the same on every machine. Hidden files and folders are passed over. Links are
    followed, but no folder is entered twice, and one that lies inside goes by its own path, not by a link to it.
    Folders that hold a run or another output of glocal are passed over too; in the folder itself, what a run writes.
    Of many images the list is kept in the cache, so that the next start need not go through all folders again.
    Where every image lies below a folder of the first level and there are at least two of these, they are the
    classes, unless all are named like the parts of a data set (train, val, test, …): then there are no labels, and a
    note says what to give for them.

    Args:
        folder: the path.
        without: a folder that is passed over as if it held a run already; the one that a run is about to make.
        values: arrays (.npy) and DICOM files are images as well, for their values are asked for (`data.channels`).

    Attributes:
        passed_over: what was passed over that might be missed, as a list in words; "" where there is nothing.
        part: of a folder that holds the parts of a data set, the path of the one to learn from; None of others.
        beside: an image that lies beside two or more folders of images, which else were classes; None of others.

    Raises:
        GlocalError: there is no such folder, or no image in it.
    """

    def __init__(self, folder: str | Path, *, without: str | Path | None = None, values: bool = False) -> None:
        if not os.path.isdir(folder):  # unlike Path.is_dir, raises nothing
            raise GlocalError(_no_folder(Path(folder)))
        extensions = image_extensions() | (ENDINGS if values else frozenset())
        keys, self.passed_over, _ = list_images(Path(folder), extensions, without)
        if not keys:
            files, over = walk(Path(folder)).files, f"; passed over: {self.passed_over}" if self.passed_over else ""
            raise GlocalError(
                f"{Path(folder)}: there is no image among its {len(files)} files{over}; "
                f"files ending in .jpg, .png, .webp, .tif, .bmp, .gif and what else Pillow opens count"
                f"{_of_values(Path(folder), files)}"
            )
        classes, labels, part = None, None, None
        tops = {_top(key) for key in keys}
        names = sorted(tops - {""})
        if "" not in tops and len(names) > 1 and are_splits(names):
            part = str(Path(folder) / training_part(names))
            note(
                f"{Path(folder)}: {', '.join(names)} are parts of a data set and not its classes, so its images have "
                f"no labels; give one part to have those of its folders: {part}"
            )
        elif "" not in tops and len(names) > 1:
            number = {name: place for place, name in enumerate(names)}
            numbers = np.fromiter((number[_top(key)] for key in keys), np.int64, len(keys))
            classes, labels = names, torch.from_numpy(numbers)
        self.part = part
        self.beside = next((key for key in keys if _top(key) == ""), None) if "" in tops and len(names) > 1 else None
        super().__init__(folder, keys, labels, classes)


def _top(key: str) -> str:
    """The folder of the first level that an image lies in; "" of one that lies beside these."""
    top, found, _ = key.partition("/")
    return top if found else ""


def _of_values(folder: Path, found: Sequence[str]) -> str:
    """The end of the message about a folder without RGB images: how the first array or DICOM file in it is read."""
    first = next((key for key in found if os.path.splitext(key)[1].lower() in ENDINGS), None)
    if first is None:
        return ""
    try:
        mend = how_to_read(read_file(folder / first))
    except OSError:
        return ""
    return f"; {first} has {mend}" if mend else ""


def _no_folder(folder: Path) -> str:
    if os.path.exists(folder):
        return f"{folder} is a file; give the folder that holds the images"
    while not os.path.isdir(folder.parent):  # name the first part of the path that is wrong
        if os.path.exists(folder.parent):
            return f"{folder.parent} is a file; give the folder that holds the images"
        folder = folder.parent
    choices = {name: name for name in _OTHER_SOURCES} | _folders_beside(folder)
    near = difflib.get_close_matches(folder.name, choices, n=1)
    hint = f"did you mean {choices[near[0]]}?" if near else "data sets: " + ", ".join(_OTHER_SOURCES)
    return f"there is no folder {folder}; {hint}"


def _folders_beside(folder: Path) -> dict[str, str]:
    try:
        places = {name: str(folder.parent / name) for name in os.listdir(folder.parent)}
    except OSError:
        return {}
    return {name: place for name, place in places.items() if os.path.isdir(place)}
