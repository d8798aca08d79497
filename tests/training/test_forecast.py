"""A training without `--time` says after its first steps how long it takes, and what would be shorter."""

import re
from pathlib import Path
from typing import Any

import pytest

import glocal
from glocal.config import build_recipe
from glocal.data.sources.shapes import Shapes
from glocal.errors import GlocalError
from glocal.training import forecast
from glocal.training.building import batch_order, build
from glocal.training.forecast import Forecast
from glocal.training.machine import launch
from glocal.training.monitors import knn_monitor
from tests.training.test_runs import DATA, TINY, assert_equal, final_state

pytestmark = pytest.mark.usefixtures("no_pictures")


@pytest.mark.parametrize("quiet", [False, True])
def test_it_is_said_once_and_changes_nothing(
    quiet: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(forecast, "TIMED", 5)  # of steps: two epochs have 12
    settings = {**TINY, "monitor.knn_epochs": 2}
    glocal.pretrain(DATA, tmp_path / "a", overrides=settings, progress=not quiet)
    said = re.findall(r"this takes about .* from here: (\d+) steps? of .* up to epoch 2", capsys.readouterr().err)
    assert said == ([] if quiet else ["4"])
    monkeypatch.setattr(forecast, "Forecast", None)
    glocal.pretrain(DATA, tmp_path / "b", overrides=settings, progress=False)
    for part in ("method", "optimizers", "rng"):  # though a part of a k-NN measurement was made in between
        assert_equal(final_state(tmp_path / "a")[part], final_state(tmp_path / "b")[part])


class Slow:
    """A training whose steps and measurements take as long as the test wants, by a clock of its own."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, first_step: int = 0, **overrides: Any) -> None:
        source = Shapes("train", 192)
        settings = {key.replace("__", "."): value for key, value in overrides.items()}
        recipe = build_recipe(
            {}, {**TINY, "train.device": "cpu", "monitor.collapse_epochs": 0.0, **settings}, data_size=32
        )
        fabric = launch(recipe)
        order = batch_order(recipe, source, fabric)
        self.training = build(recipe, source, order, fabric, tmp_path, weights=True, progress=False)
        self.now, self.done = 0.0, first_step
        self.said: list[str] = []
        monkeypatch.setattr("glocal.training.stopwatch.time.perf_counter", lambda: self.now)
        monkeypatch.setattr(forecast, "knn_seconds", lambda *_, **__: 600.0)
        monitor = knn_monitor(source, recipe)
        self.watch = Forecast(self.training, first_step, monitor, [], say=self.said.append)

    def run(self, seconds: float, steps: int) -> None:
        for _ in range(steps):
            self.now += seconds
            self.done += 1
            self.watch.step(self.done)


def test_all_that_is_left_is_counted(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    slow = Slow(monkeypatch, tmp_path, train__epochs=100, monitor__knn_epochs=10)
    slow.run(2.0, 200)
    # 600 steps, of which 23 are done; ten measurements of ten minutes. The checkpoints of `TINY` are counted with 0 s.
    [line] = slow.said
    assert line.startswith(
        "this takes about 1 h 59 min from here: 577 steps of 2 s up to epoch 100, 1 h 40 min for measurements"
    )
    assert "; shorter: train.epochs=50 takes an hour; --time 30m would do about " in line  # 50·12 s and 5·600 s


def test_slow_steps_are_told_after_a_minute_and_something_shorter_is_named(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    slow = Slow(monkeypatch, tmp_path, train__epochs=200, monitor__knn_epochs=0)
    slow.run(40.0, 2)
    assert slow.said == []
    slow.run(40.0, 1)
    [line] = slow.said
    assert line.startswith("this takes about 13 h 18 min from here: 1,197 steps of 40 s up to epoch 200")
    assert "; shorter: train.epochs=15 takes an hour; --time 4h would do about 54 epochs at 32 pixels" in line


@pytest.mark.parametrize("first_step", [0, 3, 6])
def test_steps_in_which_only_the_heads_learn_are_not_taken_for_all(
    first_step: int, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    slow = Slow(
        monkeypatch, tmp_path, first_step, train__epochs=20, train__freeze_backbone_epochs=1, monitor__knn_epochs=0
    )
    slow.run(0.01, 6 - first_step)
    slow.run(0.1, 50)
    assert slow.said == ["this takes about 9.1 s from here: 91 steps of 0.1 s up to epoch 20"]


def test_a_resumed_run_is_offered_nothing_that_it_cannot_take(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    slow = Slow(monkeypatch, tmp_path, 600, train__epochs=200, monitor__knn_epochs=0)
    slow.run(40.0, 3)
    assert slow.said == ["this takes about 6 h 38 min from here: 597 steps of 40 s up to epoch 200"]


def test_a_network_that_cannot_be_planned_with_ends_no_training(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def cannot(*_: Any) -> None:
        raise GlocalError("it does not take the views")

    monkeypatch.setattr(forecast, "ladder", cannot)
    slow = Slow(monkeypatch, tmp_path, train__epochs=200, monitor__knn_epochs=0)
    slow.run(40.0, 3)
    [line] = slow.said
    assert line.endswith("; shorter: train.epochs=15 takes an hour")


def test_what_is_short_is_told_without_advice(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    slow = Slow(monkeypatch, tmp_path, train__epochs=200, monitor__knn_epochs=0)
    slow.run(0.01, 23)
    assert slow.said == ["this takes about 12 s from here: 1,177 steps of 0.01 s up to epoch 200"]


def test_nothing_is_said_of_what_is_over(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    slow = Slow(monkeypatch, tmp_path, train__epochs=1, train__batch_size=64, monitor__knn_epochs=0)
    slow.run(100.0, 3)
    assert slow.said == []


def test_what_was_seen_goes_before_what_is_estimated(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    slow = Slow(monkeypatch, tmp_path, train__epochs=10, monitor__knn_epochs=1)
    slow.run(0.1, 6)
    with slow.watch.apart("knn"):
        slow.now += 30.0
    slow.run(0.1, 17)
    [line] = slow.said
    assert line.startswith("this takes about 3 min 34 s from here: 37 steps of 0.1 s")  # 3.7 s and seven of 30 s
