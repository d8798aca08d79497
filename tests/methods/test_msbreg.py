"""MSBReg: a centroid that attracts, and two ways to disperse."""

import math

import pytest
import torch
from torch import Tensor
from torch.nn.functional import normalize

from glocal.losses.dispersion import brownian, centroid_attraction, singular_spread
from glocal.losses.redundancy import vicreg
from glocal.schedules import Clock
from glocal.views.batch import Views
from glocal.views.random import normal
from tests.methods.cases import RESNET_RUN, MethodCase, make, views

CASE = MethodCase(
    slow=True,
    trained={"loss": {"backbone", "projector", "predictor"}},
    small={"hidden_dim": 32, "output_dim": 16},
    run={**RESNET_RUN, "method.hidden_dim": 128, "method.output_dim": 64, "method.momentum": 0.95, "method.pairs": 1},
    falls={"method.momentum": 1.0},  # as of BYOL
)


def random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def cosine(a: Tensor, b: Tensor) -> float:
    return float(a @ b) / math.sqrt(float(a @ a) * float(b @ b))


def test_the_centroid_and_the_brownian_term_equal_plain_loops() -> None:
    online, target, directions = random(3, 4, 5), random(2, 4, 5, seed=1), random(4, 5, seed=2)
    pull = push = 0.0
    for image in range(4):
        unit = [target[view, image] / target[view, image].norm() for view in range(2)]
        for view in range(3):
            pull += (2 - 2 * cosine(online[view, image], unit[0] + unit[1])) / 12
            push += cosine(online[view, image], directions[image]) / 12
    assert centroid_attraction(online, target).item() == pytest.approx(pull, rel=1e-12)
    assert brownian(online, directions).item() == pytest.approx(push, rel=1e-12)


@pytest.mark.parametrize("shape", [(9, 4), (4, 9)])
def test_the_spread_is_that_of_the_singular_values(shape: tuple[int, int]) -> None:
    z = normalize(random(*shape), dim=1)
    squares = torch.zeros(shape[1], dtype=z.dtype)
    squares[: min(shape)] = torch.linalg.svdvals(z).square() / shape[0]
    expected = (squares - 1 / shape[1]).square().sum()
    assert singular_spread(z).item() == pytest.approx(expected.item(), rel=1e-10)
    assert singular_spread(z).dtype == torch.float64
    assert torch.autograd.gradcheck(singular_spread, z.requires_grad_())


def test_the_method_is_its_three_terms() -> None:
    method, fresh = make("msbreg", covariance=2.0, variance=3.0), make("msbreg")
    batch = views(method)
    assert len(batch.images) == 4
    for one in (method, fresh):
        one.before_step(Clock(5, 10, 100))
    images = torch.cat(batch.images)
    z = normalize(fresh.predictor(fresh.projector(fresh.backbone(images))), dim=1).double().chunk(4)
    t = fresh.teacher.chain(images).double().chunk(4)
    directions = normal(0, "brownian", 5, torch.arange(8)[:, None], torch.arange(16))
    expected = centroid_attraction(torch.stack(z), torch.stack(t)) + 0.1 * brownian(torch.stack(z), directions)
    for view in z:
        expected += singular_spread(view) / 4
        # Twice the terms of one view; VICReg's own halves its variance once more.
        expected += vicreg(view * 4, view * 4, variance=3.0, covariance=1.0) / 4
    assert method(batch).item() == pytest.approx(expected.item(), rel=1e-4)


def test_directions_are_an_images_own_and_new_in_each_step() -> None:
    method = make("msbreg", momentum=1.0, singular=0.0)
    batch = views(method)
    losses = []
    for step, order in ((0, slice(None)), (0, slice(None)), (1, slice(None)), (0, torch.arange(7, -1, -1))):
        method.before_step(Clock(step, 10, 100))
        losses.append(method(Views(tuple(i[order] for i in batch.images), batch.geometry, batch.index[order])).item())
    assert losses[0] == losses[1] == pytest.approx(losses[3], rel=1e-5)
    assert losses[2] != pytest.approx(losses[0], rel=1e-5)
