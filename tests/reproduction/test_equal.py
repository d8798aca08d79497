"""Equal views, equal time, and the clock that measures it."""

from pathlib import Path

import pytest

from glocal.errors import GlocalError
from glocal.reproduction import clock
from glocal.reproduction.clock import Seconds, TrainingClock, read_times
from glocal.reproduction.equal import Spending


def test_all_rows_see_as_many_views_as_the_cheapest_sees(tmp_path: Path) -> None:
    # 1,000 images with 2, 4 and 10 views: 12 epochs of 2,000 are 24,000 views.
    costs = {"two": 2000.0, "four": 4000.0, "ten": 10000.0}
    epochs = Spending(tmp_path).decide("views", costs, dict.fromkeys(costs, 12))
    assert epochs == {"two": 12, "four": 6, "ten": 2}  # 2.4 epochs of ten views, in whole ones


def test_there_is_at_least_one_epoch(tmp_path: Path) -> None:
    assert Spending(tmp_path).decide("time", {"a": 1.0, "b": 90.0}, {"a": 3, "b": 3}) == {"a": 3, "b": 1}


def test_what_is_decided_stays(tmp_path: Path) -> None:
    Spending(tmp_path).decide("time", {"a": 10.0, "b": 20.0}, {"a": 6, "b": 6})
    again = Spending(tmp_path).decide("time", {"a": 40.0, "b": 5.0, "c": 30.0}, {"a": 6, "b": 6, "c": 6})
    assert again == {"a": 6, "b": 3, "c": 2}  # a and b as before; c gets the same 60 seconds
    assert Spending(tmp_path).in_words(["time"]) == [
        "equal time: whole epochs for about 1.0 minutes of training a row, as the cheapest row of the first call takes"
    ]


def test_a_file_that_is_none_is_told(tmp_path: Path) -> None:
    (tmp_path / "equal.json").write_text("{")
    with pytest.raises(GlocalError, match="cannot be read"):
        Spending(tmp_path)


def test_the_clock_adds_up_steps_and_leaves_out_measurements(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    now = [0.0]
    monkeypatch.setattr(clock, "_now", lambda: Seconds(now[0], 2 * now[0]))

    def train(first_step: int, steps: int, loading: float) -> None:
        watch = TrainingClock(tmp_path, first_step)
        now[0] += loading
        for done in range(first_step + 1, first_step + steps + 1):
            now[0] += 1
            if done % 5 == 0:
                with watch.apart("knn"):
                    now[0] += 100
                with watch.apart("checkpoint"):
                    now[0] += 50
            watch.step(done)

    train(0, 10, loading=7)
    assert read_times(tmp_path)[10] == pytest.approx((10, 20))
    assert read_times(tmp_path, "looks")[5] == pytest.approx((5, 10))
    train(5, 10, loading=3)  # killed after step 10, whose checkpoint is lost: on from 5
    assert read_times(tmp_path)[15] == pytest.approx((15, 30))
    assert sorted(read_times(tmp_path, "looks")) == [5, 10, 15]


def test_times_that_are_not_there_are_none(tmp_path: Path) -> None:
    assert read_times(tmp_path) == {}
