"""Transfer: the data sets in their real layouts, and logistic regression on them."""

import hashlib
import json
import pickle
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from scipy.io import savemat
from sklearn.linear_model import LogisticRegression
from torchvision import datasets

from glocal.data.annotated.transfer_sets import BENCHMARKS, BenchmarkName, MissingFilesError, open_benchmarks
from glocal.data.sources.base import MemorySource, Source
from glocal.errors import GlocalError
from glocal.evaluation import evaluate
from glocal.evaluation.features.bench import Bench
from glocal.evaluation.features.extraction import extract
from glocal.evaluation.protocols.transfer import WHOLE_SQUARES

_COLOURS = ((220, 40, 40), (40, 220, 40), (40, 40, 220))


class Colour:
    """A backbone of the mean colour."""

    size, dim, label = 16, 3, "mean colour"

    def features(self, images: torch.Tensor) -> torch.Tensor:
        return images.float().mean(dim=(2, 3)) / 50


def draw(path: Path, label: int) -> None:
    """An image in its class' colour, with a random grey level and a size of its own."""
    path.parent.mkdir(parents=True, exist_ok=True)
    generator = np.random.default_rng(int(hashlib.md5(path.name.encode()).hexdigest()[:8], 16))
    shade = generator.integers(-30, 30)
    side = generator.integers(18, 30, 2)
    pixels = np.clip(np.array(_COLOURS[label]) + shade + generator.integers(-9, 9, (*side, 3)), 0, 255)
    Image.fromarray(pixels.astype(np.uint8)).save(path)


def make_food101(root: Path) -> None:
    names = ["apple_pie", "baklava", "waffles"]
    for split, count in (("train", 10), ("test", 4)):
        lists = {name: [f"{name}/{split}{number}" for number in range(count)] for name in names}
        for label, name in enumerate(names):
            for key in lists[name]:
                draw(root / "food-101" / "images" / f"{key}.jpg", label)
        (root / "food-101" / "meta").mkdir(exist_ok=True)
        (root / "food-101" / "meta" / f"{split}.json").write_text(json.dumps(lists))


def make_mit67(root: Path) -> None:
    names = ["airport_inside", "bar", "winecellar"]
    for file, count in (("TrainImages.txt", 10), ("TestImages.txt", 4)):
        keys = [f"{name}/{file[:2]}_{number}.jpg" for name in names for number in range(count)]
        for key in keys:
            draw(root / "mit67" / "Images" / key, names.index(key.split("/")[0]))
        (root / "mit67" / file).write_text("\n".join(keys))  # the official lists do not end in a new line


def make_pets(root: Path) -> None:
    names = ["Abyssinian", "american_bulldog", "yorkshire_terrier"]
    folder = root / "oxford-iiit-pet"
    for split, count in (("trainval", 10), ("test", 4)):
        lines = []
        for label, name in enumerate(names):
            for number in range(count):
                image = f"{name}_{split == 'test'}{number}"
                draw(folder / "images" / f"{image}.jpg", label)
                lines.append(f"{image} {label + 1} 1 1\n")
        (folder / "annotations").mkdir(exist_ok=True)
        (folder / "annotations" / f"{split}.txt").write_text("".join(lines))


def make_flowers(root: Path) -> None:
    folder = root / "flowers-102"
    labels = [number % 3 + 1 for number in range(27)]
    for number, label in enumerate(labels, start=1):
        draw(folder / "jpg" / f"image_{number:05d}.jpg", label - 1)
    savemat(folder / "imagelabels.mat", {"labels": np.array([labels], dtype=np.uint8)})
    numbers = np.arange(1, 28, dtype=np.uint16)[None]
    savemat(folder / "setid.mat", {"trnid": numbers[:, :9], "valid": numbers[:, 9:18], "tstid": numbers[:, 18:]})


def make_caltech101(root: Path) -> None:
    folder = root / "caltech101" / "101_ObjectCategories"
    for label, (name, count) in enumerate((("accordion", 36), ("anchor", 33), ("yin_yang", 31))):
        for number in range(1, count + 1):
            draw(folder / name / f"image_{number:04d}.jpg", label)
    draw(folder / "BACKGROUND_Google" / "image_0001.jpg", 0)


def make_cars(root: Path) -> None:
    folder = root / "stanford_cars"
    (folder / "devkit").mkdir(parents=True)
    names = ["AM General Hummer SUV 2000", "Acura RL Sedan 2012", "smart fortwo Convertible 2012"]
    savemat(folder / "devkit" / "cars_meta.mat", {"class_names": np.array([names], dtype=object)})
    kinds = [(name, "O") for name in ("bbox_x1", "bbox_y1", "bbox_x2", "bbox_y2", "class", "fname")]
    files = (("train", 30, "devkit/cars_train_annos.mat"), ("test", 12, "cars_test_annos_withlabels.mat"))
    for split, count, file in files:
        rows = []
        for number in range(count):
            draw(folder / f"cars_{split}" / f"{number + 1:05d}.jpg", number % 3)
            rows.append((1, 1, 9, 9, number % 3 + 1, f"{number + 1:05d}.jpg"))
        savemat(folder / file, {"annotations": np.array([tuple(row) for row in rows], dtype=kinds)[None]})


def make_aircraft(root: Path) -> None:
    folder = root / "fgvc-aircraft-2013b" / "data"
    names = ["707-320", "DC-3", "Spitfire Mk IX"]  # the official names have spaces and slashes
    folder.mkdir(parents=True)
    (folder / "variants.txt").write_text("".join(f"{name}\n" for name in names))
    for split, first in (("train", 0), ("val", 12), ("test", 24)):
        lines = []
        for number in range(first, first + 12):
            draw(folder / "images" / f"{number:07d}.jpg", number % 3)
            lines.append(f"{number:07d} {names[number % 3]}\n")
        (folder / f"images_variant_{split}.txt").write_text("".join(lines))


def make_dtd(root: Path) -> None:
    folder = root / "dtd" / "dtd"
    names = ["banded", "dotted", "zigzagged"]
    (folder / "labels").mkdir(parents=True)
    for split, first in (("train", 0), ("val", 4), ("test", 8)):
        keys = [f"{name}/{name}_{number:04d}.jpg" for name in names for number in range(first, first + 4)]
        for key in keys:
            draw(folder / "images" / key, names.index(key.split("/")[0]))
        (folder / "labels" / f"{split}1.txt").write_text("".join(f"{key}\n" for key in keys))


def make_cifar10(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = root / "cifar-10-batches-py"
    folder.mkdir()

    def write(name: str, content: dict[str, object]) -> str:
        (folder / name).write_bytes(pickle.dumps(content))
        return hashlib.md5((folder / name).read_bytes()).hexdigest()

    def batch(count: int, seed: int) -> dict[str, object]:
        generator = np.random.default_rng(seed)
        labels = [number % 3 for number in range(count)]
        pixels = np.array(_COLOURS)[labels][:, :, None] + generator.integers(-30, 30, (count, 1, 1024))
        return {"data": np.clip(pixels, 0, 255).reshape(count, 3072).astype(np.uint8), "labels": labels}

    kind = datasets.CIFAR10
    train = [[name, write(name, batch(12, seed))] for seed, (name, _) in enumerate(kind.train_list)]
    monkeypatch.setattr(kind, "train_list", train)
    monkeypatch.setattr(kind, "test_list", [["test_batch", write("test_batch", batch(15, 9))]])
    meta = {**kind.meta, "md5": write("batches.meta", {"label_names": ["airplane", "automobile", "bird"]})}
    monkeypatch.setattr(kind, "meta", meta)


_MAKE: dict[BenchmarkName, Callable[[Path], None]] = {
    "food101": make_food101,
    "mit67": make_mit67,
    "pets": make_pets,
    "flowers": make_flowers,
    "caltech101": make_caltech101,
    "cars": make_cars,
    "aircraft": make_aircraft,
    "dtd": make_dtd,
}
_SIZES = {  # training and validation, test
    "food101": (30, 12),
    "mit67": (30, 12),
    "pets": (30, 12),
    "flowers": (18, 9),
    "caltech101": (90, 10),
    "cars": (30, 12),
    "aircraft": (24, 12),
    "dtd": (24, 12),
}


def colours_right(source: Source) -> bool:
    """Each label is that of the image's colour."""
    assert source.labels is not None
    strongest = [int(source[index].image.float().mean(dim=(1, 2)).argmax()) for index in range(len(source))]
    return strongest == source.labels.tolist()


@pytest.mark.parametrize("name", _MAKE)
def test_every_layout_is_read_as_it_is_distributed(name: BenchmarkName, tmp_path: Path) -> None:
    _MAKE[name](tmp_path)
    learn, val, test = BENCHMARKS[name].open(tmp_path, 0)
    assert (len(learn), len(test)) == _SIZES[name]
    assert learn.classes is not None
    assert len(learn.classes) == 3
    assert learn.classes == test.classes
    assert not set(learn.files()) & set(test.files())  # type: ignore[attr-defined]
    assert colours_right(learn)
    assert colours_right(test)
    assert 0 < int(val.sum()) < len(learn)
    again = BENCHMARKS[name].open(tmp_path, 0)
    assert again[0].keys == learn.keys
    assert torch.equal(again[1], val)


@pytest.mark.parametrize(
    ("name", "kind", "options"),
    [
        ("food101", datasets.Food101, [{"split": "train"}, {"split": "test"}]),
        ("pets", datasets.OxfordIIITPet, [{"split": "trainval"}, {"split": "test"}]),
        ("flowers", datasets.Flowers102, [{"split": "train"}, {"split": "val"}, {"split": "test"}]),
        ("cars", datasets.StanfordCars, [{"split": "train"}, {"split": "test"}]),
        ("aircraft", datasets.FGVCAircraft, [{"split": "train"}, {"split": "val"}, {"split": "test"}]),
        ("dtd", datasets.DTD, [{"split": "train"}, {"split": "val"}, {"split": "test"}]),
    ],
)
def test_torchvision_reads_the_same_images_and_labels(
    name: BenchmarkName,
    kind: type,
    options: list[dict[str, str]],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    _MAKE[name](tmp_path)
    monkeypatch.setattr(datasets.Flowers102, "_check_integrity", lambda self: True)  # it knows the official hashes
    learn, val, test = BENCHMARKS[name].open(tmp_path, 0)
    parts = [kind(str(tmp_path), download=False, **option) for option in options]
    expected = [(image, label) for part in parts[:-1] for image, label in part]
    assert len(expected) == len(learn)
    for index, (image, label) in enumerate(expected):
        assert torch.equal(learn[index].image, torch.from_numpy(np.array(image)).permute(2, 0, 1))
        assert learn[index].label == label
    assert [label for _, label in parts[-1]] == test.labels.tolist()  # type: ignore[union-attr]
    if len(parts) == 3:  # it says itself which images are for validation
        assert val.tolist() == [False] * len(parts[0]) + [True] * len(parts[1])


def test_caltech_draws_30_images_of_each_class_and_leaves_the_background_out(tmp_path: Path) -> None:
    make_caltech101(tmp_path)
    learn, val, test = BENCHMARKS["caltech101"].open(tmp_path, 0)
    assert torch.bincount(learn.labels).tolist() == [30, 30, 30]  # type: ignore[arg-type]
    assert torch.bincount(test.labels).tolist() == [6, 3, 1]  # type: ignore[arg-type]
    assert torch.bincount(learn.labels[val]).tolist() == [5, 5, 5]  # type: ignore[index]
    assert learn.classes == ["accordion", "anchor", "yin_yang"]
    assert BENCHMARKS["caltech101"].open(tmp_path, 1)[0].keys != learn.keys


def test_the_table_is_that_of_the_papers() -> None:
    assert len(BENCHMARKS) == 10
    totals = {name: sum(benchmark.sizes) for name, benchmark in BENCHMARKS.items()}
    assert totals == {  # images of the whole data sets; Caltech-101 without its background
        "food101": 101_000,
        "mit67": 6_700,
        "pets": 7_349,
        "flowers": 8_189,
        "caltech101": 8_677,
        "cars": 16_185,
        "aircraft": 10_000,
        "dtd": 5_640,
        "cifar10": 60_000,
        "cifar100": 60_000,
    }
    per_class = [name for name, benchmark in BENCHMARKS.items() if benchmark.metric == "mean_per_class"]
    assert per_class == ["pets", "flowers", "caltech101", "aircraft"]


# ---------------------------------------------------------------- missing and damaged files


@pytest.mark.parametrize(
    ("name", "gone", "message"),
    [
        ("mit67", "mit67/TestImages.txt", "MIT67 cannot be read .*TestImages.txt: No such file.*it needs mit67/ with"),
        ("pets", "oxford-iiit-pet/images/Abyssinian_False3.jpg", "Abyssinian_False3.jpg and 0 more of 30 images are"),
        (
            "flowers",
            "flowers-102/setid.mat",
            r"setid.mat: No such file.*from https://www.robots.ox.ac.uk/~vgg/data/flo",
        ),
    ],
)
def test_a_missing_file_is_named_with_its_place_and_origin(
    name: BenchmarkName, gone: str, message: str, tmp_path: Path
) -> None:
    _MAKE[name](tmp_path)
    (tmp_path / gone).unlink()
    with pytest.raises(MissingFilesError, match=message):
        BENCHMARKS[name].open(tmp_path, 0)


def test_what_is_not_there_is_left_out_unless_it_was_asked_for(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    make_dtd(tmp_path)
    assert list(open_benchmarks(tmp_path, None, 0)) == ["dtd"]
    told = capsys.readouterr().err
    assert "left out: MIT67 cannot be read" in told
    assert "DTD in" in told
    assert "has 12 / 12 / 12 images (train / val / test), not 1,880 / 1,880 / 1,880 as in papers" in told
    with pytest.raises(MissingFilesError, match=r"CIFAR-10 cannot be read \(Dataset not found or corrupted"):
        open_benchmarks(tmp_path, ["dtd", "cifar10"], 0)
    (tmp_path / "empty").mkdir()
    with pytest.raises(GlocalError, match="holds none of the data sets.*MIT67: mit67/ with Images/, TrainImages.txt"):
        open_benchmarks(tmp_path / "empty", None, 0)
    with pytest.raises(GlocalError, match="there is no folder .*nowhere"):
        open_benchmarks(tmp_path / "nowhere", None, 0)


def test_a_damaged_matlab_file_is_named(tmp_path: Path) -> None:
    make_flowers(tmp_path)
    (tmp_path / "flowers-102" / "imagelabels.mat").write_bytes(b"nonsense" * 40)
    with pytest.raises(MissingFilesError, match="Flowers-102 cannot be read"):
        BENCHMARKS["flowers"].open(tmp_path, 0)


# ---------------------------------------------------------------- end to end


def test_transfer_measures_each_data_set_by_its_metric_and_the_mean(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_pets(tmp_path)
    make_dtd(tmp_path)
    make_cifar10(tmp_path, monkeypatch)
    settings = {"transfer.logistic.values": 4}
    found = evaluate(Colour(), data={"transfer": tmp_path}, settings=settings, workers=0, progress=False)
    assert list(found["protocols"]) == ["transfer"]
    results = found["protocols"]["transfer"]["results"]
    assert [entry["setting"].split(":")[0] for entry in results] == ["pets", "dtd", "cifar10", "mean of 3 data sets"]
    assert [list(entry["metrics"]) for entry in results] == [["mean_per_class"], ["top1"], ["top1"], ["mean"]]
    assert all(value > 90 for entry in results for value in entry["metrics"].values())
    one = evaluate(
        Colour(),
        data={"transfer": tmp_path},
        settings={**settings, "transfer.datasets": ["dtd"]},
        workers=0,
        progress=False,
    )
    [entry] = one["protocols"]["transfer"]["results"]
    assert entry == results[1]
    # The same by hand: whole squares, refitted on training and validation images with the chosen C.
    learn, _, test = BENCHMARKS["dtd"].open(tmp_path, 0)
    features = [extract(Colour(), source, WHOLE_SQUARES, workers=0, progress=False) for source in (learn, test)]
    c = float(entry["setting"].split("C=")[1])
    model = LogisticRegression(C=c, tol=1e-6, max_iter=5000).fit(features[0].features.numpy(), learn.labels.numpy())  # type: ignore[union-attr]
    assert entry["metrics"]["top1"] == 100 * model.score(features[1].features.numpy(), test.labels.numpy())  # type: ignore[union-attr]


def test_images_that_cannot_be_decoded_are_skipped(tmp_path: Path) -> None:
    make_mit67(tmp_path)
    (tmp_path / "mit67" / "Images" / "bar" / "Tr_3.jpg").write_bytes(b"")
    settings = {"transfer.logistic.c": [1.0, 10.0]}
    found = evaluate(Colour(), data={"transfer": tmp_path}, settings=settings, workers=0, progress=False)
    [entry] = found["protocols"]["transfer"]["results"]
    assert entry["metrics"]["top1"] > 90


def test_a_wrong_name_is_answered_with_the_right_ones(tmp_path: Path) -> None:
    with pytest.raises(GlocalError, match=r"datasets\.0 must be 'food101', 'mit67'"):
        evaluate(Colour(), data={"transfer": tmp_path}, settings={"transfer.datasets": ["food"]})
    with pytest.raises(GlocalError, match="protocol transfer needs --data transfer=PATH: a folder that holds"):
        evaluate(Colour(), protocols="transfer")


def test_whole_squares_reach_to_the_border_of_the_shorter_side() -> None:
    images = torch.zeros(1, 3, 128, 160, dtype=torch.uint8)
    images[..., 16:144] = 100  # the largest central square
    images[..., :2, 16:144] = 255
    source = MemorySource("bordered", images, torch.zeros(1, dtype=torch.int64), ["only"])

    class Whole(Colour):
        size = 128

        def features(self, images: torch.Tensor) -> torch.Tensor:
            return images.float().amax(dim=(2, 3))

    bench = Bench(Whole(), progress=False)
    assert bench.features(source, WHOLE_SQUARES).features.tolist() == [[255.0] * 3]
    assert bench.features(source).features.tolist() == [[100.0] * 3]  # 7/8 of the side
