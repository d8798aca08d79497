"""How targets over prototypes differ from image to image: whether they teach anything."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

_TOLD_APART = 1e-3  # nats; the targets of healthy trainings tell 0.05 and more
_FEW = 2.5  # prototypes
_MANY = 30  # of so many prototypes more than a few are in use


class Targets(NamedTuple):
    """How targets over prototypes differ from image to image.

    Attributes:
        information: nats that a target tells of its image, the entropy of the mean target less the mean entropy of
            each: 0 where all are the same, and at most log of the number of images.
        used: exp of the entropy of the mean target: how many prototypes are in use, from 1 to K.
        prototypes: K.
    """

    information: float
    used: float
    prototypes: int

    @classmethod
    def of(cls, mean: float, each: float, prototypes: int) -> Targets:
        """From the two `entropies` of the targets over so many prototypes."""
        return cls(max(0.0, mean - each), math.exp(mean), prototypes)

    @property
    def collapsed(self) -> bool:
        """Whether the targets are the same for all images, or lie on a few prototypes of many."""
        return self.information < _TOLD_APART or (self.used < _FEW and self.prototypes >= _MANY)

    @property
    def spread_out(self) -> bool:
        """Whether most prototypes have a share, so that targets which are the same are too soft."""
        return self.used > self.prototypes / 2

    def __str__(self) -> str:
        used = f"{self.used:.1f} of {self.prototypes:,} prototypes are in use"
        return f"{used}, and {self.information:.1g} nats tell one image's from another's"


def entropies(assigned: Tensor) -> Tensor:
    """The entropy of the mean row and the mean entropy of the rows, in nats, of rows (R, K) that sum to 1: (2,)."""
    assigned = assigned.float()
    mean = assigned.mean(dim=0)
    return -torch.stack([torch.xlogy(mean, mean).sum(), torch.xlogy(assigned, assigned).sum(dim=1).mean()])
