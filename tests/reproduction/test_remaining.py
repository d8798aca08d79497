"""The time that a table still takes."""

from glocal.reproduction.jobs import Job
from glocal.reproduction.remaining import Remaining


def job(row: str, epochs: int) -> Job:
    overrides = {"train.epochs": epochs}
    return Job(folder="", row=row, recipe="moco-cifar10", data=("shapes",), overrides=overrides)


def test_rows_that_are_known_have_their_own_pace_and_others_that_of_all() -> None:
    remaining = Remaining(2)
    assert remaining.seconds([(job("A", 10), 5.0)], [job("B", 10)]) is None
    remaining.ended(job("A", 10), 100.0)
    remaining.ended(job("B", 10), 300.0)
    # 10 s an epoch of A, 30 s of B, 20 s of C, of which nothing is known
    assert remaining.seconds([], [job("A", 10), job("B", 2), job("C", 5)]) == (100 + 60 + 100) / 2
    assert remaining.seconds([(job("A", 10), 30.0), (job("B", 1), 45.0)], [job("A", 10)]) == (70 + 0 + 100) / 2


def test_one_long_job_is_not_shared_out() -> None:
    remaining = Remaining(8)
    remaining.ended(job("A", 10), 100.0)
    assert remaining.seconds([(job("A", 60), 100.0)], []) == 500.0
    assert remaining.seconds([], []) == 0.0
