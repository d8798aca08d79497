"""ARB: each view's dimensions against the other view's nearest base."""

import pytest
import torch
from torch import Tensor

from glocal.errors import GlocalError
from glocal.losses.redundancy import arb, whiten
from tests.methods.cases import RESNET_RUN, MethodCase, make, views

CASE = MethodCase(
    slow=True,
    trained={"loss": {"backbone", "projector"}},
    small={"output_dim": 24},
    run={**RESNET_RUN, "method.output_dim": 128, "optimizer.lr": 0.06},
    budget={"method.output_dim": 256, "optimizer.lr": 0.06, "train.epochs": 6},
)


def random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def arb_by_loop(first: Tensor, second: Tensor, shrinkage: float, eps: float) -> float:
    """Dimension by dimension, with the inverse square root of the covariance by Newton's iteration."""
    views, bases = [], []
    for z in (first, second):
        z = (z - z.mean(dim=0)) / (z.var(dim=0, correction=0) + eps).sqrt()
        covariance = (1 - shrinkage) * torch.cov(z.T, correction=0) + (shrinkage + eps) * torch.eye(z.shape[1])
        norm = covariance.norm()
        root, inverse = covariance / norm, torch.eye(z.shape[1], dtype=z.dtype)
        for _ in range(80):  # Denman and Beavers
            root, inverse = (root + torch.linalg.inv(inverse)) / 2, (inverse + torch.linalg.inv(root)) / 2
        views.append(z)
        bases.append(z @ inverse / norm.sqrt())
    total = 0.0
    for z, base in ((views[0], bases[1]), (views[1], bases[0])):
        for dimension in range(z.shape[1]):
            product = sum(float(z[i, dimension] * base[i, dimension]) for i in range(len(z))) / len(z)
            total += (1 - product) ** 2
    return total


@pytest.mark.parametrize("shape", [(9, 4), (4, 9), (6, 6)])
def test_arb_equals_a_plain_loop_whether_the_batch_or_the_width_is_larger(shape: tuple[int, int]) -> None:
    first, second = random(*shape), random(*shape, seed=1)
    found = arb(first, second, shrinkage=1e-2, eps=1e-5).item()
    assert found == pytest.approx(arb_by_loop(first, second, 1e-2, 1e-5), rel=1e-8)


def test_the_base_is_orthonormal_and_of_all_orthonormal_bases_the_nearest() -> None:
    z = random(50, 6) @ random(6, 6, seed=1)
    z = z - z.mean(dim=0)
    base = whiten(z)
    assert torch.allclose(base.T @ base / 50, torch.eye(6, dtype=z.dtype), atol=1e-10)
    for seed in range(20):
        turn = torch.linalg.qr(random(6, 6, seed=seed)).Q
        assert (base - z).norm() <= (base @ turn - z).norm()


def test_aligned_orthonormal_views_cost_nothing_and_collapsed_ones_much() -> None:
    z = random(64, 5)
    base = whiten(z - z.mean(dim=0))
    assert arb(base, base).item() == pytest.approx(0.0, abs=1e-6)
    alike = z[:, :1].expand(-1, 5)
    assert arb(alike, alike).item() > 1


def test_the_gradient_is_that_of_the_views_with_fixed_bases() -> None:
    first, second = random(7, 4).requires_grad_(), random(7, 4, seed=1)
    arb(first, second, eps=0.0).backward()
    centred = first - first.mean(dim=0)
    z = centred / centred.square().mean(dim=0).sqrt()
    other = (second - second.mean(dim=0)) / second.std(dim=0, correction=0)
    bases = whiten(other, shrinkage=1e-4), whiten(z.detach(), shrinkage=1e-4)
    fixed = (1 - (z * bases[0]).mean(dim=0)).square().sum() + (1 - (other * bases[1]).mean(dim=0)).square().sum()
    expected, found = torch.autograd.grad(fixed, first)[0], first.grad
    assert found is not None
    assert torch.allclose(found, expected, rtol=1e-8)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_loss_keeps_the_dtype_and_its_arguments_also_under_autocast(dtype: torch.dtype) -> None:
    inputs = [random(6, 4).to(dtype), random(6, 4, seed=1).to(dtype)]
    before = [tensor.clone() for tensor in inputs]
    plain = arb(*inputs)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        inside = arb(*inputs)
    assert plain.dtype == inside.dtype == dtype
    assert torch.equal(plain, inside)
    assert all(torch.equal(a, b) for a, b in zip(before, inputs, strict=True))


def test_the_method_is_the_loss_of_both_views_projections() -> None:
    method, fresh = make("arb"), make("arb")
    batch = views(method)
    first, second = (fresh.projector(fresh.backbone(image)) for image in batch.images)
    assert method(batch).item() == pytest.approx(arb(first, second).item(), rel=1e-5)


def test_a_batch_of_one_is_refused() -> None:
    with pytest.raises(GlocalError, match="at least 2 images"):
        arb(random(1, 4), random(1, 4))
