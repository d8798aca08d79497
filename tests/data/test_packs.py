"""Packs: the images, names and order of the folder, in a few checksummed files; a killed one goes on."""

import json
import os
import shlex
import shutil
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image

from glocal.cli.app import app
from glocal.data.packs import making
from glocal.data.packs.checking import check_pack
from glocal.data.packs.layout import To
from glocal.data.packs.making import pack
from glocal.data.sources.fingerprint import fingerprint
from glocal.data.sources.opening import open_source
from glocal.data.sources.packed import PackedImages
from glocal.errors import BrokenImageError, GlocalError
from glocal.training.run import pretrain

KINDS: list[To] = ["parquet", "tar"]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """48 noisy images of two classes, about 46 kB each: three shards of a megabyte. Some names are odd."""
    draws = np.random.default_rng(0)
    for number in range(48):
        place = tmp_path / "photos" / f"class {number % 2}" / f"{number:02d}"
        place.parent.mkdir(parents=True, exist_ok=True)
        picture = Image.fromarray(draws.integers(0, 256, (140, 110, 3), dtype=np.uint8))
        picture.save(f"{place}{['.png', '.a.b.PNG', ' ü.bmp'][number % 3]}")
    os.rename(
        tmp_path / "photos" / "class 1" / "01.a.b.PNG", os.fsencode(tmp_path / "photos/class 1") + b"/\xe9\n..png"
    )
    return tmp_path / "photos"


def files_of(pack: Path) -> dict[str, bytes]:
    return {str(path.relative_to(pack)): path.read_bytes() for path in pack.rglob("*") if path.is_file()}


@pytest.mark.parametrize("to", KINDS)
def test_a_pack_is_the_folder(to: To, folder: Path, tmp_path: Path) -> None:
    done = pack(folder, tmp_path / "pack", to, shard_megabytes=1, progress=False)
    assert len(done.shards) == 3
    assert all((tmp_path / "pack" / shard.file).stat().st_size <= 1_000_000 for shard in done.shards)
    whole, packed = open_source(folder), open_source(tmp_path / "pack")
    assert isinstance(packed, PackedImages)
    assert packed.keys == whole.keys
    assert packed.classes == whole.classes == ["class 0", "class 1"]
    assert packed.labels is not None
    assert packed.labels.tolist() == whole.labels.tolist()  # type: ignore[union-attr]
    for index in (47, 0, 23, 24):
        assert torch.equal(packed[index].image, whole[index].image)
        assert packed.content(index) == Path(whole.files()[index]).read_bytes()  # type: ignore[attr-defined]
    again = pack(tmp_path / "pack", tmp_path / "again", to, shard_megabytes=1, progress=False)
    assert again.shards == done.shards
    assert fingerprint(packed) == fingerprint(open_source(tmp_path / "again"))
    assert not check_pack(tmp_path / "pack", progress=False)


def test_parquet_shards_are_those_of_any_reader(folder: Path, tmp_path: Path) -> None:
    pack(folder, tmp_path / "pack", "parquet", progress=False)
    found = pq.read_table(tmp_path / "pack" / "shard-00000.parquet")
    whole = open_source(folder)
    assert [row["bytes"] for row in found["image"].to_pylist()] == [Path(p).read_bytes() for p in whole.files()]  # type: ignore[attr-defined]
    assert found["label"].to_pylist() == whole.labels.tolist()  # type: ignore[union-attr]
    assert json.loads(found.schema.metadata[b"huggingface"])["info"]["features"]["label"]["names"] == whole.classes


def test_members_of_tar_shards_are_numbers_with_what_webdataset_expects(folder: Path, tmp_path: Path) -> None:
    pack(folder, tmp_path / "pack", "tar", progress=False)
    whole = open_source(folder)
    with tarfile.open(tmp_path / "pack" / "shard-00000.tar") as tar:
        names = tar.getnames()
        number = list(whole.keys).index("class 1/03.png")
        known = {
            name.partition(".")[2]: tar.extractfile(name).read() for name in names if name.startswith(f"{number:09d}")
        }  # type: ignore[union-attr]
    assert names[:3] == ["000000000.png", "000000000.cls", "000000000.json"]
    assert {name.partition(".")[0] for name in names} == {f"{place:09d}" for place in range(48)}
    assert known["png"] == (folder / "class 1" / "03.png").read_bytes()
    assert known["cls"] == b"1"
    assert json.loads(known["json"]) == {"name": "class 1/03.png", "label": 1, "class": "class 1"}


@pytest.mark.parametrize("to", KINDS)
def test_a_killed_pack_goes_on_and_ends_in_the_same_bytes(
    to: To, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pack(folder, tmp_path / "whole", to, shard_megabytes=1, progress=False)
    out = tmp_path / "pack"
    with monkeypatch.context() as patch:  # dies while the third shard is written
        write = making._write_shard
        patch.setattr(making, "_write_shard", lambda *a: write(*a) if a[3] < 2 else (_ for _ in ()).throw(SystemError))
        with pytest.raises(SystemError):
            pack(folder, out, to, shard_megabytes=1, progress=False)
    (out / f".shard-00002.{to}.x.part").write_bytes(b"half")
    with pytest.raises(GlocalError, match="the pack is not finished"):
        open_source(out)
    kept = {name: (out / name).stat().st_mtime_ns for name in (f"shard-00000.{to}", f"shard-00001.{to}")}
    content = (out / f"shard-00001.{to}").read_bytes()
    (out / f"shard-00001.{to}").write_bytes(content[:-1])  # a disk that lost its end
    pack(folder, out, to, shard_megabytes=1, progress=False)
    assert (out / f"shard-00000.{to}").stat().st_mtime_ns == kept[f"shard-00000.{to}"]
    assert files_of(out) == files_of(tmp_path / "whole")


def test_a_changed_file_is_packed_anew_when_a_pack_goes_on(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(making, "_write_index", lambda *_: (_ for _ in ()).throw(SystemError))
        with pytest.raises(SystemError):
            pack(folder, tmp_path / "pack", progress=False)
    Image.new("RGB", (9, 9)).save(folder / "class 0" / "00.png")
    pack(folder, tmp_path / "pack", progress=False)
    assert open_source(tmp_path / "pack")[0].image.shape == (3, 9, 9)


@pytest.mark.parametrize("to", KINDS)
def test_damage_is_named_by_shard_and_image(
    to: To, folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "pack"
    pack(folder, out, to, shard_megabytes=1, progress=False)
    source = open_source(out)
    victim = list(source.keys).index("class 0/30.png")
    path = out / f"shard-{int(source._shard[victim]):05d}.{to}"  # type: ignore[attr-defined]
    content = bytearray(path.read_bytes())
    content[int(source._offset[victim]) + 1000] ^= 1  # type: ignore[attr-defined]
    path.write_bytes(content)
    with pytest.raises(BrokenImageError, match=f"class 0/30.png: {path.name} is damaged there"):
        open_source(out)[victim]
    assert open_source(out)[victim + 1].image.shape == (3, 140, 110)
    (damage,) = check_pack(out, progress=False)
    assert (damage.file, damage.images) == (path.name, ["class 0/30.png"])
    with pytest.raises(SystemExit) as caught:
        app(["pack", "--check", str(out), "--quiet"])
    assert caught.value.code == 1
    assert (
        f"{path.name} has other bytes than were written; 1 image in it cannot be read: class 0/30.png"
        in capsys.readouterr().out
    )
    path.unlink()
    with pytest.raises(BrokenImageError) as gone:
        source[victim]
    assert gone.value.gone == str(path)
    with pytest.raises(
        GlocalError, match=f"{path.name}: cannot be read: No such file.*; the same glocal pack writes it"
    ):
        open_source(out)
    assert check_pack(out, progress=False)[0].reason == "is not there"


@pytest.mark.parametrize("to", KINDS)
def test_a_finished_pack_that_is_damaged_is_mended_by_the_same_command(
    to: To, folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out, path = tmp_path / "pack", tmp_path / "pack" / f"shard-00001.{to}"
    done = pack(folder, out, to, shard_megabytes=1, progress=False)
    whole, kept = files_of(out), (out / f"shard-00002.{to}").stat().st_mtime_ns

    def flip() -> None:
        path.write_bytes(path.read_bytes()[:-9] + b"x" + path.read_bytes()[-8:])

    for damage, check, said in (
        (path.unlink, False, f"{path.name} is not there: written again"),
        (lambda: os.truncate(path, 99), False, f"{path.name} has 99 bytes, not"),
        (flip, True, f"{path.name} has other bytes than were written: written again"),
        ((out / "index.pack").unlink, False, "index.pack is not there: written again"),
    ):
        damage()
        assert pack(folder, out, to, shard_megabytes=1, check=check, progress=False) == done
        assert said in capsys.readouterr().err
        assert files_of(out) == whole
        if "index" not in said:
            assert (out / f"shard-00002.{to}").stat().st_mtime_ns == kept
    flip()
    with pytest.raises(SystemExit):
        app(["pack", "--check", str(out), "--quiet"])
    mend = capsys.readouterr().out.splitlines()[-1].removeprefix("mend:   ")
    app(shlex.split(mend)[1:], standalone_mode=False)
    assert files_of(out) == whole


def test_a_mend_that_was_killed_goes_on(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out = tmp_path / "pack"
    pack(folder, out, shard_megabytes=1, progress=False)
    whole = files_of(out)
    for number in (0, 2):
        (out / f"shard-0000{number}.parquet").unlink()
    with monkeypatch.context() as patch:
        write = making._write_shard
        patch.setattr(making, "_write_shard", lambda *a: write(*a) if a[3] < 2 else (_ for _ in ()).throw(SystemError))
        with pytest.raises(SystemError):
            pack(folder, out, shard_megabytes=1, progress=False)
    pack(folder, out, shard_megabytes=1, progress=False)
    assert files_of(out) == whole


def test_images_that_have_changed_are_packed_anew_from_the_lost_shard_on(folder: Path, tmp_path: Path) -> None:
    pack(folder, tmp_path / "pack", shard_megabytes=1, progress=False)
    victim = list(open_source(folder).keys).index("class 0/30.png")
    Image.new("RGB", (9, 9)).save(folder / "class 0" / "30.png")
    (tmp_path / "pack" / "shard-00000.parquet").unlink()
    pack(folder, tmp_path / "pack", shard_megabytes=1, progress=False)
    assert open_source(tmp_path / "pack")[victim].image.shape == (3, 9, 9)
    assert not check_pack(tmp_path / "pack", progress=False)


@pytest.mark.skipif(os.name == "nt", reason="no locks there")
def test_two_packs_are_not_written_to_one_folder_at_once(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write, out = making._write_shard, tmp_path / "pack"

    def twice(*args: Any) -> Any:
        with pytest.raises(GlocalError, match=f"--out {out}: another glocal pack is writing there; wait for it"):
            pack(folder, out, progress=False)
        return write(*args)

    monkeypatch.setattr(making, "_write_shard", twice)
    pack(folder, out, progress=False)
    assert sorted(os.listdir(out)) == ["glocal-pack.json", "index.pack", "shard-00000.parquet"]
    assert len(open_source(out)) == 48


def test_what_a_pack_says_of_itself_is_looked_at(folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "pack"
    pack(folder, out, progress=False)
    right = json.loads((out / "glocal-pack.json").read_text())
    shard = right["shards"][0]
    for wrong in (
        "[" * 100_000,
        *("{", "[]", "3", '{"format": 1}'),
        *({**right, "shards": [{**shard, key: value}]} for key, value in (("bytes", "a"), ("file", "../x"))),
        {**right, "shards": [{**shard, "bytes": -1}]},
        {**right, "classes": ["class 0"]},
        {**right, "classes": [1, 2]},
        {**right, "images": 47},
        {**right, "shards": [{**shard, "images": 47}]},
        {**right, "shards": []},
    ):
        (out / "glocal-pack.json").write_text(wrong if isinstance(wrong, str) else json.dumps(wrong))
        with pytest.raises(GlocalError, match=f"glocal-pack.json is damaged; remove {out} and pack the images again"):
            open_source(out)


def test_an_unreadable_file_keeps_its_place(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (folder / "class 0" / "00.png").write_bytes(b"")
    os.truncate(folder / "class 0" / "02 ü.bmp", 1 << 40)  # larger than an image can be
    pack(folder, tmp_path / "pack", progress=False)
    assert "1 of its 48 images cannot be read and are packed as empty files" in capsys.readouterr().err
    packed = open_source(tmp_path / "pack")
    assert packed.keys == open_source(folder).keys
    for index in (0, 1):
        with pytest.raises(BrokenImageError, match="empty file"):
            packed[index]


def test_what_cannot_be_packed_is_refused_in_a_line(folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "pack"
    with pytest.raises(GlocalError, match="--to zip: choose from parquet, tar"):
        pack(folder, out, "zip")  # type: ignore[arg-type]
    with pytest.raises(GlocalError, match="shapes:train:8: its images are no files"):
        pack("shapes:train:8", out)
    with pytest.raises(GlocalError, match="it holds class 0; give a folder of its own"):
        pack(folder, folder, progress=False)
    pack(folder, out, progress=False)
    with pytest.raises(GlocalError, match=r"it holds another pack \(packed to: parquet, not tar\)"):
        pack(folder, out, "tar", progress=False)
    (folder / "class 0" / "00.png").unlink()
    with pytest.raises(GlocalError, match=r"number of images: 48, not 47"):
        pack(folder, out, progress=False)
    shutil.copytree(out, folder / "class 0" / "packed")
    assert len(open_source(folder)) == 47


def test_a_run_on_the_pack_is_the_run_on_the_folder_and_goes_on_with_the_other(
    image_folder: Callable[..., Path], tmp_path: Path, no_pictures: None
) -> None:
    folder = image_folder(16, sizes=((32, 32), (40, 24)))
    for to in KINDS:
        pack(folder, tmp_path / to, to, progress=False)
    settings = {
        **{"train.epochs": 2, "train.batch_size": 8, "train.checkpoint_steps": 2, "model.name": "resnet18"},
        **{"data.size": 16, "data.workers": 1, "data.lane": "streaming"},
    }

    def weights(data: Path, out: str) -> dict[str, torch.Tensor]:
        return pretrain(data, tmp_path / out, overrides=settings, progress=False).backbone().network.state_dict()

    expected = weights(folder, "a")
    shutil.copytree(tmp_path / "a", tmp_path / "b")  # a run on the folder, stopped in the middle
    (tmp_path / "b" / "checkpoints" / "step-000000004.pt").unlink()
    for data, out in (("tar", "b"), ("parquet", "c")):
        found = weights(tmp_path / data, out)
        assert all(torch.equal(expected[name], found[name]) for name in expected), data
