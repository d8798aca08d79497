"""PASCAL VOC: where its files lie, and its lists of the images that show a class."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from glocal.data.sources.folder import ImageFiles
from glocal.errors import GlocalError
from glocal.regular import open_regular_text

VOC = "from http://host.robots.ox.ac.uk/pascal/VOC/ (unpack all archives in one folder, it becomes VOCdevkit/)"
"""Where it comes from."""

VOC07 = (
    "VOCtrainval_06-Nov-2007.tar and VOCtest_06-Nov-2007.tar from http://host.robots.ox.ac.uk/pascal/VOC/voc2007/, "
    "unpacked in one place; the path of VOCdevkit/VOC2007 (JPEGImages, ImageSets/Main)"
)


def voc_root(folder: str | Path, year: int) -> Path | None:
    """The folder VOC2007, VOC2012, … in which ImageSets/ and the other folders of a year lie; None where it is not.

    Args:
        folder: that folder itself, whatever its name unless it is that of another year; VOCdevkit; or the folder that
            holds VOCdevkit.
        year: which year's.
    """
    folder = Path(folder)
    if folder.name in {"", ".."}:  # they have a name all the same
        folder = Path(os.path.abspath(folder))
    name = f"VOC{year}"
    other = re.fullmatch(r"VOC20\d\d", folder.name) and folder.name != name
    places = [*([] if other else [folder]), folder / name, folder / "VOCdevkit" / name]
    return next((place for place in places if (place / "ImageSets").is_dir()), None)


def read_image_set(path: Path) -> list[list[str]]:
    """The lines of a list in ImageSets/ that are not empty, each as its words; the first is an image's name.

    Raises:
        GlocalError: the list is missing or empty.
    """
    try:
        with open_regular_text(path, errors="replace") as file:
            lines = file.read().splitlines()
    except OSError:
        raise GlocalError(f"there is no {path}; it comes {VOC}") from None
    found = [line.split() for line in lines if line.strip()]
    if not found:
        raise GlocalError(f"{path} names no image")
    return found


class Presence(NamedTuple):
    """Images, and which classes they show.

    Attributes:
        source: the images.
        targets: (N, C) int8: 1 shows it, −1 does not, 0 shows it but is hard to tell ("difficult").
        classes: names of the classes.
    """

    source: ImageFiles
    targets: Tensor
    classes: list[str]


def read_presence(folder: str | Path, split: str) -> Presence:
    """A split of VOC by the lists ImageSets/Main/CLASS_SPLIT.txt, each with a line "image 1", "image −1" or "image 0".

    Args:
        folder: as for `voc_root`.
        split: train, val, trainval or test.

    Raises:
        GlocalError: files are missing, or a list is not as it should be; the message names it.
    """
    root = voc_root(folder, 2007)
    if root is None or not (root / "ImageSets" / "Main").is_dir():
        raise GlocalError(f"{root or folder} has no ImageSets/Main; give {VOC07}")
    lists = root / "ImageSets" / "Main"
    ending = f"_{split}.txt"
    classes = sorted(name.removesuffix(ending) for name in os.listdir(lists) if name.endswith(ending))
    if not classes:
        raise GlocalError(f"{lists} has no list CLASS{ending} (aeroplane{ending}, …); they come with {VOC07}")
    keys, columns = _read(lists / f"{classes[0]}{ending}")
    targets = [columns]
    for name in classes[1:]:
        path = lists / f"{name}{ending}"
        others, column = _read(path)
        if others != keys:
            raise GlocalError(f"{path} names other images than {classes[0]}{ending}, or in another order")
        targets.append(column)
    have = _names(root / "JPEGImages")
    missing = next((key for key in keys if f"{key}.jpg" not in have), None)
    if missing is not None:
        raise GlocalError(f"{root / 'JPEGImages' / missing}.jpg is missing; it comes with {VOC07}")
    files = [f"JPEGImages/{key}.jpg" for key in keys]
    source = ImageFiles(root, files, name=f"{root}:{split}")
    return Presence(source, torch.tensor(targets, dtype=torch.int8).mT.contiguous(), classes)


def _names(folder: Path) -> set[str]:
    return set(os.listdir(folder)) if folder.is_dir() else set()


def _read(path: Path) -> tuple[list[str], list[int]]:
    lines = read_image_set(path)
    for words in lines:
        if len(words) != 2 or words[1] not in {"1", "0", "-1"}:
            raise GlocalError(f"{path}: the line {' '.join(words)!r} should be an image's name and 1, 0 or -1")
    return [name for name, _ in lines], [int(value) for _, value in lines]
