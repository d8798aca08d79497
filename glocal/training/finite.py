"""What has become infinite or no number: losses, weights, and the rest of a training's state."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor

from glocal.distributed import all_objects, own_part
from glocal.errors import GlocalError
from glocal.methods.base import Method


class NonFiniteLossError(GlocalError):
    """The loss, or another part of a training's state, became infinite or no number.

    Attributes:
        what: in words.
        mend: what to do, in words.
        step: the first step whose loss was so, counted from 1; None where it was something else.
    """

    def __init__(self, what: str, mend: str, step: int | None = None) -> None:
        super().__init__(f"{what}; {mend}")
        self.what = what
        self.mend = mend
        self.step = step

    def because(self, why: str) -> NonFiniteLossError:
        """The same with where it comes from."""
        return NonFiniteLossError(f"{self.what}; {why}", self.mend, self.step)


def check_losses(losses: Tensor, done: int, saved: str) -> None:
    """Raises NonFiniteLossError at the first of the losses (steps, P) of the steps up to `done` that is no number.

    Args:
        saved: the name of the last checkpoint.
    """
    bad = (~losses.isfinite()).nonzero()  # (step, phase) of each
    if len(bad) > 0:
        step, value = done - len(losses) + int(bad[0, 0]) + 1, float(losses[tuple(bad[0])])
        raise NonFiniteLossError(f"the loss is {value} at step {step}", remedy(saved), step)


def check_state(
    method: Method,
    optimizers: Mapping[str, torch.optim.Optimizer],
    done: int,
    saved: str,
    known: Collection[str] = (),
) -> None:
    """Raises NonFiniteLossError where a part of what a checkpoint holds is no number, from which nothing can go on.

    Several processes come here together, and raise together.

    Args:
        known: parts that were so from the start, as bounds that a network keeps among its buffers.
    """
    bad = [name for name in not_finite(method, optimizers) if name not in known]
    bad = next((names for names in all_objects(bad) if names), [])  # shards of others as well, so that all end
    if bad:
        more = "" if len(bad) == 1 else f" (and {len(bad) - 1} more)"
        raise NonFiniteLossError(f"{bad[0]}{more} is infinite or no number after step {done}", remedy(saved))


def remedy(saved: str) -> str:
    """What to do, in words."""
    return f"the last good checkpoint is {saved}; try a smaller optimizer.lr, train.clip_norm=1 or train.precision=fp32"


@torch.no_grad()
def not_finite(method: Method, optimizers: Mapping[str, torch.optim.Optimizer]) -> list[str]:
    """The names of the tensors of the state that hold what is infinite or no number; waits once for the device."""
    by_device: dict[torch.device, dict[str, Tensor]] = {}
    for name, tensor in named_state(method, optimizers):
        by_device.setdefault(tensor.device, {})[name] = tensor
    found = []
    for named in by_device.values():
        found += [
            name for name, good in zip(named, _are_finite(list(named.values())).tolist(), strict=True) if not good
        ]
    return found


@torch.no_grad()
def all_finite(method: Method, optimizers: Mapping[str, torch.optim.Optimizer], device: torch.device) -> Tensor:
    """Whether all of the state that lies on a device is finite: a scalar there, for which nothing waits."""
    return _are_finite([its for _, its in named_state(method, optimizers) if its.device == device]).all()


def _are_finite(tensors: list[Tensor]) -> Tensor:
    """Of each, (n,): by its largest value, so that memory is read once and nothing as large as a tensor is made."""
    return torch.stack([largest.isfinite() for largest in torch._foreach_norm(tensors, torch.inf)])


def named_state(method: Method, optimizers: Mapping[str, torch.optim.Optimizer]) -> Iterator[tuple[str, Tensor]]:
    """Weights, buffers and what else a method keeps, and what optimisers remember: all that could be infinite."""
    yield from _tensors("", method.state_dict())
    names: dict[Tensor, str] = {parameter: name for name, parameter in method.named_parameters()}
    for optimizer in optimizers.values():
        for parameter, memory in optimizer.state.items():
            for key, value in memory.items():
                yield from _tensors(f"the optimiser's {key} of {names[parameter]}", value)


def _tensors(name: str, state: Any) -> Iterator[tuple[str, Tensor]]:
    if isinstance(state, Tensor):
        state = own_part(state)
        if state.is_floating_point() and state.numel():
            yield name, state
    elif isinstance(state, Mapping):
        for key, value in state.items():
            yield from _tensors(f"{name}.{key}".removeprefix("."), value)
    elif isinstance(state, list | tuple):
        for number, value in enumerate(state):
            yield from _tensors(f"{name}.{number}", value)
