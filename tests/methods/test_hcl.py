"""HCL: NT-Xent with hard negatives that weigh more, and without what the own class is expected to add."""

import math

import pytest
import torch
from torch import Tensor
from torch.nn.functional import normalize

from glocal.losses import hard_nt_xent, nt_xent
from tests.methods.cases import RESNET_RUN, MethodCase, make, views

CASE = MethodCase(slow=True, trained={"loss": {"backbone", "projector"}}, run={**RESNET_RUN, "method.hidden_dim": 64})


def unit(*shape: int, seed: int = 0) -> Tensor:
    return normalize(torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64), dim=-1)


def by_loop(first: Tensor, second: Tensor, temperature: float, concentration: float, prior: float) -> float:
    """Anchor by anchor: importance weights of mean 1, the debiased mean, its least value."""
    views, images, total = [*first, *second], len(first), 0.0
    for number, anchor in enumerate(views):
        negatives = [math.exp(float(anchor @ v) / temperature) for n, v in enumerate(views) if (n - number) % images]
        positive = math.exp(float(anchor @ views[(number + images) % len(views)]) / temperature)
        weights = [value**concentration for value in negatives]
        mean = sum(w * value for w, value in zip(weights, negatives, strict=True)) / sum(weights)
        debiased = max((mean - prior * positive) / (1 - prior), math.exp(-1 / temperature))
        total -= math.log(positive / (positive + len(negatives) * debiased)) / len(views)
    return total


@pytest.mark.parametrize(
    ("temperature", "concentration", "prior"), [(0.5, 1.0, 0.1), (0.5, 0.0, 0.3), (0.2, 2.5, 0.0), (0.5, 1.0, 0.9)]
)
def test_it_equals_a_plain_loop(temperature: float, concentration: float, prior: float) -> None:
    first, second = unit(5, 4), unit(5, 4, seed=1)
    second[:2] = first[:2]  # a positive that outweighs all negatives, so that the least value counts
    settings = {"temperature": temperature, "concentration": concentration, "prior": prior}
    expected = by_loop(first, second, **settings)
    assert hard_nt_xent(first, second, **settings).item() == pytest.approx(expected, rel=1e-12)
    assert hard_nt_xent(first, second, **settings).dtype == torch.float64


def test_without_weights_and_prior_it_is_nt_xent_and_finite_where_exponentials_are_not() -> None:
    first, second = unit(5, 4), unit(5, 4, seed=1)
    plain = hard_nt_xent(first, second, temperature=0.3, concentration=0.0, prior=0.0)
    assert plain.item() == pytest.approx(nt_xent(first, second, temperature=0.3).item(), rel=1e-12)
    cold = first.float().requires_grad_()
    loss = hard_nt_xent(cold, second.float(), temperature=0.001, concentration=5.0, prior=0.1)
    loss.backward()
    assert loss.isfinite()
    assert cold.grad is not None
    assert cold.grad.isfinite().all()


def test_gradients_flow_through_the_weights_too() -> None:
    inputs = [unit(4, 3).requires_grad_(), unit(4, 3, seed=1).requires_grad_()]
    assert torch.autograd.gradcheck(
        lambda a, b: hard_nt_xent(a, b, temperature=0.5, concentration=1.5, prior=0.1), inputs
    )


def test_a_single_image_has_no_negatives() -> None:
    one = unit(1, 3)
    assert hard_nt_xent(one, one, temperature=0.5, concentration=1.0, prior=0.1).item() == 0


def test_the_method_is_the_loss_of_its_two_views() -> None:
    method, fresh = make("hcl", concentration=2.0), make("hcl")
    batch = views(method)
    first, second = normalize(fresh.projector(fresh.backbone(torch.cat(batch.images))), dim=1).detach().chunk(2)
    assert method(batch).item() == pytest.approx(by_loop(first, second, 0.5, 2.0, 0.1), rel=1e-4)
