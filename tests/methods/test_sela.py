"""SeLa: labels that share the images out equally, and their prediction."""

import pytest
import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor
from torch.nn.functional import cross_entropy

from glocal.losses.clustering import balanced_labels
from glocal.methods import Method
from tests.methods.cases import RESNET_RUN, MethodCase, make, views

CASE = MethodCase(
    slow=True,
    trained={"loss": {"backbone", "heads"}},
    small={"prototypes": 8, "heads": 2},
    run={**RESNET_RUN, "method.prototypes": 32, "method.heads": 2, "method.refresh_epochs": 1, "optimizer.lr": 0.06},
)


def random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def refreshed() -> Method:
    method = make("sela")
    method.refresh(random(64, method.backbone.dim).float(), 0)
    return method


def test_sharp_labels_are_those_of_the_best_equal_assignment() -> None:
    """Found by the Hungarian algorithm, each label repeated as often as it may be given."""
    scores = 2 * random(24, 4)
    cost = -scores.log_softmax(dim=1).repeat_interleave(6, dim=1)  # six places of each label
    _, places = linear_sum_assignment(cost.numpy())
    found = balanced_labels(scores, images=24, sharpness=100.0, iterations=10_000, tolerance=1e-6)
    assert found.tolist() == (torch.as_tensor(places) // 6).tolist()


def test_labels_equal_a_plain_sinkhorn_and_knopp() -> None:
    scores = random(12, 3)
    plan = [[float(p) ** 5 for p in row.softmax(dim=0)] for row in scores]
    for _ in range(200):
        for k in range(3):
            total = sum(row[k] for row in plan)
            for row in plan:
                row[k] /= 3 * total
        plan = [[value / (12 * sum(row)) for value in row] for row in plan]
    expected = [max(range(3), key=row.__getitem__) for row in plan]
    assert balanced_labels(scores, images=12, sharpness=5.0, tolerance=1e-9).tolist() == expected


def test_every_head_labels_all_images_from_its_own_scores() -> None:
    method = refreshed()
    features = random(64, method.backbone.dim).float()
    scores = method.heads(features).detach().unflatten(1, (2, 8))
    found = method.pseudo_labels(torch.arange(64), 0)
    for head in range(2):
        assert torch.equal(found[:, head], balanced_labels(scores[:, head], images=64, sharpness=25.0))
        assert found[:, head].bincount(minlength=8).amin() >= 4  # 8 each, but for rounding
    assert not torch.equal(found[:, 0], found[:, 1])


def test_the_loss_is_the_cross_entropy_of_all_heads() -> None:
    method, fresh = refreshed(), refreshed()
    batch = views(method)
    scores = fresh.heads(fresh.backbone(batch.images[0])).unflatten(1, (2, 8))
    labels = fresh.pseudo_labels.assigned[:8].long()
    expected = torch.stack([cross_entropy(scores[:, head], labels[:, head]) for head in range(2)]).mean()
    assert method(batch).item() == pytest.approx(expected.item(), rel=1e-5)
