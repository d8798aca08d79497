"""LoGo's learned affinity and MINE against plain loops, known mutual information and finite differences."""

import math

import pytest
import torch
from torch import Tensor

from glocal.errors import GlocalError
from glocal.losses import affinity_objective, local_dissimilarity, mine
from glocal.models.heads import AffinityRegressor


def numbers(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def test_mine_equals_a_plain_loop() -> None:
    positive, negative = numbers(5), numbers(20, seed=1)
    joint = sum(float(f) for f in positive) / 5
    product = math.log(sum(math.exp(float(f)) for f in negative) / 20)
    assert mine(positive, negative).item() == pytest.approx(product - joint, rel=1e-12)
    assert affinity_objective(positive, negative, form="mine").item() == mine(positive, negative).item()
    assert mine(positive, negative.view(5, 4)).item() == pytest.approx(product - joint, rel=1e-12)


def test_mine_with_the_best_f_is_the_mutual_information() -> None:
    """Two coins that agree with probability 0.9: f = log p(x, z) / (p(x) p(z)) attains the bound."""
    agree, differ = math.log(0.9 / 0.5), math.log(0.1 / 0.5)
    positive = torch.tensor([agree] * 9 + [differ], dtype=torch.float64)  # drawn from the joint distribution
    negative = torch.tensor([agree, differ], dtype=torch.float64)  # from the product: one in two agrees
    information = 0.9 * agree + 0.1 * differ
    assert -mine(positive, negative).item() == pytest.approx(information, rel=1e-12)
    assert -mine(positive * 0.9, negative * 0.9).item() < information
    assert -mine(positive + 3, negative + 3).item() == pytest.approx(information, rel=1e-12)


def test_the_relaxed_objective_is_no_lower_bound_as_printed_but_an_upper_one() -> None:
    """Jensen: log E[exp f] is at least E[f], so eq. 3 with the same f is never below eq. 2."""
    for seed in range(5):
        positive, negative = numbers(30, seed=seed), numbers(30, seed=seed + 10)
        assert -affinity_objective(positive, negative, form="cosine") > -mine(positive, negative)


def test_mine_is_finite_where_the_exponential_is_not() -> None:
    positive, negative = torch.tensor([900.0, 1100.0]), torch.tensor([1000.0, 1000.0])
    assert mine(positive, negative).item() == pytest.approx(0.0, abs=1e-3)


def test_the_printed_form_is_eq_4() -> None:
    positive, negative = numbers(6).abs(), numbers(6, seed=1).abs()
    expected = sum(float(n) - float(p) for p, n in zip(positive, negative, strict=True)) / 6
    assert affinity_objective(positive, negative, form="printed").item() == pytest.approx(expected, rel=1e-12)
    assert local_dissimilarity(positive, form="printed").item() == pytest.approx(float(positive.mean()), rel=1e-12)
    regressor = AffinityRegressor(4, hidden=8, form="printed").double()
    assert (regressor(torch.randn(16, 4).double(), torch.randn(16, 4).double()) > 0).all()


@pytest.mark.parametrize("form", ["softplus", "printed", "cosine", "mine"])
def test_gradients_agree_with_finite_differences(form: str) -> None:
    positive, negative = numbers(4).requires_grad_(), numbers(4, seed=1).requires_grad_()
    assert torch.autograd.gradcheck(lambda p, n: affinity_objective(p, n, form=form), [positive, negative])
    assert torch.autograd.gradcheck(lambda p: local_dissimilarity(p, form=form), [positive])


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_mine_keeps_the_dtype_also_under_autocast(dtype: torch.dtype) -> None:
    positive, negative = numbers(4).to(dtype), numbers(12, seed=1).to(dtype)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        inside = mine(positive, negative)
    assert inside.dtype == dtype
    assert torch.equal(inside, mine(positive, negative))


def test_mine_without_another_image_is_refused() -> None:
    with pytest.raises(GlocalError, match="at least 2 images"):
        mine(torch.ones(1), torch.empty(0))
