"""Jobs side by side, each in a process of its own."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import torch

from glocal.console import console, progress_bar, tell
from glocal.files import write_text
from glocal.reproduction.jobs import LOG, RESULT, Job, is_done, read_result
from glocal.reproduction.remaining import Remaining
from glocal.signals import Stopped, StopSignals
from glocal.training.budget import in_words

_ROOM, _REST = 24, 67  # characters of a job's title beside the bar, at most, and of all else in that line
_POLL = 0.2  # seconds
_THREADS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")


def usual_number(device: str) -> int:
    """How many jobs go side by side: one on each core, or on each GPU."""
    if device == "cpu":
        return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, torch.cuda.device_count()) if device == "cuda" else 1


def run_jobs(
    jobs: Sequence[Job], number: int, device: str, *, after: Callable[[Job], object], progress: bool = True
) -> None:
    """Does jobs that are not done, in their order, `number` at a time.

    Args:
        jobs: what to do.
        number: processes side by side. On a CPU each has one thread, on GPUs one of them.
        device: cpu, cuda or mps.
        after: is told of each job that has ended, with a result or an error in its folder.
        progress: show it.

    Raises:
        Stopped: Ctrl-C, SIGTERM or another signal that means stop; the workers have written checkpoints.
    """
    waiting = [job for job in jobs if not is_done(job)]
    running: dict[int, _Running] = {}  # by place, which says the GPU
    remaining = Remaining(number)
    bar = progress_bar("jobs", visible=progress, extra=("now",), left="left")
    done = len(jobs) - len(waiting)

    def time_left() -> str:
        seconds = remaining.seconds(((one.job, one.seconds()) for one in running.values()), waiting)
        return f", about {in_words(seconds)} left" if seconds else ""

    with StopSignals() as stop, bar:
        task = bar.add_task("reproduce", total=len(jobs), completed=done, now="", left="")
        try:
            while (waiting or running) and stop.received is None:
                while waiting and len(running) < number:
                    place = next(free for free in range(number) if free not in running)
                    job = waiting.pop(0)
                    running[place] = _Running(job, _start(job, device, place), time.monotonic())
                room = min(_ROOM, max(6, (console.width - _REST) // number - 2))
                now = "; ".join(_short(one.job.title, room) for one in running.values())
                bar.update(task, now=now, left=time_left())
                time.sleep(_POLL)
                for place in [place for place, one in running.items() if one.process.poll() is not None]:
                    ended = running.pop(place)
                    job = ended.job
                    _explain(job, ended.process.returncode)
                    if is_done(job):
                        remaining.ended(job, ended.seconds())
                    done += 1
                    bar.update(task, completed=done)
                    after(job)
                    if progress and not console.is_terminal:
                        tell(f"{done} of {len(jobs)}: {job.title}{_said(job)}{time_left()}")
        finally:
            for one in running.values():
                if one.process.poll() is None:
                    one.process.terminate()
            for one in running.values():
                one.process.wait()
        if stop.received is not None:
            left = len(waiting) + len(running)
            raise Stopped(f"stopped with {left} of {len(jobs)} jobs to do", stop.received)


class _Running(NamedTuple):
    job: Job
    process: subprocess.Popen[bytes]
    began: float

    def seconds(self) -> float:
        return time.monotonic() - self.began


def _short(title: str, room: int) -> str:
    return title if len(title) <= room else f"{title[: room - 1]}…"


def _start(job: Job, device: str, place: int) -> subprocess.Popen[bytes]:
    path = job.write()
    (path.parent / RESULT).unlink(missing_ok=True)
    environment = dict(os.environ)
    if device == "cpu":
        environment |= dict.fromkeys(_THREADS, "1")
    if device == "cuda":
        visible = [name for name in environment.get("CUDA_VISIBLE_DEVICES", "").split(",") if name]
        gpus = visible or [str(gpu) for gpu in range(max(1, torch.cuda.device_count()))]
        environment["CUDA_VISIBLE_DEVICES"] = gpus[place % len(gpus)]
    with (path.parent / LOG).open("ab") as log:
        return subprocess.Popen(
            [sys.executable, "-m", "glocal.reproduction.worker", str(path)],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            env=environment,
        )


def _explain(job: Job, code: int) -> None:
    """Writes a result with an error for a process that ended without one."""
    folder = Path(job.folder)
    if read_result(folder) is not None:
        return
    lines = (folder / LOG).read_text(encoding="utf-8", errors="replace").strip().splitlines() or [""]
    end = f"by signal {-code}" if code < 0 else f"with {code}"
    found = {"training": job.training(), "row": job.row, "seed": job.seed, "equal": job.equal}
    said = f"the process ended {end}; {folder / LOG} says: {lines[-1][:200]}"
    write_text(folder / RESULT, json.dumps({**found, "error": said}, indent=2, ensure_ascii=False) + "\n")


def _said(job: Job) -> str:
    found = read_result(Path(job.folder)) or {}
    if found.get("error"):
        return f": failed: {found['error']}"
    numbers = [f"{name} {value:.2f}" for name, value in found.get("values", {}).items()]
    minutes = f" ({found['cpu_minutes']:.1f} CPU minutes)" if found.get("cpu_minutes") is not None else ""
    return f": {', '.join(numbers)}{minutes}" if numbers else ""
