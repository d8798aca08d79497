"""How long the jobs of a table still take, by those that have ended."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable

from glocal.reproduction.jobs import Job


class Remaining:
    """Estimates by epochs: at a row's own pace where one of its jobs has ended, else at that of all that have.

    Args:
        number: jobs side by side.
    """

    def __init__(self, number: int) -> None:
        self.number = number
        self._seconds: dict[str, float] = defaultdict(float)  # by row
        self._epochs: dict[str, float] = defaultdict(float)

    def ended(self, job: Job, seconds: float) -> None:
        """A job has ended well, after so many seconds."""
        self._seconds[job.row] += seconds
        self._epochs[job.row] += _epochs(job)

    def seconds(self, running: Iterable[tuple[Job, float]], waiting: Iterable[Job]) -> float | None:
        """Seconds until all have ended; None as long as none has.

        Args:
            running: jobs, and for how many seconds each has run.
            waiting: jobs that have not begun.
        """
        if not self._epochs:
            return None
        left = [max(0.0, self._whole(job) - past) for job, past in running]
        work = sum(left) + sum(map(self._whole, waiting))
        return max(work / self.number, *left, 0.0)  # one job is not shared out

    def _whole(self, job: Job) -> float:
        rows = [job.row] if job.row in self._epochs else list(self._epochs)
        return _epochs(job) * sum(self._seconds[row] for row in rows) / sum(self._epochs[row] for row in rows)


def _epochs(job: Job) -> float:
    """References have none, and take about as long as one."""
    return float(job.overrides.get("train.epochs", 1))
