"""Which images make up which batch: a pure function of the seed and the step."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache

import torch
from torch import Tensor

from glocal.errors import GlocalError
from glocal.views.random import permutation, permuted

# Images up to which an epoch's order is made as a whole, 8 bytes an image: so every run up to here was begun. Beyond
# them only what a batch needs is computed, which takes the same memory for any number of images.
_MADE_WHOLE = 1 << 24


@lru_cache(maxsize=2)
def _whole_order(length: int, seed: int, epoch: int) -> Tensor:
    return permutation(length, seed, "shuffle", epoch)


def _order(length: int, seed: int, epoch: int, places: range) -> Tensor:
    """The images (B,) at consecutive places of an epoch's order."""
    if length <= _MADE_WHOLE:
        return _whole_order(length, seed, epoch)[places.start : places.stop]
    return permuted(torch.arange(places.start, places.stop), length, seed, "shuffle", epoch)


def check_shares(batch_size: int, processes: int, parts: int) -> None:
    """Raises GlocalError where a batch cannot be shared out evenly over processes and parts of their steps."""
    shares = processes * parts
    if batch_size % shares:
        below = batch_size // shares * shares
        near = f"{below} or {below + shares}" if below else f"{shares}"
        raise GlocalError(
            f"train.batch_size={batch_size} must be a multiple of train.devices={processes} x "
            f"train.accumulate={parts}: take {near}"
        )


@dataclass(frozen=True)
class BatchOrder:
    """The order of the images over a training.

    Each epoch is a new permutation; what does not fill a batch at its end is left out. The global batch of a step is
    the same for any number of processes and parts, which take consecutive shares of it. Above 2²⁴ images nothing is
    held but the batch.

    Attributes:
        length: images in the source.
        batch_size: images in an optimiser step.
        seed: the run's seed.
        rank, processes: this process, and how many there are.
        parts: batches in which a process works off its share of a step (gradient accumulation).
    """

    length: int
    batch_size: int
    seed: int
    rank: int = 0
    processes: int = 1
    parts: int = 1

    def __post_init__(self) -> None:
        if self.batch_size > self.length:
            raise GlocalError(f"train.batch_size is {self.batch_size}, but there are only {self.length} images")
        check_shares(self.batch_size, self.processes, self.parts)

    @property
    def steps_per_epoch(self) -> int:
        """Optimiser steps in an epoch."""
        return self.length // self.batch_size

    @property
    def share(self) -> int:
        """Images in one of this process' parts of a step."""
        return self.batch_size // (self.processes * self.parts)

    def batches(self, first_step: int, last_step: int) -> Iterator[tuple[int, Tensor]]:
        """For each step from `first_step` up to `last_step` (excluded), `parts` times (epoch, indices (share,))."""
        for step in range(first_step, last_step):
            epoch, place = divmod(step, self.steps_per_epoch)
            start = place * self.batch_size + self.rank * self.share * self.parts
            for part in range(self.parts):
                first = start + part * self.share
                yield epoch, _order(self.length, self.seed, epoch, range(first, first + self.share))
