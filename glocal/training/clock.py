"""The time of a device: of a GPU that of its own work, which the host need not wait for."""

from __future__ import annotations

import time
from typing import Any

import torch


class DeviceClock:
    """Moments in a device's work, and the seconds between them.

    Args:
        device: a GPU's moments are events in its stream; elsewhere they are those of the host.
    """

    def __init__(self, device: torch.device) -> None:
        self._on_gpu = device.type == "cuda"

    def now(self) -> Any:
        """The moment at which the device is done with what it was given so far."""
        if not self._on_gpu:
            return time.perf_counter()
        event = torch.cuda.Event(enable_timing=True)
        event.record()
        return event

    def seconds(self, start: Any, end: Any) -> float:
        """From one moment to a later one; waits for the device where that has not come."""
        if not self._on_gpu:
            return float(end - start)
        end.synchronize()
        return float(start.elapsed_time(end)) / 1000
