"""Runs beside printed rows: which run is which row, what is marked, and which number is taken."""

import csv
import json
import sys
from pathlib import Path
from typing import Any

import pytest

from glocal.cli import main
from glocal.config import build_recipe, load_mapping
from glocal.errors import GlocalError
from glocal.papers import find_table
from glocal.papers.measured import MeasuredRun, find_runs, measured
from glocal.papers.shown import others

Entry = dict[str, Any]
LABEL = "tau=0.2 target=0.10 CIFAR10"


def run(folder: Path, overrides: dict[str, Any] | None = None, *entries: Entry, recipe: str = "sce-cifar10") -> None:
    """A run's folder as `pretrain` and `evaluate` write it."""
    folder.mkdir(parents=True)
    (folder / "recipe.yaml").write_text(build_recipe(load_mapping(recipe), overrides).to_yaml())
    if entries:
        (folder / "evaluation").mkdir()
        protocols = {f"{entry['protocol']}-{number}": entry for number, entry in enumerate(entries)}
        result = {"backbone": "x", "fingerprint": "x", "protocols": protocols}
        (folder / "evaluation" / "evaluation.json").write_text(json.dumps(result))


def linear(value: float, **settings: Any) -> Entry:
    return {
        "protocol": "linear",
        "train": {"name": "cifar10/train"},
        "test": {"name": "cifar10/test"},
        "settings": {"style": "sce", "epochs": 100, "learning_rates": [30.0], **settings},
        "results": [{"setting": "sce, lr=30", "metrics": {"top1": value, "top5": 99.0}}],
    }


def found(folder: Path, table: str = "sce/2") -> dict[str, tuple[MeasuredRun, ...]]:
    rows = measured(find_table(table)[1], find_runs(folder))
    return {row.label: runs for row, runs in rows if runs}


def test_a_run_stands_at_its_row_with_its_number(tmp_path: Path) -> None:
    run(tmp_path / "best", {"train.precision": "bf16", "train.devices": 2, "monitor.knn_epochs": 3}, linear(90.1))
    run(tmp_path / "sweep/runs/sharp", {"method.temperature": 0.1, "method.target_temperature": 0.05}, linear(89.5))
    rows = found(tmp_path)
    assert rows.keys() == {LABEL, "tau=0.1 target=0.05 CIFAR10"}
    [best] = rows[LABEL]
    assert best == MeasuredRun(
        str(tmp_path / "best"), {"linear": 90.1}, {"linear": "cifar10/train → cifar10/test"}, (), True
    )
    assert rows["tau=0.1 target=0.05 CIFAR10"][0].values == {"linear": 89.5}


def test_what_is_on_a_smaller_scale_is_marked(tmp_path: Path) -> None:
    run(tmp_path / "short", {"train.epochs": 5, "optimizer.warmup_epochs": 1, "data.source": "some/folder"})
    [short] = found(tmp_path)[LABEL]
    assert set(short.marks) == {
        "scaled: optimizer.warmup_epochs 1.0 of 5.0, train.epochs 5 of 200",
        "data.source some/folder instead of torchvision:CIFAR10",
    }
    assert not short.evaluated


def test_a_data_set_may_say_its_part_and_is_not_another_whose_name_begins_alike(tmp_path: Path) -> None:
    run(tmp_path / "part", {"data.source": "torchvision:CIFAR10:train"})
    run(tmp_path / "other", {"data.source": "torchvision:CIFAR100"})
    other, part = found(tmp_path)[LABEL]
    assert part.marks == ()
    assert other.marks == ("data.source torchvision:CIFAR100 instead of torchvision:CIFAR10",)


@pytest.mark.parametrize(
    "overrides",
    [
        {"method.temperature": 0.3},
        {"method.coefficient": 0.4},
        {"model.name": "resnet34"},
        {"optimizer.lr": 0.1},
        {"views.1.grey": 0.5},
        {"method.name": "moco"},
    ],
)
def test_a_run_with_another_method_network_view_or_rate_is_no_row(tmp_path: Path, overrides: dict[str, Any]) -> None:
    run(tmp_path / "other", overrides, linear(90.0))
    assert not found(tmp_path)


def test_a_run_under_another_recipes_name_is_no_row(tmp_path: Path) -> None:
    run(tmp_path / "other", {"name": "mine"}, linear(90.0))
    assert not found(tmp_path)


def test_a_run_that_is_a_row_exactly_is_no_scaled_one_of_its_neighbours(tmp_path: Path) -> None:
    run(tmp_path / "short", {"train.epochs": 200}, recipe="clim-imagenet")
    assert found(tmp_path, "clim/13").keys() == {"200 epochs"}
    run(tmp_path / "shorter", {"train.epochs": 3}, recipe="clim-imagenet")
    rows = found(tmp_path, "clim/13")
    assert [len(rows[label]) for label in ("200 epochs", "800 epochs", "1200 epochs")] == [2, 1, 1]
    assert rows["1200 epochs"][0].marks == ("scaled: train.epochs 3 of 1200",)


def test_a_run_that_was_fitted_to_its_images_is_still_the_row(tmp_path: Path) -> None:
    """`pretrain` fills in the number of clusters and cuts the queue to the images."""
    run(tmp_path / "few", {"method.queue_size": 1000, "train.epochs": 200}, recipe="clim-imagenet")
    assert found(tmp_path, "clim/13")["200 epochs"][0].marks == ("scaled: method.queue_size 1000 of 65536",)


def test_what_null_stands_for_is_the_same_as_its_number(tmp_path: Path) -> None:
    one_resolution = {"method.resolutions": [], "train.epochs": 200}
    run(tmp_path / "a", one_resolution, recipe="clim-imagenet")  # CutMix' α is 2 where it is null
    run(tmp_path / "b", {**one_resolution, "method.alpha": 2.0}, recipe="clim-imagenet")
    run(tmp_path / "c", {**one_resolution, "method.alpha": 1.5}, recipe="clim-imagenet")
    by_alpha, by_mixing = found(tmp_path, "clim/9"), found(tmp_path, "clim/10")
    assert {label: len(runs) for label, runs in by_alpha.items()} == {"alpha=2.0": 2, "alpha=1.5": 1}
    assert {label: len(runs) for label, runs in by_mixing.items()} == {"Cutmix": 2}


def test_null_that_stands_for_nothing_is_not_any_number(tmp_path: Path) -> None:
    run(tmp_path / "a", {"method.predictor_dim": 64}, linear(90.0))
    assert not found(tmp_path)


def test_what_a_run_fills_in_from_its_images_is_no_difference(tmp_path: Path) -> None:
    """NPID's number of images and the classes of the supervised reference are null in the recipes."""
    run(tmp_path / "a", {"method.images": 1_281_167}, recipe="npid-imagenet")
    run(tmp_path / "b", {"method.classes": 1000}, recipe="supervised-imagenet")
    assert found(tmp_path, "clim/1").keys() == {"NPID", "Supervised"}


def test_the_number_is_that_of_the_rows_protocol_and_settings(tmp_path: Path) -> None:
    knn = {**linear(1.0), "protocol": "knn", "settings": {}}
    run(tmp_path / "run", None, knn, linear(2.0, style="moco"), linear(3.0, epochs=10), linear(4.0))
    [one] = found(tmp_path)[LABEL]
    assert one.values == {"linear": 4.0}
    assert one.marks == ()


def test_another_training_of_the_probe_is_marked_and_another_style_is_not_taken(tmp_path: Path) -> None:
    run(tmp_path / "a", None, linear(3.0, epochs=10))
    run(tmp_path / "b", None, linear(2.0, style="features"))
    quick, other = found(tmp_path)[LABEL]
    assert quick.values == {"linear": 3.0}
    assert quick.marks == ("linear.epochs 10 instead of 100",)
    assert other.values == {}
    assert other.evaluated


def test_one_protocol_gives_several_columns_by_their_settings(tmp_path: Path) -> None:
    results = [
        {"setting": "1 % of labels, 5 seeds", "metrics": {"top1": 50.0, "top5": 70.0}},
        {"setting": "10 % of labels, 5 seeds", "metrics": {"top1": 60.0, "top5": 80.0}},
    ]
    entry = {"protocol": "finetune", "data": "imagenet", "settings": {"fractions": [0.01, 0.1]}, "results": results}
    run(tmp_path / "clim", None, entry, recipe="clim-imagenet")
    [one] = found(tmp_path, "clim/2")["CLIM"]
    assert one.values == {"top1_1": 50.0, "top5_1": 70.0, "top1_10": 60.0, "top5_10": 80.0}


def test_vocs_numbers_are_those_of_eleven_points(tmp_path: Path) -> None:
    """What detectron2, and so MoCo and CLIM, report."""
    setting = "faster_rcnn_c4, 24000×16 images, lr=0.02"
    results = [
        {"setting": f"{setting}: boxes, 11-point (VOC07)", "metrics": {"AP": 55.0, "AP50": 81.0, "AP75": 62.0}},
        {"setting": f"{setting}: boxes", "metrics": {"AP": 56.0, "AP50": 83.0, "AP75": 63.0}},
    ]
    entry = {"protocol": "detection", "data": "voc", "settings": {"task": "voc", "schedule": "24k"}, "results": results}
    run(tmp_path / "clim", None, entry, recipe="clim-imagenet")
    assert found(tmp_path, "clim/3")["CLIM"][0].values == {"AP50": 81.0, "AP75": 62.0}


def test_what_is_no_run_is_passed_over_and_no_folder_is_an_error(tmp_path: Path) -> None:
    run(tmp_path / "good", None)
    (tmp_path / "bad").mkdir()
    (tmp_path / "bad" / "recipe.yaml").write_text("method: {name: nothing}\n")
    assert [one.folder.name for one in find_runs(tmp_path)] == ["good"]
    assert [one.folder.name for one in find_runs(tmp_path / "good")] == ["good"]
    with pytest.raises(GlocalError, match="there is no folder"):
        find_runs(tmp_path / "absent")


def glocal(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, *arguments: str
) -> tuple[int, str, str]:
    """The command line in this process: exit code, and what it printed on both streams."""
    monkeypatch.setattr(sys, "argv", ["glocal", *arguments])
    with pytest.raises(SystemExit) as stopped:
        main()
    return int(stopped.value.code or 0), *capsys.readouterr()


def test_the_command_lists_shows_and_writes(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    run(tmp_path / "runs" / "short", {"train.epochs": 5}, linear(80.123))
    run(tmp_path / "runs" / "other", recipe="ressl-cifar10")
    (tmp_path / "cifar-10-batches-py").mkdir()
    monkeypatch.setenv("GLOCAL_DATA", str(tmp_path))
    code, listed, _ = glocal(capsys, monkeypatch, "tables")
    assert code == 0
    assert "sce/2" in listed
    assert "ImageNet (--data)" in listed
    assert "CIFAR10 (here), CIFAR100 (missing)" in listed
    monkeypatch.chdir(tmp_path)  # the folder `runs` is taken where it is there
    code, shown, _ = glocal(capsys, monkeypatch, "tables", "sce/2", "--out", "table.csv")
    assert code == 0
    for words in (
        "90.34",
        "80.12",
        "scaled: train.epochs 5 of 200",
        "linear.style=sce",
        "measured on: cifar10/train",
        "1 of 2 runs is no row of this table: runs/other",
    ):
        assert words in shown
    lines = list(csv.DictReader((tmp_path / "table.csv").open()))
    [line] = [line for line in lines if line["run"]]
    assert (line["row"], line["printed"], line["measured"]) == (LABEL, "90.34", "80.123")
    assert len(lines) == 65
    assert glocal(capsys, monkeypatch, "tables", "clim/13", "--out", "table.json")[0] == 0
    assert [row["label"] for row in json.loads((tmp_path / "table.json").read_text())["rows"]][-1] == "1200 epochs"


def test_a_figure_without_numbers_is_no_empty_table(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    run(tmp_path / "a", recipe="clim-imagenet")
    code, shown, _ = glocal(capsys, monkeypatch, "tables", "clim/figure-3", str(tmp_path))
    assert code == 0
    title, *notes = shown.splitlines()
    assert title.startswith("clim/figure-3: t-SNE of ten random classes")
    assert [note.split(";")[0] for note in notes] == ["note: no numbers"]
    assert "glocal maps" in notes[0]


def test_runs_that_are_no_row_are_named_where_they_are_few(tmp_path: Path) -> None:
    _, table = find_table("sce/2")
    run(tmp_path / "row")
    for number in range(5):
        run(tmp_path / f"x{number}", recipe="ressl-cifar10")
    there = find_runs(tmp_path)
    names = ", ".join(str(tmp_path / f"x{number}") for number in range(5))
    assert others(measured(table, there), there) == f"5 of 6 runs are no rows of this table: {names}"
    run(tmp_path / "x5", recipe="ressl-cifar10")
    there = find_runs(tmp_path)
    assert others(measured(table, there), there) == "6 of 7 runs are no rows of this table"
    one = find_runs(tmp_path / "row")
    assert others(measured(table, one), one) == ""


def test_a_wide_table_has_its_recipes_below(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    run(tmp_path / "a", {"train.epochs": 5}, recipe="clim-imagenet")
    _, shown, _ = glocal(capsys, monkeypatch, "tables", "clim/4", str(tmp_path))
    assert "MoCo v2: moco-imagenet train.epochs=800" in shown
    assert f"{tmp_path}/a: scaled: train.epochs 5 of 1200; not evaluated yet" in shown
    assert "0.9" in shown  # the paper's text contradicts its table


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["clim/14"], "clim has no table '14'"),
        (["sce", "runs"], "name a table"),
        (["sce/2", "absent"], "there is no folder absent"),
        (["sce/2", "--out", "table.txt"], "--out table.txt: end it in .csv or .json"),
    ],
)
def test_mistakes_are_one_line(
    arguments: list[str], message: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    code, _, error = glocal(capsys, monkeypatch, "tables", *arguments)
    assert (code, error.count("\n")) == (2, 1)
    assert message in error
