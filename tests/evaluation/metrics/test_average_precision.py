"""Average precisions against scikit-learn and plain loops over sorted lists."""

import math

import pytest
import torch
from sklearn.metrics import average_precision_score

from glocal.errors import GlocalError
from glocal.evaluation.metrics.average_precision import (
    average_precision,
    interpolated_average_precision,
    voc07_average_precision,
)

ALL = (average_precision, interpolated_average_precision, voc07_average_precision)


def scored(rows: int, classes: int, seed: int, *, ties: bool) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Scores, targets and which of them count."""
    generator = torch.Generator().manual_seed(seed)
    scores = torch.randn(rows, classes, generator=generator)
    scores = (3 * scores).round() / 3 if ties else scores
    targets = torch.rand(rows, classes, generator=generator) < torch.linspace(0.05, 0.9, classes)
    targets[0] = True
    counted = torch.rand(rows, classes, generator=generator) < 0.8
    counted[0] = True
    return scores, targets, counted


def curve_by_loop(scores: list[float], targets: list[bool]) -> list[tuple[float, float]]:
    """Recall and precision of each threshold, the highest first."""
    points = []
    for threshold in sorted(set(scores), reverse=True):
        found = [target for score, target in zip(scores, targets, strict=True) if score >= threshold]
        points.append((sum(found) / sum(targets), sum(found) / len(found)))
    return points


def voc_by_loop(scores: list[float], targets: list[bool]) -> tuple[float, float]:
    """The all-point and the 11-point measure as the development kits of 2010 and 2007 compute them."""
    points = curve_by_loop(scores, targets)
    recalls, precisions = [0.0, *(r for r, _ in points), 1.0], [0.0, *(p for _, p in points), 0.0]
    for place in range(len(precisions) - 2, -1, -1):
        precisions[place] = max(precisions[place], precisions[place + 1])
    area = sum((recalls[i + 1] - recalls[i]) * precisions[i + 1] for i in range(len(recalls) - 1))
    eleven = [max((p for r, p in points if r >= t / 10 - 1e-9), default=0.0) for t in range(11)]
    return area, sum(eleven) / 11


@pytest.mark.parametrize("ties", [False, True])
@pytest.mark.parametrize("rows", [1, 2, 37, 200])
def test_precisions_equal_scikit_learn_and_the_development_kits(rows: int, ties: bool) -> None:
    scores, targets, counted = scored(rows, 6, rows, ties=ties)
    for mask in (None, counted):
        found = [function(scores, targets, mask) for function in ALL]
        for column in range(6):
            kept = torch.ones(rows, dtype=torch.bool) if mask is None else mask[:, column]
            score, target = scores[kept, column], targets[kept, column]
            assert float(found[0][column]) == pytest.approx(average_precision_score(target, score), abs=1e-12)
            area, eleven = voc_by_loop(score.tolist(), target.tolist())
            assert float(found[1][column]) == pytest.approx(area, abs=1e-12)
            assert float(found[2][column]) == pytest.approx(eleven, abs=1e-12)


def test_a_recall_of_three_tenths_is_reached_by_three_of_ten() -> None:
    # Ten positives, the first three found at once and the others after many others: 0.1 · 3 > 0.3 in floating point.
    targets = torch.tensor([True] * 3 + [False] * 60 + [True] * 7)[:, None]
    scores = torch.arange(70.0, 0, -1)[:, None]
    late = max((3 + n) / (63 + n) for n in range(1, 8))
    assert float(voc07_average_precision(scores, targets)) == pytest.approx((4 * 1 + 7 * late) / 11)


def test_the_order_of_images_with_equal_scores_does_not_matter() -> None:
    scores, targets, counted = scored(50, 4, 3, ties=True)
    order = torch.randperm(50, generator=torch.Generator().manual_seed(0))
    for function in ALL:
        found = function(scores[order], targets[order], counted[order])
        assert torch.allclose(found, function(scores, targets, counted), atol=1e-12)


def test_a_class_without_positive_images_has_no_precision() -> None:
    scores, targets = torch.rand(5, 2), torch.tensor([[True, False]] * 5)
    for function in ALL:
        found = function(scores, targets)
        assert float(found[0]) == 1.0
        assert math.isnan(float(found[1]))


def test_shapes_that_differ_and_scores_that_are_no_numbers_are_refused() -> None:
    for function in ALL:
        with pytest.raises(GlocalError, match="must be"):
            function(torch.rand(5, 2), torch.ones(5, 3, dtype=torch.bool))
        with pytest.raises(GlocalError, match="must be"):
            function(torch.rand(5), torch.ones(5, dtype=torch.bool))
        with pytest.raises(GlocalError, match="no number"):
            function(torch.full((5, 2), torch.nan), torch.ones(5, 2, dtype=torch.bool))
