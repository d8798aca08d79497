"""Self-Classifier: posteriors over classes under a uniform prior."""

import math

import pytest
import torch
from torch import Tensor
from torch.nn.functional import normalize

from glocal.losses.classes import self_classification
from glocal.models.queue import IndexedQueue
from glocal.schedules import Clock
from tests.methods.cases import RESNET_RUN, MethodCase, make, views

CASE = MethodCase(
    slow=True,
    trained={"loss": {"backbone", "projector", "directions", "length"}},
    small={"hidden_dim": 32, "output_dim": 16, "classes": (6, 10)},
    run={
        **RESNET_RUN,
        "method.hidden_dim": 128,
        "method.output_dim": 64,
        "method.classes": [32, 64],
        "method.queue_size": 64,
        "method.local_views": 2,
        "optimizer.lr": 0.06,
    },
)


def random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def cross_entropy_by_loop(target: Tensor, prediction: Tensor, row: float, column: float) -> float:
    """Of one ordered pair of views (B, C): Bayes' rule entry by entry."""
    batch, classes = target.shape
    t, p = (target / column).exp().tolist(), (prediction / row).exp().tolist()
    of_batch = [sum(t[n][c] for n in range(batch)) for c in range(classes)]
    posterior = [[p[n][c] / sum(p[n]) for c in range(classes)] for n in range(batch)]
    of_class = [sum(posterior[n][c] for n in range(batch)) for c in range(classes)]
    total = 0.0
    for n in range(batch):
        shares = [t[n][c] / of_batch[c] for c in range(classes)]
        for c in range(classes):
            total -= shares[c] / sum(shares) * math.log(batch / classes * posterior[n][c] / of_class[c]) / batch
    return total


def test_two_views_equal_a_plain_loop_and_more_are_the_mean_over_pairs_with_a_global_one() -> None:
    logits = random(4, 5, 6)
    temperatures = {"row_temperature": 0.5, "column_temperature": 0.3}

    def mean(pairs: list[tuple[int, int]]) -> float:
        return sum(cross_entropy_by_loop(logits[a], logits[b], 0.5, 0.3) for a, b in pairs) / len(pairs)

    found = self_classification(logits[:2], **temperatures)
    assert found.item() == pytest.approx(mean([(0, 1), (1, 0)]), rel=1e-12)
    pairs = [(a, b) for a in range(4) for b in range(4) if a != b and min(a, b) < 2]
    assert self_classification(logits, **temperatures).item() == pytest.approx(mean(pairs), rel=1e-12)
    small = logits[:, :3, :4].clone().requires_grad_()
    assert torch.autograd.gradcheck(lambda x: self_classification(x, **temperatures), small)


def test_all_images_in_one_class_cost_more_than_images_spread_over_the_classes() -> None:
    spread = torch.eye(6, dtype=torch.float64)
    one = spread[:1].expand(6, -1)
    costs = [
        self_classification(torch.stack([x, x]), row_temperature=0.1, column_temperature=0.05).item()
        for x in (spread, one)
    ]
    assert costs[0] < 0.1 < costs[1]


def test_the_method_averages_its_classifiers_and_takes_neighbours_once_the_queue_is_full() -> None:
    method, fresh = (make("self_classifier", queue_size=16, local_views=0) for _ in range(2))
    batch = views(method)
    unit = normalize(fresh.projector(fresh.backbone(torch.cat(batch.images))), dim=1).detach()
    weights = (normalize(fresh.directions, dim=1) * fresh.length).detach().split([6, 10])

    def expected(first: Tensor, second: Tensor) -> float:
        total = 0.0
        for own in weights:
            a, b = ((x @ own.T).double() for x in (first, second))
            total += (cross_entropy_by_loop(a, b, 0.1, 0.05) + cross_entropy_by_loop(b, a, 0.1, 0.05)) / 4
        return total

    first, second = unit.chunk(2)
    method.before_step(Clock(1, 10, 100))  # 8 of 16 places are filled
    assert method(batch).item() == pytest.approx(expected(first, second), rel=1e-4)
    method.new_keys.clear()
    method.before_step(Clock(2, 10, 100))
    nearest = torch.stack([max(fresh.queue.keys, key=lambda key: float(key @ row)) for row in first])
    assert method(batch).item() == pytest.approx(expected(nearest, second), rel=1e-4)
    method.after_step()
    assert torch.allclose(method.queue.keys[:8], first, atol=1e-6)
    assert method.queue.index.tolist() == [*range(8), *[-1] * 8]


def test_an_earlier_embedding_of_the_same_image_is_not_its_neighbour() -> None:
    queue = IndexedQueue(4, 2)
    right, up, left = torch.eye(2)[0], torch.eye(2)[1], -torch.eye(2)[0]
    queue.enqueue_of(torch.stack([right, up, left, right]), torch.tensor([5, 7, 9, 5]))
    found = queue.nearest(torch.stack([right, right]), torch.tensor([5, 6]))
    assert torch.equal(found, torch.stack([up, right]))
    queue.enqueue_of(left[None], torch.tensor([8]))
    assert queue.index.tolist() == [8, 7, 9, 5]
    assert torch.equal(queue.nearest(left[None], torch.tensor([9])), left[None])  # of image 8
    assert "index" in queue.state_dict()
