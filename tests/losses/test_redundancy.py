"""Losses against redundancy, beside the papers' pseudo-code and finite differences."""

import numpy as np
import pytest
import torch
from torch import Tensor

from glocal.errors import GlocalError
from glocal.losses import barlow_twins, decorrelation, vicreg


def pair(batch: int, dim: int) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    first = 3 * torch.randn(batch, dim, generator=generator, dtype=torch.float64) + 1
    return first, first + 0.5 * torch.randn(batch, dim, generator=generator, dtype=torch.float64)


SHAPES = [(6, 4), (5, 9), (4, 4)]  # more images than dimensions, fewer, as many


@pytest.mark.parametrize(("batch", "dim"), SHAPES)
def test_barlow_twins_equals_a_loop_over_the_cross_correlation(batch: int, dim: int) -> None:
    first, second = pair(batch, dim)
    standard = [(z - z.mean(dim=0)) / (z.var(dim=0, unbiased=False) + 1e-5).sqrt() for z in (first, second)]
    expected = 0.0
    for i in range(dim):
        for j in range(dim):
            c = float(sum(standard[0][b, i] * standard[1][b, j] for b in range(batch))) / batch
            expected += (1 - c) ** 2 if i == j else 0.0051 * c**2
    assert barlow_twins(first, second, coefficient=0.0051).item() == pytest.approx(expected, rel=1e-10)


@pytest.mark.parametrize(("batch", "dim"), SHAPES)
def test_vicreg_equals_the_authors_formula_with_whole_covariances(batch: int, dim: int) -> None:
    first, second = pair(batch, dim)
    first, second = first / 4, second / 4  # spreads on both sides of the hinge
    expected = 25 * float((first - second).square().sum()) / (batch * dim)
    for z in (first, second):
        covariance = torch.cov(z.T)
        expected += 25 / 2 * float((1 - (covariance.diagonal() + 1e-4).sqrt()).clamp(min=0).mean())
        off = covariance - covariance.diagonal().diag()
        expected += float(off.square().sum()) / dim
    assert vicreg(first, second).item() == pytest.approx(expected, rel=1e-10)


@pytest.mark.parametrize(("batch", "dim"), SHAPES)
def test_decorrelation_equals_a_loop_over_the_correlations(batch: int, dim: int) -> None:
    z, _ = pair(batch, dim)
    whole = np.corrcoef(z.numpy(), rowvar=False)
    expected = sum(whole[i, j] ** 2 for i in range(dim) for j in range(dim) if i != j) / dim
    assert decorrelation(z, eps=0.0).item() == pytest.approx(expected, rel=1e-10)
    assert decorrelation(z[:, :1].expand(-1, dim), eps=0.0).item() == pytest.approx(dim - 1, rel=1e-10)
    assert torch.autograd.gradcheck(decorrelation, [z.requires_grad_()])


@pytest.mark.parametrize(("batch", "dim"), SHAPES)
def test_their_gradients_are_those_of_finite_differences(batch: int, dim: int) -> None:
    inputs = [z.requires_grad_() for z in pair(batch, dim)]
    assert torch.autograd.gradcheck(lambda a, b: barlow_twins(a, b, coefficient=0.1), inputs)
    assert torch.autograd.gradcheck(vicreg, [(z / 4).detach().requires_grad_() for z in inputs])


def test_single_precision_loses_nothing_that_matters_at_full_size() -> None:
    """The off-diagonal part is a difference of large sums."""
    first, second = (z.float() for z in pair(64, 2048))
    for loss in (lambda a, b: barlow_twins(a, b, coefficient=0.0051), vicreg):
        assert loss(first, second).item() == pytest.approx(loss(first.double(), second.double()).item(), rel=1e-4)


def test_a_batch_of_one_is_refused() -> None:
    one = torch.zeros(1, 3)
    with pytest.raises(GlocalError, match="at least 2 images"):
        barlow_twins(one, one, coefficient=0.1)
    with pytest.raises(GlocalError, match="at least 2 images"):
        vicreg(one, one)
