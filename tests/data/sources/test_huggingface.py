"""Data sets of Hugging Face's `datasets`: any image by its index, decoded as files are, with stable names."""

import io
import os
import pickle
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path

import datasets
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from torch.utils.data import DataLoader

from glocal.data.decoding.rules import Decoding
from glocal.data.packs.making import pack
from glocal.data.sources.fingerprint import fingerprint
from glocal.data.sources.huggingface import DatasetImages, _own_place
from glocal.data.sources.opening import open_source
from glocal.errors import BrokenImageError, GlocalError
from glocal.training.images import ImageSet


@pytest.fixture
def files(image_folder: Callable[..., Path], monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> list[Path]:
    """Twelve images."""
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    return sorted(image_folder(12).rglob("*.png"), key=lambda path: path.name)


def table(files: list[Path], **columns: list[object]) -> datasets.Dataset:
    """The images' bytes in a column `picture`, labels in `kind`."""
    kinds = datasets.ClassLabel(names=["x", "y", "z"])
    made = datasets.Dataset.from_dict(
        {
            "picture": [{"bytes": path.read_bytes(), "path": None} for path in files],
            "kind": [number % 3 for number in range(len(files))],
            **columns,
        }
    )
    return made.cast_column("picture", datasets.Image()).cast_column("kind", kinds)


def same_images(name: str, files: list[Path]) -> DatasetImages:
    """The source, which has the images of these files."""
    source = open_source(name)
    assert isinstance(source, DatasetImages)
    assert len(source) == len(files)
    expected = open_source(files[0].parents[1])
    for number in (11, 0, 5):
        image = expected[list(expected.keys).index(f"{files[number].parent.name}/{files[number].name}")].image
        assert torch.equal(source[number].image, image)
        assert source.open(number).size == (32, 32)
    return source


def test_every_kind_of_file_is_opened(files: list[Path], tmp_path: Path) -> None:
    made = table(files)
    made.save_to_disk(tmp_path / "saved")
    datasets.DatasetDict({"train": made, "test": made.select(range(3))}).save_to_disk(tmp_path / "both")
    made.to_parquet(tmp_path / "one.parquet")
    for name in ("saved", "both", "one.parquet"):
        source = same_images(f"hf:{tmp_path / name}", files)
        assert source.classes == ["x", "y", "z"]
        assert source.labels is not None
        assert source.labels.tolist() == [0, 1, 2] * 4
        assert source[1].label == 1
        assert list(source.keys[:2]) == ["train/000000000", "train/000000001"]
    test = open_source(f"hf:{tmp_path / 'both'}:test")
    assert (len(test), test.keys[2]) == (3, "test/000000002")
    assert fingerprint(test) == fingerprint(open_source(f"hf:{tmp_path / 'both'}:test"))
    assert fingerprint(test) != fingerprint(source)


def test_webdatasets_tar_files_are_opened(files: list[Path], tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "w.tar", "w") as tar:
        for number, path in enumerate(files):
            for ending, content in (("png", path.read_bytes()), ("cls", str(number % 2 + 8).encode())):
                member = tarfile.TarInfo(f"{number:04d}.{ending}")
                member.size = len(content)
                tar.addfile(member, io.BytesIO(content))
    source = same_images(f"hf:{tmp_path}/*.tar#name=__key__", files)
    assert source.classes == ["8", "9"]
    assert source.keys[3] == "0003"


@pytest.mark.parametrize("to", ["parquet", "tar"])
def test_packs_are_opened_by_others(to: str, files: list[Path], tmp_path: Path) -> None:
    folder = open_source(files[0].parents[1])
    pack(files[0].parents[1], tmp_path / "pack", to, progress=False)  # type: ignore[arg-type]
    source = open_source(f"hf:{tmp_path / 'pack'}/*.{to}{'#name=name' if to == 'parquet' else ''}")
    assert torch.equal(source[7].image, folder[7].image)
    assert source.labels is not None
    assert source.labels.tolist() == folder.labels.tolist()  # type: ignore[union-attr]
    if to == "parquet":
        assert (source.classes, list(source.keys)) == (folder.classes, list(folder.keys))


def test_names_on_the_hub_have_splits_and_options(files: list[Path], monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []

    def load(*names: object, **options: object) -> datasets.Dataset:
        asked.append((names, options))
        return table(files)

    monkeypatch.setattr(datasets, "load_dataset", load)
    open_source("hf:owner/flowers")
    assert len(open_source("hf:owner/flowers:valid[:50%]#config=large,revision=v1,label=")) == 12
    open_source("hf:s3://bucket/a/*.parquet")
    open_source("hf:https://host:8080/b.tar:test")
    assert asked == [
        (("owner/flowers", None), {"split": "train", "revision": None}),
        (("owner/flowers", "large"), {"split": "valid[:50%]", "revision": "v1"}),
        (("parquet",), {"data_files": "s3://bucket/a/*.parquet", "split": "train"}),
        (("webdataset",), {"data_files": "https://host:8080/b.tar", "split": "test"}),
    ]


def test_broken_rows_are_broken_images(files: list[Path], tmp_path: Path) -> None:
    gone = {"bytes": None, "path": str(tmp_path / "nowhere" / "a.png")}
    rows = [{"bytes": b"", "path": None}, {"bytes": files[0].read_bytes()[:300], "path": None}, None, gone]
    kind = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    pq.write_table(pa.table({"image": pa.array(rows, kind), "size": range(4)}), tmp_path / "a.parquet")
    source = open_source(f"hf:{tmp_path}/*.parquet")
    for number, reason in enumerate(["empty file", "truncated", "no image in column image", "No such file"]):
        with pytest.raises(BrokenImageError, match=f"train/00000000{number}: .*{reason}") as caught:
            source[number]
    assert caught.value.gone == str(tmp_path / "nowhere")


def named_by_rows(place: Path, *names: str) -> DatasetImages:
    """A table whose rows name files."""
    place.mkdir(exist_ok=True)
    rows = [{"bytes": None, "path": name} for name in names]
    kind = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    pq.write_table(pa.table({"image": pa.array(rows, kind), "size": range(len(rows))}), place / "a.parquet")
    source = open_source(f"hf:{place}/*.parquet")
    assert isinstance(source, DatasetImages)
    return source


def test_rows_name_files_beside_their_table_and_no_others(files: list[Path], tmp_path: Path) -> None:
    beside = tmp_path / "set"
    (beside / "in").mkdir(parents=True)
    for place in (beside / "in" / "a.png", tmp_path / "out.png", tmp_path / "set2.png"):
        place.write_bytes(files[0].read_bytes())
    with zipfile.ZipFile(beside / "in.zip", "w") as packed:
        packed.write(files[0], "a.png")
    os.mkfifo(beside / "pipe.zip")
    right = ("in/a.png", str(beside / "in" / "a.png"), f"file://{beside}/in/a.png", f"zip://a.png::{beside}/in.zip")
    wrong = (
        *("../out.png", str(tmp_path / "out.png"), f"file://{tmp_path}/out.png", f"{beside}2.png", "file:///dev/zero"),
        *("/dev/zero", "in/../../out.png", f"local://{beside}/in/a.png", "memory://a", "https://there/a.png", "\0"),
        *(f"zip://a::zip://b::{beside}/in.zip", f"zip://a.png::{tmp_path}/in.zip", f"x::{beside}/in/a.png", "."),
    )
    source = named_by_rows(beside, *right, *wrong, f"zip://a.png::{beside}/pipe.zip")
    for number in range(len(right)):
        assert source[number].image.shape == (3, 32, 32), right[number]
    for number, name in enumerate(wrong, start=len(right)):
        reason = "Is a directory" if name == "." else f"which is not below {beside}, where the data set lies"
        with pytest.raises(BrokenImageError, match=reason):
            source[number]
    with pytest.raises(BrokenImageError, match="no file but a pipe or a device"):
        source[len(source) - 1]


def test_what_rows_name_is_read_as_far_as_an_image_goes(
    files: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    beside = tmp_path / "set"
    source = named_by_rows(beside, "pipe.png", "zip://zeros::zeros.zip")
    os.mkfifo(beside / "pipe.png")
    with zipfile.ZipFile(beside / "zeros.zip", "w", zipfile.ZIP_DEFLATED) as packed:
        packed.writestr("zeros", bytes(3_000_000))
    monkeypatch.setattr("glocal.data.decoding.reading._SMALL", 1_000_000)
    source.decoding = Decoding(max_pixels=1000)
    for number, reason in enumerate(("no file but a pipe or a device", "more than an image of data.max_pixels=1000")):
        with pytest.raises(BrokenImageError, match=reason):
            source[number]


@pytest.mark.parametrize(
    ("place", "right", "wrong"),
    [
        ("s3://b/set/*.parquet", ("s3://b/set/a.png", "c/a.png"), ("s3://c/set/a.png", "s3://b/a.png", "/a.png")),
        ("https://h/set/a.parquet", ("https://h/set/a.png",), ("http://h/set/a.png", "https://h/set/%2e%2e/a.png")),
        ("https://h/set/a.parquet", ("https://h/set/a.png?x=1",), ("https://h:1/set/a.png", "https://u@h/set/a.png")),
        ("zip://*.parquet::s3://b/a.zip", (), ("a.png", "s3://b/a.png", "zip://a.png::s3://b/a.zip")),
        ("owner/name", ("hf://datasets/owner/name@1/a.png",), ("hf://datasets/owner/name2/a.png", "a.png", "/a.png")),
    ],
)
def test_addresses_are_those_of_the_data_set(place: str, right: tuple[str, ...], wrong: tuple[str, ...]) -> None:
    found = _own_place(place)
    for name in right:
        assert str(found.find(name)).endswith(name.rpartition("/")[2])
    for name in wrong:
        with pytest.raises(GlocalError, match="where the data set lies"):
            found.find(name)


def test_pictures_of_a_folder_and_of_an_archive_in_it_are_its_own(files: list[Path], tmp_path: Path) -> None:
    for name in ("plain", "archive"):
        (tmp_path / name).mkdir()
    (tmp_path / "plain" / "a.png").write_bytes(files[0].read_bytes())
    with zipfile.ZipFile(tmp_path / "archive" / "a.zip", "w") as packed:
        packed.write(files[0], "in/a.png")
    for name in ("plain", "archive"):
        source = open_source(f"hf:{tmp_path / name}")
        assert source[0].image.shape == (3, 32, 32)


def test_processes_read_by_themselves(files: list[Path], tmp_path: Path) -> None:
    table(files).save_to_disk(tmp_path / "saved")
    source = open_source(f"hf:{tmp_path / 'saved'}")
    again = pickle.loads(pickle.dumps(source))
    assert torch.equal(again[4].image, source[4].image)
    loader = DataLoader(source, batch_size=None, num_workers=2)  # type: ignore[arg-type]
    assert all(torch.equal(sample.image, source[number].image) for number, sample in enumerate(loader))


def test_columns_that_are_not_clear_are_asked_for(files: list[Path], tmp_path: Path) -> None:
    more = {"mask": [{"bytes": b"", "path": None}] * 12, "text": list("aabbccddeeff"), "number": list(range(12))}
    table(files, **more).cast_column("mask", datasets.Image()).save_to_disk(tmp_path / "saved")  # type: ignore[arg-type]
    name = f"hf:{tmp_path / 'saved'}"
    with pytest.raises(GlocalError, match=r"columns picture, mask could all be meant; add #image=picture"):
        open_source(name)
    with pytest.raises(GlocalError, match="there is no column pictrue; did you mean picture"):
        open_source(f"{name}#image=pictrue")
    with pytest.raises(GlocalError, match="#imgae=picture: write #OPTION=VALUE; did you mean image"):
        open_source(f"{name}#imgae=picture")
    with pytest.raises(GlocalError, match="column text does not give each image a name of its own"):
        open_source(f"{name}#image=picture,name=text")
    source = open_source(f"{name}#image=picture,label=text,name=number")
    assert source.classes == list("abcdef")
    assert source.keys[11] == "11"
    assert open_source(f"{name}#image=picture,label=").labels is None
    assert ImageSet.of(source).count == 12
    datasets.Dataset.from_dict({"a": [1], "b": ["x"]}).save_to_disk(tmp_path / "none")
    with pytest.raises(GlocalError, match="no column holds images; its columns are a, b"):
        open_source(f"hf:{tmp_path / 'none'}")


def test_what_cannot_be_opened_is_one_line(tmp_path: Path, files: list[Path]) -> None:
    datasets.DatasetDict({"train": table(files)}).save_to_disk(tmp_path / "both")
    for name, message in (
        (f"hf:{tmp_path / 'both'}:trian", "there is no split trian; did you mean train"),
        (f"hf:{tmp_path}/nothing/*.parquet", "nothing"),
        ("hf:", "write hf:NAME, hf:NAME:SPLIT"),
    ):
        with pytest.raises(GlocalError, match=message) as caught:
            open_source(name)
        assert "\n" not in str(caught.value)
