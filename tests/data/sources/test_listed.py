"""Images that a list or a table names, and several sources as one."""

import pickle
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

import glocal
from glocal.data.lanes.choice import natural_size, open_lane
from glocal.data.lanes.order import BatchOrder
from glocal.data.settings import DataSettings
from glocal.data.sources.base import MemorySource
from glocal.data.sources.fingerprint import fingerprint
from glocal.data.sources.joined import JoinedSource
from glocal.data.sources.listed import ListedImages
from glocal.data.sources.opening import names_of, open_source
from glocal.errors import BrokenImageError, GlocalError
from glocal.training.run import pretrain
from glocal.views.plan import View, ViewPlan


@pytest.fixture
def folder(image_folder: Callable[..., Path]) -> Path:
    """class0/0000.png, class1/0001.png, …, class3/0003.png."""
    return image_folder(4)


def write(path: Path, text: str) -> Path:
    path.write_text(text, encoding="utf-8")
    return path


def test_a_list_names_one_path_a_line_from_its_own_folder(folder: Path) -> None:
    absolute = folder / "class2" / "0002.png"
    file = write(folder / "some.txt", f"# two of four\nclass1/0001.png\n\n  {absolute}  \n")
    source = open_source(str(file))
    assert list(source.keys) == ["class1/0001.png", str(absolute)]
    assert source.files() == [str(folder / "class1" / "0001.png"), str(absolute)]
    assert source.name == str(file)
    assert source.labels is None
    assert torch.equal(source[1].image, open_source(folder)[2].image)
    assert torch.equal(pickle.loads(pickle.dumps(source))[0].image, source[0].image)


def test_a_table_gives_labels_by_name_and_by_number(folder: Path) -> None:
    lines = "label,path\ndog,class1/0001.png\n cat , class0/0000.png\ndog,class2/0002.png\n"
    source = open_source(write(folder / "named.csv", "\ufeff" + lines))
    assert source.classes == ["cat", "dog"]
    assert source.labels.tolist() == [1, 0, 1]
    assert source[1].label == 0
    assert source[1].key == "class0/0000.png"
    numbers = "path,label\nclass0/0000.png,10\nclass1/0001.png,9\nclass2/0002.png,10\n"
    source = open_source(write(folder / "numbers.csv", numbers))
    assert source.classes == ["9", "10"]
    assert source.labels.tolist() == [1, 0, 1]
    source = open_source(write(folder / "paths.csv", "path\nclass0/0000.png\n"))
    assert source.labels is None
    some = "path,label\nclass0/0000.png,a\nclass1/0001.png,\nclass2/0002.png\nclass3/0003.png,b\n"
    source = open_source(write(folder / "some.csv", some))
    assert source.labels.tolist() == [0, -1, -1, 1]
    assert source[1].label is None


@pytest.mark.parametrize(
    ("name", "text", "said"),
    [
        ("a.txt", "class0/0000.png\nclass0/none.png\n", r"a\.txt, line 2: there is no file .*none\.png"),
        ("a.txt", "class0\n", r"a\.txt, line 1: .*class0 is a folder; list its images"),
        ("notes.txt", "hello\n", r"line 1: there is no file .*hello; notes\.txt is read as a list of images"),
        ("a.txt", "class0/0000.png\n./class0/0000.png\n", r"line 2: \./class0/0000\.png stands on line 1 already"),
        ("a.txt", "# nothing\n\n", r"a\.txt: the list is empty"),
        ("a.csv", "path,label\n", r"a\.csv: the list is empty"),
        ("a.csv", "", r"a\.csv: its first line must be path,label \(or path alone\), not empty"),
        ("a.csv", "class0/0000.png,cat\n", r"its first line must be path,label .*, not class0/0000\.png,cat"),
        ("a.csv", "path,class\nclass0/0000.png,cat\n", "its first line must be .*, not path,class"),
        ("a.csv", "path,label\nclass0/0000.png,a,b\n", r"line 2: a path and a label is expected"),
        ("a.csv", "path,label\n,cat\n", r"line 2: a path and a label is expected"),
    ],
)
def test_what_is_wrong_with_a_list_is_said_with_its_line(name: str, text: str, said: str, folder: Path) -> None:
    with pytest.raises(GlocalError, match=said):
        open_source(write(folder / name, text))


def test_a_list_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(GlocalError, match=r"files\.txt: cannot be read: No such file"):
        open_source(tmp_path / "files.txt")


def test_joined_sources_join_classes_by_name_and_keep_keys_apart(image_folder: Callable[..., Path]) -> None:
    first, second = image_folder(3, name="a"), image_folder(4, name="b")
    (first / "class2").rename(first / "class9")
    source = open_source([first, str(second)])
    assert isinstance(source, JoinedSource)
    assert len(source) == 7
    assert source.classes == ["class0", "class1", "class2", "class3", "class9"]
    assert source.labels is not None
    assert source.labels.tolist() == [0, 1, 4, 0, 1, 2, 3]
    assert source.keys[2] == "a/class9/0002.png"
    assert len(set(source.keys)) == 7
    assert source.files() == open_source(first).files() + open_source(second).files()
    for index, part, place in ((0, first, 0), (2, first, 2), (3, second, 0), (6, second, 3), (-1, second, 3)):
        assert torch.equal(source[index].image, open_source(part)[place].image)
    assert source[6].label == 3
    assert torch.equal(source.open(5).read(), source[5].image)
    assert source.sizes_of([0, 6]) == [(32, 32), (32, 32)]
    again = pickle.loads(pickle.dumps(source))
    assert torch.equal(again.open(4).read(), source[4].image)
    assert names_of(source) == [str(first), str(second)]
    assert open_source(names_of(source)).keys == source.keys
    assert open_source([second]).keys == open_source(second).keys
    assert open_source([f"{first}/", second]).keys == source.keys  # keys do not depend on how a place is spelled


def test_parts_of_a_set_can_do_in_a_joined_source_what_the_whole_can(
    image_folder: Callable[..., Path], tmp_path: Path
) -> None:
    first, second = image_folder(8, name="a"), image_folder(8, name="b")
    (tmp_path / "some.txt").write_text("class1\nclass2\n")
    part = f"{first}@{tmp_path / 'some.txt'}"
    source = open_source([part, str(second)])
    assert source.files()[:2] == [str(first / "class1" / "0001.png"), str(first / "class2" / "0002.png")]  # type: ignore[attr-defined]
    assert source.sizes_of([0, 1, 2]) == [(32, 32)] * 3  # type: ignore[attr-defined]
    for index in range(3):
        assert source.stored_values(index) is not None  # type: ignore[attr-defined]
    with pytest.raises(GlocalError, match=r"is in .* already; give one of the two"):
        open_source([part, str(first)])
    again = pickle.loads(pickle.dumps(open_source(part)))
    assert again.files() == source.files()[:2]  # type: ignore[attr-defined]


def test_joined_sources_without_labels_have_none(image_folder: Callable[..., Path], tmp_path: Path) -> None:
    folder = image_folder(4)
    source = open_source([folder, "shapes:test:3"])
    assert source.labels is not None
    flat = MemorySource("flat", torch.zeros(2, 3, 32, 32, dtype=torch.uint8), None, None)
    source = open_source([folder, flat])
    assert source.labels is None
    assert source.classes is None
    assert not hasattr(source, "open")
    assert not hasattr(source, "files")
    assert natural_size(source) == 32
    assert source[5].key == "flat/flat/1"


def test_a_broken_image_of_a_part_goes_by_its_whole_key(image_folder: Callable[..., Path]) -> None:
    first, second = image_folder(3, name="a"), image_folder(3, name="b")
    (second / "class0" / "0000.png").write_bytes(b"")
    source = open_source([first, second])
    for read in (source.__getitem__, source.open):
        with pytest.raises(BrokenImageError) as caught:
            read(3)
        assert caught.value.key == "b/class0/0000.png"


def test_nothing_is_joined_with_itself(folder: Path) -> None:
    with pytest.raises(GlocalError, match="is given twice"):
        open_source([folder, folder])
    with pytest.raises(GlocalError, match=r"class1: its image .*0001\.png is in .*images already; give one of the two"):
        open_source([folder, folder / "class1"])
    with pytest.raises(GlocalError, match="list of sources is empty"):
        open_source([])


def test_fingerprints_know_parts_and_their_order(image_folder: Callable[..., Path]) -> None:
    first, second = image_folder(3, name="a"), image_folder(4, name="b")
    found = [fingerprint(open_source(names)) for names in ([first, second], [second, first], [first], [first, second])]
    assert found[0] == found[3]
    assert None not in found
    assert len(set(found)) == 3
    listed = ListedImages(write(first / "l.txt", "class0/0000.png\n"))
    assert fingerprint(listed) not in found


@pytest.mark.parametrize(("lane", "workers"), [("resident", 0), ("streaming", 0), ("streaming", 2)])
def test_lanes_show_joined_images(lane: str, workers: int, image_folder: Callable[..., Path], folder: Path) -> None:
    listed = write(folder / "some.csv", "path,label\nclass1/0001.png,1\nclass2/0002.png,2\n")
    source = open_source([image_folder(6, name="other"), listed])
    whole = MemorySource("whole", torch.stack([source[index].image for index in range(8)]), None, None)
    settings = DataSettings(lane=lane, workers=workers)  # type: ignore[arg-type]
    shown = [
        next(
            iter(
                open_lane(one, settings, ViewPlan([View(size=32)]), BatchOrder(8, 8, 0), torch.device("cpu")).batches(
                    0, 1
                )
            )
        )
        for one in (source, whole)
    ]
    assert torch.equal(shown[0].images[0], shown[1].images[0])


def test_runs_and_evaluations_take_lists_and_several_sources(image_folder: Callable[..., Path], folder: Path) -> None:
    listed = write(folder / "some.csv", "path,label\nclass1/0001.png,class1\nclass2/0002.png,class2\n")
    names, out = [str(image_folder(22, name="other")), str(listed)], folder.parent / "run"
    small = {"train.epochs": 1, "train.batch_size": 8, "model.name": "resnet18", "data.size": 16}
    pretrain(names, out, overrides=small, progress=False)
    assert glocal.config.load_mapping(out / "recipe.yaml")["data"]["source"] == names
    pretrain(None, out, recipe=out / "recipe.yaml", progress=False)  # finished; the same images say it again
    with pytest.raises(GlocalError, match="has learned from 24 images, .* has 22"):
        pretrain(names[:1], out, overrides=small, progress=False)
    found = glocal.evaluate(out, train=names, test=listed, protocols="knn", k=[1], progress=False)
    assert found["protocols"]["knn"]["results"][0]["metrics"]["top1"] == 100.0  # test images are in the bank
