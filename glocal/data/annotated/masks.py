"""Images with masks that say what each pixel shows."""

from __future__ import annotations

import os
import warnings
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Protocol

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.nn.functional import interpolate

from glocal.data.annotated.voc import read_image_set, voc_root
from glocal.data.decoding.headers import image_orientation, image_size
from glocal.data.decoding.orientation import exchanges_sides, orientation_of, turned_upright
from glocal.data.decoding.reading import open_file, open_picture
from glocal.data.lanes.central import central_share, default_workers
from glocal.data.sources.base import Source
from glocal.data.sources.fingerprint import fingerprint
from glocal.data.sources.folder import ImageFiles, ImageFolder
from glocal.data.sources.shapes import Shapes, draw_masks
from glocal.errors import BrokenImageError, GlocalError
from glocal.views.crops import central_geometry
from glocal.views.random import permutation

UNKNOWN = 255
"""The class number of pixels that are not labelled."""

DATA = (
    "a folder with images/ and masks/ of the same file names (masks: PNG with the class number of each pixel, palette "
    "or grey, 255 = unknown), both with train/ and val/ in them or in train/ and val/, and the classes' names in "
    "classes.txt, a line each, where they are known; VOC2012 as it comes from "
    "http://host.robots.ox.ac.uk/pascal/VOC/voc2012/; or shapes"
)
_PARTS = (("train", "training"), ("val", "validation"))  # the second names are ADE20K's
_MASKS = ("masks", "annotations")
_VOC_CLASSES = "background aeroplane bicycle bird boat bottle bus car cat chair cow diningtable dog horse motorbike"
_VOC_CLASSES += " person pottedplant sheep sofa train tvmonitor"
_DEEP = {"I", "I;16", "I;16B", "I;16L"}


class Masked(Protocol):
    """Images and their masks.

    Attributes:
        images: the images.
        classes: names of the class numbers; None where they are not known.
        ignored: class numbers that usually do not count.
    """

    images: Source
    classes: list[str] | None
    ignored: tuple[int, ...]

    def masks(self, index: Tensor, size: int) -> Tensor:
        """The masks of the images at `index` (B,) of what `glocal.data.lanes.central.images_of` shows: (B, S, S) uint8.

        The same central squares as those of the images, resized by nearest neighbour.
        """
        ...

    def fingerprint(self) -> str | None:
        """Changes whenever the images or the masks do; None where this cannot be known."""
        ...


class MaskedFiles:
    """Image files and the files of their masks. Masks that cannot be read are all unknown, and named in `broken`.

    Images whose EXIF data say that they are to be turned are shown upright. So are masks that say it themselves. Of
    other masks the size tells whether they were drawn on the pixels as they are stored, and then they are turned like
    their images, or on upright ones. Where it cannot tell, of squares, half turns and mirrored images, the image is
    refused.

    Args:
        images: the images.
        masks: for each image the path of its mask.
        classes: names of the class numbers, or None.
    """

    def __init__(self, images: ImageFiles, masks: Sequence[Path], classes: list[str] | None) -> None:
        self.images: Source = images
        self.classes = classes
        self.ignored: tuple[int, ...] = (UNKNOWN,)
        self.broken: dict[str, str] = {}
        self._files = images.files()
        self._masks = [os.path.abspath(path) for path in masks]

    def masks(self, index: Tensor, size: int) -> Tensor:
        """(B,) → (B, size, size) uint8.

        Raises:
            GlocalError: a mask is no image of class numbers, its size is not that of its image, or it cannot be told
                whether it is to be turned.
        """
        with ThreadPoolExecutor(default_workers()) as pool:  # Pillow decodes without holding the interpreter's lock
            return torch.stack(list(pool.map(lambda number: self._mask(number, size), index.tolist())))

    def _mask(self, number: int, size: int) -> Tensor:
        path = self._masks[number]
        try:
            mask, own = _read(path)
        except BrokenImageError as error:
            self.broken[path] = error.reason
            return torch.full((size, size), UNKNOWN, dtype=torch.uint8)
        height, width = image_size(self._files[number])
        turn = image_orientation(self._files[number])
        if turn != 1 and own == 1:
            if height == width or not exchanges_sides(turn):
                raise GlocalError(
                    f"the image {self.images.keys[number]} is to be turned (EXIF orientation {turn}), and whether its "
                    f"mask {path} was drawn on the image as it is stored or on the turned one, nothing tells: turn the "
                    "pixels of the image, so that its orientation is 1 (ImageMagick: mogrify -auto-orient)"
                )
            if mask.shape == (width, height):
                mask = _turned(mask, turn)
        if mask.shape != (height, width):
            raise GlocalError(
                f"{path} has {mask.shape[1]}×{mask.shape[0]} pixels, its image {self.images.keys[number]} "
                f"{width}×{height}; they must be of one size"
            )
        return central_masks(mask[None], size)[0]

    def fingerprint(self) -> str | None:
        """Of paths, sizes and times of the files of images and masks."""
        return f"{fingerprint(self.images)} {fingerprint(ImageFiles('/', self._masks))}"


class MaskedShapes:
    """The drawn shapes; 0 is the ground, 1 … 8 are the shapes.

    Args:
        split: train or test.
        count: how many; None is all.
    """

    def __init__(self, split: str, count: int | None = None) -> None:
        shapes = Shapes(split, count)
        self.images: Source = shapes
        self.classes: list[str] | None = ["ground", *(shapes.classes or ())]
        # The ground is most of every image, and what a patch of 8 pixels shows most: votes for shapes would be lost.
        self.ignored: tuple[int, ...] = (0, UNKNOWN)
        self._split = split

    def masks(self, index: Tensor, size: int) -> Tensor:
        """(B,) → (B, size, size) uint8."""
        return central_masks(draw_masks(self._split, index), size)

    def fingerprint(self) -> str | None:
        """Of the images: masks follow from them."""
        return fingerprint(self.images)


def central_masks(masks: Tensor, size: int) -> Tensor:
    """The central squares of masks (B, H, W) uint8 that images show to an evaluation, (B, size, size) uint8."""
    box = central_geometry(torch.tensor([masks.shape[1:]]), central_share(size)).box[0]
    left, top, right, bottom = box.int().tolist()
    square = masks[:, None, top:bottom, left:right]
    return interpolate(square, (size, size), mode="nearest-exact")[:, 0]  # takes the pixel below each centre


def read_mask(path: str | Path) -> Tensor:
    """Reads the class numbers (H, W) uint8 of a mask, turned as its own EXIF data say.

    Raises:
        GlocalError: the file holds colours or transparency, or numbers above 255.
        BrokenImageError: it cannot be read.
    """
    return _read(path)[0]


def _read(path: str | Path) -> tuple[Tensor, int]:
    """`read_mask`, and the EXIF orientation of the file."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            with open_file(path) as file, open_picture(file) as image:
                image.load()
                orientation = orientation_of(image)
                mode, values = image.mode, np.array(turned_upright(image, orientation))
        except Exception as error:  # Pillow's plugins raise anything on damaged bytes
            raise BrokenImageError(str(path), " ".join(str(error).split())[:120] or type(error).__name__) from None
    if mode not in {"P", "L", "1"} | _DEEP:
        raise GlocalError(f"{path} holds {mode} pixels; a mask is a PNG with class numbers, in palette or grey mode")
    if mode in _DEEP and not ((values >= 0) & (values <= UNKNOWN)).all():
        raise GlocalError(f"{path} holds class number {values.max()}; they go from 0 to 254, and 255 is unknown")
    return torch.from_numpy(values.astype(np.uint8)), orientation


def _turned(mask: Tensor, orientation: int) -> Tensor:
    return torch.from_numpy(np.array(turned_upright(Image.fromarray(mask.numpy()), orientation)))


def open_masked(data: str, *, images: int | None = None, held_out: float = 0.2, seed: int = 0) -> tuple[Masked, Masked]:
    """Opens images with masks: those to learn from and those to measure on.

    Args:
        data: `shapes`, or a folder as `DATA` says.
        images: at most this many of each part, a seeded sample.
        held_out: the share of the images, a seeded one, that is measured on, where a folder has no parts.
        seed: of the sample and of the share.

    Raises:
        GlocalError: something is missing; names it, and says what should be there.
    """
    if data == "shapes" and not os.path.isdir(data):
        counts = [None if images is None else min(images, len(Shapes(split))) for split in ("train", "test")]
        return MaskedShapes("train", counts[0]), MaskedShapes("test", counts[1])
    folder = Path(data)
    if not folder.is_dir():
        raise GlocalError(f"there is no folder {folder}; --data dense=PATH names {DATA}")
    for voc in (voc_root(folder, year) for year in (2012, 2007)):
        if voc is not None and (voc / "SegmentationClass").is_dir():
            first, second = (_voc(voc, part, images, seed) for part in ("train", "val"))
            return first, second
    parts = [_part(folder, names) for names in _PARTS]
    if None in parts:
        if parts != [None, None]:
            raise GlocalError(f"{folder} has only one of train/ and val/; {DATA}")
        whole = _only_part(folder)
        order = permutation(len(whole), seed, "dense split").tolist()
        held = max(1, round(held_out * len(order)))
        chosen = [sorted(order[held:]), sorted(order[:held])]
        if not chosen[0]:
            raise GlocalError(f"{folder} holds one image; two or more are needed, to learn from and to measure on")
        pairs = [[whole[number] for number in numbers] for numbers in chosen]
    else:
        pairs = [found for found in parts if found is not None]
    names = folder / "classes.txt"
    classes = names.read_text(encoding="utf-8").splitlines() if names.is_file() else None
    first, second = (_files(folder, pairs[number], classes, images, seed, _PARTS[number][0]) for number in (0, 1))
    return first, second


def _part(folder: Path, names: Sequence[str]) -> list[tuple[str, Path]] | None:
    """Images and masks of one part; None where the folder has none of that name."""
    for name in names:
        for images, masks in (
            *((folder / "images" / name, folder / kind / name) for kind in _MASKS),
            *((folder / name / "images", folder / name / kind) for kind in _MASKS),
        ):
            if images.is_dir() and masks.is_dir():
                return _pairs(images, masks)
    return None


def _only_part(folder: Path) -> list[tuple[str, Path]]:
    for kind in _MASKS:
        if (folder / "images").is_dir() and (folder / kind).is_dir():
            return _pairs(folder / "images", folder / kind)
    lacking = "masks" if (folder / "images").is_dir() else "images"
    raise GlocalError(f"{folder} has no folder {lacking}; --data dense=PATH names {DATA}")


def _pairs(images: Path, masks: Path) -> list[tuple[str, Path]]:
    pairs = [(key, masks / f"{os.path.splitext(key)[0]}.png") for key in ImageFolder(images).keys]
    return _checked([(str(images / key), mask) for key, mask in pairs])


def _checked(pairs: list[tuple[str, Path]]) -> list[tuple[str, Path]]:
    missing = [str(path) for image, mask in pairs for path in (Path(image), mask) if not path.is_file()]
    if missing:
        more = f" (and {len(missing) - 1} more)" if len(missing) > 1 else ""
        raise GlocalError(f"there is no {missing[0]}{more}; each image needs a mask of its name")
    return pairs


def _voc(folder: Path, part: str, images: int | None, seed: int) -> Masked:
    keys = [words[0] for words in read_image_set(folder / "ImageSets" / "Segmentation" / f"{part}.txt")]
    places = folder / "JPEGImages", folder / "SegmentationClass"
    pairs = _checked([(str(places[0] / f"{key}.jpg"), places[1] / f"{key}.png") for key in keys])
    return _files(folder, pairs, _VOC_CLASSES.split(), images, seed, part)


def _files(
    folder: Path, pairs: list[tuple[str, Path]], classes: list[str] | None, images: int | None, seed: int, part: str
) -> Masked:
    if images is not None and images < len(pairs):
        chosen = permutation(len(pairs), seed, "dense images", part)[:images].sort().values
        pairs = [pairs[number] for number in chosen.tolist()]
    keys = [os.path.relpath(image, folder) for image, _ in pairs]
    return MaskedFiles(ImageFiles(folder, keys, name=f"{folder} ({part})"), [mask for _, mask in pairs], classes)
