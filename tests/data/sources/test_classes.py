"""Subsets by class."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from glocal.data.sources.classes import class_lists, read_class_list
from glocal.data.sources.opening import open_source
from glocal.errors import GlocalError


def test_imagenet100_has_a_hundred_different_synsets() -> None:
    classes = read_class_list("imagenet100")
    assert "imagenet100" in class_lists()
    assert len(set(classes)) == 100
    assert all(len(name) == 9 and name[0] == "n" and name[1:].isdigit() for name in classes)


def test_a_source_keeps_the_images_of_a_lists_classes(tmp_path: Path, image_folder: Callable[..., Path]) -> None:
    folder = image_folder(32)
    (tmp_path / "some.txt").write_text("# two of eight\nclass5\nclass2\n")
    whole, some = open_source(folder), open_source(f"{folder}@{tmp_path / 'some.txt'}")
    assert len(some) == 8
    assert some.classes == ["class2", "class5"]
    assert some.labels is not None
    assert [some.classes[label] for label in some.labels.tolist()] == [key.split("/")[0] for key in some.keys]
    assert torch.equal(some[0].image, whole[list(whole.keys).index(some.keys[0])].image)


@pytest.mark.parametrize(
    ("suffix", "message"),
    [
        ("@imagenet10", "there is no list of classes imagenet10; did you mean imagenet100"),
        ("@imagenet100", "there is no class n01558993 and 99 more"),
        ("@nowhere.txt", "@nowhere.txt: cannot be read"),
    ],
)
def test_a_list_that_does_not_fit_is_named(suffix: str, message: str, image_folder: Callable[..., Path]) -> None:
    with pytest.raises(GlocalError, match=message):
        open_source(f"{image_folder(16)}{suffix}")
