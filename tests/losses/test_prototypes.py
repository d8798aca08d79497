"""Losses over prototypes against plain loops: SwAV's codes and prediction, PCL's ProtoNCE."""

import math

import pytest
import torch
from torch import Tensor
from torch.nn.functional import normalize

from glocal.losses.clustering import sinkhorn, swapped_prediction
from glocal.losses.prototypes import concentrations, proto_nce


def random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def sinkhorn_by_loop(scores: Tensor, epsilon: float, iterations: int) -> list[list[float]]:
    """Algorithm of SwAV's appendix on nested lists: samples × prototypes."""
    batch, prototypes = scores.shape
    q = [[math.exp(float(scores[b, k]) / epsilon) for k in range(prototypes)] for b in range(batch)]
    for _ in range(iterations):
        columns = [sum(q[b][k] for b in range(batch)) for k in range(prototypes)]
        q = [[q[b][k] / (prototypes * columns[k]) for k in range(prototypes)] for b in range(batch)]
        q = [[value / (batch * sum(row)) for value in row] for row in q]
    return [[value * batch for value in row] for row in q]


@pytest.mark.parametrize("iterations", [1, 3, 7])
def test_sinkhorn_equals_the_loop(iterations: int) -> None:
    scores = normalize(random(6, 5), dim=1) @ normalize(random(4, 5, seed=1), dim=1).T
    found = sinkhorn(scores, epsilon=0.05, iterations=iterations)
    expected = torch.tensor(sinkhorn_by_loop(scores, 0.05, iterations), dtype=torch.float64)
    assert torch.allclose(found, expected, rtol=1e-9)
    together = sinkhorn(torch.stack([scores, scores.flip(0)]), epsilon=0.05, iterations=iterations)
    assert torch.allclose(together[0], found)
    assert torch.allclose(together[1], found.flip(0))


def test_sinkhorn_shares_equally_and_does_not_overflow() -> None:
    codes = sinkhorn(random(64, 8), epsilon=0.5, iterations=200)
    assert torch.allclose(codes.sum(dim=1), torch.ones(64, dtype=torch.float64))
    assert torch.allclose(codes.sum(dim=0), torch.full((8,), 8.0, dtype=torch.float64), rtol=1e-6)
    extreme = sinkhorn(1000 * random(16, 4).float(), epsilon=0.01)
    assert torch.allclose(extreme.sum(dim=1), torch.ones(16))
    far = sinkhorn(torch.tensor([[1.0, 0.9], [-1.0, -0.9]]), epsilon=0.005)  # the second row is nothing to the first
    assert torch.allclose(far.sum(dim=1), torch.ones(2))


def test_swapped_prediction_equals_a_loop_over_pairs_of_views() -> None:
    scores, codes = random(4, 3, 5), torch.softmax(random(2, 3, 5, seed=1), dim=-1)
    terms = [
        -sum(float(codes[g, b, k]) * float(torch.log_softmax(scores[v, b] / 0.1, dim=0)[k]) for k in range(5))
        for g in range(2)
        for v in range(4)
        for b in range(3)
        if v != g
    ]
    found = swapped_prediction(scores, codes, temperature=0.1)
    assert found.item() == pytest.approx(sum(terms) / len(terms), rel=1e-12)
    assert torch.autograd.gradcheck(lambda s: swapped_prediction(s, codes, temperature=0.5), scores.requires_grad_())


@pytest.mark.parametrize("drawn", [None, [0, 2, 5]])
def test_proto_nce_equals_a_loop_over_distinct_prototypes(drawn: list[int] | None) -> None:
    query, prototypes = normalize(random(4, 3), dim=1), normalize(random(6, 3, seed=1), dim=1)
    concentration, positive = random(6, seed=2).exp() / 5, torch.tensor([0, 5, 1, 0])
    expected = 0.0
    for q, own in zip(query, positive.tolist(), strict=True):
        logits = {k: float(q @ prototypes[k]) / float(concentration[k]) for k in {own, *(drawn or range(6))}}
        expected += (math.log(sum(math.exp(x) for x in logits.values())) - logits[own]) / 4
    chosen = None if drawn is None else torch.tensor(drawn)
    found = proto_nce(query, prototypes, concentration, positive, drawn=chosen)
    assert found.item() == pytest.approx(expected, rel=1e-12)


def test_concentrations_equal_the_paper_with_the_authors_limits() -> None:
    features, assignment = random(40, 3), torch.arange(40) % 7
    assignment[assignment == 6] = 5
    assignment[0] = 6  # a cluster of one
    centers = torch.stack([features[assignment == k].mean(dim=0) for k in range(7)])
    raw = []
    for k in range(7):
        distances = [float((v - centers[k]).norm()) for v, a in zip(features, assignment, strict=True) if a == k]
        raw.append(sum(distances) / (len(distances) * math.log(len(distances) + 10)))
    raw[6] = max(raw)
    ordered = sorted(raw)
    low, high = (ordered[int(x)] + (x % 1) * (ordered[int(x) + 1] - ordered[int(x)]) for x in (0.6, 5.4))
    cut = [min(max(x, low), high) for x in raw]
    expected = torch.tensor([0.2 * x / (sum(cut) / 7) for x in cut], dtype=torch.float64)
    found = concentrations(features, centers, assignment, temperature=0.2)
    assert torch.allclose(found, expected, rtol=1e-10)
    assert found.mean().item() == pytest.approx(0.2)
