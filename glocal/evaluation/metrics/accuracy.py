"""What probes on frozen features share: measures of accuracy, standardised features."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

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
    right = (scores.argmax(dim=1) == labels).cpu()
    found = {"top1": 100 * float(right.double().mean()), "mean_per_class": 100 * mean_per_class(right, labels.cpu())}
    if scores.shape[1] > 5:
        five = scores.topk(5, dim=1).indices
        found["top5"] = 100 * float((five == labels[:, None]).any(dim=1).cpu().double().mean())
    return found


def mean_per_class(right: Tensor, labels: Tensor) -> float:
    """The mean over the classes that `labels` (M,) holds of the share of `right` (M,) bool among their images.

    >>> mean_per_class(torch.tensor([True, True, True, False]), torch.tensor([0, 0, 0, 2]))
    0.5
    """
    count = torch.bincount(labels).double()
    share = torch.bincount(labels, weights=right.double()) / count
    return float(share[count > 0].mean())


def moments(features: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and deviation of each feature, (D,) and (D,); the deviation of constant features is 1.

    Args:
        features: (N, D).
    """
    mean, deviation = features.mean(dim=0), features.std(dim=0, unbiased=False)
    return mean, torch.where(deviation > 1e-6 * deviation.max(), deviation, 1.0)
