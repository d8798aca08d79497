"""Inpainting: the hidden part of an image counts, and nothing of it is seen."""

import math

import pytest
import torch
from torch import Tensor

from glocal.losses.pretext import masked_l2
from glocal.models.masks import central_square, random_blocks
from tests.methods.cases import RESNET_RUN, MethodCase, make, views

# No budget: it was not tried on shapes.
CASE = MethodCase(
    slow=True,
    trained={"loss": {"backbone", "decoder"}},
    small={"decoder_dim": 16, "discriminator_dim": 8},
    run={**RESNET_RUN, "method.decoder_dim": 64, "optimizer.lr": 0.06},
)


def random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def test_the_loss_equals_a_plain_loop_and_its_gradient_finite_differences() -> None:
    painted, images = random(2, 3, 4, 4), random(2, 3, 4, 4, seed=1)
    weight = (random(2, 1, 4, 4, seed=2) > 0) * 2.0 + (random(2, 1, 4, 4, seed=3) > 1)
    total = 0.0
    for row in range(2):
        pixels = [(i, j) for i in range(4) for j in range(4)]
        errors = sum(
            float(weight[row, 0, i, j]) * float(painted[row, channel, i, j] - images[row, channel, i, j]) ** 2
            for i, j in pixels
            for channel in range(3)
        )
        total += errors / (3 * sum(float(weight[row, 0, i, j]) for i, j in pixels))
    found = masked_l2(painted, images, weight.double())
    assert found.dtype == torch.float64
    assert found.item() == pytest.approx(total / 2)
    assert torch.autograd.gradcheck(lambda one: masked_l2(one, images, weight.double()), painted.requires_grad_())


def test_blocks_are_an_images_own_and_hide_about_a_fifth() -> None:
    hidden = random_blocks(64, seed=0, step=3, index=torch.arange(200))
    assert hidden.unique().tolist() == [0, 1]
    assert 0.15 < hidden.mean() < 0.25
    assert hidden.mean(dim=(1, 2, 3)).min() > 0.01
    assert torch.equal(random_blocks(64, seed=0, step=3, index=torch.tensor([7, 3])), hidden[[7, 3]])
    assert not torch.equal(random_blocks(64, seed=0, step=4, index=torch.arange(200)), hidden)


def test_the_middle_is_hidden_and_errors_at_its_edge_count_ten_times() -> None:
    hidden, weight = central_square(227)
    assert hidden[0, 0].nonzero().aminmax(dim=0).min.tolist() == [56 + 7, 56 + 7]
    assert weight[0, 0, 113].tolist() == [0.0] * 56 + [10.0] * 7 + [1.0] * 101 + [10.0] * 7 + [0.0] * 56


@pytest.mark.parametrize("region", ["blocks", "central"])
def test_what_is_hidden_is_not_seen(region: str) -> None:
    method = make("inpainting", region=region).eval()
    batch = views(method)
    images, hidden, weight = method.hide(batch)
    painted = method.paint(images, hidden)
    assert torch.equal(method.paint(images + 100 * hidden, hidden), painted)
    assert painted.shape == images.shape
    assert method(batch).item() == pytest.approx(masked_l2(painted, images, weight).item(), rel=1e-5)


def test_with_a_discriminator_each_update_moves_its_own_part() -> None:
    method = make("inpainting", adversarial=True, reconstruction_weight=0.5)
    batch = views(method)
    assert method.phases == ("discrimination", "loss")
    for phase, moved in (("discrimination", {"discriminator"}), ("loss", {"backbone", "decoder"})):
        method.zero_grad()
        method(batch, phase).backward()
        assert {name.split(".")[0] for name, p in method.named_parameters() if p.grad is not None} == moved
    assert {group.phase for group in method.parameter_groups() if group.module is method.discriminator} == {
        "discrimination"
    }


def test_the_terms_with_a_discriminator_are_those_of_the_logits() -> None:
    method = make("inpainting", adversarial=True, reconstruction_weight=0.25).eval()
    batch = views(method)
    images, hidden, weight = method.hide(batch)
    painted = method.paint(images, hidden)
    filled = torch.where(hidden > 0, painted, images)
    real, fake = (torch.sigmoid(method.discriminator(one)).tolist() for one in (images, filled))
    told = -sum(math.log(r) + math.log(1 - f) for r, f in zip(real, fake, strict=True)) / 8
    assert method(batch, "discrimination").item() == pytest.approx(told, rel=1e-4)
    deceit = -sum(math.log(f) for f in fake) / 8
    expected = 0.25 * masked_l2(painted, images, weight).item() + 0.75 * deceit
    assert method(batch).item() == pytest.approx(expected, rel=1e-4)
