"""Evaluation as a whole: names, classes, files, errors."""

import csv
import io
import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from PIL import Image
from rich.console import Console

from glocal.config import build_recipe
from glocal.data.sources.base import MemorySource, Subset
from glocal.data.sources.opening import open_source
from glocal.errors import GlocalError
from glocal.evaluation import RawPixels, evaluate, extract, results
from glocal.evaluation.remarks import also_train, seen_before
from glocal.models.architecture import ModelSettings
from glocal.models.building import build_backbone
from glocal.training.monitors import KNNMonitor, knn_monitor, measure_spread


class MeanColour:
    """A backbone of three features."""

    size, dim, label = 32, 3, "mean colour"

    def features(self, images: torch.Tensor) -> torch.Tensor:
        return images.float().mean(dim=(2, 3))


def colours(count: int, classes: list[str], order: list[int]) -> MemorySource:
    """Images of one colour; classes[c] has the colour order[c]."""
    labels = torch.arange(count) % len(classes)
    images = torch.zeros(count, 3, 32, 32, dtype=torch.uint8)
    for row, label in enumerate(labels.tolist()):
        images[row, order[label]] = 200 + row % 7
    return MemorySource("colours", images, labels, classes)


def test_classes_are_matched_by_name_not_by_number() -> None:
    train = colours(30, ["red", "green", "blue"], [0, 1, 2])
    test = colours(12, ["blue", "red"], [2, 0])
    found = evaluate(MeanColour(), train=train, test=test, protocols=("knn", "linear", "logistic"), progress=False)
    for protocol in ("knn", "linear", "logistic"):
        for entry in found["protocols"][protocol]["results"]:
            if entry["setting"] != "k=30, unweighted":  # all 30 neighbours have one vote each
                assert entry["metrics"]["top1"] == 100.0
    measured = [entry["setting"] for entry in found["protocols"]["knn"]["results"]]
    assert measured[:3] == ["k=10", "k=20", "k=30"]  # 200 is more than there are


def test_a_test_class_that_training_lacks_is_named() -> None:
    train, test = colours(30, ["red", "green", "blue"], [0, 1, 2]), colours(9, ["red", "gren"], [0, 1])
    with pytest.raises(GlocalError, match="colours: class 'gren' is not among .*; did you mean green"):
        evaluate(MeanColour(), train=train, test=test, progress=False)


def test_unlabelled_images_and_unknown_protocols_are_refused(image_folder: Callable[..., Path], tmp_path: Path) -> None:
    flat = image_folder(16) / "class0"
    with pytest.raises(GlocalError, match="has no labels; in a folder, the two or more folders"):
        evaluate(MeanColour(), train=flat, test=flat, progress=False)
    with pytest.raises(GlocalError, match="no protocol 'kn'; did you mean knn"):
        evaluate(MeanColour(), train=flat, test=flat, protocols=["kn"], progress=False)


def test_results_are_written_whole_as_json_and_csv(tmp_path: Path) -> None:
    source = colours(30, ["red", "green", "blue"], [0, 1, 2])
    found = evaluate(
        MeanColour(),
        train=source,
        test=source,
        protocols=["knn"],
        k=[3, 5],
        out=tmp_path / "e",
        progress=False,
    )
    assert json.loads((tmp_path / "e" / "evaluation.json").read_text()) == found
    rows = list(csv.DictReader((tmp_path / "e" / "evaluation.csv").open()))
    assert [(row["protocol"], row["setting"], float(row["value"])) for row in rows] == [
        ("knn", "k=3", 100),
        ("knn", "k=5", 100),
        ("knn", "k=3, unweighted", 100),
        ("knn", "k=5, unweighted", 100),
    ]
    assert results.table(found).row_count == 4
    console = Console(file=io.StringIO(), width=200)
    console.print(results.table({**found, "backbone": "shapes:train:800 [runs/a]"}))
    assert "shapes:train:800 [runs/a]" in console.file.getvalue()  # type: ignore[attr-defined] # no emoji, no markup
    assert found["protocols"]["knn"]["settings"]["temperature"] == 0.07


def test_skipped_images_are_left_out_and_named(image_folder: Callable[..., Path]) -> None:
    folder = image_folder(24)
    broken = folder / "class3" / "0003.png"
    broken.write_bytes(b"")
    found = extract(RawPixels(32), open_source(folder), workers=0, progress=False)
    assert found.features.shape == (23, 3 * 32 * 32)
    assert [error.key for error in found.skipped] == ["class3/0003.png"]
    assert (found.labels == 3).sum() == 2


def test_the_monitor_separates_queries_from_the_bank() -> None:
    source = colours(50, ["red", "green", "blue"], [0, 1, 2])
    monitor = KNNMonitor(source, None, images=30, k=5, seed=0)
    bank, queries = monitor.bank, monitor.queries
    assert isinstance(queries, Subset)
    assert len(bank) == 30
    assert not set(bank.keys) & set(queries.keys)
    assert monitor.measure(MeanColour()) == 100.0  # type: ignore[arg-type]


def monitored(train: MemorySource, test: Path | None, **monitor: int) -> KNNMonitor:
    recipe = build_recipe({"name": "x"}, {"data.test": None if test is None else str(test)}, data_size=32)
    recipe = recipe.model_copy(update={"monitor": recipe.monitor.model_copy(update=monitor)})
    found = knn_monitor(train, recipe)
    assert found is not None
    return found


def saved(source: MemorySource, folder: Path) -> Path:
    """The images as files in folders of their classes."""
    assert source.classes is not None
    for sample in source:  # type: ignore[attr-defined]
        place = folder / source.classes[sample.label]
        place.mkdir(parents=True, exist_ok=True)
        Image.fromarray(sample.image.permute(1, 2, 0).numpy()).save(place / f"{sample.key.split('/')[1]}.png")
    return folder


def test_the_monitor_maps_classes_by_name_as_evaluate_does(tmp_path: Path) -> None:
    train = colours(60, ["red", "green", "blue"], [0, 1, 2])
    test = saved(colours(12, ["blue", "red"], [2, 0]), tmp_path / "test")  # blue is 0 here and 2 in training
    monitor = monitored(train, test, knn_k=5)
    assert monitor.measure(MeanColour()) == 100.0  # type: ignore[arg-type]
    found = evaluate(MeanColour(), train=train, test=test, protocols="knn", k=[5], progress=False)
    assert found["protocols"]["knn"]["results"][0]["metrics"]["top1"] == 100.0
    wrong = saved(colours(6, ["gren", "red"], [1, 0]), tmp_path / "wrong")
    with pytest.raises(
        GlocalError, match="data.test=.*: class 'gren' is not among the training .*; did you mean green"
    ):
        monitored(train, wrong)
    with pytest.raises(GlocalError, match="data.test=.* has no labels.*monitor.knn_epochs=0"):
        monitored(train, test / "red")


def test_the_monitor_looks_at_labelled_images_alone() -> None:
    train = colours(90, ["red", "green", "blue"], [0, 1, 2])
    train.labels[::2] = -1  # type: ignore[index]
    recipe = build_recipe({"name": "x"}, {}, data_size=32)
    monitor = knn_monitor(train, recipe)
    assert monitor is not None
    assert len(monitor.bank) + len(monitor.queries) == 45
    assert monitor.measure(MeanColour()) == 100.0  # type: ignore[arg-type]
    assert "with the 45 of 90 images that have labels" in monitor.about
    train.labels[: 90 - 19] = -1  # type: ignore[index]
    assert knn_monitor(train, recipe) is None
    train.labels = None
    assert knn_monitor(train, recipe) is None


def test_without_labels_of_training_the_monitor_measures_within_the_test_images(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    train = colours(60, ["red", "green", "blue"], [0, 1, 2])
    train.labels = None
    monitor = monitored(train, saved(colours(60, ["blue", "red"], [2, 0]), tmp_path / "test"), knn_k=5)
    assert len(monitor.bank) + len(monitor.queries) == 60
    assert monitor.measure(MeanColour()) == 100.0  # type: ignore[arg-type]
    assert "on a part of " in monitor.about
    assert monitor.about.endswith("test, for the training images have no labels")
    for place, said in (
        (tmp_path / "test" / "red", "has no labels, nor has training"),
        ("nowhere", "there is no folder"),
    ):
        recipe = build_recipe({"name": "x"}, {"data.test": str(place)}, data_size=32)
        assert knn_monitor(train, recipe) is None
        assert said in capsys.readouterr().err.replace("\n", " ")


def test_splits_of_a_data_set_are_not_measured_as_classes(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root = saved(colours(30, ["train", "val"], [0, 1]), tmp_path / "set")
    recipe = build_recipe({"name": "x"}, {}, data_size=32)
    assert knn_monitor(open_source(root), recipe) is None
    with pytest.raises(GlocalError, match=r"set has no labels, .* parts of a data set; give one part, as .*set.train$"):
        evaluate(MeanColour(), train=root, test=root, progress=False)
    assert "train, val are parts of a data set and not its classes" in capsys.readouterr().err


def test_spread_and_rank_tell_an_even_sphere_a_point_and_a_line() -> None:
    generator = torch.Generator().manual_seed(0)
    sphere = measure_spread(torch.randn(4000, 16, generator=generator))
    assert sphere.spread == pytest.approx(1.0, abs=0.02)
    assert sphere.effective_rank == pytest.approx(16, abs=0.1)
    assert sphere.warning() is None
    point = measure_spread(torch.ones(100, 16) + 1e-3 * torch.randn(100, 16, generator=generator))
    assert "collapsing to one point" in (point.warning() or "")
    line = measure_spread(torch.randn(100, 1, generator=generator) * torch.ones(1, 16))
    assert "1.0 of 16 directions" in (line.warning() or "")


def test_the_table_says_what_was_cut_short(tmp_path: Path) -> None:
    settings = {"linear.epochs": 2, "knn.k": [5]}
    found = evaluate(RawPixels(8), train="shapes:train:64", test="shapes:test:64", settings=settings, progress=False)
    assert results.remarks(found) == ["linear: shortened to epochs=2 (100 is the protocol's)"]
    found = evaluate(
        RawPixels(8),
        train="shapes:train:64",
        test="shapes:test:64",
        protocols="knn",
        k=[5],
        out=tmp_path,
        progress=False,
    )
    assert results.remarks(found) == []


@pytest.mark.parametrize(
    ("learned", "measured", "expected"),
    [
        (["images"], "images", "the test images themselves"),
        (["images"], "images/class0", "the test images themselves"),
        (["images/class0"], "images", "2 of 16 test images themselves"),
        (["elsewhere"], "images", None),
    ],
)
def test_the_table_says_where_the_test_images_were_learned_from(
    learned: list[str],
    measured: str,
    expected: str | None,
    tmp_path: Path,
    image_folder: Callable[..., Path],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    image_folder(16)
    monkeypatch.chdir(tmp_path)
    backbone = build_backbone(ModelSettings(options={"channels": [8] * 4, "layers": [1] * 4}), size=32)
    backbone.learned_from = tuple(learned)
    found = list(seen_before(backbone, open_source(measured)))
    assert len(found) == (expected is not None)
    assert expected is None or expected in found[0]


def test_the_table_says_where_the_test_images_are_those_of_training(
    tmp_path: Path, image_folder: Callable[..., Path]
) -> None:
    folder = image_folder(16)
    (tmp_path / "link").symlink_to(folder)
    for train, test, expected in (
        (folder, folder, "the test images are among the training images"),
        (tmp_path / "link", folder / "class0", "the test images are among"),
        (folder / "class0", folder, "2 of 16 test images are among"),
        ("shapes:test:8", "shapes:test:8", "the test images are among"),
        ("shapes:train:8", "shapes:test:8", None),
        (None, folder, None),
    ):
        found = list(also_train(None if train is None else open_source(train), open_source(test)))
        assert len(found) == (expected is not None)
        assert expected is None or found[0].startswith(expected)
    found = evaluate(RawPixels(8), train=folder, test=folder, protocols="knn", k=1, progress=False)
    assert "among the training images" in results.remarks(found)[0]


def test_drawn_test_images_are_known_by_their_name() -> None:
    backbone = build_backbone(ModelSettings(options={"channels": [8] * 4, "layers": [1] * 4}), size=32)
    backbone.learned_from = (open_source("shapes:test:64").name,)
    assert len(list(seen_before(backbone, open_source("shapes:test:64")))) == 1
    assert len(list(seen_before(backbone, open_source("shapes:test")))) == 1
    assert len(list(seen_before(backbone, open_source("shapes:train:64")))) == 0
