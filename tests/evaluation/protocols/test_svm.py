"""Linear SVMs on VOC07 classification: against scikit-learn class by class, and end to end in the real format."""

import csv
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from sklearn.metrics import average_precision_score
from sklearn.model_selection import StratifiedKFold
from sklearn.svm import LinearSVC
from torch.utils._python_dispatch import TorchDispatchMode

from glocal.data.annotated.voc import read_presence, voc_root
from glocal.data.sources.base import MemorySource
from glocal.errors import GlocalError
from glocal.evaluation import evaluate
from glocal.evaluation.features.bench import Bench
from glocal.evaluation.probes.svm import SVMSettings, Task, draw_shots, low_shot, one_vs_rest, unit_features
from glocal.evaluation.protocols.svm import PROTOCOL

CLASSES = ["aeroplane", "bicycle", "tvmonitor"]


class MeanColour:
    """A backbone of three features."""

    size, dim, label = 32, 3, "mean colour"

    def features(self, images: torch.Tensor) -> torch.Tensor:
        return images.float().mean(dim=(2, 3))


def blobs(rows: int, seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Features and targets of three classes, several of which an image can show; some are difficult."""
    generator = torch.Generator().manual_seed(seed)
    features = torch.randn(rows, 10, generator=generator) + 1
    directions = torch.randn(10, 3, generator=torch.Generator().manual_seed(99))
    strength = features @ directions + torch.randn(rows, 3, generator=generator)
    targets = torch.where(strength > strength.quantile(0.6, dim=0), 1, -1)
    targets[torch.rand(rows, 3, generator=generator) < 0.1] = 0
    return features, targets.to(torch.int8)


def task() -> Task:
    (train, train_targets), (test, test_targets) = blobs(90, 0), blobs(70, 1)
    return Task(train, train_targets, test, test_targets, CLASSES)


def unit(features: torch.Tensor) -> np.ndarray:
    features = features.double()
    return (features / (features.norm(dim=1, keepdim=True) + 1e-5)).numpy()


def reference(cost: float) -> LinearSVC:
    return LinearSVC(C=cost, class_weight={1: 2, -1: 1}, dual=True, max_iter=2000, tol=1e-4, random_state=0)


def test_costs_are_chosen_by_cross_validation_and_scores_are_scikit_learns() -> None:
    it, costs = task(), (0.5**19, 0.01, 0.25, 4.0)
    found = one_vs_rest(it, settings=SVMSettings(costs=costs), progress=False)
    train, test = unit(it.train), unit(it.test)
    assert len(set(found.costs)) > 1
    for column in range(3):
        sign = np.where(it.train_targets[:, column].numpy() == 1, 1, -1)  # difficult images are negatives
        precision = {
            cost: np.mean(
                [
                    average_precision_score(
                        sign[held] == 1, reference(cost).fit(train[kept], sign[kept]).decision_function(train[held])
                    )
                    for kept, held in StratifiedKFold(3).split(train, sign)
                ]
            )
            for cost in costs
        }
        best = max(costs, key=lambda cost: precision[cost])
        assert found.costs[column] == best
        expected = reference(best).fit(train, sign).decision_function(test)
        assert np.allclose(found.scores[:, column].numpy(), expected, atol=1e-9)


def test_shots_are_drawn_for_each_class_and_those_of_a_smaller_k_stay() -> None:
    _, targets = blobs(90, 0)
    four, eight = (draw_shots(targets, k, sample=2) for k in (4, 8))
    assert ((targets == 1) & four).sum(dim=0).tolist() == [4, 4, 4]
    assert ((targets == -1) & four).sum(dim=0).tolist() == [8, 8, 8]
    assert not ((targets == 0) & four).any()
    assert bool((four <= eight).all())
    assert not torch.equal(four, draw_shots(targets, 4, sample=3))
    assert torch.equal(four, draw_shots(targets, 4, sample=2))


def test_shared_shots_train_all_classes_on_the_same_images() -> None:
    _, targets = blobs(90, 0)
    drawn = draw_shots(targets, 4, rule="shared")
    assert torch.equal(drawn, drawn[:, :1].expand(-1, 3))
    assert 4 <= int(drawn[:, 0].sum()) <= 12
    assert (((targets == 1) & drawn).sum(dim=0) >= 4).all()


@pytest.mark.parametrize("rule", ["each", "shared"])
def test_few_shots_are_scored_as_by_a_loop(rule: str) -> None:
    it = task()
    settings = SVMSettings(shots=(4,), samples=3, shot_rule=rule, shot_cost=0.5)
    found = low_shot(it, (4,), settings=settings, progress=False)[4]
    train, test = unit(it.train), unit(it.test)
    means = []
    for sample in range(3):
        drawn = draw_shots(it.train_targets, 4, sample=sample, rule=settings.shot_rule).numpy()
        precisions = []
        for column in range(3):
            rows = drawn[:, column]
            sign = np.where(it.train_targets[:, column].numpy() == 1, 1, -1)
            score = reference(0.5).fit(train[rows], sign[rows]).decision_function(test)
            kept = it.test_targets[:, column].numpy() != 0
            order = np.argsort(-score[kept])
            right = (it.test_targets[:, column].numpy()[kept] == 1)[order]
            precision = np.cumsum(right) / np.arange(1, len(right) + 1)
            best = np.maximum.accumulate(precision[::-1])[::-1]  # the largest at this recall or a higher one
            precisions.append(best[right].mean())
        means.append(100 * np.mean(precisions))
    assert found["mAP"] == pytest.approx(np.mean(means), abs=1e-6)
    assert found["mAP_std"] == pytest.approx(np.std(means, ddof=1), abs=1e-6)
    assert found["cost"] == 0.5


def test_only_the_authors_way_chooses_the_cost_of_few_shots_on_the_test_set() -> None:
    it, costs = task(), (1e-6, 0.1, 10.0)
    wrong = it._replace(test_targets=-it.test_targets)

    def chosen(which: Task, how: object) -> float:
        settings = SVMSettings(costs=costs, samples=2, shot_cost=how)  # type: ignore[arg-type]
        return low_shot(which, (8,), settings=settings, progress=False)[8]["cost"]

    assert chosen(it, "rest") == chosen(wrong, "rest")
    assert chosen(it, "test") != chosen(wrong, "test")
    test = low_shot(it, (8,), settings=SVMSettings(costs=costs, samples=2, shot_cost="test"), progress=False)[8]
    each = [
        low_shot(it, (8,), settings=SVMSettings(samples=2, shot_cost=cost), progress=False)[8]["mAP"] for cost in costs
    ]
    assert test["mAP"] == pytest.approx(max(each))


@pytest.fixture
def voc(tmp_path: Path) -> Path:
    """VOC2007 of three classes, told by the colour; every image shows one, every seventh is a difficult other one."""
    root = tmp_path / "VOCdevkit" / "VOC2007"
    for place in ("JPEGImages", "ImageSets/Main", "Annotations"):
        (root / place).mkdir(parents=True)
    noise = np.random.default_rng(0)
    number = 0
    for split, count in (("trainval", 36), ("test", 21)):
        lines: dict[str, list[str]] = {name: [] for name in CLASSES}
        names = []
        for row in range(count):
            number += 1
            pixels = noise.integers(0, 90, (40, 30 + row, 3), dtype=np.uint8)
            pixels[..., row % 3] += 120
            names.append(f"{number:06d}")
            Image.fromarray(pixels).save(root / "JPEGImages" / f"{number:06d}.jpg")
            for column, name in enumerate(CLASSES):
                difficult = row % 7 == 0 and column == (row + 1) % 3
                value = 1 if row % 3 == column else 0 if difficult else -1
                lines[name].append(f"{number:06d} {value:2d}")
        (root / "ImageSets" / "Main" / f"{split}.txt").write_text("\n".join(names) + "\n")
        for name, own in lines.items():
            (root / "ImageSets" / "Main" / f"{name}_{split}.txt").write_text("\n".join(own) + "\n")
    return root


def test_voc_lists_are_read_as_they_are_published(voc: Path) -> None:
    found = read_presence(voc.parent, "trainval")
    assert found.classes == CLASSES
    assert found.targets.shape == (36, 3)
    assert found.targets[0].tolist() == [1, 0, -1]  # aeroplane; bicycle is difficult
    assert found.source[0].key == "JPEGImages/000001.jpg"
    assert len(read_presence(voc, "test").source) == 21


def test_the_folder_of_a_year_is_found_from_everywhere_and_never_that_of_another(
    voc: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for given in (voc, voc.parent, voc.parent.parent, str(voc)):
        assert voc_root(given, 2007) == voc
        assert voc_root(given, 2012) is None
    monkeypatch.chdir(voc)
    assert voc_root(".", 2007) == voc
    monkeypatch.chdir(voc.parent)
    assert voc_root("..", 2007) == voc
    renamed = voc.rename(tmp_path / "my voc")
    assert voc_root(renamed, 2007) == voc_root(renamed, 2012) == renamed


@pytest.mark.parametrize("given", ["VOCdevkit/VOC2007", "VOCdevkit", "."])
def test_svm_on_voc_end_to_end(voc: Path, tmp_path: Path, given: str) -> None:
    settings = {"svm.costs": [0.1, 1.0], "svm.shots": [1, 4], "svm.samples": 2}
    found = evaluate(
        MeanColour(),
        data={"svm": tmp_path / given},
        settings=settings,
        out=tmp_path / "out",
        workers=0,
        progress=False,
    )["protocols"]["svm"]
    assert found["data"] == str(tmp_path / given)
    results = {entry["setting"]: entry["metrics"] for entry in found["results"]}
    assert results["all labels"] == {"mAP": 100.0, "mAP_11point": 100.0}
    assert list(results) == ["all labels", "k=1 per class, 2 samples, C=0.5", "k=4 per class, 2 samples, C=0.5"]
    assert results["k=4 per class, 2 samples, C=0.5"]["mAP"] > 95
    rows = list(csv.DictReader((tmp_path / "out" / "svm.csv").open()))
    assert [row["class"] for row in rows] == CLASSES
    assert {row["AP"] for row in rows} == {"100.0"}
    assert [row["training_images"] for row in rows] == ["12", "12", "12"]


def test_a_broken_image_is_left_out_and_the_others_keep_their_classes(
    voc: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("000002", "000040"):
        (voc / "JPEGImages" / f"{name}.jpg").write_bytes(b"no image")
    settings = {"svm.costs": [1.0], "svm.shots": []}
    found = evaluate(MeanColour(), data={"svm": voc}, settings=settings, workers=0, cache=False, progress=False)
    assert found["protocols"]["svm"]["results"][0]["metrics"]["mAP"] == 100.0
    told = "".join(capsys.readouterr().err.split())  # lines break anywhere
    assert "VOC2007:trainval:1ofits36imagescannotbereadandareleftout;thefirst:JPEGImages/000002" in told
    assert "VOC2007:test:1ofits21images" in told


def test_labelled_images_take_the_place_of_voc() -> None:
    labels = torch.arange(30) % 3
    images = torch.zeros(30, 3, 32, 32, dtype=torch.uint8)
    images[torch.arange(30), labels] = (100 + torch.arange(30, dtype=torch.uint8))[:, None, None]
    source = MemorySource("colours", images, labels, ["red", "green", "blue"])
    settings = {"svm.costs": [0.1, 1.0]}
    found = evaluate(MeanColour(), train=source, test=source, protocols="svm", settings=settings, progress=False)
    assert found["protocols"]["svm"]["train"]["name"] == "colours"
    assert [entry["metrics"]["mAP"] for entry in found["protocols"]["svm"]["results"]] == [100.0]


class Large(TorchDispatchMode):
    """Notes the memory that is made for tensors of more than half of so many values."""

    def __init__(self, values: int) -> None:
        super().__init__()
        self.values = values
        self.kept: list[torch.Tensor] = []  # so that no memory is used again

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]
        found = function(*args, **(kwargs or {}))
        if isinstance(found, torch.Tensor) and 2 * found.numel() > self.values:
            self.kept.append(found)
        return found

    def count(self) -> int:
        return len({found.untyped_storage().data_ptr() for found in self.kept})


def test_features_are_copied_once() -> None:
    features = torch.randn(20_000, 8, generator=torch.Generator().manual_seed(0))
    with Large(features.numel()) as large:
        found = unit_features(features)
    assert large.count() == 1
    assert np.allclose(found, unit(features), atol=1e-12)
    features[12_345, 3] = torch.inf
    with pytest.raises(GlocalError, match="^the backbone gives features that are infinite"):
        unit_features(features)


def test_all_leaves_out_many_images_or_classes() -> None:
    def bench(images: int, classes: int) -> Bench:
        names = [str(number) for number in range(classes)]
        source = MemorySource("many", torch.zeros(images, 3, 1, 1).byte(), torch.arange(images) % classes, names)
        return Bench(MeanColour(), train=source, test=source)

    settings = SVMSettings()
    assert PROTOCOL.too_much(bench(20_000, 200), settings) == ""
    assert "18 SVMs for each of 10 classes on 20,001 images" in PROTOCOL.too_much(bench(20_001, 10), settings)
    assert "each of 201 classes" in PROTOCOL.too_much(bench(201, 201), settings)
    assert PROTOCOL.too_much(bench(201, 201), SVMSettings(data="VOCdevkit")) == ""
    assert PROTOCOL.too_much(Bench(MeanColour()), settings) == ""


def test_what_is_missing_is_named(voc: Path, tmp_path: Path) -> None:
    def measure(folder: Path, **settings: object) -> None:
        chosen = {f"svm.{name}": value for name, value in settings.items()}
        evaluate(MeanColour(), data={"svm": folder}, settings=chosen, workers=0, cache=False, progress=False)

    with pytest.raises(GlocalError, match=r"needs labelled images .*--train, --test; or --data svm=PATH: VOCtrainval"):
        evaluate(MeanColour(), protocols="svm", progress=False)
    with pytest.raises(GlocalError, match=r"nowhere has no ImageSets/Main; give VOCtrainval_06-Nov-2007\.tar"):
        measure(tmp_path / "nowhere")
    with pytest.raises(GlocalError, match="^96 training images that show 'aeroplane' are needed, but there are 12"):
        measure(voc)
    with pytest.raises(GlocalError, match="13 training images that show 'aeroplane' are needed, but there are 12"):
        measure(voc, shots=[], folds=13)
    with pytest.raises(GlocalError, match=r"svm: shots\.0 must be greater than or equal to 1"):
        measure(voc, shots=[0])
    lists = voc / "ImageSets" / "Main"
    (lists / "bicycle_test.txt").write_text("000037 yes\n")
    with pytest.raises(GlocalError, match=r"bicycle_test\.txt: the line '000037 yes' should be an image's name and 1"):
        measure(voc, shots=[])
    (lists / "bicycle_test.txt").write_text("000037 1\n")
    with pytest.raises(GlocalError, match=r"bicycle_test\.txt names other images than aeroplane_test\.txt"):
        measure(voc, shots=[])
    (lists / "bicycle_test.txt").unlink()
    with pytest.raises(GlocalError, match="class bicycle has a list for trainval or test only"):
        measure(voc, shots=[])
    (voc / "JPEGImages" / "000003.jpg").unlink()
    with pytest.raises(GlocalError, match=r"JPEGImages/000003\.jpg is missing; it comes with VOCtrainval"):
        measure(voc, shots=[])
    for path in lists.glob("*_trainval.txt"):
        path.unlink()
    with pytest.raises(GlocalError, match=r"Main has no list CLASS_trainval\.txt"):
        measure(voc, shots=[])
