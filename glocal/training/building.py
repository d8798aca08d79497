"""What trains: a method with its optimisers, and the lane that feeds it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import torch
from lightning.fabric import Fabric
from timm.layers import convert_sync_batchnorm
from torch import Tensor, nn

from glocal.config import AnyRecipe
from glocal.data.lanes.choice import Lane, open_lane
from glocal.data.lanes.order import BatchOrder
from glocal.data.sources.base import Source
from glocal.methods.base import Method
from glocal.methods.building import build_method
from glocal.models.batch_norm import normalise_together
from glocal.models.weights import Weights
from glocal.training.images import ImageSet
from glocal.training.optimizers import build_optimizers
from glocal.training.sharded import shard
from glocal.views.plan import ViewPlan

M = TypeVar("M", bound=nn.Module)


@dataclass
class Training:
    """The parts of a training.

    Attributes:
        recipe: resolved.
        folder: the run's.
        fabric: devices, precision and processes.
        source: the images.
        images: what checkpoints know of them.
        order: which of them in which step.
        lane: makes their views.
        method: learns from these.
        optimizers: one for each phase of the method.
    """

    recipe: AnyRecipe
    folder: Path
    fabric: Fabric
    source: Source
    images: ImageSet
    order: BatchOrder
    lane: Lane
    method: Method
    optimizers: Mapping[str, torch.optim.Optimizer]


def batch_order(recipe: AnyRecipe, source: Source, fabric: Fabric) -> BatchOrder:
    """Which images make up which batch, for this process."""
    return BatchOrder(
        len(source),
        recipe.train.batch_size,
        recipe.seed,
        rank=fabric.global_rank,
        processes=fabric.world_size,
        parts=recipe.train.accumulate,
    )


def synchronised(method: M, device: torch.device) -> M:
    """Batch normalisation with the statistics of all processes' images, for a device.

    On GPUs by timm's conversion, for torch's drops the activation that timm's own layers apply (as in EfficientNets).
    """
    if device.type == "cuda":
        converted: M = convert_sync_batchnorm(method)
        return converted
    normalise_together(method)
    return method


def build(
    recipe: AnyRecipe,
    source: Source,
    order: BatchOrder,
    fabric: Fabric,
    folder: Path,
    *,
    weights: bool | Weights,
    progress: bool,
    held: Tensor | None = None,
) -> Training:
    """Builds all parts; the recipe's seed decides the first weights.

    Args:
        recipe, source, order, fabric, folder: of the run.
        weights: take pretrained ones where the recipe says so, which may be read already; they are not needed where a
            checkpoint follows.
        progress: show progress.
        held: the images, where a resident lane has read them before.

    Raises:
        GlocalError: the method does not work with the optimiser, or images cannot be read.
    """
    torch.manual_seed(recipe.seed)
    method = build_method(recipe, weights=weights)
    if fabric.world_size > 1:
        method = synchronised(method, fabric.device)
    sharded = recipe.train.sharded and fabric.world_size > 1
    if sharded:
        shard(method, fabric.device)
    lane = open_lane(
        source,
        recipe.data,
        ViewPlan(recipe.views or [], shared_geometry=recipe.data.shared_geometry),
        order,
        fabric.device,
        skipped_file=folder / "skipped.txt" if fabric.global_rank == 0 else None,
        progress=progress,
        held=held,
    )
    lane.partners = method.partners
    # On a GPU, fused kernels do not go with the clipping of scaled gradients; torch has no fused SGD of shards.
    fused = fabric.device.type == "cpu" or (fabric.device.type == "cuda" and recipe.train.precision != "fp16")
    fused = fused and not (sharded and recipe.optimizer.name == "sgd")
    optimizers = build_optimizers(method, recipe.optimizer, fused=fused)
    return Training(recipe, folder, fabric, source, ImageSet.of(source), order, lane, method, optimizers)
