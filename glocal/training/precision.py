"""The precision that training computes in, where the recipe leaves it to the machine."""

from __future__ import annotations

import time
from functools import cache
from typing import Literal

import torch
from torch import Tensor, nn

Precision = Literal["fp32", "bf16", "fp16"]

WORTHWHILE = 1.2  # gain below which rounding to eight bits buys too little
_TRIES = 8


def choose_precision(device: str, processes: int) -> tuple[Precision, str]:
    """What `train.precision=auto` stands for, and why.

    Weights stay in fp32; bf16 is what matrix products and convolutions compute in.

    Args:
        device: cpu, cuda or mps.
        processes: of the training. On CPUs each would measure for itself and they might not agree, so several
            processes take fp32.
    """
    if device == "cuda":
        if torch.cuda.is_bf16_supported(including_emulation=False):
            return "bf16", "this GPU computes in bf16"
        return "fp32", "this GPU has no bf16"
    if device != "cpu":
        return "fp32", f"bf16 is not tried on {device}"
    if processes > 1:
        return "fp32", "several processes on a CPU"
    gain = cpu_bf16_gain()
    if gain >= WORTHWHILE:
        return "bf16", f"this CPU trains {gain:.1f} times faster in it"
    return "fp32", f"bf16 would make this CPU's training {gain:.1f} times faster"


@cache
def cpu_bf16_gain() -> float:
    """How many times faster a training step is in bf16 than in fp32 on this CPU.

    Measured on a block of convolutions, normalisation and ReLU: it predicted the step of a ResNet-18 (1.6 measured, 1.6
    found) where products of matrices alone promised more, since normalisation is bound by memory. The two precisions
    take turns, so that other work on the machine slows both.
    """
    if not torch.backends.mkldnn.is_available():
        return 0.0  # the plain loops that would do it are many times slower
    with torch.random.fork_rng(devices=[]), torch.enable_grad():
        block = nn.Sequential(_convolution(), nn.BatchNorm2d(64), nn.ReLU(), _convolution())
        block = block.to(memory_format=torch.channels_last)
        images = torch.randn(4, 64, 32, 32).contiguous(memory_format=torch.channels_last).requires_grad_()
        seconds: dict[bool, list[float]] = {False: [], True: []}
        for _ in range(1 + _TRIES):  # the first one is not counted
            for rounded, taken in seconds.items():
                started = time.perf_counter()
                _step(block, images, rounded)
                taken.append(time.perf_counter() - started)
            if seconds[True][0] > 5 * seconds[False][0]:  # bf16 is emulated here, and slow to measure
                break
    return min(seconds[False][-_TRIES:]) / min(seconds[True][-_TRIES:])


def _convolution() -> nn.Conv2d:
    return nn.Conv2d(64, 64, 3, padding=1, bias=False)


def _step(block: nn.Module, images: Tensor, rounded: bool) -> None:
    with torch.autocast("cpu", torch.bfloat16, enabled=rounded):
        loss = block(images).float().sum()
    loss.backward()
