"""CutMix and Mixup: distributions, rectangles and shares."""

import pytest
import torch
from scipy.stats import beta, kstest

from glocal.views.mixing import cutmix, draw_ratio, mixup


@pytest.mark.parametrize("alpha", [2.0, 0.2])
def test_ratios_are_beta_distributed(alpha: float) -> None:
    drawn = draw_ratio(alpha, 0, "mix", torch.arange(5000))
    assert kstest(drawn.numpy(), beta(alpha, alpha).cdf).pvalue > 0.01


def test_the_corrected_ratio_is_the_share_that_is_left_of_each_image() -> None:
    images, partners = torch.zeros(200, 1, 24, 32), torch.ones(200, 1, 24, 32)
    generator = torch.Generator().manual_seed(0)
    drawn, center = torch.rand(200, generator=generator), torch.rand(200, 2, generator=generator)
    mixed, ratio = cutmix(images, partners, drawn, center)
    assert torch.allclose(ratio, 1 - mixed.mean(dim=(1, 2, 3)), atol=1e-6)
    assert set(mixed.unique().tolist()) == {0.0, 1.0}
    assert (ratio >= drawn - 1e-6).all()  # cutting at the border and rounding down only shrink the rectangle
    assert (ratio > drawn + 0.05).any()


def test_the_rectangle_lies_where_it_was_drawn() -> None:
    mixed, ratio = cutmix(
        torch.zeros(1, 1, 8, 8), torch.ones(1, 1, 8, 8), torch.tensor([0.75]), torch.tensor([[0.5, 0.25]])
    )
    expected = torch.zeros(8, 8)
    expected[0:4, 2:6] = 1  # half of each side, around column 4 and row 2
    assert torch.equal(mixed[0, 0], expected)
    assert ratio.item() == 0.75


def test_mixup_is_the_weighted_sum() -> None:
    a, b = torch.rand(3, 2, 4, 4), torch.rand(3, 2, 4, 4)
    ratio = torch.tensor([0.0, 0.3, 1.0])
    expected = torch.stack([r * x + (1 - r) * y for r, x, y in zip(ratio, a, b, strict=True)])
    assert torch.allclose(mixup(a, b, ratio), expected)
