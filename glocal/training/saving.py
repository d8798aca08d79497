"""The state of a training on the disk, and back."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch

import glocal
from glocal.checkpoints import load_weights, save_checkpoint
from glocal.distributed import first_decides
from glocal.errors import GlocalError, shortened
from glocal.training.building import Training
from glocal.training.sharded import optimizer_state, shard_like, whole


def restore(state: Mapping[str, Any], training: Training) -> None:
    """Puts a training where a checkpoint stands.

    Raises:
        GlocalError: the checkpoint is of another model.
    """
    missing = [key for key in ("optimizers", "precision", "rng") if key not in state]
    if missing:
        raise GlocalError(f"the checkpoint in {training.folder} has no {missing[0]}: no training can go on from it")
    own = training.method.state_dict()
    weights = {name: shard_like(value, own.get(name)) for name, value in state["method"].items()}
    load_weights(training.method, weights, what=str(training.folder))
    fabric = training.fabric
    # Before the optimisers: they load their states to where parameters lie, and nothing moves these afterwards.
    training.method.to(fabric.device)
    try:
        for phase, optimizer in training.optimizers.items():
            optimizer.load_state_dict(optimizer_state(state["optimizers"][phase], optimizer))
        fabric.strategy.precision.load_state_dict(state["precision"])
        torch.set_rng_state(state["rng"])
        if fabric.device.type == "cuda" and "cuda_rng" in state:
            torch.cuda.set_rng_state(state["cuda_rng"], fabric.device)
    except (KeyError, ValueError, TypeError, AttributeError, RuntimeError) as error:
        why = f"{type(error).__name__}: {shortened(str(error))}"
        raise GlocalError(f"the checkpoint in {training.folder} does not fit this training ({why})") from error


def save(training: Training, step: int, before: Callable[[], object] = lambda: None) -> str:
    """Writes a checkpoint after `step` steps, in the first process only; returns its name.

    All processes come here together: what lies in shards is gathered, so that the file is that of one process.

    Args:
        training: as it stands.
        step: that it has done.
        before: is called in the first process before it writes.

    Raises:
        GlocalError: it could not be written; in all processes.
    """
    recipe, method, fabric = training.recipe, training.method, training.fabric
    weights = whole(method.state_dict())
    optimizers = {phase: whole(optimizer.state_dict()) for phase, optimizer in training.optimizers.items()}

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

    def write() -> str:
        before()
        return str(save_checkpoint(training.folder / "checkpoints", state, keep=recipe.train.keep_checkpoints))

    return first_decides(write)
