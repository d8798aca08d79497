"""Losses on their way from the device to the log, which nothing waits for."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from glocal.distributed import all_mean
from glocal.training.clock import DeviceClock


@dataclass(frozen=True)
class Line:
    """What the log says about some steps.

    Attributes:
        step: the last of them, counted from 1.
        losses: (steps, P) of each phase, on the CPU.
        images_per_second: over these steps, without measurements and checkpoints between them.
        settings: of the optimiser, after the last one.
    """

    step: int
    losses: Tensor
    images_per_second: float
    settings: Mapping[str, float]

    def numbers(self, phases: Sequence[str], steps_per_epoch: int) -> dict[str, float]:
        """The columns of metrics.csv: the last phase's loss is the loss, those before it have their names."""
        means = self.losses.mean(dim=0).tolist()
        return {
            "epoch": self.step / steps_per_epoch,
            "loss": means[-1],
            **{f"loss_{name}": mean for name, mean in zip(phases[:-1], means, strict=False)},
            **self.settings,
            "images_per_second": self.images_per_second,
        }


class LossMeter:
    """Collects the losses of steps and hands them over when they have come from the device.

    A GPU is given several steps of work in advance; a loss that is read at once would have the host wait for all of it,
    and the GPU then for the host. So losses are copied in the order of the GPU's work, and read when an event says that
    they are there. Time is the device's own, between the last steps of two lines, without what was done `apart`.

    Args:
        device: where losses are.
        images: of a step.
        first_step: steps done before.
    """

    def __init__(self, device: torch.device, images: int, first_step: int = 0) -> None:
        self.images = images
        self._read = first_step
        self._on_gpu = device.type == "cuda"
        self._clock = DeviceClock(device)
        self._losses: list[Tensor] = []
        self._sent: deque[tuple[int, Tensor, Any, list[tuple[Any, Any]], Mapping[str, float]]] = deque()
        self._before = self._clock.now()
        self._apart: list[tuple[Any, Any]] = []  # since the last line that was sent

    @contextmanager
    def apart(self) -> Iterator[None]:
        """What is done inside is no training: its time does not count."""
        start = self._clock.now()
        yield
        self._apart.append((start, self._clock.now()))

    def add(self, losses: Tensor) -> None:
        """Takes a step's losses (P,), detached, as they are on the device."""
        self._losses.append(losses)

    def send(self, step: int, settings: Mapping[str, float]) -> None:
        """Starts the copy of what was added since the last call; `step` is the last one."""
        if not self._losses:
            return
        losses = all_mean(torch.stack(self._losses).float())  # so that all processes log, and judge, the same
        self._losses.clear()
        if self._on_gpu:
            losses = torch.empty(losses.shape, pin_memory=True).copy_(losses, non_blocking=True)
        else:
            losses = losses.cpu()
        self._sent.append((step, losses, self._clock.now(), self._apart, settings))
        self._apart = []

    def unread(self) -> Iterator[tuple[int, Tensor]]:
        """(step, losses) of all steps that `arrived` has not given, (steps, P) up to that step; waits for the device.

        They stay where they are: no line of the log becomes shorter for it.
        """
        step = self._read
        for last, losses, sent, _, _ in self._sent:
            if self._on_gpu:
                sent.synchronize()
            yield last, losses
            step = last
        if self._losses:
            yield step + len(self._losses), all_mean(torch.stack(self._losses).float()).cpu()

    def arrived(self, *, wait: bool) -> Iterator[Line]:
        """The lines that have come, in their order; with `wait` all that were sent."""
        while self._sent:
            step, losses, sent, others, settings = self._sent[0]
            if self._on_gpu and not wait and not sent.query():
                return
            self._sent.popleft()
            self._read = step
            seconds = self._clock.seconds(self._before, sent)
            seconds -= sum(self._clock.seconds(start, end) for start, end in others)
            self._before = sent
            yield Line(step, losses, self.images * len(losses) / max(1e-9, seconds), settings)
