"""What makes float64 on a device."""

from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode


class Wide(TorchDispatchMode):
    """Notes what makes float64 on a device: Metal, which is not here, has none."""

    def __init__(self, device: str) -> None:
        super().__init__()
        self.device = torch.device(device)
        self.made: list[str] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        if isinstance(result, Tensor) and result.device == self.device and result.dtype == torch.float64:
            self.made.append(str(func))
        return result
