"""W-MSE: whitening by Cholesky's factor, and the distance of whitened views."""

import pytest
import torch
from torch import Tensor

from glocal.config import build_recipe
from glocal.errors import GlocalError
from glocal.losses.whitening import cholesky_whiten, w_mse
from glocal.methods.w_mse import WMSE
from glocal.schedules import Clock
from tests.methods.cases import RESNET_RUN, MethodCase, make, views

CASE = MethodCase(
    trained={"loss": {"backbone", "projector"}},
    small={"hidden_dim": 32, "output_dim": 2, "sub_batch": 4},
    run={
        **RESNET_RUN,
        "method.hidden_dim": 128,
        "method.output_dim": 6,
        "method.sub_batch": 16,
        "method.positives": 2,
        "optimizer.lr": 0.06,
    },
)


def random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def gram_schmidt(z: Tensor) -> Tensor:
    """What Cholesky whitening is in other words: dimension after dimension, less what the earlier ones say."""
    columns: list[Tensor] = []
    for column in (z - z.mean(dim=0)).T:
        for earlier in columns:
            column = column - (column @ earlier) / (earlier @ earlier) * earlier
        columns.append(column)
    return torch.stack([(len(z) - 1) ** 0.5 * column / column.norm() for column in columns], dim=1)


def test_whitening_is_that_of_gram_and_schmidt_and_leaves_the_identity() -> None:
    z = random(12, 4) @ random(4, 4, seed=1)
    found = cholesky_whiten(z)
    assert torch.allclose(found, gram_schmidt(z), atol=1e-10)
    assert torch.allclose(torch.cov(found.T), torch.eye(4, dtype=z.dtype), atol=1e-10)
    assert torch.autograd.gradcheck(cholesky_whiten, z.requires_grad_())


def test_the_loss_equals_a_plain_loop_over_partitions_groups_and_pairs() -> None:
    embeddings = random(3, 10, 3)
    groups = torch.tensor([[[0, 2, 4, 6, 8], [1, 3, 5, 7, 9]], [[9, 8, 7, 6, 5], [0, 1, 2, 3, 4]]])
    total = 0.0
    for partition in groups:
        for group in partition:
            white = [gram_schmidt(view[group]) for view in embeddings]
            for a, b in ((0, 1), (0, 2), (1, 2)):
                for x, y in zip(white[a], white[b], strict=True):
                    total += float((x / x.norm() - y / y.norm()).square().sum()) / (2 * 2 * 5 * 3)
    assert w_mse(embeddings, groups).item() == pytest.approx(total, rel=1e-10)


def test_the_method_whitens_random_sub_batches_of_all_views_alike() -> None:
    method, fresh = make("w_mse"), make("w_mse")
    batch = views(method)
    assert len(batch.images) == 4
    method.before_step(Clock(3, 10, 100))
    groups = method._groups(8)
    assert groups.shape == (1, 2, 4)
    assert sorted(groups.flatten().tolist()) == list(range(8))
    assert not torch.equal(groups, fresh._groups(8))  # those of step 0
    assert method._groups(11).shape == (1, 2, 4)  # three of eleven are left out
    projected = fresh.projector(fresh.backbone(torch.cat(batch.images))).double().unflatten(0, (4, 8))
    assert method(batch).item() == pytest.approx(w_mse(projected, groups).item(), rel=1e-3)


def test_large_views_are_blurred_and_small_ones_are_not() -> None:
    [large], [small] = (WMSE.view_plan(size) for size in (224, 32))
    assert (large.blur.probability, large.blur.sigma, small.blur.probability) == (0.5, (0.1, 2.0), 0.0)


def test_sub_batches_whose_covariance_has_no_inverse_are_refused() -> None:
    method = make("w_mse", output_dim=8, sub_batch=16)
    with pytest.raises(GlocalError, match="8 embeddings of width 8 cannot be whitened: take more"):
        method(views(method))
    with pytest.raises(GlocalError, match="sub_batch=128 must be larger than output_dim=128"):
        build_recipe({}, {"method.name": "w_mse", "method.output_dim": 128})
    shrunk = make("w_mse", output_dim=8, shrinkage=0.1)
    assert shrunk(views(shrunk)).isfinite()
