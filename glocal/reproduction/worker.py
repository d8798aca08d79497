"""One job in a process of its own: `python -m glocal.reproduction.worker JOB.json`."""

from __future__ import annotations

import json
import os
import signal
import sys
import threading
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch

from glocal.checkpoints import newest_checkpoint
from glocal.errors import in_a_line
from glocal.files import write_text
from glocal.models.loading import choose_device
from glocal.reproduction.clock import TrainingClock, read_times
from glocal.reproduction.gathering import machine
from glocal.reproduction.images import Images, open_images
from glocal.reproduction.jobs import RESULT, Job, read_job
from glocal.reproduction.measuring import measure
from glocal.signals import Stopped
from glocal.training.building import batch_order
from glocal.training.log import monitor_series
from glocal.training.machine import launch
from glocal.training.resolving import resolve
from glocal.training.run import Run, pretrain
from glocal.training.trial import Trials
from glocal.views.plan import ViewPlan

_TRIAL_SECONDS = 30.0
_LOOK = 2.0  # seconds between two looks whether the parent is there


def do(job: Job) -> dict[str, Any]:
    """Does a job, writes its result into its folder, and returns it; an error is part of the result.

    Raises:
        RunInterrupted: the process was asked to stop; the run has a checkpoint.
    """
    about = {"training": job.training(), "measuring": job.measuring(), "row": job.row, "seed": job.seed}
    try:
        found = {**about, "equal": job.equal, **_done(job)}
    except Exception as error:
        found = {**about, "equal": job.equal, "error": in_a_line(error)}
    write_text(Path(job.folder) / RESULT, json.dumps(found, indent=2, ensure_ascii=False) + "\n")
    return found


def _done(job: Job) -> dict[str, Any]:
    images = open_images(job.data, job.test, images=job.images, held_out=job.held_out)
    if job.kind == "cost":
        return {"error": "", "epoch_seconds": _epoch_seconds(job, images)}
    folder, device = Path(job.folder), choose_device(job.device)
    found: dict[str, Any] = {}
    if job.kind == "run":
        found = _pretrain(job, images, folder)
        backbone: str | Path = folder
    elif job.kind == "untrained":
        recipe, _, _ = resolve(images.train, job.recipe, job.overrides, folder, progress=False)
        write_text(folder / "recipe.yaml", recipe.to_yaml())
        backbone = f"untrained:{folder}"
    else:
        backbone = "pixels"
    values, errors = measure(backbone, job.metrics, images, out=folder / "evaluation", device=device)
    said = "; ".join(f"{name}: {error}" for name, error in errors.items())
    return {**found, "values": values, "error": said if job.kind == "run" else "", "missing": errors}


def _pretrain(job: Job, images: Images, folder: Path) -> dict[str, Any]:
    state = newest_checkpoint(folder / "checkpoints")
    clock = TrainingClock(folder, 0 if state is None else int(state["step"]))
    del state
    quiet: dict[str, Any] = {"progress": False, "report": False}
    run = pretrain(images.train, folder, recipe=job.recipe, overrides=job.overrides, watch=clock, **quiet)
    epochs, count = run.recipe.train.epochs, len(images.train)
    times = read_times(folder)
    steps = max(times, default=0)
    spent = times.get(steps)
    return {
        "epochs": epochs,
        "images": count,
        "views": len(ViewPlan(run.recipe.views or ())) * count * epochs,
        "cpu_minutes": None if spent is None else round(spent.cpu / 60, 4),
        "wall_minutes": None if spent is None else round(spent.wall / 60, 4),
        "curve": _curve(run, steps),
        "date": datetime.now(UTC).date().isoformat(),
        "machine": machine(choose_device(job.device)),
    }


def _curve(run: Run, steps: int) -> list[list[float]]:
    """[epoch, minutes of the process, k-NN accuracy in percent] at each measurement of the monitor."""
    looks = read_times(run.folder, "looks")
    return [
        [round(step * run.recipe.train.epochs / steps, 3), round(looks[step].cpu / 60, 4), round(value, 3)]
        for step, value in monitor_series(run.folder, "knn")
        if step in looks
    ]


def _epoch_seconds(job: Job, images: Images) -> float:
    """What an epoch takes: seconds of the process on a CPU, by the wall on a GPU."""
    folder = Path(job.folder)
    recipe, source, _ = resolve(images.train, job.recipe, job.overrides, folder, progress=False)
    fabric = launch(recipe)
    order = batch_order(recipe, source, fabric)
    with Trials(source, fabric, folder / "trial") as trials:
        cpu, wall = time.process_time(), time.perf_counter()
        costs = trials.measure(recipe, _TRIAL_SECONDS)
        share = (time.process_time() - cpu) / (time.perf_counter() - wall)  # that other programs left to this one
    every = getattr(recipe.method, "refresh_epochs", 0)
    seconds = costs.step * order.steps_per_epoch + (costs.refresh / every if every else 0.0)
    return seconds * (share if fabric.device.type == "cpu" else 1.0)


def _end_with_the_parent() -> None:
    """Lets this process stop in order when the one that started it is gone, which may be started anew."""
    parent = os.getppid()

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(_LOOK)
        os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=watch, daemon=True).start()


def main() -> None:
    """Does the job in the file that is named; the exit code is that of a signal where one stopped it."""
    if os.environ.get("OMP_NUM_THREADS") == "1":
        torch.set_num_threads(1)
    _end_with_the_parent()
    try:
        found = do(read_job(Path(sys.argv[1])))
    except Stopped as stopped:
        print(stopped, file=sys.stderr, flush=True)
        os._exit(128 + stopped.signal)
    if found["error"]:
        print(found["error"], file=sys.stderr)
        sys.exit(1)


if __name__ == "__main__":
    main()
