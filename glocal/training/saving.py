"""The state of a training on the disk, and back."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

import glocal
from glocal.checkpoints import load_weights, save_checkpoint
from glocal.training.building import Training
from glocal.training.sharded import optimizer_state, shard_like, whole


def restore(state: Mapping[str, Any], training: Training) -> None:
    """Puts a training where a checkpoint stands.

    Raises:
        GlocalError: the checkpoint is of another model.
    """
    own = training.method.state_dict()
    weights = {name: shard_like(value, own.get(name)) for name, value in state["method"].items()}
    load_weights(training.method, weights, what=str(training.folder))
    for phase, optimizer in training.optimizers.items():
        optimizer.load_state_dict(optimizer_state(state["optimizers"][phase], optimizer))
    fabric = training.fabric
    fabric.strategy.precision.load_state_dict(state["precision"])
    torch.set_rng_state(state["rng"])
    if fabric.device.type == "cuda" and "cuda_rng" in state:
        torch.cuda.set_rng_state(state["cuda_rng"], fabric.device)


def save(training: Training, step: int) -> str:
    """Writes a checkpoint after `step` steps, in the first process only; returns its name.

    All processes come here together: what lies in shards is gathered, so that the file is that of one process.
    """
    recipe, method, fabric = training.recipe, training.method, training.fabric
    weights = whole(method.state_dict())
    optimizers = {phase: whole(optimizer.state_dict()) for phase, optimizer in training.optimizers.items()}
    if fabric.global_rank != 0:
        return f"checkpoints/step-{step:09d}.pt"
    state = {
        "step": step,
        "recipe": recipe.to_yaml(),
        "images": training.images.state(),
        "evaluated": method.evaluated,
        "method": weights,
        "optimizers": optimizers,
        "precision": fabric.strategy.precision.state_dict(),
        "rng": torch.get_rng_state(),
        "versions": {"glocal": glocal.__version__, "torch": str(torch.__version__)},
    }
    if fabric.device.type == "cuda":
        state["cuda_rng"] = torch.cuda.get_rng_state(fabric.device)
    return str(save_checkpoint(training.folder / "checkpoints", state, keep=recipe.train.keep_checkpoints))
