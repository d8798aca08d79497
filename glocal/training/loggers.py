"""Loggers beside metrics.csv and TensorBoard: wandb and MLflow, through Lightning's, which are asked for by name."""

from __future__ import annotations

import importlib.util
import json
import os
from collections.abc import Callable, Collection, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from glocal.config import AnyRecipe, LoggerName
from glocal.console import warn
from glocal.errors import GlocalError, in_a_line
from glocal.files import write_text

FILE = "loggers.json"
"""In the run's folder: the names that the services gave the run, under which it goes on."""

_PROJECT = "glocal"


def check_loggers(names: Sequence[LoggerName]) -> None:
    """Says before anything is trained which package is missing.

    Raises:
        GlocalError: one is.
    """
    for name in names:
        found = importlib.util.find_spec(name)
        if found is None or found.origin is None:  # a folder of that name, as wandb makes one, is no package
            raise GlocalError(f"train.loggers={name}: the package is not installed; pip install 'glocal[{name}]'")


class Loggers:
    """The services that a run tells its numbers. What goes wrong with one is a warning: it is left out from then on.

    Args:
        names: of the services.
        folder: of the run; what they write on this machine lies in it.
        recipe: is told to each as the run's settings.

    The services are set up by their own environment: WANDB_PROJECT, WANDB_MODE, MLFLOW_TRACKING_URI,
    MLFLOW_EXPERIMENT_NAME. Without a tracking URI MLflow writes into `mlruns` in the folder.
    """

    def __init__(self, names: Sequence[LoggerName], folder: Path, recipe: AnyRecipe) -> None:
        self._folder = folder
        known = _read(folder / FILE)
        self._open: dict[str, Any] = {}
        for name in names:
            if logger := _tried(name, partial(_opened, name, folder, known.get(name))):
                self._open[name] = logger
        settings = recipe.model_dump(mode="json")
        # MLflow refuses settings that change: a run that goes on keeps those that it began with.
        self._tell(lambda logger: logger.log_hyperparams(settings), but=known)
        known |= {name: logger.version for name, logger in self._open.items() if logger.version}
        if known:
            write_text(folder / FILE, json.dumps(known, indent=2) + "\n")

    def metrics(self, step: int, values: Mapping[str, float]) -> None:
        """Numbers after `step` steps."""
        self._tell(lambda logger: logger.log_metrics(dict(values), step=step))

    def close(self, *, finished: bool) -> None:
        """Ends the run at the services; one that was stopped goes on there as it does here."""
        self._tell(lambda logger: logger.finalize("success" if finished else "failed"))
        if "wandb" in self._open:
            self._tell(lambda logger: logger.experiment.finish() if hasattr(logger.experiment, "finish") else None)

    def _tell(self, words: Callable[[Any], object], but: Collection[str] = ()) -> None:
        for name in [name for name in self._open if name not in but]:
            if _tried(name, partial(_told, words, self._open[name])) is None:
                del self._open[name]


def _told(words: Callable[[Any], object], logger: Any) -> bool:
    words(logger)
    return True


def _tried(name: str, work: Callable[[], Any]) -> Any:
    try:
        return work()
    except Exception as error:  # each service has its own errors, and none is worth a training
        warn(f"{name} is left out from here on: {in_a_line(error)}")
        return None


def _read(path: Path) -> dict[str, str]:
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def _opened(name: LoggerName, folder: Path, version: str | None) -> Any:
    from lightning.pytorch import loggers

    if name == "wandb":
        project = os.environ.get("WANDB_PROJECT", _PROJECT)
        logger: Any = loggers.WandbLogger(
            name=folder.name, save_dir=folder, project=project, id=version, resume="allow", log_model=False
        )
        logger.experiment.define_metric("*", step_metric="trainer/global_step")
        return logger
    place = os.environ.get("MLFLOW_TRACKING_URI")
    if not place:
        place = (folder / "mlruns").resolve().as_uri()
        os.environ.setdefault("MLFLOW_ALLOW_FILE_STORE", "true")  # else newer MLflow refuses plain files
    project = os.environ.get("MLFLOW_EXPERIMENT_NAME", _PROJECT)
    return loggers.MLFlowLogger(experiment_name=project, run_name=folder.name, tracking_uri=place, run_id=version)
