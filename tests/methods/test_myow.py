"""MYOW: BYOL, and prediction of the nearest other image."""

import pytest
import torch
from torch import Tensor
from torch.nn.functional import cosine_similarity, normalize

from glocal.methods.myow import MYOWSettings
from glocal.schedules import Clock, Schedule
from glocal.views.batch import Views
from tests.methods.cases import RESNET_RUN, MethodCase, make, views

CASE = MethodCase(
    slow=True,
    trained={"loss": {"backbone", "byol.projector", "byol.predictor", "projector", "predictor"}},
    small={"hidden_dim": 32, "output_dim": 16, "mined_hidden_dim": 24, "mined_output_dim": 8, "weight": 1.0},
    run={
        **RESNET_RUN,
        "method.hidden_dim": 128,
        "method.output_dim": 64,
        "method.mined_hidden_dim": 64,
        "method.mined_output_dim": 32,
        "method.momentum": 0.95,
        "method.weight": 1.0,
    },
    falls={"method.momentum": 1.0},  # as of BYOL
)


def distance(prediction: Tensor, target: Tensor) -> Tensor:
    return (normalize(prediction, dim=1) - normalize(target, dim=1)).square().sum(dim=1).mean()


def test_it_is_byol_and_the_prediction_of_the_nearest_other_image() -> None:
    method, fresh = make("myow", weight=3.0), make("myow")
    batch = views(method)
    plain, byol = batch.images[2], fresh.byol
    own = byol(Views(batch.images[:2], batch.geometry[:2], batch.index)) / 2
    features, pool = byol.backbone(plain).detach(), byol.teacher.chain[0](plain)
    nearest = []
    for image in range(8):
        others = [n for n in range(8) if n != image]
        nearest.append(max(others, key=lambda n: float(cosine_similarity(features[image], pool[n], dim=0))))
    target = fresh.teacher.chain(byol.teacher.chain[1](pool[nearest]))
    mined = distance(fresh.predictor(fresh.projector(byol.projector(features))), target)
    assert method(batch).item() == pytest.approx(((own + 3 * mined) / 4).item(), rel=1e-5)


def test_a_neighbour_is_drawn_by_image_and_step_among_the_nearest() -> None:
    method = make("myow", neighbors=3)
    features = torch.randn(8, 16, generator=torch.Generator().manual_seed(0))
    cosine = normalize(features, dim=1) @ normalize(features, dim=1).T - 9 * torch.eye(8)
    allowed = [set(row.topk(3).indices.tolist()) for row in cosine]
    drawn = []
    for step in (0, 0, 1, 2):
        method.before_step(Clock(step, 10, 100))
        drawn.append(method._neighbors(features, features, torch.arange(8)).tolist())
        assert all(one in some for one, some in zip(drawn[-1], allowed, strict=True))
    assert drawn[0] == drawn[1]
    assert drawn[2] != drawn[3]
    assert method._neighbors(features[:2], features[:2], torch.arange(2)).tolist() == [1, 0]  # fewer than asked for


def test_mined_views_count_from_epoch_100_on() -> None:
    weight = MYOWSettings().weight
    assert isinstance(weight, Schedule)
    assert [weight.at(Clock(10 * epoch, 10, 8000)) for epoch in (0, 100, 105, 110, 800)] == [0, 0, 0.5, 1, 1]


def test_both_teachers_follow() -> None:
    method = make("myow", momentum=0.75)
    method.before_step(Clock(0, 10, 100))
    method(views(method)).backward()
    before = [p.clone() for p in method.teacher.parameters()]
    method.after_step()
    for old, new, student in zip(before, method.teacher.parameters(), method.projector.parameters(), strict=True):
        assert torch.allclose(new, old.lerp(student, 0.25), atol=1e-6)
