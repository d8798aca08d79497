"""Copies to the device that the host does not wait for."""

from __future__ import annotations

import torch
from torch import Tensor


def to_device(tensor: Tensor, device: torch.device, dtype: torch.dtype | None = None) -> Tensor:
    """The tensor on a device; a copy to a GPU goes through page-locked memory, in the order of its other work.

    From ordinary memory the host would wait until the GPU has done all that it was given before, in every step. Metal
    is waited for: it reads the tensor's memory later, when the tensor may be gone. So is every copy from a device.
    """
    from_cpu = tensor.device.type == "cpu"
    if from_cpu and device.type == "cuda":
        tensor = tensor.pin_memory()
    return tensor.to(device, dtype, non_blocking=from_cpu and device.type not in ("cpu", "mps"))
