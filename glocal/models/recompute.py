"""Activations of vision transformers that are made again in the backward pass instead of being kept for it.

A block keeps about 17 numbers for each number of a token: its two sums, both normalised, queries, keys, values,
attention and its output, and four times the width before and after GELU. What comes out of the normalisations and of
GELU (6 of the 17) is one cheap pass away from what is kept anyway, so it is forgotten and made again where the
gradient of the linear layer behind it asks for it. Values are the same to the last bit, and so are gradients.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from timm.models.vision_transformer import Block
from torch import Tensor, nn
from torch.autograd.graph import saved_tensors_hooks


@dataclass(frozen=True)
class _Forgotten:
    """Stands for a tensor until the backward pass."""

    remake: Callable[[], Tensor]
    shape: torch.Size


@dataclass(frozen=True)
class _Kept:
    """A tensor and how often it was changed: autograd does not look after tensors that pass through hooks."""

    tensor: Tensor
    version: int

    @classmethod
    def of(cls, tensor: Tensor) -> _Kept:
        # Detached, for a node that held its own output would never be freed.
        return cls(tensor.detach(), tensor._version)

    def unchanged(self) -> Tensor:
        if self.tensor._version != self.version:
            shape = tuple(self.tensor.shape)
            raise RuntimeError(f"a tensor {shape} that the gradient needs was changed in place after the forward pass")
        return self.tensor


@contextmanager
def recomputing(network: nn.Module) -> Iterator[None]:
    """Inside, what autograd would keep of normalisations and activations in the network's blocks is made again later.

    Args:
        network: of its modules, those in blocks of timm's vision transformers are meant; others stay as they are.
    """
    made: dict[int, tuple[weakref.ref[Tensor], int, Callable[[], Tensor]]] = {}  # by address

    def note(module: nn.Module, given: tuple[Tensor], output: Tensor) -> Tensor:
        device = output.device.type
        rounded = torch.is_autocast_enabled(device)
        dtype = torch.get_autocast_dtype(device) if rounded else output.dtype
        rows, weights = _Kept.of(given[0]), [_Kept.of(weight) for weight in module.parameters()]

        def remake() -> Tensor:
            for weight in weights:
                weight.unchanged()
            with torch.no_grad(), torch.autocast(device, dtype, enabled=rounded):
                return module.forward(rows.unchanged()).to(dtype)  # type: ignore[no-any-return]

        output = output.to(dtype)  # the linear layer behind it would round it, and keep that
        made[output.data_ptr()] = (weakref.ref(output), output._version, remake)
        return output

    def forget(saved: Tensor) -> _Kept | _Forgotten:
        reference, version, remake = made.get(saved.data_ptr(), (None, 0, None))
        output = reference() if reference else None
        # An address is used again once its tensor is gone; a tensor that was changed cannot be made again.
        same = output is not None and output._version == version and output.dtype == saved.dtype
        if remake is None or output is None or not same or output.numel() != saved.numel() or not saved.is_contiguous():
            return _Kept.of(saved)
        return _Forgotten(remake, saved.shape)

    def remember(saved: _Kept | _Forgotten) -> Tensor:
        return saved.unchanged() if isinstance(saved, _Kept) else saved.remake().view(saved.shape)

    blocks = [block for block in network.modules() if isinstance(block, Block)]
    modules = [module for block in blocks for module in (block.norm1, block.norm2, getattr(block.mlp, "act", None))]
    handles = [module.register_forward_hook(note) for module in modules if module is not None]
    try:
        with saved_tensors_hooks(forget, remember):
            yield
    finally:
        for handle in handles:
            handle.remove()
        made.clear()  # the graph holds this function; through what is noted here it would hold itself
