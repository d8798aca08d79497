"""The data sets of transfer experiments, read in the layouts in which they are distributed (torchvision's folders).

Sizes of the splits and metrics are those of Lee et al., "Improving Transferability of Representations via
Augmentation-Aware Self-Supervision", NeurIPS 2021 (its code), and go back to Kornblith et al., CVPR 2019. LoGo (Zhang
et al., CVPR 2022, Table 1) names the same data sets; its own sizes were not compared. Where a data set has a validation
split, that is taken (DTD's first partition, Aircraft, Flowers); of the others as many training images as in the table
are set aside, balanced over the classes.

    name         classes  train   val    test    metric          folder
    food101      101      68,175  7,575  25,250  top-1           food-101
    mit67        67       4,690   670    1,340   top-1           mit67
    pets         37       2,940   740    3,669   mean per class  oxford-iiit-pet
    flowers      102      1,020   1,020  6,149   mean per class  flowers-102
    caltech101   101      2,525   505    5,647   mean per class  caltech101
    cars         196      6,494   1,650  8,041   top-1           stanford_cars
    aircraft     100      3,334   3,333  3,333   mean per class  fgvc-aircraft-2013b
    dtd          47       1,880   1,880  1,880   top-1           dtd
    cifar10      10       45,000  5,000  10,000  top-1           cifar-10-batches-py
    cifar100     100      45,000  5,000  10,000  top-1           cifar-100-python
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
from torch import Tensor

from glocal.console import note
from glocal.data.annotated.held_out import hold_out
from glocal.data.decoding.reading import image_extensions
from glocal.data.sources.base import MemorySource, Source
from glocal.data.sources.folder import ImageFiles
from glocal.errors import GlocalError
from glocal.plain import read_json
from glocal.regular import check_regular, open_regular_text
from glocal.views.random import permutation

BenchmarkName = Literal[
    "food101", "mit67", "pets", "flowers", "caltech101", "cars", "aircraft", "dtd", "cifar10", "cifar100"
]

_CALTECH_TRAINING = 30  # images of each class that are trained on


class MissingFilesError(GlocalError):
    """A data set is not there, or not all of it."""


class Splits(NamedTuple):
    """A data set.

    Attributes:
        learn: training and validation images.
        val: (N,) bool, which of them are for validation; None where the data set does not say it.
        test: the test images, with the same classes.
    """

    learn: Source
    val: Tensor | None
    test: Source


@dataclass(frozen=True)
class Benchmark:
    """A data set and how it is used.

    Attributes:
        title: its name in papers.
        classes: how many there are.
        sizes: training, validation and test images.
        metric: what papers report.
        files: what has to lie in the root folder.
        url: where that comes from.
        read: reads it from the root folder with a seed; raises OSError, ValueError or KeyError where files are missing
            or not what they should be.
    """

    title: str
    classes: int
    sizes: tuple[int, int, int]
    metric: Literal["top1", "mean_per_class"]
    files: str
    url: str
    read: Callable[[Path, int], Splits]

    def open(self, root: Path, seed: int) -> tuple[Source, Tensor, Source]:
        """Opens the data set.

        Args:
            root: the folder in which the folders of all data sets lie.
            seed: of the images that are set aside.

        Returns:
            The images to learn from, which of them are for validation (N,) bool, and the test images.

        Raises:
            MissingFilesError: files are missing or damaged; says which, where they must be, and where they come from.
        """
        try:
            learn, val, test = self.read(root, seed)
        except (OSError, ValueError, KeyError, IndexError, RuntimeError) as error:
            reason = " ".join(str(error).split())
            if isinstance(error, OSError) and error.filename is not None:
                reason = f"{error.filename}: {error.strerror}"
            raise MissingFilesError(
                f"{self.title} cannot be read ({reason}); it needs {self.files} in {root}, from {self.url}"
            ) from error
        assert learn.labels is not None  # all of them have labels
        if val is None:
            share = self.sizes[1] / (self.sizes[0] + self.sizes[1])
            val = hold_out(learn.labels, max(1, round(share * len(learn))), seed)
        found = int((~val).sum()), int(val.sum()), len(test)
        if found != self.sizes:
            numbers, expected = (" / ".join(f"{size:,}" for size in sizes) for sizes in (found, self.sizes))
            note(f"{self.title} in {root} has {numbers} images (train / val / test), not {expected} as in papers")
        return learn, val, test


def _files(folder: Path, keys: Sequence[str], labels: Sequence[int], classes: list[str], name: str) -> ImageFiles:
    """Image files that must all be there: a list is often unpacked without its images."""
    missing = [key for key in keys if not os.path.exists(folder / key)]
    if missing:
        raise ValueError(f"{folder / missing[0]} and {len(missing) - 1} more of {len(keys)} images are missing")
    if not keys:
        raise ValueError(f"{folder}: no images are listed for {name}")
    return ImageFiles(folder, keys, torch.tensor(labels, dtype=torch.int64), classes, name=name)


def _by_class(folder: Path, keys: Sequence[str], classes: list[str], name: str) -> ImageFiles:
    """Images whose class is the folder that they lie in: `class/image.jpg`, or deeper."""
    number = {name: place for place, name in enumerate(classes)}
    return _files(folder, keys, [number[key.rpartition("/")[0]] for key in keys], classes, name)


def _three(train: ImageFiles, val: ImageFiles, test: ImageFiles) -> Splits:
    """Splits of a data set that says which images are for validation."""
    assert train.labels is not None and val.labels is not None  # noqa: PT018
    learn = ImageFiles(
        train.folder,
        [*train.keys, *val.keys],
        torch.cat([train.labels, val.labels]),
        train.classes,
        name=f"{train.name}+val",
    )
    return Splits(learn, torch.arange(len(learn)) >= len(train), test)


def _lines(path: Path) -> list[str]:
    with open_regular_text(path) as file:
        return [line.strip() for line in file.read().splitlines() if line.strip()]


def _folder_names(folder: Path) -> list[str]:
    return sorted(entry.name for entry in os.scandir(folder) if entry.is_dir() and not entry.name.startswith("."))


def _first_folder(*folders: Path) -> Path:
    return next((folder for folder in folders if folder.is_dir()), folders[0])


def _food101(root: Path, seed: int) -> Splits:
    folder = root / "food-101"
    lists: list[dict[str, list[str]]] = [read_json(folder / "meta" / f"{split}.json") for split in ("train", "test")]
    classes = sorted(lists[0])
    keys = [[f"{image}.jpg" for name in sorted(found) for image in found[name]] for found in lists]
    train, test = (
        _by_class(folder / "images", own, classes, f"Food-101 {split}")
        for own, split in zip(keys, ("train", "test"), strict=True)
    )
    return Splits(train, None, test)


def _mit67(root: Path, seed: int) -> Splits:
    folder = root / "mit67"
    keys = [_lines(folder / name) for name in ("TrainImages.txt", "TestImages.txt")]
    classes = sorted({key.rpartition("/")[0] for key in keys[0]})
    train, test = (
        _by_class(folder / "Images", own, classes, f"MIT67 {split}")
        for own, split in zip(keys, ("train", "test"), strict=True)
    )
    return Splits(train, None, test)


def _pets(root: Path, seed: int) -> Splits:
    folder = root / "oxford-iiit-pet"

    def split(name: str, classes: list[str] | None) -> ImageFiles:
        found = [line.split() for line in _lines(folder / "annotations" / f"{name}.txt") if not line.startswith("#")]
        names = {int(label): image.rpartition("_")[0] for image, label, *_ in found}
        classes = classes or [names[label] for label in sorted(names)]
        labels = [int(label) - 1 for _, label, *_ in found]
        return _files(folder / "images", [f"{image}.jpg" for image, *_ in found], labels, classes, f"Pets {name}")

    train = split("trainval", None)
    return Splits(train, None, split("test", train.classes))


def _matlab(path: Path) -> dict[str, Any]:
    from scipy.io import loadmat

    if not path.exists():  # loadmat would try other endings, and name none of them
        raise FileNotFoundError(2, "No such file or directory", str(path))
    check_regular(path)
    try:
        found: dict[str, Any] = loadmat(path, squeeze_me=True)
    except Exception as error:  # scipy raises anything on damaged bytes
        raise ValueError(f"{path} is damaged: {error}") from error
    return found


def _flowers(root: Path, seed: int) -> Splits:
    folder = root / "flowers-102"
    label = np.atleast_1d(_matlab(folder / "imagelabels.mat")["labels"])
    places = _matlab(folder / "setid.mat")
    classes = [str(number) for number in range(1, int(label.max()) + 1)]

    def split(name: str, what: str) -> ImageFiles:
        numbers = np.atleast_1d(places[name]).tolist()
        keys = [f"image_{number:05d}.jpg" for number in numbers]
        labels = [int(label[number - 1]) - 1 for number in numbers]
        return _files(folder / "jpg", keys, labels, classes, f"Flowers {what}")

    return _three(split("trnid", "train"), split("valid", "val"), split("tstid", "test"))


def _caltech101(root: Path, seed: int) -> Splits:
    places = (root / name / "101_ObjectCategories" for name in ("caltech101", "caltech-101"))
    folder = _first_folder(*places)
    classes = [name for name in _folder_names(folder) if name != "BACKGROUND_Google"]  # it is no class
    extensions = image_extensions()
    learn: list[str] = []
    test: list[str] = []
    for number, name in enumerate(classes):
        images = sorted(image for image in os.listdir(folder / name) if Path(image).suffix.lower() in extensions)
        order = permutation(len(images), seed, "Caltech-101", number).tolist()
        chosen = set(order[: min(_CALTECH_TRAINING, len(images) - 1)])
        for place, image in enumerate(images):
            (learn if place in chosen else test).append(f"{name}/{image}")
    return Splits(
        _by_class(folder, learn, classes, "Caltech-101 train"),
        None,
        _by_class(folder, test, classes, "Caltech-101 test"),
    )


def _cars(root: Path, seed: int) -> Splits:
    folder = root / "stanford_cars"
    classes = [str(name) for name in np.atleast_1d(_matlab(folder / "devkit" / "cars_meta.mat")["class_names"])]

    def split(name: str, path: Path) -> ImageFiles:
        found = np.atleast_1d(_matlab(path)["annotations"])
        keys, labels = [str(image) for image in found["fname"]], [int(label) - 1 for label in found["class"]]
        return _files(folder / f"cars_{name}", keys, labels, classes, f"Cars {name}")

    train = split("train", folder / "devkit" / "cars_train_annos.mat")
    return Splits(train, None, split("test", folder / "cars_test_annos_withlabels.mat"))


def _aircraft(root: Path, seed: int) -> Splits:
    folder = root / "fgvc-aircraft-2013b" / "data"
    classes = _lines(folder / "variants.txt")
    number = {name: place for place, name in enumerate(classes)}

    def split(name: str) -> ImageFiles:
        found = [line.split(" ", 1) for line in _lines(folder / f"images_variant_{name}.txt")]
        labels = [number[variant] for _, variant in found]
        return _files(folder / "images", [f"{image}.jpg" for image, _ in found], labels, classes, f"Aircraft {name}")

    return _three(split("train"), split("val"), split("test"))


def _dtd(root: Path, seed: int) -> Splits:
    folder = _first_folder(root / "dtd" / "dtd", root / "dtd")
    classes = _folder_names(folder / "images")
    keys = (_lines(folder / "labels" / f"{split}1.txt") for split in ("train", "val", "test"))
    names = ("DTD train", "DTD val", "DTD test")
    return _three(*(_by_class(folder / "images", own, classes, name) for own, name in zip(keys, names, strict=True)))


def _cifar(name: str) -> Callable[[Path, int], Splits]:
    def read(root: Path, seed: int) -> Splits:
        from torchvision import datasets

        def split(train: bool) -> Source:
            # torchvision compares the files with their known hashes before it unpickles them.
            found = getattr(datasets, name)(str(root), train=train, download=False)
            images = torch.from_numpy(found.data).permute(0, 3, 1, 2).contiguous()
            labels = torch.tensor(found.targets, dtype=torch.int64)
            return MemorySource(f"{name} {'train' if train else 'test'}", images, labels, list(found.classes))

        return Splits(split(True), None, split(False))

    return read


BENCHMARKS: dict[BenchmarkName, Benchmark] = {
    "food101": Benchmark(
        "Food-101",
        101,
        (68_175, 7_575, 25_250),
        "top1",
        "food-101/ with images/ and meta/",
        "https://data.vision.ee.ethz.ch/cvl/datasets_extra/food-101/",
        _food101,
    ),
    "mit67": Benchmark(
        "MIT67",
        67,
        (4_690, 670, 1_340),
        "top1",
        "mit67/ with Images/, TrainImages.txt and TestImages.txt",
        "https://web.mit.edu/torralba/www/indoor.html",
        _mit67,
    ),
    "pets": Benchmark(
        "Oxford-IIIT Pets",
        37,
        (2_940, 740, 3_669),
        "mean_per_class",
        "oxford-iiit-pet/ with images/ and annotations/",
        "https://www.robots.ox.ac.uk/~vgg/data/pets/",
        _pets,
    ),
    "flowers": Benchmark(
        "Flowers-102",
        102,
        (1_020, 1_020, 6_149),
        "mean_per_class",
        "flowers-102/ with jpg/, imagelabels.mat and setid.mat",
        "https://www.robots.ox.ac.uk/~vgg/data/flowers/102/",
        _flowers,
    ),
    "caltech101": Benchmark(
        "Caltech-101",
        101,
        (2_525, 505, 5_647),
        "mean_per_class",
        "caltech101/ with 101_ObjectCategories/",
        "https://data.caltech.edu/records/mzrjq-6wc02",
        _caltech101,
    ),
    "cars": Benchmark(
        "Stanford Cars",
        196,
        (6_494, 1_650, 8_041),
        "top1",
        "stanford_cars/ with cars_train/, cars_test/, devkit/ and cars_test_annos_withlabels.mat",
        "the copies that https://github.com/pytorch/vision/issues/7545 names",
        _cars,
    ),
    "aircraft": Benchmark(
        "FGVC Aircraft",
        100,
        (3_334, 3_333, 3_333),
        "mean_per_class",
        "fgvc-aircraft-2013b/ with data/",
        "https://www.robots.ox.ac.uk/~vgg/data/fgvc-aircraft/",
        _aircraft,
    ),
    "dtd": Benchmark(
        "DTD",
        47,
        (1_880, 1_880, 1_880),
        "top1",
        "dtd/ with images/ and labels/",
        "https://www.robots.ox.ac.uk/~vgg/data/dtd/",
        _dtd,
    ),
    "cifar10": Benchmark(
        "CIFAR-10",
        10,
        (45_000, 5_000, 10_000),
        "top1",
        "cifar-10-batches-py/",
        "https://www.cs.toronto.edu/~kriz/cifar.html",
        _cifar("CIFAR10"),
    ),
    "cifar100": Benchmark(
        "CIFAR-100",
        100,
        (45_000, 5_000, 10_000),
        "top1",
        "cifar-100-python/",
        "https://www.cs.toronto.edu/~kriz/cifar.html",
        _cifar("CIFAR100"),
    ),
}


def open_benchmarks(
    root: Path, names: Iterable[BenchmarkName] | None, seed: int
) -> dict[BenchmarkName, tuple[Source, Tensor, Source]]:
    """Opens the data sets that are asked for, or all that are there.

    Args:
        root: the folder in which the folders of all data sets lie.
        names: which; None takes all that are there, and a note names those that are not.
        seed: of the images that are set aside for validation.

    Raises:
        GlocalError: there is no such folder, none of the data sets is there, or one that was asked for is not.
    """
    if not root.is_dir():
        raise GlocalError(f"there is no folder {root}; it has to hold the data sets, for example {root / 'food-101'}")
    found: dict[BenchmarkName, tuple[Source, Tensor, Source]] = {}
    missing: list[MissingFilesError] = []
    for name in BENCHMARKS if names is None else dict.fromkeys(names):
        try:
            found[name] = BENCHMARKS[name].open(root, seed)
        except MissingFilesError as error:
            if names is not None:
                raise
            missing.append(error)
    if not found:
        every = "; ".join(
            f"{benchmark.title}: {benchmark.files}, from {benchmark.url}" for benchmark in BENCHMARKS.values()
        )
        raise GlocalError(f"{root} holds none of the data sets of transfer experiments. {every}")
    for absent in missing:
        note(f"left out: {absent}")
    return found
