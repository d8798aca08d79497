"""Average precision of scores for several classes at once, as scikit-learn, VOC 2007 and VOC 2010 define it.

An image's score is a threshold: images with equal scores are found together, so the order in which they happen to
stand does not matter. Where no scores are equal, this is what a sorted list gives.
"""

from __future__ import annotations

import torch
from torch import Tensor

from glocal.errors import GlocalError

_POINTS = 10  # VOC 2007 looks at the recalls 0, 1/10, … 10/10


def average_precision(scores: Tensor, targets: Tensor, counted: Tensor | None = None) -> Tensor:
    """Area under the precision-recall curve as a step function: scikit-learn's `average_precision_score`.

    It is the precision at the threshold of each positive image, averaged over these.

    Args:
        scores: (N, C), higher for images that rather show the class.
        targets: (N, C) bool, whether they show it.
        counted: (N, C) bool, False for images that are neither right nor wrong (VOC's "difficult"); None counts all.

    Returns:
        (C,) float64 in [0, 1]; NaN for a class without a positive image.

    Raises:
        GlocalError: the shapes differ, or a score is no number.

    >>> average_precision(torch.tensor([[0.9], [0.8], [0.1]]), torch.tensor([[True], [False], [True]]))
    tensor([0.8333], dtype=torch.float64)
    """
    positive, _, precision = _curve(scores, targets, counted)
    return _mean_over_positives(precision, positive)


def interpolated_average_precision(scores: Tensor, targets: Tensor, counted: Tensor | None = None) -> Tensor:
    """Area under the precision-recall curve made monotone: VOC's measure since 2010, from all points of the curve.

    The precision at a recall is the largest at this recall or a higher one. Everingham, Eslami, Van Gool, Williams,
    Winn and Zisserman, "The PASCAL Visual Object Classes Challenge: A Retrospective", IJCV 2015, section 2.2.

    Args, Returns, Raises: as `average_precision`.
    """
    positive, _, precision = _curve(scores, targets, counted)
    return _mean_over_positives(_monotone(precision), positive)


def voc07_average_precision(scores: Tensor, targets: Tensor, counted: Tensor | None = None) -> Tensor:
    """The monotone precision at the recalls 0, 0.1, … 1, averaged: VOC's measure until 2009.

    Everingham, Van Gool, Williams, Winn and Zisserman, "The PASCAL Visual Object Classes (VOC) Challenge", IJCV 2010,
    section 4.2.

    Args, Returns, Raises: as `average_precision`.
    """
    positive, found, precision = _curve(scores, targets, counted)
    total = positive.sum(dim=1, keepdim=True)  # (C, 1)
    # The first place at which found / total ≥ point / 10, in whole numbers: 3 of 10 reach a recall of 0.3.
    points = torch.arange(_POINTS + 1, device=found.device)
    wanted = (points * total + _POINTS - 1).div(_POINTS, rounding_mode="floor")  # (C, 11)
    place = torch.searchsorted(found.contiguous(), wanted).clamp(max=found.shape[1] - 1)
    mean = _monotone(precision).gather(1, place).mean(dim=1)
    return torch.where(total[:, 0] > 0, mean, torch.nan)


def _curve(scores: Tensor, targets: Tensor, counted: Tensor | None) -> tuple[Tensor, Tensor, Tensor]:
    """For each class, down its sorted images: positive (C, N) bool, and for the threshold that each of them sets
    the positives found (C, N) int64 and the precision (C, N) float64."""
    shapes = {tuple(tensor.shape) for tensor in (scores, targets, counted) if tensor is not None}
    if len(shapes) > 1 or scores.ndim != 2 or len(scores) == 0:
        raise GlocalError(f"average precision: scores, targets and counted must be (N, C), not {sorted(shapes)}")
    if bool(scores.isnan().any()):
        raise GlocalError("average precision: a score is no number (NaN)")
    score, order = scores.mT.sort(dim=1, descending=True)
    positive, counts = targets.mT.bool(), torch.ones_like(targets.mT, dtype=torch.bool)
    if counted is not None:
        counts = counted.mT.bool().to(positive.device)
        positive = positive & counts
    positive, counts = positive.to(order.device).gather(1, order), counts.to(order.device).gather(1, order)
    # Each image's threshold reaches down to the last image with its score.
    number = torch.arange(len(scores), device=order.device).expand_as(order)
    ends = torch.nn.functional.pad(score[:, 1:] != score[:, :-1], (0, 1), value=True)
    end = torch.where(ends, number, len(scores)).flip(1).cummin(dim=1).values.flip(1)
    found = positive.cumsum(dim=1).gather(1, end)
    precision = found.double() / counts.cumsum(dim=1).gather(1, end).clamp(min=1)
    return positive, found, precision


def _monotone(precision: Tensor) -> Tensor:
    """At each place the largest precision from there on."""
    return precision.flip(1).cummax(dim=1).values.flip(1)


def _mean_over_positives(precision: Tensor, positive: Tensor) -> Tensor:
    return (precision * positive).sum(dim=1) / positive.sum(dim=1)  # 0 / 0 is NaN
