"""What probes on frozen features share: measures of accuracy, held-out images, standardised features."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from glocal.errors import GlocalError
from glocal.views.random import permutation

Metric = Literal["top1", "mean_per_class"]


def accuracies(scores: Tensor, labels: Tensor) -> dict[str, float]:
    """Accuracies in percent of the highest scores.

    Args:
        scores: (M, C).
        labels: (M,) int64.

    Returns:
        top1; mean_per_class, the mean over the classes in `labels` of the accuracy on each; and top5 with more than
        five classes.
    """
    labels = labels.to(scores.device)
    right = scores.argmax(dim=1) == labels
    found = {"top1": 100 * float(right.double().mean()), "mean_per_class": 100 * mean_per_class(right, labels)}
    if scores.shape[1] > 5:
        five = scores.topk(5, dim=1).indices
        found["top5"] = 100 * float((five == labels[:, None]).any(dim=1).double().mean())
    return found


def mean_per_class(right: Tensor, labels: Tensor) -> float:
    """The mean over the classes that `labels` (M,) holds of the share of `right` (M,) bool among their images."""
    count = torch.bincount(labels).double()
    share = torch.bincount(labels, weights=right.double()) / count
    return float(share[count > 0].mean())


def hold_out(labels: Tensor, images: int, seed: int) -> Tensor:
    """Sets images aside at random, as many of each class as its share asks for.

    The numbers of the classes add up to `images`: each has its exact share rounded down, and those with the largest
    fractions get one more. Of every class at least one image is left.

    Args:
        labels: (N,) int64.
        images: how many to set aside.
        seed: of the draw.

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
            "--val, or a single value to choose from"
        )
    order = permutation(len(labels), seed, "held out")
    order = order[labels[order].argsort(stable=True)]  # by class, at random within each
    place = torch.arange(len(labels)) - (count.cumsum(0) - count)[labels[order]]  # in its class
    held = torch.zeros(len(labels), dtype=torch.bool)
    held[order] = place < quota[labels[order]]
    return held


def moments(features: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and deviation of each feature, (D,) and (D,); the deviation of constant features is 1.

    Args:
        features: (N, D).
    """
    mean, deviation = features.mean(dim=0), features.std(dim=0, unbiased=False)
    return mean, torch.where(deviation > 1e-6 * deviation.max(), deviation, 1.0)
