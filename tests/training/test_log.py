"""The logs of a run are read and continued whatever a full disk or a kill has left of them."""

from pathlib import Path

import pytest

from glocal.training.log import RunLog, monitor_series, read_metrics

NUMBERS = {"epoch": 0.5, "loss": 2.0}


def logged(folder: Path, steps: range) -> RunLog:
    log = RunLog(folder, steps.start)
    for step in steps:
        log.metrics(step, NUMBERS)
        log.monitor(step, "knn", 10.0)
    log.close()
    return log


@pytest.mark.parametrize("left", [b"", b"step,epo", b"step,epoch,loss", b"step,epoch,loss\n", b"\xff\x00"])
def test_what_a_full_disk_left_of_the_first_line_is_none(left: bytes, tmp_path: Path) -> None:
    (tmp_path / "metrics.csv").write_bytes(left)
    assert read_metrics(tmp_path) == {}
    logged(tmp_path, range(3))
    assert read_metrics(tmp_path) == {"step": [0, 1, 2], "epoch": [0.5] * 3, "loss": [2.0] * 3}


@pytest.mark.parametrize("torn", ["3", "3,0.5", "3,0.5,2.", "x,y,z\n"])
def test_a_torn_line_is_left_out_and_dropped(torn: str, tmp_path: Path) -> None:
    logged(tmp_path, range(3))
    with (tmp_path / "metrics.csv").open("a", encoding="utf-8") as file:
        file.write(torn)
    assert read_metrics(tmp_path)["step"] == [0, 1, 2]
    logged(tmp_path, range(1, 4))
    assert read_metrics(tmp_path)["step"] == [0, 1, 1, 2, 3]  # the first line is of the step where it goes on


def test_a_resumed_run_drops_what_was_written_after_its_checkpoint(tmp_path: Path) -> None:
    logged(tmp_path, range(5))
    RunLog(tmp_path, 2).close()
    assert read_metrics(tmp_path)["step"] == [0, 1, 2]
    assert [step for step, _ in monitor_series(tmp_path, "knn")] == [0, 1, 2]
