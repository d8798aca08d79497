"""LoGo's affinity and CLIM's mixed InfoNCE, against the formulas in plain Python and float64."""

import math

import pytest
import torch
from torch.autograd import gradcheck
from torch.nn.functional import normalize

from glocal.losses import affinity_objective, cutmix_info_nce, info_nce, local_dissimilarity

POSITIVE, NEGATIVE = [0.3, -0.7, 2.0], [1.1, 0.0, -0.4]


def tensors() -> tuple[torch.Tensor, torch.Tensor]:
    return torch.tensor(POSITIVE, dtype=torch.float64), torch.tensor(NEGATIVE, dtype=torch.float64)


def softplus(x: float) -> float:
    return math.log1p(math.exp(x))


def test_the_regressor_maximises_the_difference_of_affinities() -> None:
    positive, negative = tensors()
    expected = sum(softplus(-p) + softplus(n) for p, n in zip(POSITIVE, NEGATIVE, strict=True)) / 3
    assert affinity_objective(positive, negative).item() == pytest.approx(expected, rel=1e-12)
    cosine = sum(n - p for p, n in zip(POSITIVE, NEGATIVE, strict=True)) / 3
    assert affinity_objective(positive, negative, form="cosine").item() == pytest.approx(cosine, rel=1e-12)


def test_the_encoder_lowers_the_affinity() -> None:
    positive, _ = tensors()
    assert local_dissimilarity(positive).item() == pytest.approx(sum(softplus(p) for p in POSITIVE) / 3, rel=1e-12)
    assert local_dissimilarity(positive, form="cosine").item() == pytest.approx(sum(POSITIVE) / 3, rel=1e-12)


def vectors(*shape: int) -> torch.Tensor:
    return normalize(
        torch.randn(*shape, generator=torch.Generator().manual_seed(sum(shape)), dtype=torch.float64), dim=1
    )


def test_cutmix_info_nce_is_the_weighted_sum_of_two_info_nces_image_by_image() -> None:
    mixed, key, partner, negatives = vectors(5, 8), vectors(5, 8).flip(0), vectors(5, 8).roll(2, 0), vectors(9, 8)
    ratio = torch.tensor([0.0, 0.2, 0.5, 0.9, 1.0], dtype=torch.float64)
    expected = sum(
        ratio[i] * info_nce(mixed[i : i + 1], key[i : i + 1], negatives, temperature=0.2)
        + (1 - ratio[i]) * info_nce(mixed[i : i + 1], partner[i : i + 1], negatives, temperature=0.2)
        for i in range(5)
    )
    loss = cutmix_info_nce(mixed, key, partner, negatives, ratio=ratio, temperature=0.2)
    assert loss.item() == pytest.approx(float(expected) / 5, rel=1e-12)
    whole = cutmix_info_nce(mixed, key, partner, negatives, ratio=1.0, temperature=0.2)
    assert whole.item() == pytest.approx(info_nce(mixed, key, negatives, temperature=0.2).item(), rel=1e-12)
    assert gradcheck(
        lambda m: cutmix_info_nce(m, key, partner, negatives, ratio=ratio, temperature=0.2), (mixed.requires_grad_(),)
    )
