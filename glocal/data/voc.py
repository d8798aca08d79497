"""PASCAL VOC as a data set for classification: images that show several classes."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from glocal.data.folder import ImageFiles
from glocal.errors import GlocalError

VOC07 = (
    "VOCtrainval_06-Nov-2007.tar and VOCtest_06-Nov-2007.tar from http://host.robots.ox.ac.uk/pascal/VOC/voc2007/, "
    "unpacked in one place; the path of VOCdevkit/VOC2007 (JPEGImages, ImageSets/Main)"
)


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
        folder: VOCdevkit/VOC2007, or VOCdevkit.
        split: train, val, trainval or test.

    Raises:
        GlocalError: files are missing, or a list is not as it should be; the message names it.
    """
    root = _root(Path(folder))
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


def _root(folder: Path) -> Path:
    for root in (folder, folder / "VOC2007", folder / "VOCdevkit" / "VOC2007"):
        if (root / "ImageSets" / "Main").is_dir():
            return root
    raise GlocalError(f"{folder} has no ImageSets/Main; give {VOC07}")


def _names(folder: Path) -> set[str]:
    return set(os.listdir(folder)) if folder.is_dir() else set()


def _read(path: Path) -> tuple[Sequence[str], list[int]]:
    keys, values = [], []
    for number, line in enumerate(path.read_text(encoding="utf-8", errors="replace").splitlines(), start=1):
        parts = line.split()
        if not parts:
            continue
        if len(parts) != 2 or parts[1] not in {"1", "0", "-1"}:
            raise GlocalError(f"{path}, line {number}: {line!r} should be an image's name and 1, 0 or -1")
        keys.append(parts[0])
        values.append(int(parts[1]))
    if not keys:
        raise GlocalError(f"{path} names no image")
    return keys, values
