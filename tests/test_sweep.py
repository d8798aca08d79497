"""Sweeps and previews, as functions and on the command line."""

import csv
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

from glocal.cli import main
from glocal.data.sources.base import MemorySource
from glocal.data.sources.labelled import labelled_part
from glocal.data.sources.opening import open_source
from glocal.errors import GlocalError
from glocal.evaluation import evaluate
from glocal.models.architecture import ModelSettings
from glocal.models.building import build_backbone
from glocal.report.preview import preview
from glocal.sweep import parse_grid, sweep
from tests.training.test_runs import TINY

GRID = {"method.temperature": [0.1, 0.2], "method.target_temperature": [0.05, 0.1]}


def test_the_grid_of_the_papers_table_is_a_row_with_an_ellipsis() -> None:
    grid = parse_grid(["method.target_temperature=0.03,…,0.10", "method.temperature=0.1,0.2"])
    assert grid["method.target_temperature"] == pytest.approx([0.03, 0.04, 0.05, 0.06, 0.07, 0.08, 0.09, 0.10])
    assert grid["method.temperature"] == [0.1, 0.2]
    assert parse_grid(["views.0.scale=[0.2,1],[0.4,1]"]) == {"views.0.scale": [[0.2, 1], [0.4, 1]]}
    assert parse_grid(["a.b=10,8,...,2"]) == {"a.b": [10, 8, 6, 4, 2]}


@pytest.mark.parametrize(
    "setting",
    [
        "method.temperature",
        "method.temperature=",
        "a.b=…,3",
        "a.b=1,…",
        "a.b=x,…,3",
        "a.b=1,2,…,0",
        "a.b=0,…,1e12",
        "a.b=0,…,nan",
        "a.b=1e-999999,…,1e999999",
    ],
)
def test_a_grid_that_cannot_be_read_is_named(setting: str) -> None:
    with pytest.raises(GlocalError, match=f"--grid {setting.split('=')[0]}"):
        parse_grid([setting])


def test_a_sweep_that_would_never_end_is_refused(tmp_path: Path) -> None:
    grid = {f"views.{number}.grey": range(100) for number in range(40)}
    with pytest.raises(GlocalError, match="combinations, each of which is a run; at most 10,000 are taken"):
        sweep(None, tmp_path, grid=grid)


@pytest.mark.usefixtures("no_pictures")
def test_a_sweep_makes_one_table_and_goes_on_where_it_stopped(tmp_path: Path) -> None:
    settings: dict[str, Any] = {**TINY, "train.epochs": 1, "monitor.knn_epochs": 1}
    rows = sweep("shapes:train:128", tmp_path / "s", grid=GRID, overrides=settings, progress=False)
    assert [(row["method.temperature"], row["method.target_temperature"]) for row in rows] == [
        (0.1, 0.05),
        (0.1, 0.1),
        (0.2, 0.05),
        (0.2, 0.1),
    ]
    assert all(row["loss"] > 0 and not row["error"] for row in rows)
    assert all(0 <= row[probe] <= 100 for row in rows for probe in ("knn", "linear"))
    written = list(csv.DictReader((tmp_path / "s" / "sweep.csv").open()))
    assert [float(row["knn"]) for row in written] == [row["knn"] for row in rows]
    assert (tmp_path / "s" / "sweep.md").read_text().count("\n") == 6
    checkpoints = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("step-*.pt")}
    again = sweep("shapes:train:128", tmp_path / "s", grid=GRID, overrides=settings, progress=False)
    assert again == rows
    assert checkpoints == {path: path.stat().st_mtime_ns for path in tmp_path.rglob("step-*.pt")}


def partly_labelled(count: int, labelled: int) -> MemorySource:
    """Shapes of which the first ones have labels, as STL10's training images are given."""
    whole = open_source(f"shapes:train:{count}")
    assert whole.labels is not None
    labels = torch.where(torch.arange(count) < labelled, whole.labels, -1)
    return MemorySource("partly", whole.images(), labels, whole.classes)  # type: ignore[attr-defined]


def test_a_sweep_over_images_of_which_some_have_labels_measures_on_these(tmp_path: Path) -> None:
    data, test = partly_labelled(160, 80), open_source("shapes:test:64")
    settings: dict[str, Any] = {**TINY, "train.epochs": 1}
    grid = {"method.temperature": [0.1]}
    probe = {"linear.epochs": 3, "linear.learning_rates": [0.1], "knn.temperature": 0.2}
    arguments: dict[str, Any] = {"grid": grid, "overrides": settings, "test": test, "progress": False}
    [row] = sweep(data, tmp_path / "s", probe=probe, **arguments)
    found = evaluate(
        row["run"],
        train=labelled_part(data),
        test=test,
        protocols=["knn", "linear"],
        settings={"knn.k": [20], "knn.votes": ["weighted"], **probe},
        progress=False,
    )
    assert found["protocols"]["knn"]["train"]["images"] == 80
    for name in ("knn", "linear"):
        assert row[name] == found["protocols"][name]["results"][0]["metrics"]["top1"]
    assert (Path(row["run"]) / "evaluation" / "evaluation.json").exists()
    written = Path(row["run"]) / "sweep.json"
    before = written.stat().st_mtime_ns
    assert sweep(data, tmp_path / "s", probe=probe, **arguments) == [row]
    assert written.stat().st_mtime_ns == before  # nothing is measured twice
    sweep(data, tmp_path / "s", probe={**probe, "linear.epochs": 4}, **arguments)
    assert written.stat().st_mtime_ns > before
    [without] = sweep(partly_labelled(160, 0), tmp_path / "t", **{**arguments, "test": None})
    assert (without["knn"], without["linear"], without["error"]) == (None, None, "")


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"probe": {"linear.stile": "sce"}}, "protocol linear: stile is not a setting; did you mean style"),
        ({"probe": {"svm.shots": 1}}, "--probe svm.shots: a sweep measures by knn and linear"),
        ({"train": MemorySource("bare", torch.zeros(4, 3, 8, 8).byte(), None, None)}, "bare has no labels"),
        ({"train": "shapes:train:32", "test": "digits:test"}, "class '0' is not among the training classes"),
    ],
)
def test_what_cannot_be_measured_is_told_before_the_first_run(
    settings: dict[str, Any], message: str, tmp_path: Path
) -> None:
    with pytest.raises(GlocalError, match=message):
        sweep("shapes:train:64", tmp_path / "s", grid=GRID, overrides=TINY, progress=False, **settings)
    assert not (tmp_path / "s").exists()


@pytest.mark.usefixtures("no_pictures")
def test_a_run_that_fails_is_in_the_table_and_a_wrong_setting_ends_the_sweep(tmp_path: Path) -> None:
    settings = {**TINY, "train.epochs": 1, "optimizer.lr_batch_size": None}
    rows = sweep(
        "shapes:train:128", tmp_path / "s", grid={"optimizer.lr": [0.1, 1e30]}, overrides=settings, progress=False
    )
    assert rows[0]["error"] == ""
    assert "the loss is" in rows[1]["error"]
    with pytest.raises(GlocalError, match="did you mean method.temperature"):
        sweep("shapes:train:128", tmp_path / "t", grid={"method.temprature": [0.1]}, overrides=TINY, progress=False)
    with pytest.raises(GlocalError, match="a sweep needs a grid"):
        sweep("shapes:train:128", tmp_path / "t", grid={}, progress=False)


@pytest.mark.parametrize(
    ("grid", "message"),
    [
        ({"method.temperature": [0.1, -1]}, "the grid's method.temperature=-1 cannot be run: .*method.temperature"),
        (
            {"model.name": ["resnet18", "resnet19"]},
            "the grid's model.name=resnet19 cannot be run: .*did you mean resnet",
        ),
        ({"train.epochs": [1], "views.0.size": [32, 8, "x"]}, "views.0.size=x cannot be run"),
    ],
)
def test_the_whole_grid_is_checked_before_the_first_run(
    grid: dict[str, list[Any]], message: str, tmp_path: Path
) -> None:
    overrides = {"train.epochs": 1, "train.batch_size": 32, "method.name": "moco", "method.queue_size": 64}
    with pytest.raises(GlocalError, match=message):
        sweep("shapes:train:128", tmp_path / "s", grid=grid, overrides=overrides, progress=False)
    assert not (tmp_path / "s").exists()


@pytest.mark.usefixtures("no_pictures")
def test_the_grid_is_checked_with_the_network_of_the_weights(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    header = {"architecture": "resnet18", "model_args": json.dumps(TINY["model.options"])}
    network = build_backbone(ModelSettings(stem="standard", options=TINY["model.options"]), size=32).network
    save_file(network.state_dict(), tmp_path / "own.safetensors", header)
    state = {name: tensor for name, tensor in network.state_dict().items() if not name.startswith("conv1")}
    save_file(state, tmp_path / "other.safetensors", header)
    grid = {"model.init": [str(tmp_path / "own.safetensors"), str(tmp_path / "other.safetensors")]}
    with pytest.raises(GlocalError, match=r"the grid's model.init=.*other.safetensors cannot be run: .*conv1.weight"):
        sweep("shapes:train:128", tmp_path / "s", grid=grid, progress=False)
    assert not (tmp_path / "s").exists()
    assert "optimizer.lr is" not in capsys.readouterr().err


def test_the_command_shows_the_table_and_fails_where_a_run_failed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    own = {**TINY, "train.epochs": 1, "optimizer.lr_batch_size": None, "monitor.knn_epochs": 0}
    sets = [f"--set={key}={str(value).replace('None', 'null')}" for key, value in own.items()]
    arguments = [
        "sweep",
        "--data",
        "shapes:train:128",
        "--out",
        str(tmp_path / "s"),
        "--grid",
        "optimizer.lr=0.1,1.0e+30",
    ]
    monkeypatch.setattr("sys.argv", ["glocal", *arguments, *sets, "--probe", "linear.epochs=1", "--quiet"])
    with pytest.raises(SystemExit) as end:
        main()
    said = capsys.readouterr().out
    assert end.value.code == 1
    assert "the loss is" in said
    assert "1 of 2 runs failed; the same command tries them again" in said


def test_matched_patches_are_drawn_for_any_image(tmp_path: Path, image_folder: Callable[..., Path]) -> None:
    folder = image_folder(4, sizes=((80, 60), (50, 90)))
    vit = {"data.size": 64, "model.options": {"patch_size": 8, "embed_dim": 32, "depth": 1, "num_heads": 2}}
    found = preview(folder, tmp_path / "m.png", overrides=vit, match=(0, 1), index=2)
    assert found > 0
    assert Image.open(tmp_path / "m.png").width > 1000
    one = next(folder.rglob("*.png"))
    assert preview(one, tmp_path / "n.png", overrides=vit, match=(0, 3)) >= 0
    assert preview(folder, tmp_path / "v.png", recipe="logo-moco-cifar10") == 0
    assert (tmp_path / "v.png").exists()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"match": (0, 12)}, "--pair 0,12: choose two of the views 0 to 9"),
        ({"match": (1, 1)}, "--pair 1,1"),
        ({"match": (0, 1), "index": 4}, "--index 4: .* has the images 0 to 3"),
        ({"match": (0, 1), "recipe": "sce-cifar10"}, "ResNet has no patches; choose a vision transformer"),
    ],
)
def test_what_cannot_be_drawn_is_named(
    settings: dict[str, Any], message: str, tmp_path: Path, image_folder: Callable[..., Path]
) -> None:
    with pytest.raises(GlocalError, match=message):
        preview(image_folder(4), tmp_path / "x.png", **settings)
