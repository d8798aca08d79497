"""TWIST: distributions over classes that agree, are sharp and differ."""

import math

import pytest
import torch
from torch import Tensor

from glocal.losses.classes import twin_classes
from tests.methods.cases import RESNET_RUN, MethodCase, make, views

CASE = MethodCase(
    slow=True,
    trained={"loss": {"backbone", "head"}},
    small={"hidden_dim": 32, "prototypes": 16},
    run={**RESNET_RUN, "method.hidden_dim": 128, "method.prototypes": 64, "optimizer.lr": 0.06},
)


def random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def entropy(row: list[float]) -> float:
    return -sum(p * math.log(p) for p in row)


def twin_classes_by_loop(first: Tensor, second: Tensor, sharpness: float, diversity: float) -> float:
    p, q = first.softmax(dim=1).tolist(), second.softmax(dim=1).tolist()
    total = 0.0
    for a, b in zip(p, q, strict=True):
        total += sum(x * math.log(x / y) + y * math.log(y / x) for x, y in zip(a, b, strict=True)) / 2 / len(p)
        total += sharpness * (entropy(a) + entropy(b)) / 2 / len(p)
    for rows in (p, q):
        mean = [sum(column) / len(rows) for column in zip(*rows, strict=True)]
        total -= diversity * entropy(mean) / 2
    return total


def test_two_views_equal_a_plain_loop_and_more_are_the_mean_over_pairs_with_a_global_one() -> None:
    logits = 2 * random(4, 5, 6)
    found = twin_classes(logits[:2], sharpness=0.7, diversity=1.3).item()
    assert found == pytest.approx(twin_classes_by_loop(logits[0], logits[1], 0.7, 1.3), rel=1e-12)
    pairs = [(0, 1), (0, 2), (0, 3), (1, 2), (1, 3)]
    expected = sum(twin_classes_by_loop(logits[a], logits[b], 1.0, 1.0) for a, b in pairs) / 5
    assert twin_classes(logits).item() == pytest.approx(expected, rel=1e-12)
    assert torch.autograd.gradcheck(twin_classes, logits[:, :3, :4].clone().requires_grad_())


def test_it_is_lowest_for_sharp_equal_and_even_classes() -> None:
    sharp = 100 * torch.eye(6, dtype=torch.float64)
    assert twin_classes(torch.stack([sharp, sharp])).item() == pytest.approx(-math.log(6))
    one = sharp[:1].expand(6, -1)
    assert twin_classes(torch.stack([one, one])).item() == pytest.approx(0.0, abs=1e-12)  # all in one class
    even = torch.zeros(2, 6, 6, dtype=torch.float64)
    assert twin_classes(even).item() == pytest.approx(0.0, abs=1e-12)  # an even share for each


def test_the_method_is_the_loss_of_both_views_normalised_scores() -> None:
    method, fresh = make("twist"), make("twist")
    batch = views(method)
    scores = fresh.head(fresh.backbone(torch.cat(batch.images)))
    assert torch.allclose(scores.mean(dim=0), torch.zeros(16), atol=1e-5)
    expected = twin_classes_by_loop(*scores.detach().double().chunk(2), 1.0, 1.0)
    assert method(batch).item() == pytest.approx(expected, rel=1e-4)
