"""Which images a row learns from and is measured on."""

from collections.abc import Callable
from pathlib import Path

import pytest

from glocal.errors import GlocalError
from glocal.reproduction.images import belonging_to, images_for, open_images, parse_given


def test_images_for_all_rows_and_in_place_of_a_data_set() -> None:
    assert images_for(parse_given(["a", "b"], "--data"), None, "row") == ("a", "b")
    given = parse_given(["CIFAR10=c/train", "stl10=s"], "--data")
    assert images_for(given, "torchvision:CIFAR10", "tau=0.1") == ("c/train",)
    assert images_for(given, "torchvision:STL10:train+unlabeled", "tau=0.1") == ("s",)
    assert images_for(given, None, "tau=0.1 target=0.03 CIFAR10") == ("c/train",)
    assert images_for(given, "torchvision:CIFAR100", "tau=0.1 CIFAR100") == ()


def test_both_ways_at_once_and_a_set_twice_are_refused() -> None:
    with pytest.raises(GlocalError, match="give the one or the other"):
        parse_given(["photos", "cifar10=c"], "--data")
    with pytest.raises(GlocalError, match="CIFAR10 has images already"):
        parse_given(["cifar10=a", "CIFAR10=b"], "--data")


def test_test_images_beside_training_images(tmp_path: Path) -> None:
    (tmp_path / "train").mkdir()
    (tmp_path / "val").mkdir()
    assert belonging_to([str(tmp_path / "train")]) == (str(tmp_path / "val"),)
    assert belonging_to([str(tmp_path / "val")]) == ()
    assert belonging_to(["torchvision:CIFAR10"]) == ("torchvision:CIFAR10:test",)
    assert belonging_to(["shapes:train:100"]) == ("shapes:test",)
    assert belonging_to(["a", "b"]) == ()


def test_the_first_images_of_each_class(image_folder: Callable[..., Path]) -> None:
    folder = str(image_folder(64))  # eight classes of eight
    found = open_images([folder], ["shapes:test:16"], images=24)
    assert len(found.train) == 24
    assert found.train.labels is not None
    assert found.train.labels.bincount().tolist() == [3] * 8
    assert all(key.endswith(("00.png", "08.png", "16.png")) for key in found.train.keys if key.startswith("class0"))
    assert "the first 3 images of each class (24)" in found.words


def test_held_out_images_follow_on_those_that_are_trained_on(image_folder: Callable[..., Path]) -> None:
    folder = str(image_folder(64))
    found = open_images([folder], [], images=24, held_out=2)
    assert len(found.test) == 16
    assert not set(found.test.keys) & set(found.train.keys)
    assert [key for key in found.test.keys if key.startswith("class1")] == ["class1/0025.png", "class1/0033.png"]
    rest = open_images([folder], [], held_out=2)
    assert (len(rest.train), len(rest.test)) == (48, 16)
    with pytest.raises(
        GlocalError, match=r"class class0 .* has 8 images, of which 7 are trained on; hold out at most 1"
    ):
        open_images([folder], [], images=56, held_out=2)


def test_images_without_labels_or_without_a_test_are_told(tmp_path: Path, image_folder: Callable[..., Path]) -> None:
    flat = image_folder(8) / "class0"
    with pytest.raises(GlocalError, match="has no labels"):
        open_images([str(flat)], ["shapes:test:16"])
    with pytest.raises(GlocalError, match="name them with --test"):
        open_images([str(image_folder(16, name="labelled"))], [])
