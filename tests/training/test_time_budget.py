"""A time becomes epochs: how it is written, what a training costs in it, and which of several is taken."""

import itertools
import math
import random

import pytest

from glocal.errors import GlocalError
from glocal.training.budget import Budget, Costs, Work, in_words, parse_time, search, shortened


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("30m", 1800),
        ("30 min", 1800),
        ("1h30", 5400),
        ("1H 30M", 5400),
        ("90s", 90),
        ("2 h", 7200),
        ("1.5 hours", 5400),
        ("1m30", 90),
        ("2 days 3h", 183_600),
        (12, 12),
        (0.5, 0.5),
    ],
)
def test_times_are_read_as_people_write_them(text: str | float, seconds: float) -> None:
    assert parse_time(text) == seconds


@pytest.mark.parametrize(
    "text", ["", "30", "m", "0m", "-5m", "1m1h", "1h1h", "half", "1h30x", "1s30", "nan", 0, -1, math.nan, math.inf]
)
def test_what_is_no_time_is_refused_with_examples(text: str | float) -> None:
    with pytest.raises(GlocalError, match="write a time above 0 as 90s, 30m, 2h or 1h30"):
        parse_time(text)


def test_times_are_written_in_the_two_largest_units() -> None:
    assert [in_words(s) for s in (59.4, 59.6, 3599.6, 3600, 90_000)] == ["59 s", "1 min", "1 h", "1 h", "1 d 1 h"]


def test_a_budget_runs_from_when_it_began() -> None:
    budget = Budget.of("1h", began=-1e9)
    assert budget.seconds == 3600
    assert budget.left() < 0
    assert Budget.of(budget) is budget
    assert 3500 < Budget.of(3600).left() <= 3528  # a fiftieth is kept


def played(work: Work, costs: Costs, epochs: int, done: int) -> float:
    """The loop of `training.loop`, step by step, with a clock of its own; reference for `Work.seconds`."""
    total, clock, saves = epochs * work.steps_per_epoch, 0.0, 0
    first = shortened(work.refresh_first, epochs, work.refresh_of)
    for step in range(done, total):
        epoch, place = divmod(step, work.steps_per_epoch)
        looks = work.refresh_epochs and place == 0 and epoch >= first
        if looks and (epoch - first) % work.refresh_epochs == 0:
            clock += costs.refresh
        clock += costs.step
        last = step + 1 == total
        for every, cost in ((work.look_every, costs.look), (work.knn_every, costs.knn)):
            clock += cost if every and ((step + 1) % every == 0 or last) else 0.0
        saves += bool(last or (work.checkpoint_steps and (step + 1) % work.checkpoint_steps == 0))
    return (
        (0 if done else costs.start)
        + clock
        + costs.checkpoint * (saves + int(clock // work.checkpoint_seconds))
        + costs.end
    )


def cases(count: int) -> list[tuple[Work, Costs, int]]:
    draw = random.Random(0)
    found = []
    for _ in range(count):
        work = Work(
            steps_per_epoch=draw.randint(1, 7),
            look_every=draw.choice([0, 1, 3, 10]),
            knn_every=draw.choice([0, 4, 11]),
            refresh_epochs=draw.choice([0, 1, 3]),
            refresh_first=draw.choice([0, 2, 10]),
            refresh_of=draw.choice([1, 20, 200]),
            checkpoint_seconds=draw.choice([math.inf, 30.0]),
            checkpoint_steps=draw.choice([None, 1, 5]),
        )
        costs = Costs(*(draw.uniform(0.01, 5) for _ in range(7)))
        found.append((work, costs, draw.randint(1, 40)))
    return found


def test_what_a_training_takes_is_what_the_loop_does_step_by_step() -> None:
    for work, costs, epochs in cases(300):
        for done in {0, 1, work.steps_per_epoch, epochs * work.steps_per_epoch - 1}:
            if done < epochs * work.steps_per_epoch:
                assert work.seconds(costs, epochs, done=done) == pytest.approx(played(work, costs, epochs, done))


def test_as_many_epochs_as_fit_and_not_one_more() -> None:
    for work, costs, epochs in cases(300):
        seconds = work.seconds(costs, epochs) * 1.0001
        most = work.most_epochs(costs, seconds)
        assert work.seconds(costs, most) <= seconds
        assert most >= epochs
        assert work.seconds(costs, most + 1) > seconds
        assert work.most_epochs(costs, work.seconds(costs, 1) * 0.999) == 0


def test_the_nearest_number_of_epochs_is_taken_and_never_over_what_is_kept() -> None:
    work, costs = Work(1), Costs(5.0)
    assert [work.nearest_epochs(costs, seconds, 2.0) for seconds in (4.9, 5.0, 97.4, 97.6, 98.5, 100)] == [
        0,
        1,
        19,
        19,
        20,
        20,
    ]
    for work, costs, epochs in cases(200):
        seconds, over = work.seconds(costs, epochs) * 1.03, 0.5
        nearest = work.nearest_epochs(costs, seconds, over)
        assert work.seconds(costs, nearest) <= seconds + over
        assert 0 <= nearest - work.most_epochs(costs, seconds) <= 1


def test_more_time_never_plans_fewer_epochs() -> None:
    for work, costs, _ in cases(100):
        most = [work.most_epochs(costs, seconds) for seconds in range(0, 2000, 37)]
        assert all(later >= before - 1 for before, later in itertools.pairwise(most))
        assert most[-1] > most[0]


ARITHMETIC = [100.0, 73.0, 51.0, 33.0, 18.0, 4.5, 1.1]


class Ladder:
    """Costs of a step in proportion to the arithmetic, and something beside it; a clock that measuring moves."""

    def __init__(self, budget: float, beside: float = 0.0, trial: float = 0.0) -> None:
        self.budget, self.beside, self.trial, self.clock = budget, beside, trial, 0.0
        self.measured: list[tuple[int, bool]] = []

    def costs(self, rung: int) -> Costs:
        return Costs(ARITHMETIC[rung] + self.beside)

    def measure(self, rung: int, brief: bool) -> Costs:
        self.measured.append((rung, brief))
        self.clock += self.trial
        return self.costs(rung)

    def fit(self, costs: Costs) -> int:
        return Work(1).most_epochs(costs, self.budget - self.clock)

    def search(self):  # type: ignore[no-untyped-def]
        return search(ARITHMETIC, self.measure, self.fit, lambda: self.clock / self.budget)


@pytest.mark.parametrize("beside", [0.0, 0.5, 20.0])
def test_the_first_rung_on_which_twenty_epochs_fit_is_taken_and_was_measured(beside: float) -> None:
    before = len(ARITHMETIC)
    for budget in (10, 60, 150, 500, 800, 1200, 1700, 2100, 5000):
        ladder = Ladder(budget, beside)
        found = ladder.search()
        enough = [rung for rung in range(len(ARITHMETIC)) if ladder.fit(ladder.costs(rung)) >= 20]
        assert found.rung == (enough[0] if enough else len(ARITHMETIC) - 1)
        assert (found.rung, False) in ladder.measured
        assert len(set(ladder.measured)) == len(ladder.measured)
        assert found.rung <= before  # more time, nothing smaller
        before = found.rung
        assert set(found.larger) == set(range(found.rung))
        assert all(epochs < 20 for epochs, measured in found.larger.values() if measured)


def test_where_all_costs_are_the_arithmetic_two_trials_are_enough() -> None:
    ladder = Ladder(700.0)
    assert ladder.search().rung == 3
    assert ladder.measured == [(6, True), (3, False)]


def test_measuring_ends_before_it_takes_the_time_that_it_plans() -> None:
    for trial in (0.0, 3.0, 30.0, 90.0, 400.0):
        ladder = Ladder(1000.0, beside=20.0, trial=trial)
        found = ladder.search()
        assert (found.rung, False) in ladder.measured
        assert ladder.clock <= 0.2 * 1000 + 2 * trial
        fitting = [rung for rung, brief in ladder.measured if not brief and ladder.fit(ladder.costs(rung)) >= 20]
        assert found.rung == min(fitting) if fitting else True


def test_a_single_rung_is_measured_once() -> None:
    measured = []

    def measure(rung: int, brief: bool) -> Costs:
        measured.append((rung, brief))
        return Costs(1.0)

    assert search([5.0], measure, lambda costs: 3, lambda: 0.0).rung == 0
    assert measured == [(0, False)]
