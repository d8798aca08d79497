"""Large folders are listed once, and once more when names came or went; names of images are kept as bytes."""

import os
import pickle
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from glocal.data.sources import listing
from glocal.data.sources.base import Subset
from glocal.data.sources.folder import ImageFolder
from glocal.data.sources.names import Names
from glocal.data.sources.opening import open_source

Said = pytest.CaptureFixture[str]
_YEAR_2020 = 1_577_836_800


@pytest.fixture
def folder(image_folder: Callable[..., Path], monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """Eight classes of two images each, of last year, and large enough to be kept."""
    monkeypatch.setattr(listing, "FEWEST", 2)
    monkeypatch.setenv("GLOCAL_CACHE", str(tmp_path / "cache"))
    made = image_folder(16)
    (made / "class0" / "a.heic").touch()
    return aged(made)


def aged(folder: Path) -> Path:
    """The folder and all in it, as if nothing had been changed for long."""
    for path in [folder, *folder.rglob("*")]:
        if path.is_dir():
            os.utime(path, (_YEAR_2020, _YEAR_2020))
    return folder


def walks(monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """The folders that are walked through from now on."""
    found: list[Path] = []
    walk = listing.walk

    def noted(folder: Path, without: str | None = None) -> listing.Found:
        found.append(folder)
        return walk(folder, without)

    monkeypatch.setattr(listing, "walk", noted)
    return found


def test_the_second_start_looks_at_folders_alone(folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: Said) -> None:
    first = open_source(folder)
    said = capsys.readouterr().err
    assert "passed over: 1 .heic" in said
    with monkeypatch.context() as patch:
        patch.setattr(os, "scandir", None)
        second = open_source(folder)
    assert capsys.readouterr().err == said
    assert second.keys == first.keys
    assert second.classes == first.classes == [f"class{number}" for number in range(8)]
    assert second.labels is not None
    assert second.labels.tolist() == first.labels.tolist()  # type: ignore[union-attr]
    assert second[3].image.equal(first[3].image)


def test_a_folder_that_changed_is_listed_again_and_said(folder: Path, capsys: Said) -> None:
    ImageFolder(folder)
    os.rename(folder / "class3" / "0003.png", folder / "class5" / "new.png")
    found = ImageFolder(folder)
    assert "class5/new.png" in found.keys
    assert "class3/0003.png" not in found.keys
    assert "has changed since its 16 images were listed: 1 image more, 1 image that are gone" in capsys.readouterr().err
    (aged(folder) / "class5" / "notes.txt").touch()  # no image
    assert len(ImageFolder(folder)) == 16
    assert capsys.readouterr().err == ""


def test_folders_that_links_lead_to_are_looked_at_too(folder: Path, tmp_path: Path) -> None:
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        os.link(folder / "class0" / "0000.png", tmp_path / name / f"{name}.png")
    link, later = folder / "link", folder / "later.png"
    link.symlink_to(tmp_path / "place")
    (tmp_path / "place").symlink_to(tmp_path / "one")
    later.symlink_to(tmp_path / "nothing.png")
    for path in (folder, tmp_path / "one", tmp_path / "two"):
        aged(path)
    assert "link/one.png" in ImageFolder(folder).keys
    (tmp_path / "place").unlink()
    (tmp_path / "place").symlink_to(tmp_path / "two")
    assert "link/two.png" in ImageFolder(folder).keys
    os.link(folder / "class0" / "0000.png", tmp_path / "nothing.png")
    assert "later.png" in ImageFolder(folder).keys


def test_a_change_in_the_same_tick_of_the_clock_is_noticed(folder: Path) -> None:
    (folder / "class0").touch()
    before = os.stat(folder / "class0")
    assert len(ImageFolder(folder)) == 16
    os.link(folder / "class0" / "0000.png", folder / "class0" / "new.png")
    os.utime(folder / "class0", ns=(before.st_atime_ns, before.st_mtime_ns))
    assert len(ImageFolder(folder)) == 17


def test_runs_inside_the_folder_may_go_on(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = folder / "runs" / "a"
    (run / "checkpoints").mkdir(parents=True)
    (run / "recipe.yaml").touch()
    aged(folder)
    ImageFolder(folder, without=run)
    found = walks(monkeypatch)
    (run / "views.png").touch()
    assert len(ImageFolder(folder, without=run)) == 16
    assert not found
    (run / "recipe.yaml").unlink()
    assert len(ImageFolder(folder)) == 17  # no run any more
    assert found


def test_a_damaged_list_is_made_again(folder: Path, tmp_path: Path, capsys: Said) -> None:
    first = ImageFolder(folder)
    (kept,) = (tmp_path / "cache" / "listings").iterdir()
    content = kept.read_bytes()
    kept.write_bytes(content.replace(b"0003.png", b"0004.png"))
    assert ImageFolder(folder).keys == first.keys
    kept.write_bytes(content[:200])
    assert ImageFolder(folder).keys == first.keys
    assert capsys.readouterr().err.count("the folder is listed anew") == 2


def test_names_are_a_sequence_of_text_whatever_their_bytes() -> None:
    texts = ["a.png", "", "ü\n.png", os.fsdecode(b"caf\xe9.png"), "z"]
    names = Names(texts)
    assert list(names) == texts
    assert [names[place] for place in (0, 3, -1)] == ["a.png", texts[3], "z"]
    assert names[1:4] == texts[1:4]
    assert names == texts
    assert names != texts[:4]
    assert "z" in names
    assert pickle.loads(pickle.dumps(names)) == names
    assert Names.of_buffers(*names[1:4].buffers()) == texts[1:4]
    assert list(Names([])) == []
    assert Names.of_buffers(*Names([]).buffers()) == []
    with pytest.raises(IndexError):
        names[5]


def test_a_part_of_a_listed_folder_keeps_its_names_in_one_buffer(folder: Path) -> None:
    whole = ImageFolder(folder)
    part = Subset(whole, torch.tensor([5, 0, 5]))
    assert isinstance(part.keys, Names)
    assert list(part.keys) == [whole.keys[5], whole.keys[0], whole.keys[5]]
    assert part[1].key == whole.keys[0]
