"""Run in each of several processes, and in one alone: trains methods in float64, otherwise as `pretrain` does."""

import os
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from pathlib import Path

import torch

import glocal
from glocal.data.sources.shapes import Shapes
from glocal.training import loop, machine, run
from glocal.training.building import Training
from glocal.training.saving import save
from glocal.views.batch import Views

SETTINGS = {
    "train.batch_size": 16,
    "train.log_steps": 1,
    "train.precision": "fp32",
    "train.epochs": 2,
    "train.device": "cpu",
    "monitor.knn_epochs": 0,
    "data.lane": "resident",
}


def train_each(folder: Path, settings: dict[str, dict[str, object]]) -> None:
    """Trains each method for some steps, into a folder of its name.

    Args:
        folder: of the folders.
        settings: by name of the method. Among them may be the step after which it ends, `stop`, and the name of another
            folder, `folder`.
    """
    torch.set_num_threads(1)
    torch.set_default_dtype(torch.float64)
    torch.Tensor.float = torch.Tensor.double  # as methods say where they leave bfloat16
    machine._PRECISION["fp32"] = "64-true"
    plain, run.draw_views, run.draw_loss = loop._in_layout, lambda *_, **__: None, lambda *_, **__: None
    loop._in_layout = lambda views, last: plain(
        Views(tuple(image.double() for image in views.images), views.geometry, views.index), last
    )
    for name, own in settings.items():
        devices = int(os.environ.get("WORLD_SIZE", "1"))
        overrides = {**SETTINGS, "method.name": name, **own, "train.devices": devices}
        last, into = overrides.pop("stop", None), overrides.pop("folder", name)
        overrides["train.checkpoint_steps"] = last
        run.save = partial(save_and_stop, last)
        with suppress(Stopped):
            glocal.pretrain(Shapes("train", 48), folder / str(into), overrides=overrides, progress=False, report=False)


class Stopped(Exception):
    """The run was ended."""


def save_and_stop(last: int | None, training: Training, step: int, before: Callable[[], object]) -> str:
    """Saves, and ends the run where this is the last step that it shall do."""
    name = save(training, step, before)
    if step == last:
        raise Stopped
    return name
