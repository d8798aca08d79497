"""All images that an evaluation reads are decoded with one range of grey values, protocols' own folders too."""

import csv
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor
from torch.nn.functional import avg_pool2d

from glocal.data.annotated.box_batches import read_annotated
from glocal.data.annotated.boxes import open_detection
from glocal.data.decoding.rules import Decoding
from glocal.data.ranges import range_of
from glocal.data.sources.base import Subset
from glocal.data.sources.opening import open_source
from glocal.evaluation import evaluate
from glocal.evaluation.features.bench import Bench
from glocal.evaluation.features.extraction import RawPixels
from glocal.models.architecture import ModelSettings
from glocal.models.building import build_backbone
from glocal.report.preview import preview

RANGES = [None, (0.0, 8000.0)]  # what is known of the backbone's own images


class Eye:
    """A backbone that remembers the brightest value of every image that it saw."""

    size, dim, label = 32, 12, "eye"

    def __init__(self, value_range: tuple[float, float] | None = None) -> None:
        self.decoding = None if value_range is None else Decoding(value_range)
        self.seen: list[float] = []

    def features(self, images: Tensor) -> Tensor:
        return self.feature_map(images).flatten(1)[:, :12]  # other directions for other images

    def feature_map(self, images: Tensor) -> Tensor:
        self.seen += images.flatten(1).amax(dim=1).tolist()
        return avg_pool2d(images.float() / 255, 8) + 1e-3


def save(path: Path, top: int) -> None:
    """A 12-bit image whose brightest part has the value `top`."""
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.full((32, 32), top, np.uint16)
    pixels[:8, : top // 160 + 4] = top // 3
    Image.fromarray(pixels).save(path)


def copies(root: Path) -> dict[str, Any]:
    for number, top in enumerate((500, 1000, 4000)):
        save(root / "original" / f"{1000 + number}00.png", top)
        save(root / "strong" / f"{1000 + number}01.png", top // 2)
    for folder, tops in (("far", (300, 600)), ("third", (200, 700, 900))):
        for top in tops:
            save(root.parent / folder / f"{top}.png", top)
    own = {"distractors": str(root.parent / "far"), "whiten": str(root.parent / "third"), "whiten_dim": 1}
    return {f"copy_detection.{key}": value for key, value in own.items()}


def queries(root: Path) -> dict[str, Any]:
    for top in (500, 1000, 4000):
        save(root / f"{top}.png", top)
    with open(root / "queries.csv", "w", encoding="utf-8", newline="") as file:
        csv.writer(file).writerows([("query", "relevant"), ("500.png", "1000.png")])
    for top in (200, 700, 900):
        save(root.parent / "third" / f"{top}.png", top)
    return {"retrieval.whiten": str(root.parent / "third"), "retrieval.whiten_dim": 1}


def masks(root: Path) -> dict[str, Any]:
    for part, tops in (("train", (4000, 800)), ("val", (300, 600))):
        for top in tops:
            save(root / "images" / part / f"{top}.png", top)
            place = root / "masks" / part / f"{top}.png"
            place.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(np.repeat(np.uint8([0, 1]), 16)[None].repeat(32, 0)).save(place)
    return {"dense.k": 1}


CASES: dict[str, tuple[Callable[[Path], dict[str, Any]], set[int]]] = {
    "copy_detection": (copies, {500, 1000, 4000, 250, 2000, 300, 600, 200, 700, 900}),
    "retrieval": (queries, {500, 1000, 4000, 200, 700, 900}),
    "dense": (masks, {4000, 800, 300, 600}),
}


@pytest.mark.parametrize("value_range", RANGES)
@pytest.mark.parametrize("name", CASES)
def test_folders_of_protocols_are_decoded_alike(
    name: str, value_range: tuple[float, float] | None, tmp_path: Path
) -> None:
    make, tops = CASES[name]
    root = tmp_path / "own"
    root.mkdir()
    settings, eye = make(root), Eye(value_range)
    evaluate(eye, data={name: str(root)}, settings=settings, device="cpu", workers=0, cache=False, progress=False)
    white = 4095 if value_range is None else value_range[1]
    assert {round(value) for value in eye.seen} - {0} == {round(255 * top / white) for top in tops}


@pytest.mark.parametrize("value_range", RANGES)
def test_images_with_boxes_are_decoded_alike(value_range: tuple[float, float] | None, tmp_path: Path) -> None:
    (tmp_path / "annotations").mkdir()
    for part, top in (("train2017", 4000), ("val2017", 300)):
        save(tmp_path / part / "1.png", top)
        found = {
            "images": [{"id": 1, "file_name": "1.png", "height": 32, "width": 32}],
            "annotations": [{"id": 1, "image_id": 1, "category_id": 1, "bbox": [1, 1, 9, 9], "area": 81, "iscrowd": 0}],
            "categories": [{"id": 1, "name": "thing"}],
        }
        (tmp_path / "annotations" / f"instances_{part}.json").write_text(json.dumps(found), encoding="utf-8")
    train, test = open_detection(str(tmp_path), "coco")
    Bench(Eye(value_range)).decode(train.files, test.files)
    white = 4095 if value_range is None else value_range[1]
    brightest = [int(read_annotated(images, 0).max()) for images in (train, test)]
    assert brightest == [round(255 * top / white) for top in (4000, 300)]


def test_what_is_decoded_once_stays_so_and_lends_its_range(tmp_path: Path) -> None:
    for name, top in (("a", 4000), ("b", 900), ("c", 900)):
        save(tmp_path / name / "0.png", top)
        save(tmp_path / name / "1.png", top // 4)
    bench, first = Bench(RawPixels()), open_source(tmp_path / "a")
    bench.decode(first)
    beside = bench.open(tmp_path / "b", beside=[first])
    alone = bench.open(tmp_path / "c")
    assert [range_of(source) for source in (first, beside, alone)] == [(0, 4095), (0, 4095), (0, 1023)]
    bench.decode(Subset(first, torch.tensor([1])))  # a part of it alone would suggest another
    assert range_of(first) == (0, 4095)


def test_one_image_is_drawn_with_the_range_of_the_recipe(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save(tmp_path / "a.png", 4000)
    shown: list[int] = []
    monkeypatch.setattr(
        "glocal.report.preview.draw_views", lambda lane, recipe, path: shown.append(int(lane.source[0].image.max()))
    )
    monkeypatch.setattr("glocal.report.preview.open_views", lambda source, *_: type("Lane", (), {"source": source}))
    preview(tmp_path / "a.png", tmp_path / "out.png")
    preview(tmp_path / "a.png", tmp_path / "out.png", overrides={"data.range": [0, 8000]})
    assert shown == [round(255 * 4000 / white) for white in (4095, 8000)]


def test_a_backbone_takes_pil_images_as_its_files() -> None:
    torch.manual_seed(0)
    backbone = build_backbone(ModelSettings(name="resnet18", options={"channels": [8] * 4, "layers": [1] * 4}), size=32)
    backbone.eval().decoding = Decoding((0.0, 4000.0))
    deep = Image.fromarray(np.full((32, 32), 2000, np.uint16))
    grey = torch.full((1, 3, 32, 32), 128, dtype=torch.uint8)
    assert torch.equal(backbone.features(deep), backbone.features(grey))
