"""What a run has written about itself, as its report reads it; a run that goes on is read like one that ended."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np

from glocal.config import AnyRecipe, build_recipe, load_mapping
from glocal.data.lanes.skipped import read_skipped
from glocal.errors import GlocalError
from glocal.locking import RUN_LOCK, is_held
from glocal.training.log import FAILED, monitor_series, read_metrics

MEASURES = ("knn", "spread", "effective_rank", "prototypes_used", "target_information")
"""Names of what is measured now and then, in monitor.csv."""


@dataclass(frozen=True)
class Record:
    """A run's folder as it stands.

    Attributes:
        folder: of the run.
        name: for headings; unique among those of a page.
        recipe: as it was resolved.
        metrics: the columns of metrics.csv.
        measured: by name, (n, 2) epochs and values.
        broken: names of images that could not be read, each with its reason.
        failed: why the training could not go on; empty where it could.
        running: a training is in the folder; None where that cannot be told.
    """

    folder: Path
    name: str
    recipe: AnyRecipe
    metrics: dict[str, np.ndarray]
    measured: dict[str, np.ndarray]
    broken: tuple[str, ...]
    failed: str = ""
    running: bool | None = None

    @cached_property
    def steps_per_epoch(self) -> float:
        """Steps in an epoch; 0 before the first line of metrics.csv."""
        return float(self.metrics["step"][-1] / self.metrics["epoch"][-1]) if self.steps else 0.0

    @property
    def steps(self) -> int:
        """Steps that are done and logged."""
        return int(self.metrics["step"][-1]) if self.metrics and self.metrics["epoch"][-1] > 0 else 0

    @property
    def total(self) -> int:
        """Steps of the whole training; 0 before the first line of metrics.csv."""
        return round(self.recipe.train.epochs * self.steps_per_epoch)

    @property
    def finished(self) -> bool:
        """Whether all steps are done."""
        return 0 < self.total <= self.steps

    @property
    def has_checkpoint(self) -> bool:
        """Whether there is a backbone to look at."""
        return any((self.folder / "checkpoints").glob("step-*.pt"))


def read_record(folder: str | Path, name: str = "") -> Record:
    """Reads a run's folder.

    Args:
        folder: of the run.
        name: for headings; None takes the folder's.

    Raises:
        GlocalError: there is no run.
    """
    folder = Path(folder)
    if not (folder / "recipe.yaml").is_file():
        what = "holds no recipe.yaml" if folder.is_dir() else "is a file" if folder.exists() else "does not exist"
        raise GlocalError(f"{folder} is no run: it {what}; give the folder that `glocal pretrain --out` named")
    metrics = {key: np.asarray(values) for key, values in read_metrics(folder).items()}
    per_epoch = metrics["step"][-1] / metrics["epoch"][-1] if metrics and metrics["epoch"][-1] > 0 else 1.0
    measured = {}
    for measure in MEASURES:
        if series := monitor_series(folder, measure):
            found = np.asarray(series, dtype=float)  # (n, 2) steps and values
            measured[measure] = found / [per_epoch, 1.0]
    failed = folder / FAILED
    return Record(
        folder,
        name or folder.resolve().name,
        build_recipe(load_mapping(folder / "recipe.yaml")),
        metrics,
        measured,
        tuple(read_skipped(folder / "skipped.txt")),
        failed.read_text(encoding="utf-8").strip() if failed.is_file() else "",
        is_held(folder / RUN_LOCK),
    )
