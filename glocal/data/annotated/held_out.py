"""Images set aside for a choice: of learning rates, penalties, epochs."""

from __future__ import annotations

import torch
from torch import Tensor

from glocal.errors import GlocalError
from glocal.views.random import permutation


def hold_out(labels: Tensor, images: int, seed: int, *, instead: str = "a single value to choose from") -> Tensor:
    """Sets images aside at random, as many of each class as its share asks for.

    The numbers of the classes add up to `images`: each has its exact share rounded down, and those with the largest
    fractions get one more. Of every class at least one image is left.

    Args:
        labels: (N,) int64.
        images: how many to set aside.
        seed: of the draw.
        instead: what else can be given than --val, for the error.

    Returns:
        (N,) bool: the images that were set aside.

    Raises:
        GlocalError: no class has an image to spare.
    """
    count = torch.bincount(labels)
    exact = count.double() * images / max(1, len(labels))
    quota = exact.floor().long()
    more = (exact - quota).argsort(descending=True, stable=True)[: max(0, images - int(quota.sum()))]
    quota[more] += 1
    quota = torch.minimum(quota, (count - 1).clamp(min=0))
    if not bool(quota.any()):
        raise GlocalError(
            f"{len(labels)} images of {int((count > 0).sum())} classes are too few to hold some out for a choice; give "
            f"--val, or {instead}"
        )
    order = permutation(len(labels), seed, "held out")
    order = order[labels[order].argsort(stable=True)]  # by class, at random within each
    place = torch.arange(len(labels)) - (count.cumsum(0) - count)[labels[order]]  # in its class
    held = torch.zeros(len(labels), dtype=torch.bool)
    held[order] = place < quota[labels[order]]
    return held
