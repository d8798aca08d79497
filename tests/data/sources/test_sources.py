"""Sources: folders of every layout, named data sets, and errors that name the mend."""

import os
import pickle
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from sklearn.datasets import load_digits

from glocal.data.sources import torchvision as tv_sources
from glocal.data.sources.base import Subset
from glocal.data.sources.folder import ImageFolder
from glocal.data.sources.opening import open_source
from glocal.errors import GlocalError


def put(path: Path, colour: tuple[int, int, int] = (1, 2, 3)) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (4, 5), colour).save(path, format="PNG")


def test_first_level_folders_are_the_classes_at_any_depth(tmp_path: Path) -> None:
    for name in (
        "dog/b.png",
        "cat/deep/er/a.PNG",
        "cat/ü b.jpg",
        "dog/.hidden.png",
        ".git/x.png",
        "dog/notes.txt",
    ):
        put(tmp_path / name)
    source = ImageFolder(tmp_path)
    assert list(source.keys) == ["cat/deep/er/a.PNG", "cat/ü b.jpg", "dog/b.png"]
    assert source.classes == ["cat", "dog"]
    assert source.labels is not None
    assert source.labels.tolist() == [0, 0, 1]
    image, label, key = source[2]
    assert (tuple(image.shape), label, key) == ((3, 5, 4), 1, "dog/b.png")


@pytest.mark.parametrize("names", [["a.png", "b.png"], ["x/a.png", "x/b.png"], ["x/a.png", "y/b.png", "c.png"]])
def test_flat_single_and_mixed_folders_have_no_labels(names: list[str], tmp_path: Path) -> None:
    for name in names:
        put(tmp_path / name)
    source = open_source(tmp_path)
    assert source.labels is None
    assert source.classes is None
    assert source[0].label is None
    assert list(source.keys) == sorted(names)


def test_links_are_followed_once(tmp_path: Path) -> None:
    put(tmp_path / "data" / "a" / "1.png")
    put(tmp_path / "other" / "2.png")
    os.symlink(tmp_path / "data", tmp_path / "data" / "a" / "loop")
    os.symlink(tmp_path / "other", tmp_path / "data" / "b")
    os.symlink(tmp_path / "gone.png", tmp_path / "data" / "a" / "dangling.png")
    assert list(ImageFolder(tmp_path / "data").keys) == ["a/1.png", "b/2.png"]


def test_real_folders_go_before_links_to_them_and_circular_links_lead_nowhere(tmp_path: Path) -> None:
    put(tmp_path / "a" / "1.png")
    put(tmp_path / "b" / "2.png")
    os.symlink(tmp_path / "a", tmp_path / "z")
    os.symlink("self", tmp_path / "self")
    os.symlink("circle.png", tmp_path / "circle.png")
    os.symlink(tmp_path / "b" / "2.png", tmp_path / "b" / "link.png")
    source = ImageFolder(tmp_path)
    assert list(source.keys) == ["a/1.png", "b/2.png", "b/link.png"]
    assert source.classes == ["a", "b"]


def test_a_folder_that_may_not_be_read_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    put(tmp_path / "a.png")

    def deny(path: str) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(os, "scandir", deny)
    with pytest.raises(GlocalError, match="cannot be read: Permission denied"):
        ImageFolder(tmp_path)


def test_wrong_paths_name_the_nearest(tmp_path: Path) -> None:
    put(tmp_path / "photos" / "a.png")
    with pytest.raises(GlocalError, match=r"there is no folder .*phots; did you mean .*photos\?"):
        open_source(str(tmp_path / "phots"))
    with pytest.raises(GlocalError, match=r"there is no folder \S*phots; did you mean \S*photos\?"):
        open_source(tmp_path / "phots" / "train")  # the part of the path that is wrong
    with pytest.raises(GlocalError, match="is a file; give the folder"):
        open_source(tmp_path / "photos" / "a.png")
    with pytest.raises(GlocalError, match=r"a\.png is a file; give the folder"):
        open_source(tmp_path / "photos" / "a.png" / "deep")
    with pytest.raises(GlocalError, match="there is no folder x+; data sets: shapes"):
        open_source("x" * 300)
    (tmp_path / "empty").mkdir()
    (tmp_path / "empty" / "notes.txt").write_text("x")
    with pytest.raises(GlocalError, match="no image among its 1 files"):
        open_source(tmp_path / "empty")
    with pytest.raises(GlocalError, match="did you mean shapes"):
        open_source("shape")
    with pytest.raises(GlocalError, match="did you mean CIFAR10"):
        open_source("torchvision:CIFAR11")
    with pytest.raises(GlocalError, match="write shapes, shapes:test or shapes:train:20000"):
        open_source("shapes:train:²")
    with pytest.raises(GlocalError, match="shapes:tset: did you mean test"):
        open_source("shapes:tset")


def test_a_folder_pickles_and_gives_sizes_from_headers(image_folder: Callable[..., Path]) -> None:
    source = open_source(image_folder(16, sizes=((30, 20), (8, 9))))
    again = pickle.loads(pickle.dumps(source))
    assert torch.equal(again[3].image, source[3].image)
    assert {tuple(size) for size in again.sizes_of(range(16))} == {(20, 30), (9, 8)}


def test_digits_are_split_and_readable() -> None:
    train, test = open_source("digits"), open_source("digits:test")
    assert (len(train), len(test)) == (1437, 360)
    assert train.images().shape == (1437, 3, 32, 32)
    assert train.classes == [str(digit) for digit in range(10)]
    with Image.fromarray((load_digits().images[0] * (255 / 16)).astype(np.float32)) as small:
        enlarged = torch.from_numpy(np.array(small.resize((32, 32), Image.Resampling.BICUBIC)))
    assert (train[0].image - enlarged.clamp(0, 255)).abs().max() <= 1  # Pillow's bicubic is the antialiased one
    zero = train[0]
    assert zero.label == 0
    middle = zero.image[:, 14:18, 14:18].float().mean()
    assert middle < zero.image[:, 6:10, 12:20].float().mean()  # a zero is empty in its middle


def test_subset_keeps_labels_keys_and_pixels() -> None:
    whole = open_source("shapes:test:40")
    part = Subset(whole, torch.tensor([5, 0, 39]))
    assert part.labels is not None
    assert part.labels.tolist() == [5, 0, 7]
    assert list(part.keys) == ["test/000005", "test/000000", "test/000039"]
    assert torch.equal(part.images()[2], whole[39].image)
    assert torch.equal(part[1].image, whole[0].image)


def test_subsets_pickle_and_nest() -> None:
    part = Subset(open_source("shapes:test:40"), torch.tensor([5, 0, 39]))
    again = pickle.loads(pickle.dumps(Subset(part, torch.tensor([2, 0]))))
    assert list(again.keys) == ["test/000039", "test/000005"]
    assert torch.equal(again.images()[1], again[1].image)


def test_subsets_of_folders_have_no_images_in_memory(image_folder: Callable[..., Path]) -> None:
    whole = open_source(image_folder(6))
    part = pickle.loads(pickle.dumps(Subset(whole, torch.tensor([4, 1]))))
    assert not hasattr(part, "images")
    assert part[0].key == whole.keys[4]


def fake_cifar(root: str, *, train: bool, download: bool) -> Any:
    pixels = np.zeros((6 if train else 2, 32, 32, 3), dtype=np.uint8)
    pixels[..., 0] = 200
    return SimpleNamespace(data=pixels, targets=[0, 1] * (len(pixels) // 2), classes=["plane", "car"])


def test_torchvision_arrays_become_a_memory_source(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GLOCAL_DATA", str(tmp_path))
    monkeypatch.setattr(tv_sources.datasets, "CIFAR10", fake_cifar)
    monkeypatch.setattr(tv_sources, "_names", lambda: ["CIFAR10"])
    train, test = open_source("torchvision:CIFAR10"), open_source("torchvision:CIFAR10:test")
    assert (len(train), len(test)) == (6, 2)
    assert train[1].image[:, 0, 0].tolist() == [200, 0, 0]
    assert train.classes == ["plane", "car"]
    with pytest.raises(GlocalError, match="did you mean test"):
        open_source("torchvision:CIFAR10:tst")


def test_a_download_that_fails_says_where_files_belong(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def offline(root: str, *, train: bool, download: bool) -> Any:
        raise RuntimeError("Error downloading cifar-10-python.tar.gz")

    monkeypatch.setenv("GLOCAL_DATA", str(tmp_path / "data"))
    monkeypatch.setattr(tv_sources.datasets, "CIFAR10", offline)
    monkeypatch.setattr(tv_sources, "_names", lambda: ["CIFAR10"])
    with pytest.raises(GlocalError, match=f"are not in {tmp_path / 'data'} and cannot be fetched.*GLOCAL_DATA"):
        open_source("torchvision:CIFAR10")
