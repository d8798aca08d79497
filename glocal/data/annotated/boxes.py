"""Images with objects in them: COCO's and LVIS's JSON, Pascal VOC's XML.

Boxes are (left, top, right, bottom) in pixels, pixel i covering [i, i + 1). An object is *ignored* where a detection of
it counts neither as right nor as wrong: a crowd in COCO, a difficult object in VOC.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, NamedTuple, cast
from xml.etree import ElementTree

import numpy as np
import torch
from torch import Tensor

from glocal.data.annotated.outlines import Outline
from glocal.data.annotated.voc import VOC, read_image_set, voc_root
from glocal.data.decoding.headers import image_size
from glocal.data.sources.folder import ImageFiles
from glocal.errors import BrokenImageError, GlocalError, did_you_mean
from glocal.plain import read_json
from glocal.regular import open_regular

Task = Literal["voc", "coco", "lvis"]

_COCO = "from https://cocodataset.org/#download"
_WHERE = {
    "voc": VOC,
    "coco": f"{_COCO} (annotations_trainval2017.zip, train2017.zip, val2017.zip)",
    "lvis": f"from https://www.lvisdataset.org/dataset (v0.5), and its images {_COCO} (train2017.zip, val2017.zip)",
}

DATA = (
    "detection.task=voc: the VOCdevkit folder with VOC2007 and VOC2012; coco: a folder with "
    "annotations/instances_train2017.json, instances_val2017.json, train2017/ and val2017/; lvis: one with "
    "lvis_v0.5_train.json, lvis_v0.5_val.json, train2017/ and val2017/; "
    + "; ".join(f"{task} {place}" for task, place in _WHERE.items())
)
"""Which files, and where they come from, in one sentence."""


class DetectionObject(NamedTuple):
    """One object, as the readers find it.

    Attributes:
        box: left, top, right, bottom in pixels.
        label: number of its class, from 0.
        ignored: a crowd, or difficult.
        area: pixels that it covers.
        outline: what it covers; None where only the box is known.
    """

    box: tuple[float, float, float, float]
    label: int
    ignored: bool
    area: float
    outline: Outline | None


@dataclass(frozen=True)
class DetectionImages:
    """Images and the objects in them; flat arrays, because a million small objects would cost gigabytes.

    Attributes:
        name: what they are called.
        folder: what `keys` are relative to.
        keys: paths of the N images.
        sizes: (N, 2) int64 heights and widths.
        classes: names of the C classes.
        offset: (N + 1,) int64; the objects of image i are the rows offset[i] … offset[i + 1] of what follows.
        boxes: (M, 4) float64.
        labels: (M,) int64.
        ignored: (M,) bool.
        areas: (M,) float64, in pixels.
        outlines: for each object; None where only its box is known.
        frequency: LVIS: for each class r (rare), c (common) or f (frequent).
        negative: LVIS: for each image the classes that are known not to be there.
        not_exhaustive: LVIS: for each image the classes of which not every object is marked.
        files: the images without their objects, read as these are (`glocal.data.ranges.decode_as`).
    """

    name: str
    folder: Path
    keys: list[str]
    sizes: Tensor
    classes: list[str]
    offset: Tensor
    boxes: Tensor
    labels: Tensor
    ignored: Tensor
    areas: Tensor
    outlines: list[Outline | None]
    frequency: list[str] | None = None
    negative: list[list[int]] | None = None
    not_exhaustive: list[list[int]] | None = None

    @cached_property
    def files(self) -> ImageFiles:
        return ImageFiles(self.folder, self.keys, name=self.name)

    def __len__(self) -> int:
        return len(self.keys)

    def rows(self, index: int) -> slice:
        """The objects of an image."""
        return slice(int(self.offset[index]), int(self.offset[index + 1]))

    @property
    def image_of(self) -> Tensor:
        """For each object the number of its image, (M,) int64."""
        return torch.repeat_interleave(torch.arange(len(self)), self.offset.diff())


def open_detection(folder: str | Path, task: Task) -> tuple[DetectionImages, DetectionImages]:
    """The images to learn from and those to measure on.

    VOC: trainval of 2007 and 2012 together, and the test set of 2007. COCO and LVIS: train and val.

    Args:
        folder: where the data set lies, in its own layout.
        task: whose layout.

    Raises:
        GlocalError: a file is missing (with where it comes from) or is not what it should be.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise GlocalError(f"there is no folder {folder}; get the data {_WHERE[task]}")
    if task == "voc":
        return _open_voc(folder)
    if task == "coco":
        place = folder / "annotations"
        train = read_coco(place / "instances_train2017.json", folder, lambda image: f"train2017/{image['file_name']}")
        return train, read_coco(
            place / "instances_val2017.json",
            folder,
            lambda image: f"val2017/{image['file_name']}",
            classes=train.classes,
        )
    place = folder / "annotations" if (folder / "annotations" / "lvis_v0.5_train.json").exists() else folder
    train = read_lvis(place / "lvis_v0.5_train.json", folder, "train2017")
    return train, read_lvis(place / "lvis_v0.5_val.json", folder, "val2017", classes=train.classes)


def read_coco(
    path: Path,
    folder: Path,
    file_of: Callable[[dict[str, Any]], str],
    *,
    classes: Sequence[str] | None = None,
) -> DetectionImages:
    """Reads COCO's JSON of instances: https://cocodataset.org/#format-data.

    Args:
        path: the JSON file.
        folder: holds the images.
        file_of: an image's entry → its file, relative to the folder.
        classes: number the classes as these; by default they are in the order of their ids.

    Raises:
        GlocalError: the file or an image is missing, an entry is not as it should be, or a class is not in `classes`.
    """
    return _from_json(_read_json(path, "coco"), path, folder, file_of, classes, "coco")[0]


def _from_json(
    raw: dict[str, Any],
    path: Path,
    folder: Path,
    file_of: Callable[[dict[str, Any]], str],
    classes: Sequence[str] | None,
    task: Task,
) -> tuple[DetectionImages, dict[int, int]]:
    """The images, and for each category's id the number of its class."""
    try:
        categories = sorted(raw["categories"], key=lambda category: category["id"])
        found = [str(category["name"]) for category in categories]
        numbers = _numbers(found, classes, path)
        label = {category["id"]: number for category, number in zip(categories, numbers, strict=True)}
        images = raw["images"]
        place = {image["id"]: number for number, image in enumerate(images)}
        sizes = [(int(image["height"]), int(image["width"])) for image in images]
        keys = [file_of(image) for image in images]
    except (KeyError, TypeError, ValueError) as error:
        raise GlocalError(f"{path}: its images or categories lack something: {error!r}") from error
    objects: list[list[DetectionObject]] = [[] for _ in images]
    for number, entry in enumerate(raw["annotations"]):
        try:
            objects[place[entry["image_id"]]].append(_coco_object(entry, label[entry["category_id"]]))
        except (KeyError, TypeError, ValueError) as error:
            raise GlocalError(f"{path}: annotation {number} is not as it should be: {error!r}") from error
    _check_files(folder, keys, task)
    names = found if classes is None else list(classes)
    return _assembled(path.stem, folder, keys, sizes, objects, names), label


def read_lvis(path: Path, folder: Path, split: str, *, classes: Sequence[str] | None = None) -> DetectionImages:
    """Reads LVIS's JSON (v0.5 or v1), whose images are COCO's.

    Args:
        path: the JSON file.
        folder: holds the folders train2017 and val2017.
        split: the one where the images lie that do not say it themselves (in coco_url).
        classes: as for `read_coco`.

    Raises:
        GlocalError: as `read_coco`, or a category has no frequency.
    """

    def file_of(image: dict[str, Any]) -> str:
        *_, part, last = str(image.get("coco_url") or f"{split}/").split("/")
        name = str(image.get("file_name") or last)
        name = name[-16:] if name.startswith("COCO_") else name  # COCO_val2014_000000000042.jpg
        return f"{part if (folder / part).is_dir() else split}/{name}"

    raw = _read_json(path, "lvis")
    images, label = _from_json(raw, path, folder, file_of, classes, "lvis")
    frequency = ["f"] * len(images.classes)  # of a class without an entry, which has no objects either
    for category in raw["categories"]:
        if category.get("frequency") not in {"r", "c", "f"}:
            raise GlocalError(f"{path}: category {category['name']!r} has no frequency (r, c or f); is this LVIS?")
        frequency[label[category["id"]]] = category["frequency"]

    def listed(key: str) -> list[list[int]]:
        return [[label[number] for number in image.get(key, []) if number in label] for image in raw["images"]]

    return replace(
        images,
        frequency=frequency,
        negative=listed("neg_category_ids"),
        not_exhaustive=listed("not_exhaustive_category_ids"),
    )


def read_voc(
    devkit: Path, splits: Sequence[tuple[int, str]], *, classes: Sequence[str] | None = None
) -> DetectionImages:
    """Reads annotations of Pascal VOC.

    Its whole-numbered boxes count pixels from 1 and include the last one: (xmin − 1, ymin − 1, xmax, ymax) here.

    Args:
        devkit: the folder VOCdevkit.
        splits: years and names of splits, `[(2007, "trainval"), (2012, "trainval")]`.
        classes: number the classes as these; by default those that are found, sorted.

    Raises:
        GlocalError: a file is missing, is no annotation of VOC, or names a class that is not in `classes`.
    """
    keys: list[str] = []
    parsed: list[tuple[tuple[int, int], list[_Named]]] = []
    for year, split in splits:
        place = devkit / f"VOC{year}"
        names = [words[0] for words in read_image_set(place / "ImageSets" / "Main" / f"{split}.txt")]
        found = [f"VOC{year}/JPEGImages/{name}.jpg" for name in names]
        _check_files(devkit, found, "voc")
        for name, key in zip(names, found, strict=True):
            parsed.append(_read_xml(place / "Annotations" / f"{name}.xml", devkit / key))
        keys += found
    present = sorted({name for _, objects in parsed for name, *_ in objects})
    numbers = dict(zip(present, _numbers(present, classes, devkit), strict=True))
    objects = [
        [DetectionObject(box, numbers[name], difficult, _area(box), None) for name, box, difficult in found]
        for _, found in parsed
    ]
    name = " + ".join(f"VOC{year} {split}" for year, split in splits)
    return _assembled(name, devkit, keys, [size for size, _ in parsed], objects, list(classes or present))


_Named = tuple[str, tuple[float, float, float, float], bool]  # class, box, difficult


def _open_voc(folder: Path) -> tuple[DetectionImages, DetectionImages]:
    root = voc_root(folder, 2007) or voc_root(folder, 2012)
    if root is None:
        raise GlocalError(f"{folder} holds neither VOC2007 nor VOC2012 with ImageSets/ in it; they come {VOC}")
    devkit = root.parent  # whatever of it was given
    train = read_voc(devkit, [(2007, "trainval"), (2012, "trainval")])
    return train, read_voc(devkit, [(2007, "test")], classes=train.classes)


def _assembled(
    name: str,
    folder: Path,
    keys: list[str],
    sizes: Sequence[tuple[int, int]],
    objects: Sequence[Sequence[DetectionObject]],
    classes: list[str],
) -> DetectionImages:
    if not keys:
        raise GlocalError(f"{name} lists no image")
    every = [thing for found in objects for thing in found]
    return DetectionImages(
        name,
        folder,
        keys,
        torch.tensor(sizes, dtype=torch.int64),
        classes,
        torch.tensor([0, *(len(found) for found in objects)]).cumsum(0),
        torch.tensor([thing.box for thing in every], dtype=torch.float64).reshape(-1, 4),
        torch.tensor([thing.label for thing in every], dtype=torch.int64),
        torch.tensor([thing.ignored for thing in every], dtype=torch.bool),
        torch.tensor([thing.area for thing in every], dtype=torch.float64),
        [thing.outline for thing in every],
    )


def _coco_object(entry: dict[str, Any], label: int) -> DetectionObject:
    left, top, width, height = (float(value) for value in entry["bbox"])
    box = (left, top, left + width, top + height)
    crowd = bool(entry.get("iscrowd", 0))
    return DetectionObject(box, label, crowd, float(entry.get("area", width * height)), _outline(entry))


def _outline(entry: dict[str, Any]) -> Outline | None:
    raw = entry.get("segmentation")
    if isinstance(raw, dict):
        return {"size": list(raw["size"]), "counts": raw["counts"]}
    # Three points at least: two numbers or four are no area.
    polygons = [np.asarray(part, dtype=np.float64) for part in raw or [] if len(part) >= 6 and len(part) % 2 == 0]
    return polygons or None


def _area(box: tuple[float, float, float, float]) -> float:
    return (box[2] - box[0]) * (box[3] - box[1])


def _numbers(found: Sequence[str], classes: Sequence[str] | None, where: Path) -> list[int]:
    """The numbers of classes by their names, as `classes` counts them."""
    known = {name: number for number, name in enumerate(found if classes is None else classes)}
    for name in found:
        if name not in known:
            raise GlocalError(f"{where}: class {name!r} is not among the training classes; {did_you_mean(name, known)}")
    return [known[name] for name in found]


def _read_json(path: Path, task: Task) -> dict[str, Any]:
    if not path.exists():
        raise GlocalError(f"there is no {path}; it comes {_WHERE[task]}")
    raw = read_json(path)
    for part in ("images", "annotations", "categories"):
        if not isinstance(raw, dict) or not isinstance(raw.get(part), list):
            raise GlocalError(f"{path} has no list of {part}; is it COCO's JSON of instances?")
    return cast("dict[str, Any]", raw)


def _check_files(folder: Path, keys: Sequence[str], task: Task) -> None:
    there = {
        place: set(os.listdir(folder / place)) if (folder / place).is_dir() else set()
        for place in {os.path.dirname(key) for key in keys}
    }
    missing = [key for key in keys if os.path.basename(key) not in there[os.path.dirname(key)]]
    if missing:
        raise GlocalError(
            f"{len(missing)} of {len(keys)} images are missing in {folder}, the first is {missing[0]}; "
            f"they come {_WHERE[task]}"
        )


def _read_xml(path: Path, image: Path) -> tuple[tuple[int, int], list[_Named]]:
    """Height and width of the image, and its objects."""
    try:
        with open_regular(path) as file:
            text = file.read().decode()
    except FileNotFoundError:
        raise GlocalError(f"there is no {path}; it comes {_WHERE['voc']}") from None
    except (OSError, UnicodeDecodeError) as error:
        raise GlocalError(f"{path}: cannot be read: {error}") from error
    if "<!DOCTYPE" in text.upper():  # without one, there are no entities that could grow or fetch something
        raise GlocalError(f"{path}: a document type is no part of an annotation of VOC; it is not read")
    try:
        root = ElementTree.fromstring(text)
        objects = [_voc_object(entry) for entry in root.iter("object")]
        width, height = (int(float(root.findtext(f"size/{side}") or 0)) for side in ("width", "height"))
    except (ElementTree.ParseError, TypeError, ValueError, OverflowError) as error:
        raise GlocalError(f"{path} is no annotation of VOC: {error}") from error
    if not width or not height:
        try:
            return image_size(image), objects
        except BrokenImageError as error:
            raise GlocalError(f"{path} gives no size, and {error}") from error
    return (height, width), objects


def _voc_object(entry: ElementTree.Element) -> _Named:
    name = entry.findtext("name")
    if not name:
        raise ValueError("an object has no name")
    left, top, right, bottom = (
        float(cast(str, entry.findtext(f"bndbox/{side}"))) for side in ("xmin", "ymin", "xmax", "ymax")
    )
    return name.strip(), (left - 1, top - 1, right, bottom), bool(int(entry.findtext("difficult") or 0))
