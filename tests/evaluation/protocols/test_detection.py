"""Detection on tiny data in the formats of COCO, LVIS and VOC: readers, batches, scores, detectors, the whole way."""

import csv
import json
import math
from collections.abc import Callable
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from glocal.data.annotated.box_batches import (
    ExampleReader,
    Request,
    repeat_factors,
    resized,
    training_order,
    transformed,
)
from glocal.data.annotated.boxes import DetectionImages, open_detection
from glocal.data.annotated.outlines import filled, run_lengths
from glocal.errors import GlocalError
from glocal.evaluation import RawPixels, evaluate
from glocal.evaluation.detection.detectors import faster_rcnn_c4, mask_rcnn_fpn, torchvision_resnet
from glocal.evaluation.detection.training import Keeper, Plan, detect, finetune
from glocal.evaluation.features.bench import Bench
from glocal.evaluation.metrics.detection import Detections, coco_scores, voc_scores
from glocal.evaluation.protocols.detection import DetectionSettings, measure, plan_of, resolved
from glocal.models.architecture import ModelSettings
from glocal.models.backbone import Backbone
from glocal.models.building import build_backbone

pytest.importorskip("faster_coco_eval")

NAMES = ["cat", "dog", "zebra"]


def backbone(name: str = "resnet18", **settings: Any) -> Backbone:
    torch.manual_seed(0)
    return build_backbone(ModelSettings(name=name, **{"stem": "standard", **settings}), size=64).eval()


def scene(number: int, crowd: bool = False) -> tuple[np.ndarray, list[dict[str, Any]]]:
    """An image of bright rectangles on grey, (H, W, 3), and its objects in COCO's words."""
    random = np.random.default_rng(number)
    height, width = (64, 80) if number % 3 else (80, 64)
    image = random.integers(90, 110, (height, width, 3), dtype=np.uint8)
    objects = []
    for place in range(1 + number % 3):
        label = (number + place) % 2
        w, h = random.integers(14, 26, 2).tolist()
        x, y = int(random.integers(1, width - w)), int(random.integers(1, height - h))
        image[y : y + h, x : x + w] = 0
        image[y : y + h, x : x + w, 2 * label] = 250
        objects.append(
            {
                "category_id": (7, 3)[label],
                "bbox": [x, y, w, h],
                "area": float(w * h),
                "iscrowd": 0,
                "segmentation": [[x, y, x + w, y, x + w, y + h, x, y + h]],
            }
        )
    if crowd:
        mask = np.zeros((height, width), np.uint8)
        mask[40:60, 5:50] = 1
        flat = mask.T.flatten()
        edges = np.flatnonzero(np.diff(np.concatenate([[0], flat, [flat[-1]]]))).tolist()
        counts = np.diff([0, *edges, len(flat)]).tolist()
        objects.append(
            {
                "category_id": 3,
                "bbox": [5, 40, 45, 20],
                "area": 900.0,
                "iscrowd": 1,
                "segmentation": {"size": [height, width], "counts": counts},
            }
        )
    return image, objects


@pytest.fixture
def coco(tmp_path: Path) -> Path:
    folder = tmp_path / "coco"
    (folder / "annotations").mkdir(parents=True)
    for split, numbers in (("train2017", range(6)), ("val2017", range(6, 10))):
        (folder / split).mkdir()
        images, annotations = [], []
        for number in numbers:
            pixels, objects = scene(number, crowd=number % 4 == 1)
            Image.fromarray(pixels).save(folder / split / f"{number:012d}.jpg", quality=95)
            size = {"height": pixels.shape[0], "width": pixels.shape[1]}
            images.append({"id": number + 100, "file_name": f"{number:012d}.jpg", **size})
            annotations += [{**entry, "image_id": number + 100} for entry in objects]
        categories = [{"id": 7, "name": "cat"}, {"id": 3, "name": "dog"}, {"id": 11, "name": "zebra"}]
        whole = {
            "images": images,
            "annotations": [{"id": place, **entry} for place, entry in enumerate(annotations)],  # COCO-like, from 0
            "categories": categories,
        }
        (folder / "annotations" / f"instances_{split}.json").write_text(json.dumps(whole))
    return folder


@pytest.fixture
def lvis(coco: Path) -> Path:
    for split in ("train2017", "val2017"):
        whole = json.loads((coco / "annotations" / f"instances_{split}.json").read_text())
        for category, frequency in zip(whole["categories"], "fcr", strict=True):
            category["frequency"] = frequency
        whole["annotations"] = [entry for entry in whole["annotations"] if not entry.pop("iscrowd")]
        for image in whole["images"]:
            there = {entry["category_id"] for entry in whole["annotations"] if entry["image_id"] == image["id"]}
            image["neg_category_ids"] = [11] if image["id"] % 2 else sorted({3, 7} - there)
            image["not_exhaustive_category_ids"] = sorted(there)[:1] if image["id"] % 2 else []
            image["coco_url"] = f"http://images.cocodataset.org/{split}/{image['file_name']}"
            image["file_name"] = f"COCO_{split[:-4]}2014_{image['file_name']}"
        (coco / f"lvis_v0.5_{split[:-4]}.json").write_text(json.dumps(whole))
    return coco


@pytest.fixture
def voc(tmp_path: Path) -> Path:
    devkit = tmp_path / "VOCdevkit"
    for year, split, numbers in ((2007, "trainval", range(3)), (2012, "trainval", range(3, 6)), (2007, "test", (6, 7))):
        place = devkit / f"VOC{year}"
        for name in ("Annotations", "ImageSets/Main", "JPEGImages"):
            (place / name).mkdir(parents=True, exist_ok=True)
        for number in numbers:
            pixels, objects = scene(number)
            Image.fromarray(pixels).save(place / "JPEGImages" / f"{number:06d}.jpg", quality=95)
            parts = ""
            for rank, entry in enumerate(objects):
                x, y, w, h = entry["bbox"]
                box = f"<xmin>{x + 1}</xmin><ymin>{y + 1}</ymin><xmax>{x + w}</xmax><ymax>{y + h}</ymax>"
                name, difficult = {7: "cat", 3: "dog"}[entry["category_id"]], int(rank == 2)
                head = "<xmin>1</xmin><ymin>1</ymin><xmax>2</xmax><ymax>2</ymax>"
                part = f"<part><name>head</name><bndbox>{head}</bndbox></part>"
                parts += f"<object><name>{name}</name><difficult>{difficult}</difficult>{part}"
                parts += f"<bndbox>{box}</bndbox></object>"
            size = f"<size><width>{pixels.shape[1]}</width><height>{pixels.shape[0]}</height><depth>3</depth></size>"
            (place / "Annotations" / f"{number:06d}.xml").write_text(f"<annotation>{size}{parts}</annotation>")
        (place / "ImageSets" / "Main" / f"{split}.txt").write_text("".join(f"{number:06d}\n" for number in numbers))
    return devkit


def perfect(images: DetectionImages) -> list[Detections]:
    found = []
    for index in range(len(images)):
        rows = images.rows(index)
        kept = ~images.ignored[rows]
        size = tuple(images.sizes[index].tolist())
        outlines = [outline for outline, keep in zip(images.outlines[rows], kept.tolist(), strict=True) if keep]
        masks = [run_lengths(filled(outline, size, size)[None])[0] for outline in outlines if outline is not None]
        boxes = images.boxes[rows][kept]
        found.append(Detections(boxes, torch.linspace(0.5, 0.9, len(boxes)), images.labels[rows][kept], masks))
    return found


def guesses(images: DetectionImages, seed: int, count: int = 12) -> list[Detections]:
    """Random boxes, half of them near objects, with elliptic masks."""
    found = []
    generator = torch.Generator().manual_seed(seed)
    for index in range(len(images)):
        height, width = images.sizes[index].tolist()
        rows = images.rows(index)
        start = torch.rand(count, 2, generator=generator) * torch.tensor([width, height]) * 0.7
        boxes = torch.cat([start, start + 5 + torch.rand(count, 2, generator=generator) * 20], dim=1)
        labels = torch.randint(0, 3, (count,), generator=generator)
        near = torch.randint(rows.start, rows.stop, (count // 2,), generator=generator)
        boxes[: count // 2] = images.boxes[near].float() + 2 * torch.randn(count // 2, 4, generator=generator)
        labels[: count // 2] = images.labels[near]
        scores = torch.rand(count, generator=generator)
        y, x = torch.meshgrid(torch.arange(height) + 0.5, torch.arange(width) + 0.5, indexing="ij")
        left, top, right, bottom = (side[:, None, None] for side in boxes.unbind(1))
        across, down = (2 * x - left - right) / (right - left), (2 * y - top - bottom) / (bottom - top)
        masks = run_lengths((across.abs() ** 6 + down.abs() ** 6 < 1).to(torch.uint8))
        found.append(Detections(boxes, scores, labels, masks))
    return found


# readers


def test_coco_is_read_as_it_is_written(coco: Path) -> None:
    train, val = open_detection(coco, "coco")
    assert train.classes == val.classes == ["dog", "cat", "zebra"]  # by their ids
    assert (len(train), len(val)) == (6, 4)
    raw = json.loads((coco / "annotations" / "instances_train2017.json").read_text())
    for index, image in enumerate(raw["images"]):
        mine = [entry for entry in raw["annotations"] if entry["image_id"] == image["id"]]
        rows = train.rows(index)
        assert train.keys[index] == f"train2017/{image['file_name']}"
        assert train.sizes[index].tolist() == [image["height"], image["width"]]
        for entry, box, label, crowd in zip(
            mine, train.boxes[rows].tolist(), train.labels[rows].tolist(), train.ignored[rows].tolist(), strict=True
        ):
            x, y, w, h = entry["bbox"]
            assert box == [x, y, x + w, y + h]
            assert label == {3: 0, 7: 1}[entry["category_id"]]
            assert crowd == bool(entry["iscrowd"])
    crowd = filled(train.outlines[int(train.ignored.nonzero()[0])], (64, 80), (64, 80))  # type: ignore[arg-type]
    assert crowd.sum() == 900
    assert crowd[40:60, 5:50].all()


def test_lvis_names_classes_that_are_not_there_or_not_all_marked(lvis: Path) -> None:
    train, val = open_detection(lvis, "lvis")
    assert train.frequency == ["c", "f", "r"]
    assert train.keys[0] == "train2017/000000000000.jpg"
    assert val.keys[0] == "val2017/000000000006.jpg"
    raw = json.loads((lvis / "lvis_v0.5_val.json").read_text())
    number = {3: 0, 7: 1, 11: 2}
    assert val.negative == [[number[label] for label in image["neg_category_ids"]] for image in raw["images"]]
    assert val.not_exhaustive == [
        [number[label] for label in image["not_exhaustive_category_ids"]] for image in raw["images"]
    ]


def test_voc_counts_pixels_from_one_and_marks_difficult_objects(voc: Path) -> None:
    for folder in (voc / "VOC2007", voc / "VOC2012", voc.parent, voc):
        train, test = open_detection(folder, "voc")
    assert train.classes == ["cat", "dog"]
    assert (len(train), len(test)) == (6, 2)
    assert train.keys[3] == "VOC2012/JPEGImages/000003.jpg"
    _, objects = scene(5)
    x, y, w, h = objects[0]["bbox"]
    rows = train.rows(5)
    assert train.boxes[rows][0].tolist() == [x, y, x + w, y + h]
    assert train.ignored[rows].tolist() == [False, False, True]
    assert train.sizes[0].tolist() == [80, 64]


@pytest.mark.parametrize(
    ("task", "file", "message"),
    [
        ("coco", "annotations/instances_val2017.json", "there is no .*instances_val2017.json; it comes from https://coco"),
        ("coco", "train2017/000000000003.jpg", "1 of 6 images are missing in .*first is train2017/000000000003.jpg"),
        ("lvis", "lvis_v0.5_train.json", "there is no .*lvis_v0.5_train.json; it comes from https://www.lvisdataset.org"),
        ("voc", "VOC2012/ImageSets/Main/trainval.txt", "there is no .*VOC2012.*trainval.txt; it comes from http://host"),
        ("voc", "VOC2007/Annotations/000006.xml", "there is no .*000006.xml; it comes from"),
        ("voc", "VOC2007/JPEGImages/000006.jpg", "1 of 2 images are missing"),
    ],
)  # fmt: skip
def test_a_missing_file_is_named_with_where_it_comes_from(
    task: Any, file: str, message: str, lvis: Path, voc: Path
) -> None:
    folder = voc if task == "voc" else lvis
    (folder / file).unlink()
    with pytest.raises(GlocalError, match=message):
        open_detection(folder, task)


def test_a_folder_without_voc_is_named_as_it_was_given(tmp_path: Path) -> None:
    folder = tmp_path / "VOCdevkit" / "VOC2007"
    folder.mkdir(parents=True)
    with pytest.raises(GlocalError, match=r"VOCdevkit/VOC2007 holds neither VOC2007 nor VOC2012 .*they come from http"):
        open_detection(folder, "voc")


def test_what_is_no_annotation_is_refused(coco: Path, voc: Path) -> None:
    path = coco / "annotations" / "instances_train2017.json"
    whole = json.loads(path.read_text())
    for damage, message in (
        (lambda raw: raw["annotations"][2].pop("bbox"), "annotation 2 is not as it should be: KeyError.'bbox'"),
        (lambda raw: raw["annotations"][1].update(category_id=99), "annotation 1 is not"),
        (lambda raw: raw["images"][0].pop("height"), "lack something: KeyError.'height'"),
        (lambda raw: raw.pop("categories"), "has no list of categories"),
    ):
        raw = json.loads(json.dumps(whole))
        damage(raw)
        path.write_text(json.dumps(raw))
        with pytest.raises(GlocalError, match=message):
            open_detection(coco, "coco")
    path.write_text("{")
    with pytest.raises(GlocalError, match="cannot be read"):
        open_detection(coco, "coco")
    path.write_text(json.dumps(whole))
    with pytest.raises(GlocalError, match="lvis_v0.5_train.json; it comes from"):
        open_detection(coco, "lvis")
    with pytest.raises(GlocalError, match="there is no folder"):
        open_detection(coco / "elsewhere", "coco")
    path = voc / "VOC2007" / "Annotations" / "000000.xml"
    for text, message in (
        ('<!DOCTYPE a [<!ENTITY b "c">]><annotation>&b;</annotation>', "a document type is no part"),
        ("<annotation>", "is no annotation of VOC"),
        ("<annotation><object><name>cat</name></object></annotation>", "is no annotation of VOC"),
    ):
        path.write_text(text)
        with pytest.raises(GlocalError, match=message):
            open_detection(voc, "voc")


def test_a_test_class_that_training_lacks_is_named(voc: Path) -> None:
    path = voc / "VOC2007" / "Annotations" / "000006.xml"
    path.write_text(path.read_text().replace("cat", "dgo").replace("dog", "dgo"))
    with pytest.raises(GlocalError, match="class 'dgo' is not among the training classes; did you mean dog"):
        open_detection(voc, "voc")


# batches


@pytest.mark.parametrize("flipped", [False, True])
@pytest.mark.parametrize(("short", "longest"), [(64, 1000), (128, 1000), (48, 1000), (100, 110)])
def test_boxes_and_masks_follow_the_pixels(flipped: bool, short: int, longest: int) -> None:
    """Against a plain loop: where a white rectangle's pixels come to lie."""
    image = torch.zeros(3, 64, 80, dtype=torch.uint8)
    box = torch.tensor([[16.0, 8.0, 48.0, 40.0]])
    image[:, 8:40, 16:48] = 255
    polygon = np.array([16.0, 8, 48, 8, 48, 40, 16, 40])
    height, width = resized(64, 80, short, longest)
    assert min(height, width) <= short
    assert max(height, width) <= longest
    assert width / height == pytest.approx(80 / 64, rel=0.02)
    found, boxes, masks = transformed(image, box, [[polygon]], short=short, longest=longest, flipped=flipped)
    assert masks is not None
    assert found.shape == (3, height, width)
    assert masks.shape == (1, height, width)
    inside = []
    for y in range(height):
        for x in range(width):
            source_x = (x + 0.5) * 80 / width
            source_x = 80 - source_x if flipped else source_x
            inside.append(16 <= source_x < 48 and 8 <= (y + 0.5) * 64 / height < 40)
    expected = torch.tensor(inside).reshape(height, width)
    assert (masks[0].bool() != expected).float().mean() < 0.02  # the filling of polygons rounds in its own way
    assert ((found[0] > 127) != expected).float().mean() < 0.02
    rows, columns = expected.any(1).nonzero()[:, 0], expected.any(0).nonzero()[:, 0]
    plain = [int(columns[0]), int(rows[0]), int(columns[-1]) + 1, int(rows[-1]) + 1]
    assert boxes[0].tolist() == pytest.approx(plain, abs=1.0)
    left = 16 * width / 80
    right = 48 * width / 80
    exact = [width - right, 8 * height / 64, width - left, 40 * height / 64] if flipped else [left, 8 * height / 64]
    assert boxes[0, : len(exact)].tolist() == pytest.approx(exact, abs=1e-4)


def test_run_lengths_are_resized_and_boxes_are_cut_off_at_the_border() -> None:
    mask = torch.zeros(1, 20, 30, dtype=torch.uint8)
    mask[0, 5:10, 10:30] = 1
    [outline] = run_lengths(mask)
    image = torch.zeros(3, 20, 30, dtype=torch.uint8)
    box = torch.tensor([[10.0, 5.0, 31.0, 10.0]])
    _, boxes, masks = transformed(image, box, [outline], short=40, longest=100, flipped=True)
    assert boxes.tolist() == [[0, 10, 40, 20]]
    assert masks is not None
    assert torch.equal(masks[0], mask[0].repeat_interleave(2, 0).repeat_interleave(2, 1).flip(1))


def test_rare_classes_are_repeated_as_in_a_plain_loop(lvis: Path) -> None:
    train, _ = open_detection(lvis, "lvis")
    for threshold in (0.0, 0.7, 1.0):
        expected = []
        for index in range(len(train)):
            factor = 1.0
            for label in set(train.labels[train.rows(index)].tolist()):
                share = sum(label in train.labels[train.rows(i)] for i in range(len(train))) / len(train)
                factor = max(factor, math.sqrt(threshold / share))
            expected.append(factor)
        assert repeat_factors(train, threshold).tolist() == pytest.approx(expected)
    assert max(expected) > 1
    repeats = torch.tensor([2.5, 1, 1, 1, 1, 1.0])
    order = training_order(train, torch.arange(6), 1, seed=0, repeats=repeats)
    requests = [batch[0] for batch in islice(order, 3000)]
    epochs = requests[-1].epoch
    times = sum(request.image == 0 for request in requests) / epochs
    assert times == pytest.approx(2.5, abs=0.1)
    assert len(set(requests)) == len(requests)  # a repeated image is drawn anew
    assert {request.copy for request in requests if request.image == 0} == {0, 1, 2}


def test_batches_are_of_one_orientation_and_show_every_image_once_per_epoch(coco: Path) -> None:
    train, _ = open_detection(coco, "coco")
    batches = list(islice(training_order(train, torch.arange(6), 2, seed=1), 30))
    for batch in batches:
        wide = {bool(train.sizes[request.image][1] >= train.sizes[request.image][0]) for request in batch}
        assert len(wide) == 1
    seen = [request for batch in batches for request in batch]
    for epoch in range(8):
        assert sorted(request.image for request in seen if request.epoch == epoch) == list(range(6))
    assert list(islice(training_order(train, torch.arange(6), 2, seed=1), 30)) == batches


def test_crowds_are_not_learned_from_and_difficult_objects_are(coco: Path, voc: Path) -> None:
    train, _ = open_detection(coco, "coco")
    options: dict[str, Any] = {"short": (64,), "longest": 100, "seed": 0}
    crowd = int(train.image_of[train.ignored][0])
    example = ExampleReader(train, masks=True, difficult=False, **options).example(Request(0, crowd, 0))
    rows = train.rows(crowd)
    assert len(example.boxes) == len(train.boxes[rows]) - 1
    assert example.masks is not None
    assert example.masks.shape == (len(example.boxes), *example.image.shape[1:])
    train, _ = open_detection(voc, "voc")
    example = ExampleReader(train, masks=False, difficult=True, **options).example(Request(0, 5, 0))
    assert len(example.boxes) == 3
    nothing = replace(train, ignored=torch.ones_like(train.ignored))
    with pytest.raises(GlocalError, match="no image has an object to learn from"):
        ExampleReader(nothing, masks=False, difficult=False, **options).usable()


# scores


def pycocotools_scores(images: DetectionImages, raw: Path, found: list[Detections], kind: str) -> list[float]:
    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval

    whole = json.loads(raw.read_text())
    for entry in whole["annotations"]:
        entry["id"] += 1
    truth = COCO()
    truth.dataset = whole
    truth.createIndex()
    category = {0: 3, 1: 7, 2: 11}
    results = []
    for image, one in zip(whole["images"], found, strict=True):
        for row in range(len(one.scores)):
            left, top, right, bottom = one.boxes[row].double().tolist()
            assert one.masks is not None
            shape = (
                {"bbox": [left, top, right - left, bottom - top]}
                if kind == "bbox"
                else {"segmentation": one.masks[row]}
            )
            entry = {"image_id": image["id"], "category_id": category[int(one.labels[row])]}
            results.append({**entry, "score": float(one.scores[row]), **shape})
    scorer = COCOeval(truth, truth.loadRes(results), kind)
    scorer.evaluate()
    scorer.accumulate()
    scorer.summarize()
    return [100 * float(value) for value in scorer.stats[:3]]


@pytest.mark.parametrize("kind", ["bbox", "segm"])
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_scores_are_those_of_pycocotools(kind: Any, seed: int, coco: Path) -> None:
    _, val = open_detection(coco, "coco")
    found = guesses(val, seed)
    expected = pycocotools_scores(val, coco / "annotations" / "instances_val2017.json", found, kind)
    scores = coco_scores(val, found, kind)
    assert list(scores.metrics) == ["AP", "AP50", "AP75"]
    assert list(scores.metrics.values()) == pytest.approx(expected, abs=1e-6)
    assert 0 < scores.metrics["AP"] < 100
    assert scores.metrics["AP"] == pytest.approx(np.mean([values[0] for values in scores.per_class.values()]))
    assert set(scores.per_class) == {"dog", "cat"}  # there is no zebra to find


def test_perfect_detections_score_a_hundred_and_none_score_zero(coco: Path, lvis: Path, voc: Path) -> None:
    nothing = Detections(torch.empty(0, 4), torch.empty(0), torch.empty(0, dtype=torch.int64), [])
    for folder, task in ((coco, "coco"), (lvis, "lvis"), (voc, "voc")):
        _, test = open_detection(folder, task)  # type: ignore[arg-type]
        none = [nothing] * len(test)
        for scored in (
            coco_scores(test, perfect(test), "bbox"),
            *([voc_scores(test, perfect(test))] if task == "voc" else [coco_scores(test, perfect(test), "segm")]),
        ):
            assert all(value == pytest.approx(100) for value in scored.metrics.values())
        assert all(value == 0 for value in coco_scores(test, none, "bbox").metrics.values())
        assert all(value == 0 for value in voc_scores(test, none).metrics.values())
    empty = replace(test, ignored=torch.ones_like(test.ignored))
    for score in (voc_scores, lambda images, found: coco_scores(images, found, "bbox")):
        with pytest.raises(GlocalError, match="there is no object to be found"):
            score(empty, none)


def overlap(a: list[float], b: list[float]) -> float:
    width = min(a[2], b[2]) - max(a[0], b[0])
    height = min(a[3], b[3]) - max(a[1], b[1])
    shared = max(width, 0) * max(height, 0)
    return shared / ((a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - shared)


def voc_by_loop(images: DetectionImages, found: list[Detections], threshold: float) -> float:
    """AP with eleven points, detection by detection."""
    precisions = []
    for label in range(len(images.classes)):
        objects = [
            [
                [box, difficult, False]
                for box, its, difficult in zip(
                    images.boxes[images.rows(i)].tolist(),
                    images.labels[images.rows(i)].tolist(),
                    images.ignored[images.rows(i)].tolist(),
                    strict=True,
                )
                if its == label
            ]
            for i in range(len(images))
        ]
        wanted = sum(not difficult for those in objects for _, difficult, _ in those)
        if not wanted:
            continue
        every = [
            (float(score), index, box)
            for index, one in enumerate(found)
            for score, its, box in zip(one.scores, one.labels.tolist(), one.boxes.tolist(), strict=True)
            if its == label
        ]
        curve, right, wrong = [], 0, 0
        for _, index, box in sorted(every, key=lambda entry: -entry[0]):
            best = max(objects[index], key=lambda thing: overlap(box, thing[0]), default=None)
            if best is None or overlap(box, best[0]) <= threshold:
                wrong += 1
            elif not best[1]:
                right, wrong = (right, wrong + 1) if best[2] else (right + 1, wrong)
                best[2] = True
            curve.append((right / wanted, right / max(right + wrong, 1)))
        points = [max([p for r, p in curve if r >= 0.1 * point], default=0.0) for point in range(11)]
        precisions.append(sum(points) / 11)
    return 100 * sum(precisions) / len(precisions)


@pytest.mark.parametrize("seed", [0, 1])
def test_voc_scores_equal_a_plain_loop(seed: int, voc: Path) -> None:
    train, _ = open_detection(voc, "voc")
    assert train.ignored.any()
    found = guesses(train, seed, count=20)
    metrics = voc_scores(train, found).metrics
    by_threshold = [voc_by_loop(train, found, share / 100) for share in range(50, 100, 5)]
    assert metrics["AP50"] == pytest.approx(by_threshold[0])
    assert metrics["AP75"] == pytest.approx(by_threshold[5])
    assert metrics["AP"] == pytest.approx(sum(by_threshold) / 10)
    assert 0 < metrics["AP"] < 100


def lvis_by_loop(images: DetectionImages, found: list[Detections], most: int) -> dict[str, float]:
    """LVIS's AP of boxes by its rules, class by class."""
    assert images.negative is not None
    assert images.not_exhaustive is not None
    assert images.frequency is not None
    of_class: dict[int, float] = {}
    for label in range(len(images.classes)):
        values = []
        wanted = int((images.labels == label).sum())
        if not wanted:
            continue
        for threshold in [share / 100 for share in range(50, 100, 5)]:
            hits = []
            for index, one in enumerate(found):
                rows = images.rows(index)
                truth = images.boxes[rows][images.labels[rows] == label].tolist()
                if not truth and label not in images.negative[index]:
                    continue
                best = one.scores.argsort(descending=True)[:most].tolist()
                taken: set[int] = set()
                for row in best:
                    if int(one.labels[row]) != label:
                        continue
                    free = [(overlap(one.boxes[row].tolist(), box), n) for n, box in enumerate(truth) if n not in taken]
                    value, number = max(free, default=(0.0, -1))
                    if value >= threshold:
                        taken.add(number)
                    elif label in images.not_exhaustive[index]:
                        continue
                    hits.append((float(one.scores[row]), value >= threshold))
            right, curve = 0, []
            for place, (_, hit) in enumerate(sorted(hits, reverse=True), start=1):
                right += hit
                curve.append((right / wanted, right / place))
            points = [max([p for r, p in curve if r >= point / 100 - 1e-12], default=0.0) for point in range(101)]
            values.append(sum(points) / 101)
        of_class[label] = sum(values) / 10
    found_metrics = {"AP": 100 * sum(of_class.values()) / len(of_class)}
    for group in "rcf":
        mine = [value for label, value in of_class.items() if images.frequency[label] == group]
        if mine:
            found_metrics[f"AP{group}"] = 100 * sum(mine) / len(mine)
    return found_metrics


@pytest.mark.parametrize("most", [300, 7])
def test_lvis_scores_equal_a_plain_loop_of_its_rules(most: int, lvis: Path) -> None:
    train, _ = open_detection(lvis, "lvis")
    found = guesses(train, 3, count=16)
    metrics = coco_scores(train, found, "bbox", most=most).metrics
    expected = lvis_by_loop(train, found, most)
    assert set(metrics) == {*expected, "AP50", "AP75"}
    for name, value in expected.items():
        assert metrics[name] == pytest.approx(value, abs=1e-6)
    plain = coco_scores(replace(train, frequency=None), found, "bbox", most=most).metrics
    assert plain["AP"] != pytest.approx(metrics["AP"], abs=1e-3)


# detectors


def test_the_detectors_hold_the_backbone_unchanged() -> None:
    source = backbone()
    with torch.no_grad():  # statistics and scales that are not those of a fresh network
        for module in source.modules():
            if isinstance(module, torch.nn.BatchNorm2d):
                module.running_mean.normal_(0, 0.1)
                module.running_var.uniform_(0.5, 2)
                module.weight.uniform_(0.5, 1.5)
    images = torch.randint(0, 256, (2, 3, 64, 64), dtype=torch.uint8)
    prepared = source.prepare(images)
    with torch.no_grad():
        maps = source.network.forward_intermediates(prepared, indices=[1, 2, 3, 4], intermediates_only=True)
    for norm in ("train", "frozen"):
        c4, fpn = faster_rcnn_c4(source, 2, norm=norm).eval(), mask_rcnn_fpn(source, 2, norm=norm).eval()
        shown = c4.transform([image.float() / 255 for image in images])[0].tensors
        resized_prepared = torch.nn.functional.interpolate(prepared, size=shown.shape[-2:], mode="bilinear")
        assert torch.allclose(shown, resized_prepared, atol=1e-4)  # the backbone's own normalisation
        with torch.no_grad():
            found = [c4.backbone(prepared)["0"], *fpn.backbone.body(prepared).values()]
            assert torch.allclose(found[0], maps[2], atol=1e-5)
            for mine, expected in zip(found[1:], maps, strict=True):
                assert torch.allclose(mine, expected, atol=1e-5)
            assert torch.allclose(c4.roi_heads.box_head.layer4(maps[2]), maps[3], atol=1e-5)
        trained = sum(parameter.requires_grad for parameter in fpn.backbone.body.parameters())
        assert trained == (60 if norm == "train" else 20)  # all convolutions, and the normalisation where it learns
    assert [module.weight.shape for module in (c4.roi_heads.box_predictor.cls_score,)] == [(3, 512)]
    assert isinstance(faster_rcnn_c4(source, 2).roi_heads.box_head.norm, torch.nn.BatchNorm2d)


def test_deeper_resnets_fit_and_other_networks_are_refused() -> None:
    network = torchvision_resnet(backbone("resnet50"))
    assert len(network.layer3) == 6
    assert network.inplanes == 2048
    for name, settings, message in (
        ("resnet18", {"stem": "small"}, "its stem is not the standard one"),
        ("resnet18d", {}, "its stem is not|not those of torchvision's ResNet"),
        ("vit_tiny", {}, "VisionTransformer cannot be put into torchvision's detectors; choose resnet18"),
        ("resnet18", {"options": {"channels": [16, 32, 64, 128]}}, "its parameters are not those of torchvision"),
        ("resnet18", {"options": {"output_stride": 16}}, "compute something else than torchvision"),
        ("resnet18", {"options": {"act_layer": torch.nn.SiLU}}, "compute something else than torchvision"),
        ("small_alexnet", {}, "cannot be put into torchvision's detectors"),
    ):
        with pytest.raises(GlocalError, match=message):
            torchvision_resnet(backbone(name, **settings))


def plan(**changes: Any) -> Plan:
    base: dict[str, Any] = {"iterations": 3, "batch_size": 2, "learning_rate": 0.02, "warmup": 0, "decays": ()}
    return Plan(**{**base, "precise": 1, **changes})


def small_detector(build: Callable[..., Any]) -> Any:
    torch.manual_seed(0)
    return build(backbone(), 3, min_size=48, max_size=80, box_batch_size_per_image=8, box_detections_per_img=10)


@pytest.mark.slow
@pytest.mark.parametrize("build", [faster_rcnn_c4, mask_rcnn_fpn])
def test_the_loss_falls(build: Callable[..., Any], coco: Path) -> None:
    train, val = open_detection(coco, "coco")
    masks = build is mask_rcnn_fpn
    reader = ExampleReader(train, short=(48, 56), longest=80, masks=masks, difficult=False, seed=0)
    model = small_detector(build)
    before = torch.random.get_rng_state()
    losses = finetune(model, reader, plan(iterations=18, learning_rate=0.005), progress=False)
    assert torch.equal(torch.random.get_rng_state(), before)
    assert len(losses) == 18
    assert sum(losses[-6:]) < 0.95 * sum(losses[:6])  # the images differ from step to step
    (val.folder / val.keys[1]).write_bytes(b"broken")
    found, broken = detect(model, val, progress=False)
    assert len(found) == 4
    assert [error.key for error in broken] == [val.keys[1]]
    assert len(found[1].scores) == 0
    for number, one in enumerate(found):
        assert (one.boxes >= 0).all()
        assert (one.boxes <= val.sizes[number].flip(0).repeat(2)).all()
        assert (one.masks is None) == (not masks and number != 1)
        assert all(mask["size"] == val.sizes[number].tolist() for mask in one.masks or [])


@pytest.mark.slow
def test_what_was_learned_by_heart_is_found_again(coco: Path) -> None:
    """Boxes, masks, labels and sizes fit together all the way, or nothing would be found."""
    train, _ = open_detection(coco, "coco")
    reader = ExampleReader(train, short=(64,), longest=100, masks=True, difficult=False, seed=0)
    torch.manual_seed(0)
    model = mask_rcnn_fpn(backbone(), 3, min_size=64, max_size=100, box_batch_size_per_image=16)
    finetune(model, reader, plan(iterations=60, learning_rate=0.01, warmup=5, precise=4), progress=False)
    found, _ = detect(model, train, progress=False)
    assert coco_scores(train, found, "bbox").metrics["AP50"] > 40
    assert coco_scores(train, found, "segm").metrics["AP50"] > 40


def test_a_training_that_was_killed_goes_on_where_it_was(coco: Path, tmp_path: Path) -> None:
    train, _ = open_detection(coco, "coco")
    reader = ExampleReader(train, short=(48,), longest=80, masks=False, difficult=False, seed=0)
    whole = small_detector(faster_rcnn_c4)
    losses = finetune(whole, reader, plan(), progress=False)
    keeper = Keeper(tmp_path / "detector.pt", {"a": 1}, every=1)
    killed = small_detector(faster_rcnn_c4)
    step = torch.optim.SGD.step
    with pytest.MonkeyPatch.context() as patch:
        count = iter(range(100))

        def dies(self: Any, *args: Any) -> Any:
            if next(count) == 1:
                raise KeyboardInterrupt
            return step(self, *args)

        patch.setattr(torch.optim.SGD, "step", dies)
        with pytest.raises(KeyboardInterrupt):
            finetune(killed, reader, plan(), keeper=keeper, progress=False)
    resumed = small_detector(faster_rcnn_c4)
    assert finetune(resumed, reader, plan(), keeper=keeper, progress=False) == losses[1:]
    for name, value in whole.state_dict().items():
        assert torch.equal(resumed.state_dict()[name], value), name
    again = small_detector(faster_rcnn_c4)
    assert finetune(again, reader, plan(), keeper=keeper, progress=False) == []  # it is finished
    assert torch.equal(again.rpn.head.cls_logits.weight, whole.rpn.head.cls_logits.weight)
    assert Keeper(keeper.path, {"a": 2}).load() is None
    keeper.path.write_bytes(b"damaged")  # type: ignore[union-attr]
    assert keeper.load() is None


def test_a_loss_that_explodes_is_an_error(coco: Path) -> None:
    train, _ = open_detection(coco, "coco")
    reader = ExampleReader(train, short=(48,), longest=80, masks=False, difficult=False, seed=0)
    model = small_detector(faster_rcnn_c4)
    with torch.no_grad():
        model.roi_heads.box_predictor.cls_score.bias[0] = float("nan")
    with pytest.raises(GlocalError, match="loss is nan at iteration 0; lower detection.learning_rate"):
        finetune(model, reader, plan(), progress=False)


# the protocol


def test_null_settings_are_those_of_the_papers() -> None:
    voc = plan_of(resolved(DetectionSettings()))
    assert (voc.iterations, voc.learning_rate, voc.warmup, voc.decays) == (24_000, 0.02, 100, (18_000, 22_000))
    lvis = resolved(DetectionSettings(task="lvis", schedule="2x"))
    assert (lvis.model, lvis.detections, lvis.repeat_threshold) == ("mask_rcnn_fpn", 300, 0.001)
    assert lvis.short_sides == (640, 672, 704, 736, 768, 800)
    assert plan_of(lvis).decays == (120_000, 160_000)
    small = plan_of(resolved(DetectionSettings(batch_size=4)))
    assert (small.iterations, small.learning_rate, small.warmup, small.decays) == (96_000, 0.005, 400, (72_000, 88_000))
    brief = plan_of(resolved(DetectionSettings(iterations=12, learning_rate=0.1, warmup=0)))
    assert (brief.decays, brief.rate(0), brief.rate(9)) == ((9, 11), 0.1, pytest.approx(0.01))


def small_settings(task: str, **changes: Any) -> dict[str, Any]:
    values = {
        "task": task, "iterations": 2, "batch_size": 2, "short_sides": [40, 48], "test_side": 48, "longest_side": 80,
        "regions": 8, "precise_norm": 1, "learning_rate": 0.01, "detections": 10, **changes,
    }  # fmt: skip
    return {f"detection.{key}": value for key, value in values.items()}


@pytest.mark.parametrize("task", ["voc", "coco", "lvis"])
def test_the_whole_way(task: str, lvis: Path, voc: Path, tmp_path: Path) -> None:
    folder = voc if task == "voc" else lvis
    out = tmp_path / "out"
    options: dict[str, Any] = {"data": {"detection": folder}, "out": out, "progress": False, "workers": 0}
    found = evaluate(backbone(), settings=small_settings(task), **options)
    results = {
        entry["setting"].split(": ")[1]: entry["metrics"] for entry in found["protocols"]["detection"]["results"]
    }
    kinds = {"voc": ["boxes, 11-point (VOC07)", "boxes"]}.get(task, ["boxes", "masks"])
    assert list(results) == kinds
    for metrics in results.values():
        assert {"AP", "AP50", "AP75"} <= set(metrics)
        assert all(0 <= value <= 100 for value in metrics.values())
    rows = list(csv.DictReader((out / f"detection_{task}.csv").open()))
    assert {row["scored"] for row in rows} == set(kinds)
    assert {row["class"] for row in rows} == {"cat", "dog"}
    state = torch.load(out / f"detector_{task}.pt", weights_only=True)
    assert state["finished"]
    build = faster_rcnn_c4 if task == "voc" else mask_rcnn_fpn
    build(backbone(), 2 if task == "voc" else 3).load_state_dict(state["model"])
    if task != "voc":
        return
    with pytest.MonkeyPatch.context() as patch:  # nothing is trained a second time
        patch.setattr("glocal.evaluation.detection.training._step", None)
        again = evaluate(backbone(), settings=small_settings(task), **options)
    assert again["protocols"]["detection"]["results"] == found["protocols"]["detection"]["results"]


def test_what_does_not_go_together_is_said_before_anything_is_read(coco: Path, tmp_path: Path) -> None:
    def run(source: Any, **settings: Any) -> None:
        measure(Bench(source, progress=False), DetectionSettings(data=str(tmp_path / "nowhere"), **settings))

    with pytest.raises(GlocalError, match="raw pixels cannot be fine-tuned"):
        run(RawPixels())
    with pytest.raises(GlocalError, match="its stem is not the standard one"):
        run(backbone(stem="small"))
    with pytest.raises(GlocalError, match="needs masks, which detection.task=voc has not"):
        run(backbone(), model="mask_rcnn_fpn")
    with pytest.raises(GlocalError, match="there is no folder .*nowhere; get the data from http://host"):
        run(backbone())
    with pytest.raises(
        GlocalError, match="protocol detection needs --data detection=PATH: detection.task=voc: the VOC"
    ):
        evaluate(backbone(), protocols="detection", progress=False)
    for settings, message in (
        ({"detection.task": "cooc"}, "task must be 'voc', 'coco' or 'lvis'"),
        ({"detection.batchsize": 2}, "batchsize is not a setting; did you mean batch_size"),
        ({"detection.short_sides": [0]}, "short_sides.0 must be greater than 0"),
    ):
        with pytest.raises(GlocalError, match=message):
            evaluate(backbone(), data={"detection": coco}, settings=settings, progress=False)
