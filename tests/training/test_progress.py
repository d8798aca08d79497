"""Where there is no terminal, lines tell how far a training is."""

from pathlib import Path

import pytest

import glocal
from glocal import console
from glocal.training.progress import ProgressLines
from tests.training.test_runs import DATA, TINY


def test_lines_come_at_growing_intervals_up_to_five_minutes() -> None:
    now, said = [0.0], []
    lines = ProgressLines(100, 10_100, 100, said.append, lambda: now[0])
    times = []
    for done in range(101, 2101):  # a second for each step
        now[0] += 1.0
        lines.take(2.5, 512.4)
        lines.step(done)
        if len(said) > len(times):
            times.append(now[0])
    assert times == [10, 30, 70, 150, 310, 610, 910, 1210, 1510, 1810]
    assert said[0] == "step 110 of 10100, epoch 1.1 of 101, loss 2.5, 512 images/s, 2:46:30 left"  # 9990 steps of 1 s


def test_nothing_is_said_at_the_end() -> None:
    now, said = [0.0], []
    lines = ProgressLines(0, 10, 5, said.append, lambda: now[0])
    now[0] = 100.0
    lines.step(10)
    assert said == []


@pytest.mark.parametrize("quiet", [False, True])
def test_a_run_off_a_terminal_tells_how_it_goes_unless_quiet(
    quiet: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(console, "_FIRST", 0.0)
    glocal.pretrain(DATA, tmp_path / "a", overrides={**TINY, "train.epochs": 1}, progress=not quiet)
    assert ("step 1 of 6, epoch 0.2 of 1, loss" in capsys.readouterr().err) is not quiet
