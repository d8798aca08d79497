"""A job: one training with its evaluation, or what it is measured beside, as a file that a worker process reads."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Literal

from pydantic import Field

from glocal.config import load_mapping
from glocal.errors import GlocalError
from glocal.files import write_text
from glocal.papers import Metric
from glocal.plain import read_json
from glocal.settings import Settings, validated

JOB, RESULT, LOG = "job.json", "result.json", "log.txt"


class Job(Settings):
    """What a worker does; everything in it is plain data.

    Attributes:
        kind: run: pretrain and measure. untrained: measure the network before its first step. pixels: measure raw
            pixels. cost: measure what an epoch takes, and nothing else.
        folder: of the run.
        row, seed, equal: which column of which row it belongs to.
        recipe, overrides: as for `pretrain`.
        recipe_digest: of what the recipe said; empty in results from before there was one.
        data, test, images, held_out: as for `open_images`.
        metrics: what is measured, by name.
        network: of an untrained one, in full; what else the row's recipe says does not count there.
        device: auto, cpu, cuda or mps.
    """

    kind: Literal["run", "untrained", "pixels", "cost"] = "run"
    folder: str
    row: str = ""
    seed: int = 0
    equal: str = "epochs"
    recipe: str
    recipe_digest: str = ""
    overrides: dict[str, Any] = Field(default_factory=dict)
    data: tuple[str, ...]
    test: tuple[str, ...] = ()
    images: int | None = None
    held_out: int | None = None
    metrics: dict[str, Metric] = Field(default_factory=dict)
    network: str = ""
    device: str = "auto"

    @property
    def is_reference(self) -> bool:
        """Whether it is what runs are compared with, and no training."""
        return self.kind in ("untrained", "pixels")

    @property
    def title(self) -> str:
        """The job for a line of progress."""
        if self.is_reference:
            return self.row
        column = "" if self.equal == "epochs" else f", equal {self.equal}"
        return f"{self.row}: an epoch's time" if self.kind == "cost" else f"{self.row}, seed {self.seed}{column}"

    def write(self) -> Path:
        """Writes the job into its folder and returns the file."""
        folder = Path(self.folder)
        folder.mkdir(parents=True, exist_ok=True)
        write_text(folder / JOB, json.dumps(self.model_dump(mode="json"), indent=2, ensure_ascii=False) + "\n")
        return folder / JOB

    def training(self) -> dict[str, Any]:
        """What decides the training: with something else here, its folder is another run's.

        A reference is trained with nothing: it is the same beside whichever rows of a table are run.
        """
        if self.is_reference:
            return self.model_dump(mode="json", include={"kind", "data", "images", "held_out", "network"})
        decisive = {"kind", "recipe", "recipe_digest", "overrides", "data", "images", "held_out"}
        whole = self.model_dump(mode="json", include=decisive)
        return {**whole, "overrides": {k: v for k, v in whole["overrides"].items() if k not in _OF_THE_MACHINE}}

    def measuring(self) -> dict[str, Any]:
        """What decides the numbers besides the training."""
        return self.model_dump(mode="json", include={"test", "metrics"})


def digest_of_recipe(recipe: str) -> str:
    """A digest of what a recipe says: a file that was changed is another training.

    Args:
        recipe: as for `pretrain`.

    Raises:
        GlocalError: as `load_mapping`.
    """
    said = {key: value for key, value in load_mapping(recipe).items() if key not in _ABOUT}
    return hashlib.sha256(json.dumps(said, sort_keys=True, default=str).encode()).hexdigest()[:16]


_ABOUT = {"name", "reproduces", "row", "published"}  # what a recipe says about itself
_OF_THE_MACHINE = {"train.device", "data.workers", "train.checkpoint_minutes", "data.test"}


def read_job(path: Path) -> Job:
    """The job in a file.

    Raises:
        GlocalError: there is none, or it is no job.
    """
    return validated(Job, read_json(path), str(path))


def read_result(folder: Path) -> dict[str, Any] | None:
    """What a worker has written about its job; None where there is nothing that can be read."""
    try:
        found = read_json(folder / RESULT)
    except (OSError, ValueError):
        return None
    return found if isinstance(found, dict) else None


def is_done(job: Job) -> bool:
    """Whether the job's result is there, without an error, and is that of just this job."""
    found = read_result(Path(job.folder))
    if found is None or found.get("error"):
        return False
    before, wanted = _untitled(found.get("measuring") or {}), _untitled(job.measuring())
    measured = all(before["metrics"].get(name) == its for name, its in wanted["metrics"].items())  # and maybe more
    same = _same(found.get("training") or {}, job.training())
    return bool(same and measured and before["test"] == wanted["test"])


def take_over(job: Job, folders: Iterable[Path]) -> None:
    """Takes the result of a run elsewhere that trains and measures just the same: it is not done twice.

    Args:
        job: of a row, a seed and a column.
        folders: of runs in other columns, or of other tables.
    """
    if is_done(job):
        return
    for folder in folders:
        found = read_result(folder)
        if found is not None and is_done(job.model_copy(update={"folder": str(folder)})):
            job.write()
            its = {**found, "row": job.row, "equal": job.equal}
            write_text(Path(job.folder) / RESULT, json.dumps(its, indent=2, ensure_ascii=False) + "\n")
            return


def _same(before: Mapping[str, Any], now: Mapping[str, Any]) -> bool:
    """Whether two trainings are one; what a recipe said counts where both know it."""
    known = bool(before.get("recipe_digest") and now.get("recipe_digest"))
    return all(before.get(key) == now.get(key) for key in {*before, *now} if key != "recipe_digest" or known)


def _untitled(measuring: Mapping[str, Any]) -> dict[str, Any]:
    """What is measured without the titles of its columns, which change no number."""
    metrics = measuring.get("metrics", {})
    return {
        "test": measuring.get("test"),
        "metrics": {name: {**its, "title": ""} for name, its in metrics.items()},
    }


def check_folder(job: Job) -> None:
    """Refuses a folder in which another training lies; a reference is measured anew, which takes seconds.

    Raises:
        GlocalError: it does; the message names a setting.
    """
    path = Path(job.folder) / JOB
    if job.is_reference or not path.exists():
        return
    before, now = read_job(path).training(), job.training()
    if _same(before, now):
        return
    if {**before, "recipe_digest": ""} == {**now, "recipe_digest": ""}:
        raise GlocalError(
            f"{job.folder} holds this row from before the recipe {job.recipe} was changed; give another folder (--out)"
        )
    changed = [
        f"{path} was {one}, is {other}"
        for key in now
        if key != "recipe_digest"
        for path, one, other in _apart(key, before.get(key), now[key])
    ]
    raise GlocalError(
        f"{job.folder} holds this row with other settings: {'; '.join(changed[:3])}; give the same options as before, "
        "or another folder (--out)"
    )


def check_measured(job: Job) -> None:
    """Refuses other test images than those on which a run in the folder was measured.

    Raises:
        GlocalError: they differ.
    """
    found = read_result(Path(job.folder)) or {}
    before = tuple((found.get("measuring") or {}).get("test") or ())
    if found and before != job.test:
        was, now = (", ".join(test) or "training images" for test in (before, job.test))
        raise GlocalError(
            f"{job.folder} was measured on {was}, and this call measures on {now}; give the same --test as before, or "
            "another folder (--out)"
        )


def _apart(key: str, before: Any, now: Any) -> list[tuple[str, Any, Any]]:
    if isinstance(before, dict) and isinstance(now, dict):
        # What is not set is something else than null.
        sides = {path: (before.get(path, "not set"), now.get(path, "not set")) for path in {**before, **now}}
        return [(path, *both) for path, both in sides.items() if both[0] != both[1]]
    return [] if before == now else [(key, before, now)]
