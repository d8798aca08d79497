"""Zero-CL: alignment of dimensions and of images, each whitened."""

import pytest
import torch
from torch import Tensor

from glocal.errors import GlocalError
from glocal.losses.whitening import zca, zero_cl
from tests.methods.cases import RESNET_RUN, MethodCase, make, views

CASE = MethodCase(
    slow=True,
    trained={"loss": {"backbone", "projector"}},
    small={"output_dim": 24},
    run={**RESNET_RUN, "method.output_dim": 64},
)


def random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def matrix(z: Tensor, eps: float) -> Tensor:
    """(C + ε)^(−1/2), by the singular values of the whole covariance."""
    u, s, _ = torch.linalg.svd(z.T @ z / len(z))
    return u @ torch.diag((s + eps) ** -0.5) @ u.T


def part_by_loop(first: Tensor, second: Tensor) -> Tensor:
    """Of the columns; the matrices have no gradient."""
    u, v = ((z - z.mean(dim=0)) / (z.var(dim=0, correction=0) + 1e-5).sqrt() for z in (first, second))
    u, v = u @ matrix(u.detach(), 0.01), v @ matrix(v.detach(), 0.01)
    total = torch.zeros((), dtype=u.dtype)
    for column in range(u.shape[1]):
        total = total + (1 - u[:, column] @ v[:, column] / len(u)) ** 2
    return total


@pytest.mark.parametrize("shape", [(9, 4), (4, 9), (6, 6)])
def test_loss_and_gradient_equal_plain_loops_whether_the_batch_or_the_width_is_larger(shape: tuple[int, int]) -> None:
    first, second = random(*shape).requires_grad_(), random(*shape, seed=1).requires_grad_()
    found = zero_cl(first, second, instance=0.5, feature=2.0)
    expected = 2.0 * part_by_loop(first, second) + 0.5 * part_by_loop(first.T, second.T)
    assert found.item() == pytest.approx(expected.item(), rel=1e-8)
    for a, b in zip(
        torch.autograd.grad(found, (first, second)), torch.autograd.grad(expected, (first, second)), strict=True
    ):
        assert torch.allclose(a, b, rtol=1e-6, atol=1e-8)


def test_whitened_columns_have_no_correlation() -> None:
    z = random(50, 6) @ random(6, 6, seed=1)
    white = zca(z - z.mean(dim=0), eps=1e-9)
    assert torch.allclose(white.T @ white / 50, torch.eye(6, dtype=z.dtype), atol=1e-6)


def test_the_method_is_the_loss_of_both_views_projections() -> None:
    method, fresh = make("zero_cl"), make("zero_cl")
    batch = views(method)
    first, second = (fresh.projector(fresh.backbone(image)).double() for image in batch.images)
    expected = part_by_loop(first, second) + part_by_loop(first.T, second.T)
    assert method(batch).item() == pytest.approx(expected.item(), rel=1e-3)


def test_a_batch_of_one_is_refused() -> None:
    with pytest.raises(GlocalError, match="at least 2 images"):
        zero_cl(random(1, 4), random(1, 4))
