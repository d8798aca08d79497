"""Copies to the device and back that the host does not wait for."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

_NO_FLOAT64 = {"mps"}


def to_device(tensor: Tensor, device: torch.device, dtype: torch.dtype | None = None) -> Tensor:
    """The tensor on a device; a copy to a GPU goes through page-locked memory, in the order of its other work.

    From ordinary memory the host would wait until the GPU has done all that it was given before, in every step. Metal
    is waited for: it reads the tensor's memory later, when the tensor may be gone. So is every copy from a device.
    Metal has no float64: such a tensor becomes float32 there.
    """
    if device.type in _NO_FLOAT64 and (dtype or tensor.dtype) == torch.float64:
        dtype = widest(device)
    from_cpu = tensor.device.type == "cpu"
    if from_cpu and device.type == "cuda":
        tensor = tensor.pin_memory()
    return tensor.to(device, dtype, non_blocking=from_cpu and device.type not in ("cpu", "mps"))


def widest(device: torch.device) -> torch.dtype:
    """float64, or float32 on Metal, which has no float64."""
    return torch.float32 if device.type in _NO_FLOAT64 else torch.float64


def exact_device(device: torch.device | str) -> torch.device:
    """Where float64 is computed for tensors on `device`: there, or on the CPU where they are on Metal.

    >>> exact_device("mps")
    device(type='cpu')
    """
    found = torch.device(device)
    return torch.device("cpu") if found.type in _NO_FLOAT64 else found


def tensor_on(device: torch.device, values: Any, dtype: torch.dtype | None = None) -> Tensor:
    """Numbers as a tensor on a device, for which the host does not wait as it does for `torch.tensor(…, device=…)`.

    >>> tensor_on(torch.device("cpu"), [0.5, 0.25])
    tensor([0.5000, 0.2500])
    """
    return to_device(torch.tensor(values, dtype=dtype, device="cpu"), device)


def to_host(*tensors: Tensor) -> Callable[[], list[Tensor]]:
    """Starts copies of tensors to the host's memory.

    Returns:
        Gives the copies, when they are there: it waits for what a GPU was given before this call, not for later work.
    """
    if all(tensor.device.type != "cuda" for tensor in tensors):
        there = [tensor.cpu() for tensor in tensors]
        return lambda: there
    copies = [
        torch.empty(tensor.shape, dtype=tensor.dtype, pin_memory=True).copy_(tensor, non_blocking=True)
        for tensor in tensors
    ]
    events = [torch.cuda.Event() for _ in tensors]
    for event, tensor in zip(events, tensors, strict=True):
        event.record(torch.cuda.current_stream(tensor.device))

    def wait() -> list[Tensor]:
        for event in events:
            event.synchronize()
        return copies

    return wait
