"""Weights in shards: of every parameter, gradient and optimiser state each process keeps its own rows only.

By torch's FSDP2 (`torch.distributed.fsdp.fully_shard`; Zhao et al., "PyTorch FSDP", VLDB 2023). A block of a vision
transformer is a unit: its weights are gathered before it computes and given up after, forwards and backwards, the
teacher's like the student's. What is in no block (patches, norms, heads) is a unit of its own, whole during a step.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any, TypeVar, cast

import torch
from lightning.fabric.strategies.ddp import DDPStrategy
from lightning.fabric.strategies.strategy import _BackwardSyncControl
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FSDPModule, fully_shard, register_fsdp_forward_method
from torch.distributed.tensor import DTensor, distribute_tensor

from glocal.config import AnyRecipe
from glocal.distributed import process_count, process_rank, whole_tensor
from glocal.errors import GlocalError
from glocal.methods.base import Method
from glocal.models.backbone import Backbone

T = TypeVar("T")


class ShardedStrategy(DDPStrategy):
    """Processes as for DDP, around a method that exchanges its weights and gradients by itself."""

    def __init__(self) -> None:
        super().__init__()
        self._backward_sync_control = _EveryPart()

    def setup_module(self, module: nn.Module) -> nn.Module:  # type: ignore[override]
        """The module as it is."""
        return module


class _EveryPart(_BackwardSyncControl):
    """Gradients of every part of a batch are exchanged: until the last part, they would be kept whole."""

    def no_backward_sync(self, module: nn.Module, enabled: bool) -> AbstractContextManager[None]:
        return nullcontext()


def check_sharded(method: Method, recipe: AnyRecipe) -> None:
    """Refuses what does not go with `train.sharded`.

    Raises:
        GlocalError: another network than a vision transformer, `train.compile`, fp16 or LARS.
    """
    if any(not isinstance(backbone.network, VisionTransformer) for backbone in _backbones(method)):
        raise GlocalError(
            f"train.sharded is for vision transformers, whose blocks are shared out, not for model.name="
            f"{recipe.model.name}; leave it out, or choose a vision transformer"
        )
    if recipe.train.compile:
        raise GlocalError("train.sharded does not go with train.compile; leave one of them out")
    if recipe.train.precision == "fp16":
        raise GlocalError("train.sharded does not go with train.precision=fp16; use bf16 or fp32")
    if recipe.optimizer.name == "lars":
        raise GlocalError("train.sharded does not go with optimizer.name=lars; use adamw or sgd")


def _backbones(method: Method) -> list[Backbone]:
    return [module for module in method.modules() if isinstance(module, Backbone)]


def shard(method: Method, device: torch.device) -> None:
    """Leaves of all parameters of a method this process' rows, on a device; buffers are whole and alike everywhere.

    Optimisers are built afterwards. The method is called as before, by all processes together; what calls its parts
    goes through `lent`.
    """
    mesh = init_device_mesh(device.type, (process_count(),))
    for backbone in _backbones(method):
        for block in cast(nn.Sequential, backbone.network.blocks):
            fully_shard(block, mesh=mesh)
    fully_shard(method, mesh=mesh)


def is_sharded(method: Method) -> bool:
    """Whether the method's weights lie in shards."""
    return isinstance(method, FSDPModule)


@torch.no_grad()
def lent(method: Method, function: Callable[[], T]) -> T:
    """What a function gives that calls parts of a method, without gradient.

    Where the method is sharded, all processes do it together, and call its blocks equally often.
    """
    if not isinstance(method, FSDPModule):
        return function()
    method.function = function  # type: ignore[assignment]
    register_fsdp_forward_method(method, "function")
    try:
        return method.function()  # type: ignore[operator, no-any-return]
    finally:
        del method.function
        method.reshard()


def whole(state: Any) -> Any:
    """A state with whole tensors in place of shards: on the CPU of the first process, None in the others.

    All processes come here together. One tensor is whole at a time.
    """
    if isinstance(state, DTensor):
        full = whole_tensor(state.detach())
        return full.to("cpu", copy=True) if process_rank() == 0 else None
    if isinstance(state, dict):
        return {key: whole(value) for key, value in state.items()}
    return [whole(value) for value in state] if isinstance(state, list) else state


def shard_like(value: Any, own: Any) -> Any:
    """This process' rows of a whole tensor where `own`, of the same shape, is in shards; anything else as it is."""
    if not isinstance(own, DTensor) or not isinstance(value, Tensor) or value.shape != own.shape:
        return value
    return distribute_tensor(value, own.device_mesh, own.placements, src_data_rank=None)  # all have read the same


def optimizer_state(state: dict[str, Any], optimizer: torch.optim.Optimizer) -> dict[str, Any]:
    """An optimiser's state out of a checkpoint, as its parameters lie; the kernel is this optimiser's own choice."""
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    found = {
        number: {key: shard_like(value, parameters[number]) for key, value in own.items()}
        for number, own in state["state"].items()
    }
    pairs = zip(state["param_groups"], optimizer.param_groups, strict=True)
    groups = [{**group, "fused": own["fused"]} if "fused" in own else group for group, own in pairs]
    return {**state, "state": found, "param_groups": groups}
