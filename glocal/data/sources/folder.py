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
from glocal.data.sources.base import Sample
from glocal.data.sources.channels import ENDINGS, StoredChannels, how_to_read
from glocal.data.sources.decoding import (
    Decoding,
    StoredImage,
    image_size,
    open_stored,
    read_image,
    stored_values,
)
from glocal.data.sources.labelled import are_splits, training_part
from glocal.data.sources.passed_over import RUNS_OWN, count_endings, is_output, passed_over
from glocal.data.sources.reading import image_extensions, read_file
from glocal.errors import BrokenImageError, GlocalError

_OTHER_SOURCES = ("shapes", "digits", "torchvision:CIFAR10")


class ImageFiles:
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
        self.folder = Path(folder)
        self.keys = keys
        self.labels = labels
        self.classes = classes
        self.name = name or str(folder)
        self.decoding = Decoding()

    def __len__(self) -> int:
        return len(self.keys)

    def __getitem__(self, index: int) -> Sample:
        key = self.keys[index]
        label = None if self.labels is None else int(self.labels[index])
        return Sample(read_image(self.folder / key, key, self.decoding), label, key)

    def open(self, index: int) -> StoredImage | StoredChannels:
        """An image before it is decoded; raises BrokenImageError where even its header cannot be read."""
        key = self.keys[index]
        return open_stored(self.folder / key, key, self.decoding)

    def files(self) -> list[str]:
        """The images' absolute paths."""
        return [os.path.abspath(self.folder / key) for key in self.keys]

    def stored_values(self, index: int, *, deep: bool = False) -> tuple[str, np.ndarray] | None:
        """Mode and values of an image as they are stored (`glocal.data.sources.decoding.stored_values`)."""
        return stored_values(self.folder / self.keys[index], self.decoding, deep=deep)

    def sizes_of(self, indices: Sequence[int]) -> list[tuple[int, int]]:
        """Heights and widths from the headers of some images, unreadable ones left out."""
        sizes = []
        for index in indices:
            try:
                of_values = self.decoding.channels is not None
                sizes.append(self.open(index).size if of_values else image_size(self.folder / self.keys[index]))
            except BrokenImageError:
                continue
        return sizes


class ImageFolder(ImageFiles):
    """All images in a folder and the folders in it, at any depth.

    Their order is that of their paths, the same on every machine. Hidden files and folders are passed over. Links are
    followed, but no folder is entered twice, and one that lies inside goes by its own path, not by a link to it.
    Folders that hold a run or another output of glocal are passed over too; in the folder itself, what a run writes.
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

    Raises:
        GlocalError: there is no such folder, or no image in it.
    """

    def __init__(self, folder: str | Path, *, without: str | Path | None = None, values: bool = False) -> None:
        if not os.path.isdir(folder):  # unlike Path.is_dir, raises nothing
            raise GlocalError(_no_folder(Path(folder)))
        extensions = image_extensions() | (ENDINGS if values else frozenset())
        found, outputs, no_files = _files(Path(folder), None if without is None else os.path.realpath(without))
        found.sort()
        keys = [key for key in found if os.path.splitext(key)[1].lower() in extensions]
        others = (key for key in found if os.path.splitext(key)[1].lower() not in extensions)
        no_files = [key for key in no_files if os.path.splitext(key)[1].lower() in extensions]
        self.passed_over = passed_over(count_endings(others), outputs, no_files)
        if not keys:
            over = f"; passed over: {self.passed_over}" if self.passed_over else ""
            raise GlocalError(
                f"{Path(folder)}: there is no image among its {len(found)} files{over}; "
                f"files ending in .jpg, .png, .webp, .tif, .bmp, .gif and what else Pillow opens count"
                f"{_of_values(Path(folder), found)}"
            )
        classes, labels, part = None, None, None
        tops = [key.partition("/")[0] if "/" in key else None for key in keys]
        names = sorted({top for top in tops if top is not None})
        if None not in tops and len(names) > 1 and are_splits(names):
            part = str(Path(folder) / training_part(names))
            note(
                f"{Path(folder)}: {', '.join(names)} are parts of a data set and not its classes, so its images have "
                f"no labels; give one part to have those of its folders: {part}"
            )
        elif None not in tops and len(names) > 1:
            number = {name: place for place, name in enumerate(names)}
            classes, labels = names, torch.tensor([number[top] for top in tops if top is not None])
        self.part = part
        super().__init__(folder, keys, labels, classes)


def _files(folder: Path, without: str | None) -> tuple[list[str], list[str], list[str]]:
    """Paths of all files, of the folders that glocal writes, which are not entered (`without` is one of them), and of
    what is neither file nor folder.

    They are relative to the folder and have forward slashes; each real folder is entered once.
    """
    found: list[str] = []
    outputs: list[str] = []
    no_files: list[str] = []
    entered: set[tuple[int, int]] = set()
    waiting = [("", str(folder))]
    links: list[tuple[str, str]] = []  # entered last, so that real folders go before links to them
    while waiting or links:
        prefix, path = waiting.pop() if waiting else links.pop(0)
        try:
            status = os.stat(path)
            if (status.st_dev, status.st_ino) in entered:
                continue
            entered.add((status.st_dev, status.st_ino))
            entries = sorted(os.scandir(path), key=lambda entry: entry.name)
        except OSError as error:
            raise GlocalError(f"{path}: cannot be read: {error.strerror}") from error
        written = is_output({entry.name for entry in entries}) or os.path.realpath(path) == without
        if written and prefix:
            if entries:
                outputs.append(prefix.removesuffix("/"))
            continue
        for entry in entries:
            if entry.name.startswith(".") or (written and entry.name in RUNS_OWN):
                continue
            place = (f"{prefix}{entry.name}/", entry.path)
            if entry.is_symlink():  # os.path takes a dangling or circular link for nothing; entry.is_dir() raises
                if os.path.isdir(entry.path):
                    links.append(place)
                elif os.path.isfile(entry.path):
                    found.append(prefix + entry.name)
                else:
                    no_files.append(prefix + entry.name)
            elif entry.is_dir():
                waiting.append(place)
            elif entry.is_file():
                found.append(prefix + entry.name)
            else:
                no_files.append(prefix + entry.name)
    return found, outputs, no_files


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
