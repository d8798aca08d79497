"""What a folder of images passes over: runs and other output of this package, and files that are no images."""

import os
from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image

from glocal.data.sources.folder import ImageFolder
from glocal.data.sources.opening import open_source
from glocal.errors import GlocalError
from glocal.training.run import pretrain


def put(path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".png":
        Image.new("RGB", (8, 8), (1, 2, 3)).save(path)
    else:
        path.write_bytes(b"x")


def put_all(folder: Path, names: str) -> None:
    for name in names.split():
        put(folder / name)


def test_folders_that_glocal_wrote_are_passed_over(tmp_path: Path) -> None:
    put_all(tmp_path, "a/1.png b/2.png")
    put_all(tmp_path, "runs/a/recipe.yaml runs/a/environment.json runs/a/views.png runs/a/evaluation/tsne.png")
    put_all(tmp_path, "sweeps/x/sweep.csv sweeps/x/runs/lr=1/recipe.yaml sweeps/x/runs/lr=1/loss.png")
    put_all(tmp_path, "sweeps/x/runs/lr=1/checkpoints/step-1.pt")
    put_all(
        tmp_path, "out/evaluation.json out/evaluation.csv out/maps.png both/compare.json both/compare.csv both/c.png"
    )
    put_all(tmp_path, "kept/recipe.yaml kept/soup.png")  # anybody's recipe
    source = ImageFolder(tmp_path)
    assert list(source.keys) == ["a/1.png", "b/2.png", "kept/soup.png"]
    assert source.passed_over == "4 folders that glocal writes (both, out, runs/a, sweeps/x/runs/lr=1)"


def test_the_run_that_is_about_to_be_made_counts_as_one(tmp_path: Path) -> None:
    put_all(tmp_path, "a/1.png b/2.png runs/a/old.png")
    os.symlink(tmp_path / "runs", tmp_path / "elsewhere")
    source = ImageFolder(tmp_path, without=tmp_path / "elsewhere" / "a")
    assert list(source.keys) == ["a/1.png", "b/2.png"]
    assert ImageFolder(tmp_path, without=tmp_path / "new").passed_over == ""


def test_of_a_folder_that_is_a_run_itself_only_the_runs_own_files_are_passed_over(tmp_path: Path) -> None:
    put_all(tmp_path, "a.png b.png views.png")
    assert list(ImageFolder(tmp_path).keys) == ["a.png", "b.png", "views.png"]
    assert list(ImageFolder(tmp_path, without=tmp_path).keys) == ["a.png", "b.png"]
    put_all(tmp_path, "recipe.yaml environment.json loss.png evaluation/tsne.png")
    assert list(ImageFolder(tmp_path).keys) == ["a.png", "b.png"]


def test_a_run_inside_its_own_images_goes_on_with_the_same_images(
    image_folder: Callable[..., Path], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = image_folder(8)
    monkeypatch.chdir(folder)
    small = {"train.epochs": 1, "train.batch_size": 8, "model.name": "resnet18", "data.size": 16}
    pretrain(".", "runs/a", overrides=small, progress=False)
    assert (folder / "runs" / "a" / "views.png").exists()
    assert len(open_source(".")) == 8
    assert open_source(".").classes == [f"class{number}" for number in range(8)]
    pretrain(".", "runs/a", overrides=small, progress=False)
    assert "passed over: 1 folder that glocal writes (runs/a)" in capsys.readouterr().err


def test_files_that_are_no_images_are_counted_by_ending(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    put_all(tmp_path, "1.png 2.png labels.csv README.md notes.txt a.json LICENSE .DS_Store x.xml")
    assert len(open_source(tmp_path)) == 2
    assert capsys.readouterr().err == ""
    put_all(tmp_path, "a.dcm b.DCM b/c.npy d.dcm e.zip")
    open_source(tmp_path)
    assert capsys.readouterr().err == (
        f"note: {tmp_path}: 2 images; passed over: 3 .dcm (save them as 16-bit PNG), "
        "1 .npy (data.rgb=false learns from their values), 1 .zip (unpack them)\n"
    )
    put_all(tmp_path, "q.a1 q.a2 q.a3 q.a4 r.a3 r.a4")
    assert ImageFolder(tmp_path).passed_over.endswith(", 2 of 2 more endings")


def test_a_folder_of_other_files_alone_is_refused_with_their_count(tmp_path: Path) -> None:
    put_all(tmp_path, "a.dcm b.dcm notes.txt")
    with pytest.raises(GlocalError, match=r"among its 3 files; passed over: 2 \.dcm \(save them as 16-bit PNG\)"):
        open_source(tmp_path)
