"""The state of a training on the disk, and back."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

import glocal
from glocal.checkpoints import load_weights, save_checkpoint
from glocal.training.building import Training


def restore(state: Mapping[str, Any], training: Training) -> None:
    """Puts a training where a checkpoint stands.

    Raises:
        GlocalError: the checkpoint is of another model.
    """
    load_weights(training.method, state["method"], what=str(training.folder))
    for phase, optimizer in training.optimizers.items():
        optimizer.load_state_dict(state["optimizers"][phase])
    fabric = training.fabric
    fabric.strategy.precision.load_state_dict(state["precision"])
    torch.set_rng_state(state["rng"])
    if fabric.device.type == "cuda" and "cuda_rng" in state:
        torch.cuda.set_rng_state(state["cuda_rng"], fabric.device)


def save(training: Training, step: int) -> str:
    """Writes a checkpoint after `step` steps, in the first process only; returns its name."""
    recipe, method, fabric = training.recipe, training.method, training.fabric
    if fabric.global_rank != 0:
        return f"checkpoints/step-{step:09d}.pt"
    state = {
        "step": step,
        "recipe": recipe.to_yaml(),
        "images": training.images.state(),
        "evaluated": method.evaluated,
        "method": method.state_dict(),
        "optimizers": {phase: optimizer.state_dict() for phase, optimizer in training.optimizers.items()},
        "precision": fabric.strategy.precision.state_dict(),
        "rng": torch.get_rng_state(),
        "versions": {"glocal": glocal.__version__, "torch": str(torch.__version__)},
    }
    if fabric.device.type == "cuda":
        state["cuda_rng"] = torch.cuda.get_rng_state(fabric.device)
    return str(save_checkpoint(training.folder / "checkpoints", state, keep=recipe.train.keep_checkpoints))
