"""A run's folder: made for a new run, checked when one is continued."""

from __future__ import annotations

import json
import platform
from pathlib import Path
from typing import Any, Literal

import torch
import yaml

import glocal
from glocal.checkpoints import newest_checkpoint
from glocal.config import AnyRecipe
from glocal.errors import GlocalError
from glocal.files import write_text
from glocal.training.flat import flatten

Resume = Literal["auto", "must", "never"]

# Settings that may differ when a run is continued: they decide where and how fast it runs, not what comes out.
_FREE = {
    "data.workers",
    "data.lane",
    "data.resident_megabytes",
    "data.broken_limit",
    "train.device",
    "train.log_steps",
    "train.checkpoint_minutes",
    "train.checkpoint_steps",
    "train.keep_checkpoints",
    "train.compile",
    "train.channels_last",
    "train.keep_memory",
    "train.recompute",
}


def prepare_folder(folder: Path, recipe: AnyRecipe, resume: Resume) -> dict[str, Any] | None:
    """Makes the run's folder, or checks that the run in it is this one; returns its newest checkpoint."""
    written = folder / "recipe.yaml"
    if folder.exists() and not folder.is_dir():
        raise GlocalError(f"{folder} is a file; give a folder for the run")
    if not written.exists():
        if resume == "must":
            raise GlocalError(f"there is no run in {folder} to continue")
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise GlocalError(f"{folder} cannot be made: {error.strerror}") from error
        write_text(written, recipe.to_yaml())
        about = {
            "glocal": glocal.__version__,
            "torch": str(torch.__version__),
            "python": platform.python_version(),
            "machine": platform.platform(),
        }
        write_text(folder / "environment.json", json.dumps(about, indent=2) + "\n")
        return None
    if resume == "never":
        raise GlocalError(f"there is a run in {folder} already; choose another folder, or --resume auto to continue it")
    before = flatten(yaml.safe_load(written.read_text(encoding="utf-8")))
    now = flatten(yaml.safe_load(recipe.to_yaml()))
    changed = [key for key in sorted(before.keys() | now.keys()) if before.get(key) != now.get(key)]
    changed = [key for key in changed if key not in _FREE]
    if changed:
        listed = ", ".join(f"{key} was {before.get(key)}, is {now.get(key)}" for key in changed[:3])
        more = f" and {len(changed) - 3} more" if len(changed) > 3 else ""
        raise GlocalError(f"the run in {folder} has other settings: {listed}{more}; choose another folder (--out)")
    return newest_checkpoint(folder / "checkpoints")
