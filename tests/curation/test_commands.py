"""The commands outliers, select, label and check, as a user meets them."""

import io
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from rich.console import Console

from glocal.cli import main
from glocal.curation import labelling, outliers, selection
from glocal.data.sources.opening import open_source
from glocal.embeddings import folder as folder_module
from glocal.embeddings.folder import ABOUT
from tests.embeddings.made import make_embeddings

Call = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture
def call(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Call:
    def run(*arguments: object) -> subprocess.CompletedProcess[str]:
        monkeypatch.setattr(sys, "argv", ["glocal", *map(str, arguments)])
        capfd.readouterr()
        with pytest.raises(SystemExit) as end:
            main()
        said = capfd.readouterr()
        return subprocess.CompletedProcess(arguments, int(end.value.code or 0), said.out, said.err)

    return run


@pytest.fixture
def images(tmp_path: Path) -> Path:
    generator = np.random.default_rng(0)
    (tmp_path / "images").mkdir()
    for number in range(20):
        pixels = generator.integers(0, 256, (40, 40, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(tmp_path / "images" / f"{number:02d}.png")
    return tmp_path / "images"


@pytest.fixture
def folder(tmp_path: Path, images: Path) -> Path:
    """Embeddings of two groups and of one image that is far from both."""
    vectors = np.concatenate([np.eye(2, 8)[np.arange(19) % 2], -np.eye(2, 8)[:1]])
    vectors += np.random.default_rng(1).normal(0, 0.05, vectors.shape)
    paths = sorted(str(path) for path in images.iterdir())
    keys = [Path(path).name for path in paths]
    return make_embeddings(tmp_path / "e", vectors, keys=keys, paths=paths).folder


def test_outliers(folder: Path, tmp_path: Path, call: Call) -> None:
    done = call("outliers", folder, "--out", tmp_path / "new" / "o.csv", "--out", tmp_path / "o.html", "-n", 3, "-k", 4)
    assert done.returncode == 0, done.stderr
    assert "of 20 images at least 3 deviations" in done.stdout
    assert "19.png" in done.stdout
    lines = (tmp_path / "new" / "o.csv").read_text().splitlines()
    assert len(lines) == 21
    assert lines[1].startswith("1,19.png,")
    assert "3. " in (tmp_path / "o.html").read_text()


def test_what_is_selected_is_a_source(folder: Path, tmp_path: Path, call: Call) -> None:
    done = call("select", folder, "-n", 3, "--out", tmp_path / "s.txt", "--out", tmp_path / "s.png")
    assert done.returncode == 0, done.stderr
    assert "chance, 5 draws" in done.stdout
    assert str(folder.parent / "images" / "19.png") in (tmp_path / "s.txt").read_text().splitlines()
    with Image.open(tmp_path / "s.png") as sheet:
        assert sheet.width > 300
    more = call("select", folder, "-n", 2, "--include", tmp_path / "s.txt", "--rule", "kmeans")
    assert "beside 3 included" in " ".join(more.stdout.split())
    assert call("check", tmp_path / "s.txt", "--no-cache", "--workers", 0).returncode == 0


def test_label(folder: Path, tmp_path: Path, call: Call) -> None:
    (tmp_path / "some.csv").write_text("".join(f"{n:02d}.png,{'ab'[n % 2]}\n" for n in range(12)))
    arguments = ("--labels", tmp_path / "some.csv", "-k", 3, "--at-least", 0.9, "--source", tmp_path / "source.csv")
    done = call("label", folder, *arguments, "--out", tmp_path / "all.csv", "--out", tmp_path / "look.html")
    assert done.returncode == 0, done.stderr
    assert "100.0 % right, where always the largest class would be 50.0 %; 8 proposals" in done.stdout
    assert (tmp_path / "all.csv").read_text().count(",proposed,") == 9  # and the header
    assert (tmp_path / "source.csv").read_text().startswith("path,label\n")
    assert "not labelled" in (tmp_path / "look.html").read_text()


def test_check(images: Path, tmp_path: Path, call: Call) -> None:
    assert "nothing was found" in call("check", images, "--workers", 0, "--strict").stdout
    shutil.copy(images / "00.png", images / "copy.png")
    done = call("check", images, "--workers", 0, "--strict", "--out", tmp_path / "c.csv", "--out", tmp_path / "c.html")
    assert done.returncode == 1
    assert "2 in 1 group " in done.stdout
    assert (tmp_path / "c.csv").read_text().count("the same bytes") == 2
    assert call("check", images, "--workers", 0).returncode == 0


def test_sheets_show_images_that_are_no_files(tmp_path: Path, call: Call, monkeypatch: pytest.MonkeyPatch) -> None:
    made = make_embeddings(tmp_path / "e", np.random.default_rng(0).normal(size=(16, 8)), labels=["a", "b"] * 8)
    about = made.about.model_copy(update={"source": "shapes:test:16"})
    (made.folder / ABOUT).write_text(about.model_dump_json())
    opened: list[object] = []
    monkeypatch.setattr(
        folder_module, "open_source", lambda source, **how: opened.append(source) or open_source(source, **how)
    )
    for command in (["outliers", "-n", 3], ["select", "-n", 3], ["label", "-k", 3]):
        done = call(command[0], made.folder, *command[1:], "--out", tmp_path / "sheet.html")
        assert done.returncode == 0, done.stderr
        page = (tmp_path / "sheet.html").read_text()
        assert page.count("<img") == page.count("<figure") > 2
    assert opened == ["shapes:test:16"] * 3  # once for each sheet


@pytest.mark.parametrize("name", ["ph [old]", "x[/y]"])
def test_names_of_folders_are_shown_as_they_are(name: str, images: Path, tmp_path: Path, call: Call) -> None:
    shutil.copytree(images, tmp_path / name)
    shutil.copy(images / "00.png", tmp_path / name / "copy.png")
    done = call("check", tmp_path / name, "--workers", 0)
    assert done.returncode == 0, done.stderr
    assert f"{name}: 21 images" in "".join(done.stdout.split("\n")).replace("  ", "")


def test_names_in_tables_are_no_markup(tmp_path: Path) -> None:
    vectors = np.concatenate([np.eye(2, 8)[np.arange(6) % 2], -np.eye(2, 8)[:1]])
    names = [f"[/{row % 2}]" for row in range(7)]
    made = make_embeddings(tmp_path / "e", vectors, keys=[f"[b]/{row}.png" for row in range(7)], labels=names)
    shown = Console(width=200, file=io.StringIO())
    shown.print(
        outliers.table(outliers.find_outliers(made, k=2), made), *labelling.tables(labelling.propose_labels(made))
    )
    assert isinstance(shown.file, io.StringIO)
    assert "[b]/6.png" in shown.file.getvalue()
    assert "[/1]" in shown.file.getvalue()


@pytest.mark.parametrize(
    "arguments",
    [
        ["outliers", "E", "--out", "file.txt/x.csv"],
        ["select", "E", "-n", "2", "--out", "file.txt/x/y.html"],
        ["label", "E", "--source", "file.txt/x.csv"],
        ["check", "shapes:test:16", "--out", "file.txt/x.png"],
        ["search", "E", "00.png", "--out", "file.txt/x.csv"],
        ["duplicates", "E", "--out", "file.txt"],
        ["outliers", "E", "--out", "x" * 300 + ".csv"],
    ],
)
def test_nothing_is_computed_for_a_file_that_cannot_be_written(
    arguments: list[str], folder: Path, tmp_path: Path, call: Call, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "file.txt").write_text("a file")
    computed: list[object] = []
    for name in (
        "curation.outliers.find_outliers",
        "curation.selection.select",
        "curation.labelling.propose_labels",
        "curation.checking.check",
        "curation.duplicates.find_duplicates",
        "embeddings.searching.search",
    ):
        monkeypatch.setattr(f"glocal.{name}", lambda *_, **__: computed.append(0))
    done = call(*[folder if argument == "E" else argument for argument in arguments])
    assert done.returncode == 2
    assert ("file.txt is a file and no folder" in done.stderr) or "cannot be written: File name too long" in done.stderr
    assert arguments[-2] in done.stderr
    assert done.stderr.count("\n") == 1
    assert not computed
    assert sorted(path.name for path in tmp_path.iterdir()) == ["e", "file.txt", "images"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["outliers", "E", "--out", "o.doc"], "--out o.doc: the name must end in .csv, .html or .png"),
        (["outliers", "E", "--out", "E"], "the name must end in"),
        (["outliers", "nowhere"], "nowhere: there is no such folder; `glocal embed"),
        (["outliers", "E", "--rule", "far"], "rule far: choose from distance, local"),
        (["select", "E", "-n", "21"], "has 20 images; choose from 1 to 20"),
        (["select", "E", "-n", "2", "--include", "none.txt"], "none.txt: cannot be read"),
        (["label", "E"], "its images have no labels; give some as a table"),
        (["label", "E", "--labels", "none.csv"], "none.csv: cannot be read: No such file"),
        (["label", "E", "--source", "x.txt"], "--source x.txt: the name must end in .csv"),
        (["check", "shapez"], "there is no folder shapez; did you mean shapes?"),
        (["check", "E"], "there is no image among its 2 files"),
    ],
)
def test_mistakes_are_one_line_and_exit_code_2(arguments: list[str], message: str, folder: Path, call: Call) -> None:
    done = call(*[folder if argument == "E" else argument for argument in arguments])
    assert done.returncode == 2
    assert message in done.stderr
    assert done.stderr.count("\n") == 1


@pytest.mark.parametrize(("command", "options"), [("select", ["-n", 2, "--out"]), ("label", ["--source"])])
def test_lists_of_images_that_are_no_files_are_refused_before_anything_is_computed(
    tmp_path: Path, call: Call, monkeypatch: pytest.MonkeyPatch, command: str, options: list[object]
) -> None:
    made = make_embeddings(tmp_path / "e", np.eye(6), paths=["/a.png", None] * 3, labels=["x", "y"] * 3)
    for module, work in ((labelling, "propose_labels"), (selection, "select")):
        monkeypatch.setattr(module, work, lambda *_, **__: pytest.fail("computed"))
    path = tmp_path / ("list.txt" if command == "select" else "list.csv")
    done = call(command, made.folder, *options, path)
    assert done.returncode == 2
    assert f"{path}: 000001.png is no file of its own, so no list can name it" in done.stderr
    assert not path.exists()
