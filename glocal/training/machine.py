"""A training on this machine: its devices and processes, and modules that compute well there."""

from __future__ import annotations

import atexit
import inspect
import os
from collections.abc import Iterator
from contextlib import contextmanager
from threading import Timer
from typing import Any

import torch
from lightning.fabric import Fabric
from lightning.fabric.strategies.ddp import DDPStrategy
from timm.models.vision_transformer import VisionTransformer
from torch.nn.parallel import DistributedDataParallel

from glocal.config import AnyRecipe, TrainSettings
from glocal.console import warn
from glocal.data.sources.base import Source
from glocal.distributed import leave, meet_again, process_count
from glocal.errors import GlocalError
from glocal.memory import keep_freed_memory
from glocal.methods.base import Method
from glocal.models.attention import use_plain_attention
from glocal.models.backbone import Backbone
from glocal.models.linear import blas_is_slow, use_onednn
from glocal.models.loading import choose_device
from glocal.models.strided import use_exact_strides
from glocal.training.sharded import ShardedStrategy, is_sharded

_ALONE = 20.0  # seconds, after which a process that waits for others says so
_PRECISION = {"fp32": "32-true", "bf16": "bf16-mixed", "fp16": "16-mixed"}


def is_first_process(processes: int) -> bool:
    """Whether this is the process that speaks and writes, or the one that will start the others (`launch`).

    Args:
        processes: of the training. One alone is no part of what a batch system started, whatever its number there is.
    """
    return processes == 1 or all(
        int(os.environ.get(name, "0")) == 0 for name in ("LOCAL_RANK", "NODE_RANK", "RANK", "SLURM_PROCID")
    )


def as_launched(recipe: AnyRecipe) -> AnyRecipe:
    """The recipe with as many devices and machines as torchrun has started processes on; else as it is.

    Whatever the recipe says: it may be that of a run which began with other processes.

    Raises:
        GlocalError: machines have different numbers of processes.
    """
    if "TORCHELASTIC_RUN_ID" not in os.environ:
        return recipe
    here, everywhere = int(os.environ["LOCAL_WORLD_SIZE"]), int(os.environ["WORLD_SIZE"])
    if everywhere % here:
        raise GlocalError(
            f"torchrun has started {everywhere} processes, {here} of them on this machine; give every machine the same "
            "--nproc-per-node"
        )
    train = recipe.train.model_copy(update={"devices": here, "machines": everywhere // here})
    return recipe.model_copy(update={"train": train})


def launch(recipe: AnyRecipe, *, several_updates: bool = False) -> Fabric:
    """Starts the processes that the recipe asks for, each with its device and precision.

    Args:
        recipe: resolved.
        several_updates: a step has several updates, each of which moves some of the parameters only.

    Raises:
        GlocalError: the machine has no such devices, or they cannot compute in that precision.
    """
    fabric = _fabric(recipe, several_updates)
    alone = process_count() == 1
    if recipe.train.processes > 1:
        meet_again(fabric.strategy._get_process_group_backend())  # type: ignore[attr-defined]
    with _told_if_alone(recipe):
        fabric.launch()
    if alone and process_count() > 1:
        atexit.register(leave)
    if fabric.device.type == "cpu" and recipe.train.keep_memory:
        keep_freed_memory()
    return fabric


@contextmanager
def _told_if_alone(recipe: AnyRecipe) -> Iterator[None]:
    """Says what is waited for, where the other processes of a training do not come for some time."""
    place = f"{os.environ.get('MASTER_ADDR', 'this machine')}:{os.environ.get('MASTER_PORT', 'any port')}"
    words = (
        f"still waiting for {recipe.train.processes} processes (train.devices={recipe.train.devices}, "
        f"train.machines={recipe.train.machines}) to meet at {place}; torchrun or srun starts them on every machine"
    )
    timer = Timer(_ALONE, warn, [words])
    timer.daemon = True
    if recipe.train.processes > 1:
        timer.start()
    try:
        yield
    finally:
        timer.cancel()


def _fabric(recipe: AnyRecipe, several_updates: bool) -> Fabric:
    device = choose_device(recipe.train.device)
    if recipe.train.precision == "fp16" and device == "cpu":
        raise GlocalError("train.precision=fp16 needs a GPU; on a CPU use bf16 or fp32")
    if device == "cuda" and recipe.train.devices > torch.cuda.device_count():
        raise GlocalError(f"train.devices={recipe.train.devices}, but {torch.cuda.device_count()} GPUs are visible")
    # A backbone that stands still at first has no gradients, for which the processes would wait.
    some = several_updates or recipe.train.freeze_backbone_epochs > 0
    # Buffers are alike in all processes, which compute them from the rows of all.
    named = inspect.signature(DistributedDataParallel.__init__).parameters  # newer versions of torch renamed it
    still = {"forward_sync_buffers" if "forward_sync_buffers" in named else "broadcast_buffers": False}
    whole = DDPStrategy(find_unused_parameters=some, **still)  # type: ignore[arg-type]
    several = ShardedStrategy() if recipe.train.sharded else whole
    strategy: Any = several if recipe.train.processes > 1 else "auto"
    return Fabric(
        accelerator=device,
        devices=recipe.train.devices,
        num_nodes=recipe.train.machines,
        strategy=strategy,
        precision=_PRECISION[recipe.train.precision],  # type: ignore[arg-type]
    )


def suit_to_machine(method: Method, settings: TrainSettings, device: torch.device) -> Method:
    """Lets a method's modules compute as fast, and keep as little, as the settings and the device allow."""
    if settings.channels_last and not is_sharded(method):
        method = method.to(memory_format=torch.channels_last)
    if device.type == "cpu" and not settings.compile and blas_is_slow():
        use_onednn(method)
    if device.type == "cpu" and not settings.compile and settings.precision == "bf16":
        use_plain_attention(method)
    if device.type == "cpu" and settings.precision == "bf16":
        use_exact_strides(method)
    for module in method.modules():
        if isinstance(module, Backbone):
            module.recompute = settings.recompute is True
            if settings.recompute == "blocks" and isinstance(module.network, VisionTransformer):
                module.network.set_grad_checkpointing()
            if settings.compile:
                module.compile(dynamic=False)  # batches keep their size: a graph for each resolution, no recompiling
    return method


def place(method: Method, source: Source, device: torch.device) -> None:
    """Puts a method on the device of its training, with the labels that it learns from."""
    method.to(device)
    if method.needs_labels and source.labels is not None:
        method.labels = source.labels.to(device)
