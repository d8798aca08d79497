"""How long steps take: without what lies between them, and whatever bunches batches come in."""

import time

import pytest
import torch

from glocal.training import stopwatch
from glocal.training.stopwatch import Stopwatch, apart


class Clock:
    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = 0.0
        monkeypatch.setattr(stopwatch.time, "perf_counter", lambda: self.now)


def steps(clock: Clock, seconds: list[float]) -> Stopwatch:
    watch = Stopwatch(torch.device("cpu"))
    for one in seconds:
        clock.now += one
        watch.mark()
    return watch


def test_first_steps_are_left_out_and_what_they_took_beyond_is_known(monkeypatch: pytest.MonkeyPatch) -> None:
    step, first = steps(Clock(monkeypatch), [5.0, 2.0, 1.0, *[0.5] * 20]).step()
    assert (step, first) == (0.5, 8.0 - 1.5)


def test_batches_in_bunches_count_by_their_mean_and_a_hiccup_does_not(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock(monkeypatch)
    assert steps(clock, [1, 1, 1, *[0, 0, 0, 4] * 5]).step()[0] == 1.0
    assert steps(clock, [1, 1, 1, *[1] * 11, 60, *[1] * 8]).step()[0] == 1.0


@pytest.mark.parametrize(("seconds", "expected"), [([3.0, 1.0], 1.0), ([3.0, 1.0, 2.0], 1.5), ([9, 8, 1, 2], 1.5)])
def test_few_steps_have_to_do_where_there_are_no_more(
    seconds: list[float], expected: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert steps(Clock(monkeypatch), seconds).step()[0] == expected


def test_what_is_no_step_is_told_apart(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock(monkeypatch)
    watch = Stopwatch(torch.device("cpu"))
    for number in range(4):
        clock.now += 1.0
        if number == 2:
            with apart(watch, "knn"):
                clock.now += 7.0
        watch.mark()
    assert watch.seconds() == [1.0] * 4
    assert watch.others == {"knn": [7.0]}
    assert (watch.count, watch.elapsed()) == (4, 11.0)
    with apart(None, "knn"):
        pass


def test_the_clock_is_real() -> None:
    watch = Stopwatch(torch.device("cpu"))
    time.sleep(0.01)
    watch.mark()
    assert watch.seconds()[0] >= 0.01
