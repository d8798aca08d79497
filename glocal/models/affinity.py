"""LoGo's affinity at work: what its regressor learns from, and what it says to the encoder."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.func import functional_call
from torch.nn.functional import normalize

from glocal.distributed import all_gather, process_rank
from glocal.losses import affinity_objective
from glocal.models.heads import AffinityRegressor
from glocal.transfer import to_device
from glocal.views.random import normal


def affinity_loss(
    regressor: AffinityRegressor,
    first: Tensor,
    second: Tensor,
    *,
    index: Tensor,
    seed: int,
    step: int,
    noise: float,
) -> Tensor:
    """The regressor's objective on two local crops of each image, which get no gradient.

    Zhang et al., "Leverage Your Local and Global Representations", CVPR 2022, supplement, eq. 4 (or eq. 2 for `mine`),
    in both orders of the crops; the regressor sees representations of unit length.

    Args:
        regressor: f.
        first, second: (B, D) representations of the images' local crops.
        index: (B,) int64, the images' places in their source, and
        seed, step: what the noise is drawn from.
        noise: its standard deviation on the crops of one image, over √D.

    Returns:
        Scalar.
    """
    first, second = (normalize(representation.detach().float(), dim=1) for representation in (first, second))
    dim = first.shape[1]
    noise_a, noise_b = (
        noise
        / dim**0.5
        * to_device(
            normal(seed, "affinity noise", step, index[:, None], torch.arange(dim, device=index.device), number),
            first.device,
            first.dtype,
        )
        for number in (0, 1)
    )
    objective = first.new_zeros(())
    for one, other in ((first, second), (second, first)):
        positive = regressor(one + noise_a, other + noise_b)
        negative = regressor(*_of_two_images(one, other, every=regressor.form == "mine"))
        objective = objective + affinity_objective(positive, negative, form=regressor.form) / 2
    return objective


def fixed_affinity(regressor: AffinityRegressor, first: Tensor, second: Tensor) -> Tensor:
    """The affinity (B,) of local crops (B, D) under the regressor as it stands, which gets no gradient."""
    fixed = {name: parameter.detach() for name, parameter in regressor.named_parameters()}
    unit = normalize(first.float(), dim=1), normalize(second.float(), dim=1)
    return functional_call(regressor, fixed, unit)  # type: ignore[no-any-return]


def _of_two_images(one: Tensor, other: Tensor, *, every: bool) -> tuple[Tensor, Tensor]:
    """Crops of different images, row by row: one pair for each image, or every pair of the batch, O(B²)."""
    others = all_gather(other)  # (P·B, D)
    if not every:
        # The whole batch reversed, which would pair the middle one of an odd batch with itself.
        first = process_rank() * len(one)
        return one, (others.flip(0) if len(others) % 2 == 0 else others.roll(1, 0))[first : first + len(one)]
    row = torch.arange(len(one), device=one.device).repeat_interleave(len(others) - 1)
    column = torch.arange(len(others) - 1, device=one.device).repeat(len(one))
    column = column + (column >= process_rank() * len(one) + row)  # its own image is passed over
    return one[row], others[column]  # (B·(P·B − 1), D)
