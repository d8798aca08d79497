"""BYOL: prediction of the target network's projections."""

import pytest
from torch.nn.functional import normalize

from tests.methods.cases import RESNET_RUN, MethodCase, make, views

CASE = MethodCase(
    slow=True,
    trained={"loss": {"backbone", "projector", "predictor"}},
    small={"hidden_dim": 32, "output_dim": 16},
    run={**RESNET_RUN, "method.hidden_dim": 128, "method.output_dim": 64, "method.momentum": 0.95},
    budget={"method.momentum": 0.95, "method.hidden_dim": 512},
    falls={"method.momentum": 1.0},  # a target that moves away lets the loss rise at first
)


def test_it_is_the_squared_distance_of_unit_vectors_in_both_directions() -> None:
    method, fresh = make("byol"), make("byol")
    batch = views(method)
    p = [fresh.predictor(fresh.projector(fresh.backbone(image))) for image in batch.images]
    z = [fresh.teacher.chain(image) for image in batch.images]
    distances = [(normalize(p[i], dim=1) - normalize(z[1 - i], dim=1)).square().sum(dim=1) for i in range(2)]
    assert method(batch).item() == pytest.approx((distances[0] + distances[1]).mean().item(), rel=1e-5)


def test_the_targets_momentum_is_0_996_at_first() -> None:
    assert make("byol").now.momentum == pytest.approx(0.996)
