"""`glocal reproduce`: rows are run, measured, and set beside what is in print."""

import json
import re
import signal
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from importlib import resources
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

import glocal
from glocal.cli import app
from glocal.errors import GlocalError
from glocal.reproduction import processes
from glocal.reproduction.budgets import find_budget
from glocal.reproduction.clock import TrainingClock
from glocal.reproduction.planning import metrics_of
from glocal.reproduction.studies import chosen_rows, open_study
from glocal.signals import Stopped
from tests.reproduction.conftest import KNN, SHAPES

Write = Callable[..., Path]


def test_a_table_is_run_and_written_and_not_run_again(study: Write, tmp_path: Path, done: list[str]) -> None:
    compared = [{"row": "MoCo", "over": "SCE, own", "what": "MoCo instead of SCE"}]
    table, out = study(comparisons=compared), tmp_path / "out"
    found = glocal.reproduce(table, out, **SHAPES, seeds=2)
    order = ["untrained", "pixels", "MoCo, seed 0", "SCE, own, seed 0", "MoCo, seed 1", "SCE, own, seed 1"]
    assert done == order  # a table that is stopped has all rows

    assert json.loads((out / "reproduced.json").read_text(encoding="utf-8")) == found
    assert list(found) == [
        *(
            "table",
            "title",
            "heading",
            "command",
            "commands",
            "machine",
            "budget",
            "equal",
            "date",
            "metrics",
            "rows",
            "references",
            "comparisons",
        )
    ]
    assert found["metrics"] == {"knn": "k-NN (%)", "knn20": "k-NN k = 20 (%)", "probe": "linear probe on features (%)"}
    assert set(found["references"]) == {"untrained", "pixels"}
    assert found["comparisons"] == compared
    assert found["budget"]["network"] == "resnet18 (small stem, channels [8, 8, 8, 8])"
    assert found["budget"]["images"] == 64
    moco, sce = found["rows"]
    assert (moco["published"], sce["published"]) == ({"knn": 50.5}, {})
    its = moco["results"]["epochs"]
    values = [run["values"]["knn"] for run in its["runs"]]
    assert [run["seed"] for run in its["runs"]] == [0, 1]
    assert its["mean"]["knn"] == statistics.mean(values)
    assert its["deviation"]["knn"] == statistics.stdev(values)
    run = its["runs"][0]
    assert (run["epochs"], run["images"], run["views"]) == (1, 64, 128)
    assert 0 < run["cpu_minutes"] < 5
    assert [point[0] for point in run["curve"]] == [1.0]

    written = (out / "reproduced.md").read_text(encoding="utf-8")
    assert f"| MoCo | 50.5 | {its['mean']['knn']:.2f} ± {its['deviation']['knn']:.2f} |" in written
    assert "train.epochs 200 → 1" in written
    assert "\n± is the sample standard deviation over the seeds of a row.\n" in written
    assert "torchvision:CIFAR10 → shapes:train:128: the first 8 images of each class (64)" in written
    looks = [run["curve"][-1][2] for run in its["runs"]]  # one a run, which is the best one too
    assert f" | {statistics.mean(looks):.1f} | {statistics.mean(looks):.1f} |\n" in written
    assert (out / "reproduced.png").stat().st_size > 10_000

    done.clear()
    again = glocal.reproduce(table, out, **SHAPES, seeds=2)
    assert done == []
    assert again["rows"] == found["rows"]


def test_other_rows_and_columns_join_those_in_the_folder(study: Write, tmp_path: Path, done: list[str]) -> None:
    compared = [{"row": "MoCo", "over": "SCE, own", "what": "MoCo instead of SCE"}]
    table, out = study(comparisons=compared), tmp_path / "out"
    one = glocal.reproduce(table, out, **SHAPES, rows=["MoCo"], references=False)
    assert [row["label"] for row in one["rows"]] == ["MoCo"]
    assert one["comparisons"] == []  # both rows are needed
    assert one["rows"][0]["results"]["epochs"]["deviation"]["knn"] is None  # of one seed
    both = glocal.reproduce(table, out, **SHAPES, rows=["SCE*"], equal="views", references=False)
    assert [(row["label"], list(row["results"])) for row in both["rows"]] == [
        ("MoCo", ["epochs"]),
        ("SCE, own", ["views"]),
    ]
    assert both["comparisons"] == compared
    assert both["equal"] == ["epochs", "views"]
    assert both["commands"] == [one["command"], both["command"]]  # it takes both to make it again
    written = (out / "reproduced.md").read_text(encoding="utf-8")
    assert f"- made by `{one['command']}`, then `{both['command']}` (" in written
    assert "train.epochs 200 → 1" in both["heading"]  # of both
    with pytest.raises(GlocalError, match=r"MoCo,seed=0 holds this row with other settings"):
        glocal.reproduce(table, out, **SHAPES, rows=["SCE*"], settings={"optimizer.lr": 0.5}, references=False)


@pytest.mark.slow
def test_a_table_that_is_filled_row_by_row_is_that_of_one_call(study: Write, tmp_path: Path, done: list[str]) -> None:
    whole = glocal.reproduce(study(), tmp_path / "whole", **SHAPES)
    done.clear()
    glocal.reproduce(study(), tmp_path / "parts", **SHAPES, rows=["SCE, own"])
    both = glocal.reproduce(study(), tmp_path / "parts", **SHAPES, rows=["MoCo"])
    assert done == ["untrained", "pixels", "SCE, own, seed 0", "MoCo, seed 0"]  # references are no row's
    assert both["heading"] == whole["heading"]
    assert both["references"] == whole["references"]
    assert [row["label"] for row in both["rows"]] == ["MoCo", "SCE, own"]


def test_heading_and_references_are_those_of_all_rows_in_the_folder(
    study: Write, tmp_path: Path, done: list[str]
) -> None:
    narrow = {"model.options.channels": [4, 4, 4, 4]}
    rows = [
        {"label": "MoCo", "values": {}, "recipe": "moco-cifar10"},
        {"label": "narrow", "values": {}, "recipe": "moco-cifar10", "settings": narrow},
    ]
    first = glocal.reproduce(study(rows), tmp_path / "out", **SHAPES, rows=["narrow"])
    assert list(first["references"]) == ["untrained", "pixels"]
    assert not any(line.startswith("network") for line in first["heading"])  # its own is kept
    both = glocal.reproduce(study(rows), tmp_path / "out", **SHAPES, rows=["MoCo"])
    assert "network resnet18 (small stem) → resnet18 (small stem, channels [8, 8, 8, 8]) (MoCo)" in both["heading"]
    assert list(both["references"]) == ["untrained", "pixels", "untrained (narrow)"]
    assert both["references"]["untrained (narrow)"] == first["references"]["untrained"]


def test_a_folder_of_another_table_is_refused(study: Write, tmp_path: Path, done: list[str]) -> None:
    glocal.reproduce(study(), tmp_path / "out", **SHAPES, rows=["MoCo"], references=False)
    before = (tmp_path / "out" / "reproduced.json").read_text(encoding="utf-8")
    other = study(id="other")
    with pytest.raises(GlocalError, match=r"out holds table tiny, not other; give another folder \(--out\)"):
        glocal.reproduce(other, tmp_path / "out", **SHAPES, references=False)
    assert (tmp_path / "out" / "reproduced.json").read_text(encoding="utf-8") == before


@pytest.mark.slow
def test_equal_time_measures_what_an_epoch_takes(study: Write, tmp_path: Path, done: list[str]) -> None:
    found = glocal.reproduce(study(), tmp_path / "out", **SHAPES, equal="time", references=False)
    assert done[:2] == ["MoCo: an epoch's time", "SCE, own: an epoch's time"]
    assert all(row["results"]["time"]["runs"][0]["epochs"] >= 1 for row in found["rows"])
    done.clear()
    glocal.reproduce(study(), tmp_path / "out", **SHAPES, equal="time", references=False)
    assert done == []  # what is decided is not measured again


def test_what_two_columns_have_in_common_is_run_once(study: Write, tmp_path: Path, done: list[str]) -> None:
    found = glocal.reproduce(study(), tmp_path / "out", **SHAPES, equal=["epochs", "views"], seeds=2, references=False)
    assert done == ["MoCo, seed 0", "SCE, own, seed 0", "MoCo, seed 1", "SCE, own, seed 1"]  # both see two views
    for row in found["rows"]:
        assert row["results"]["epochs"] == row["results"]["views"]
    done.clear()
    glocal.reproduce(study(), tmp_path / "out", **SHAPES, equal=["epochs", "views"], seeds=2, references=False)
    assert done == []


def test_what_failed_in_one_column_is_no_result_of_another(study: Write, tmp_path: Path, done: list[str]) -> None:
    rows = [{"label": "bad", "values": {}, "recipe": "moco-cifar10", "settings": {"optimizer.lr": 1e30}}]
    glocal.reproduce(study(rows), tmp_path / "out", **SHAPES, equal=["epochs", "views"], references=False)
    assert done == ["bad, seed 0", "bad, seed 0, equal views"]


def test_a_row_that_fails_is_told_and_the_others_run(study: Write, tmp_path: Path, done: list[str]) -> None:
    rows = [
        {"label": "bad", "values": {"knn": 1.0}, "recipe": "moco-cifar10", "settings": {"optimizer.lr": 1e30}},
        {"label": "good", "values": {}, "recipe": "moco-cifar10"},
        {"label": "no", "values": {"knn": 2.0}, "cannot_run": "a system that is not here"},
    ]
    table, out = study(rows), tmp_path / "out"
    found = glocal.reproduce(table, out, **SHAPES, references=False)
    bad, good, no = found["rows"]
    assert "no number" in bad["results"]["epochs"]["runs"][0]["error"] or "nan" in str(bad["results"])
    assert good["results"]["epochs"]["mean"]["knn"] >= 0
    assert no["cannot_run"] == "a system that is not here"
    text = (out / "reproduced.md").read_text(encoding="utf-8")
    assert "bad, seed 0" in text
    assert "no cannot be run: a system that is not here" in text
    done.clear()
    glocal.reproduce(table, out, **SHAPES, references=False)
    assert done == ["bad, seed 0"]  # what failed is tried again


def test_a_row_without_images_says_which_are_missing(study: Write, tmp_path: Path, done: list[str]) -> None:
    rows = [
        {"label": "here", "values": {}, "recipe": "moco-cifar10"},
        {"label": "far", "values": {}, "recipe": "sce-imagenet"},
        {"label": "lost STL10", "values": {}, "recipe": "sce-stl10"},
    ]
    given = {"data": ["cifar10=shapes", f"stl10={tmp_path}/nowhere"], "test": ["cifar10=shapes:test:64"]}
    found = glocal.reproduce(study(rows), tmp_path / "out", **given, references=False)
    reasons = [row["cannot_run"] for row in found["rows"]]
    assert reasons[0] == ""
    assert "its recipe, sce-imagenet, names no data set" in reasons[1]
    assert "nowhere" in reasons[2]
    with pytest.raises(GlocalError, match=r"none of 1 row can be run here: no images"):
        glocal.reproduce(study(rows), tmp_path / "other", rows=["far"])


def test_a_stopped_run_goes_on_and_finds_the_same(
    study: Write, tmp_path: Path, done: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = glocal.reproduce(study(), tmp_path / "whole", **SHAPES, rows=["MoCo"], references=False)
    step = TrainingClock.step

    def stop(self: TrainingClock, count: int) -> None:
        step(self, count)
        if count == 1:  # of two
            monkeypatch.setattr(TrainingClock, "step", step)
            signal.raise_signal(signal.SIGTERM)

    monkeypatch.setattr(TrainingClock, "step", stop)
    settings = {"train.epochs": 2}  # the first one ends before the wish to stop is heard
    with pytest.raises(Stopped):
        glocal.reproduce(study(), tmp_path / "cut", **SHAPES, rows=["MoCo"], references=False, settings=settings)
    cut = glocal.reproduce(study(), tmp_path / "cut", **SHAPES, rows=["MoCo"], references=False, settings=settings)
    other = glocal.reproduce(study(), tmp_path / "two", **SHAPES, rows=["MoCo"], references=False, settings=settings)
    assert cut["rows"][0]["results"]["epochs"]["mean"] == other["rows"][0]["results"]["epochs"]["mean"]
    assert cut["rows"][0]["results"]["epochs"]["runs"][0]["epochs"] == 2
    assert whole["rows"][0]["results"]["epochs"]["runs"][0]["epochs"] == 1


def test_other_settings_in_the_same_folder_are_refused(study: Write, tmp_path: Path, done: list[str]) -> None:
    out, wanted = tmp_path / "out", {**SHAPES, "rows": ["MoCo"], "references": False}
    glocal.reproduce(study(), out, **wanted)
    before = {file.name: file.read_bytes() for file in out.glob("reproduced.*")}
    for change in ({"train.epochs": 3}, {"optimizer.lr": 0.5}, {"optimizer.norm_and_bias_lr": None}):
        (path, value), column = *change.items(), ("epochs" if "train.epochs" in change else "views")
        with pytest.raises(GlocalError, match=rf"holds this row with other settings: .*{path} was .*, is {value}"):
            glocal.reproduce(study(), out, **wanted, settings=change, equal=column)  # another column's, the second
    assert {file.name: file.read_bytes() for file in out.glob("reproduced.*")} == before  # and says what was run


def test_a_recipe_that_was_changed_is_another_training(study: Write, tmp_path: Path, done: list[str]) -> None:
    recipe = tmp_path / "mine.yaml"
    rows = [{"label": "mine", "values": {}, "recipe": str(recipe)}]
    wanted = {**SHAPES, "references": False}
    recipe.write_text(resources.files("glocal.recipes").joinpath("moco-cifar10.yaml").read_text(encoding="utf-8"))
    glocal.reproduce(study(rows), tmp_path / "first", **wanted)
    recipe.write_text(f"# {recipe.name}\n{recipe.read_text()}")
    glocal.reproduce(study(rows), tmp_path / "first", **wanted)
    assert done == ["mine, seed 0"]  # a comment changes nothing
    recipe.write_text(recipe.read_text().replace("weight_decay: 5.0e-4", "weight_decay: 1.0e-4"))
    with pytest.raises(GlocalError, match=r"holds this row from before the recipe .*mine.yaml was changed; give an"):
        glocal.reproduce(study(rows), tmp_path / "first", **wanted)
    glocal.reproduce(study(rows), tmp_path / "second", reuse=tmp_path / "first", **wanted)
    assert done == ["mine, seed 0"] * 2  # and is not taken from there
    for name in ("job.json", "result.json"):  # as they were written before there were digests
        file = tmp_path / "first" / "runs" / "mine,seed=0" / name
        text = re.sub(r' *"recipe_digest": "[0-9a-f]{16}",\n', "", file.read_text())
        file.write_text(text)
    glocal.reproduce(study(rows), tmp_path / "first", **wanted)
    assert done == ["mine, seed 0"] * 2


@pytest.mark.parametrize("rows", [["MoCo"], ["SCE*"]])
def test_a_table_is_measured_on_the_same_images(study: Write, tmp_path: Path, done: list[str], rows: list[str]) -> None:
    out, other = tmp_path / "out", {**SHAPES, "test": ["shapes:test:32"], "references": False}
    glocal.reproduce(study(), out, **SHAPES, rows=["MoCo"], references=False)
    before = (out / "reproduced.json").read_bytes()
    said = r"MoCo,seed=0 was measured on shapes:test:64, and .* on shapes:test:32; give the same --test"
    with pytest.raises(GlocalError, match=said):
        glocal.reproduce(study(), out, **other, rows=rows)
    assert (out / "reproduced.json").read_bytes() == before


def test_an_unfinished_run_of_other_settings_is_refused(study: Write, tmp_path: Path, done: list[str]) -> None:
    out, wanted = tmp_path / "out", {**SHAPES, "rows": ["MoCo"], "references": False}
    glocal.reproduce(study(), out, **wanted)
    (out / "runs" / "MoCo,seed=0" / "result.json").unlink()
    before = (out / "reproduced.md").read_bytes()
    with pytest.raises(GlocalError, match="holds this row with other settings"):
        glocal.reproduce(study(), out, **wanted, settings={"train.epochs": 3})
    assert (out / "reproduced.md").read_bytes() == before


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"rows": ["Moco*"]}, r"no row of table tiny is called .Moco\*. .*; did you mean MoCo\?"),
        ({"budget": "smal"}, "there is no budget 'smal'; did you mean small"),
        ({"seeds": 0}, "--seeds 0: must be at least 1"),
        ({"equal": "view"}, r"--equal view: did you mean views\?"),
        ({"settings": {"train.epochs": "x"}}, "train.epochs must be a whole number, not 'x'"),
        ({"settings": {"train.epochs": 0}}, "train.epochs must be greater than or equal to 1, not 0"),
        (
            {"data": ["cifra10=shapes"]},
            r"--data cifra10=…: no row of table tiny has these images; did you mean cifar10",
        ),
        ({"held_out": 2}, "--held-out measures on training images; leave out --test"),
    ],
)
def test_wrong_wishes_are_told_before_anything_runs(
    study: Write, tmp_path: Path, done: list[str], change: dict[str, Any], said: str
) -> None:
    with pytest.raises(GlocalError, match=said):
        glocal.reproduce(study(), tmp_path / "out", **{**SHAPES, **change})
    assert done == []
    assert not (tmp_path / "out").exists()


def test_a_table_that_is_none_is_told(tmp_path: Path) -> None:
    with pytest.raises(GlocalError, match="sce is no table; name one as sce/2"):
        glocal.reproduce("sce", tmp_path / "out")
    with pytest.raises(GlocalError, match="cannot be read"):
        glocal.reproduce(tmp_path / "none.yaml", tmp_path / "out")
    (tmp_path / "list.yaml").write_text("[1]")
    with pytest.raises(GlocalError, match="must hold one table"):
        glocal.reproduce(tmp_path / "list.yaml", tmp_path / "out")
    with pytest.raises(GlocalError, match="table 1 has no rows"):
        glocal.reproduce("sce/1", tmp_path / "out")


def test_what_is_wrong_in_a_file_is_told_with_its_name(study: Write, tmp_path: Path) -> None:
    twice = [{"label": "MoCo", "values": {}, "recipe": "moco-cifar10"}] * 2
    for table, said in (
        (lambda: study(budget={"like": "small", "imagez": 64}), r"tiny.yaml: budget: imagez is not a setting; did you"),
        (lambda: study(budget="smal"), r"tiny.yaml: there is no budget 'smal'; did you mean small\?"),
        (lambda: study(rows=twice), r"tiny.yaml: table tiny has two rows 'MoCo'"),
    ):
        with pytest.raises(GlocalError, match=said):
            glocal.reproduce(table(), tmp_path / "out", **SHAPES)


def test_a_pattern_that_fits_none_of_many_rows_names_a_few() -> None:
    with pytest.raises(
        GlocalError, match=r"tau=0.3\*.*; it has 64 rows: tau=0.1 target=0.03 CIFAR10, .* and \d+ more"
    ) as told:
        chosen_rows(open_study("sce/2").table, ["tau=0.3*CIFAR10"])
    assert len(str(told.value)) < 300


def test_rows_that_cannot_be_run_for_one_reason_have_it_once(tmp_path: Path) -> None:
    with pytest.raises(GlocalError, match=r"none of 64 rows can be run here: no images: there is no folder") as told:
        glocal.reproduce("sce/2", tmp_path / "out", data=str(tmp_path / "none"))
    assert str(told.value).count("there is no folder") == 1


def test_a_comparison_of_a_row_that_is_not_there_is_told(study: Write, tmp_path: Path) -> None:
    table = study(comparisons=[{"row": "MoCo", "over": "SCE", "what": "it"}])
    with pytest.raises(GlocalError, match="table tiny has no row 'SCE'; did you mean SCE, own"):
        glocal.reproduce(table, tmp_path / "out", **SHAPES)


def test_what_is_measured_already_is_not_measured_twice(study: Write) -> None:
    linear = {"title": "linear (%)", "protocol": "linear", "result": "top1"}  # by the usual style, which the budget has
    many = {**KNN, "settings": {"knn.k": [20, 50]}, "setting": "k=20"}
    table = open_study(study(metrics={"knn": many, "linear": linear})).table
    found, notes = metrics_of(table, table.rows[1], find_budget("small"), 10_000)
    assert list(found) == ["knn", "linear", "knn200"]
    assert notes == []


def test_the_command_runs_workers_and_prints_the_table(
    study: Write, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    words = ["reproduce", str(study()), "--rows", "MoCo", "--no-references", "--data", "shapes:train:128", "--quiet"]
    answer = CliRunner().invoke(app, [*words, "--test", "shapes:test:64"])
    assert answer.exit_code == 0, answer.output
    assert "written to reproduced/tiny" in answer.output
    found = json.loads((tmp_path / "reproduced/tiny/reproduced.json").read_text(encoding="utf-8"))
    assert found["command"].endswith("--rows MoCo --data shapes:train:128 --test shapes:test:64")
    assert found["rows"][0]["results"]["epochs"]["mean"]["knn"] >= 0
    [run] = found["rows"][0]["results"]["epochs"]["runs"]
    assert run["views"] == 2 * run["images"] * run["epochs"]
    assert run["machine"]["threads"] == 1  # of the process that trained
    assert run["date"] == found["date"]


@pytest.mark.slow
def test_a_worker_stops_when_nobody_waits_for_it(study: Write, tmp_path: Path) -> None:
    words = ["reproduce", str(study()), "--rows", "MoCo", "--no-references", "--data", "shapes:train:128", "--quiet"]
    words += ["--test", "shapes:test:64", "--set", "train.epochs=2000", "--out", str(tmp_path / "out")]
    parent = subprocess.Popen([sys.executable, "-m", "glocal", *words])
    folder = tmp_path / "out" / "runs" / "MoCo,seed=0"
    assert wait_for(lambda: (folder / "metrics.csv").exists())
    parent.kill()
    parent.wait()
    assert wait_for(lambda: "stopped after step" in (folder / "log.txt").read_text(encoding="utf-8"))
    assert any(folder.glob("checkpoints/*"))


def wait_for(what: Callable[[], bool]) -> bool:
    """Whether something comes true within two minutes."""
    for _ in range(600):
        if what():
            return True
        time.sleep(0.2)
    return False


def test_a_process_that_ends_without_a_word_has_failed(
    study: Write, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(processes.sys, "executable", "false")
    found = glocal.reproduce(study(), tmp_path / "out", **SHAPES, rows=["MoCo"], references=False, progress=False)
    assert "the process ended with 1" in found["rows"][0]["results"]["epochs"]["runs"][0]["error"]


@pytest.mark.parametrize(
    ("metric", "told"),
    [
        ({**KNN, "result": "top2"}, "knn gives no 'top2' of 'k=5' among top1"),
        (
            {"title": "mAP (%)", "protocol": "retrieval", "setting": "*", "result": "map"},
            "retrieval gives no 'map' of '\\*' among mAP",
        ),
    ],
)
def test_a_metric_that_no_protocol_gives_is_told_before_anything_is_trained(
    study: Write, tmp_path: Path, done: list[str], metric: dict[str, Any], told: str
) -> None:
    wrong = study(metrics={"knn": metric})
    with pytest.raises(GlocalError, match=f"tiny.yaml: metrics.knn: {told}.* trained"):
        glocal.reproduce(wrong, tmp_path / "out", **SHAPES)
    assert done == ["untrained", "pixels"]
    table = study()
    assert len(glocal.reproduce(table, tmp_path / "out", **SHAPES)["rows"]) == 2  # mended, the same folder goes on


def test_runs_of_another_table_that_are_the_same_are_not_done_again(
    study: Write, tmp_path: Path, done: list[str]
) -> None:
    first = glocal.reproduce(study(), tmp_path / "first", **SHAPES)
    done.clear()
    rows = [
        {"label": "the same by another name", "values": {}, "recipe": "sce-cifar10"},
        {"label": "another rate", "values": {}, "recipe": "sce-cifar10", "settings": {"optimizer.lr": 0.5}},
    ]
    found = glocal.reproduce(study(rows, id="second"), tmp_path / "second", reuse=tmp_path / "first", **SHAPES)
    assert done == ["untrained", "pixels", "another rate, seed 0"]
    values = [row["results"]["epochs"]["runs"][0]["values"] for row in (first["rows"][1], *found["rows"])]
    assert values[0] == values[1] != values[2]
    done.clear()
    glocal.reproduce(study(rows, id="second"), tmp_path / "second", **SHAPES)
    assert done == []  # what was taken stays
    with pytest.raises(GlocalError, match="--reuse .*none: no table was run there"):
        glocal.reproduce(study(rows, id="second"), tmp_path / "second", reuse=tmp_path / "none", **SHAPES)
