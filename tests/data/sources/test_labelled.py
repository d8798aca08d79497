"""Images of which only some have labels, and folders that are no classes."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from glocal.data.sources import torchvision as tv_sources
from glocal.data.sources.base import MemorySource
from glocal.data.sources.classes import only_classes
from glocal.data.sources.labelled import are_splits, has_no_labels, labelled_part
from glocal.data.sources.opening import open_source
from glocal.evaluation import RawPixels, evaluate


def partly(labels: list[int]) -> MemorySource:
    images = torch.arange(len(labels), dtype=torch.uint8)[:, None, None, None].expand(-1, 3, 8, 8).contiguous()
    return MemorySource("partly", images, torch.tensor(labels), ["a", "b"])


def test_the_labelled_part_is_found_by_the_labels() -> None:
    whole = partly([0, 1, 1])
    assert labelled_part(whole) is whole
    some = labelled_part(partly([-1, 1, -1, 0]))
    assert some is not None
    assert some.labels is not None
    assert some.labels.tolist() == [1, 0]
    assert [int(some[place].image[0, 0, 0]) for place in range(2)] == [1, 3]
    assert partly([-1, 1])[0].label is None
    assert labelled_part(partly([-1, -1])) is None
    assert labelled_part(MemorySource("none", whole.images(), None, None)) is None


def test_a_list_of_classes_keeps_no_unlabelled_image(tmp_path: Path) -> None:
    (tmp_path / "last.txt").write_text("b\n")
    kept = only_classes(partly([0, -1, 1, -1]), str(tmp_path / "last.txt"))
    assert [int(kept[place].image[0, 0, 0]) for place in range(len(kept))] == [2]


def test_stl10_keeps_the_labels_that_it_has(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fake_stl10(root: str, *, split: str, download: bool) -> Any:
        labels = {"train": [0, 1, 2], "unlabeled": [-1, -1], "train+unlabeled": [0, 1, 2, -1, -1]}[split]
        pixels = np.zeros((len(labels), 3, 96, 96), dtype=np.uint8)
        return SimpleNamespace(data=pixels, labels=np.array(labels), classes=["airplane", "bird", "car"])

    monkeypatch.setenv("GLOCAL_DATA", str(tmp_path))
    monkeypatch.setattr(tv_sources.datasets, "STL10", fake_stl10)
    monkeypatch.setattr(tv_sources, "_names", lambda: ["STL10"])
    both = open_source("torchvision:STL10:train+unlabeled")
    part = labelled_part(both)
    assert (len(both), part and len(part)) == (5, 3)
    assert both.classes == ["airplane", "bird", "car"]
    assert open_source("torchvision:STL10:unlabeled").labels is None


def test_an_image_beside_the_folders_of_classes_is_named(tmp_path: Path) -> None:
    for name in ("a/0.png", "b/0.png", "stray.png"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        Image.new("RGB", (8, 8)).save(tmp_path / name)
    assert has_no_labels(open_source(tmp_path)).endswith(
        "has no labels, for stray.png lies beside its folders, which else were the classes: move it"
    )
    (tmp_path / "b" / "0.png").unlink()
    assert "the two or more folders of the first level" in has_no_labels(open_source(tmp_path))


def test_a_folder_in_the_home_of_the_user_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("HOME", "USERPROFILE"):
        monkeypatch.setenv(name, str(tmp_path))
    (tmp_path / "photos").mkdir()
    Image.new("RGB", (8, 8)).save(tmp_path / "photos" / "0.png")
    assert len(open_source("~/photos")) == 1


def test_evaluations_leave_unlabelled_images_out(capsys: pytest.CaptureFixture[str]) -> None:
    labels = torch.arange(60) % 2
    images = (labels * 200)[:, None, None, None].expand(-1, 3, 8, 8).byte() + torch.arange(60)[:, None, None, None] % 9
    some = torch.where(torch.arange(60) % 3 == 0, -1, labels)
    train = MemorySource("some", images.byte(), some, ["dark", "light"])
    test = MemorySource("all", images.byte(), labels, ["dark", "light"])
    found = evaluate(RawPixels(8), train=train, test=test, protocols=["knn", "linear"], progress=False)
    assert found["protocols"]["knn"]["train"]["images"] == 40
    assert found["protocols"]["linear"]["results"][0]["metrics"]["top1"] == 100
    assert "some: 40 of its 60 images have labels; the others are left out" in capsys.readouterr().err


def folder_of(root: Path, *names: str) -> Path:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (4, 4)).save(root / name)
    return root


def test_folders_named_like_splits_are_no_classes(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root = folder_of(tmp_path / "set", "train/cat/1.png", "train/dog/2.png", "val/cat/3.png", "val/dog/4.png")
    whole = open_source(root)
    assert (len(whole), whole.labels, whole.classes) == (4, None, None)
    said = capsys.readouterr().err
    assert "train, val are parts of a data set and not its classes" in said
    assert f"give one part to have those of its folders: {root / 'train'}" in said
    assert open_source(root / "train").classes == ["cat", "dog"]
    assert capsys.readouterr().err == ""
    folder_of(root, "test/cat/5.png")  # goes before train by its name
    open_source(root)
    assert f"give one part to have those of its folders: {root / 'train'}" in capsys.readouterr().err
    vehicles = folder_of(tmp_path / "vehicles", "plane/1.png", "train/2.png")
    assert open_source(vehicles).classes == ["plane", "train"]
    for names in (["Train", "Validation", "TEST"], ["train2017", "val2017"], ["test", "train", "unlabeled"]):
        assert are_splits(names)
    for names in (["train", "trains"], ["a"], []):
        assert not are_splits(names)
