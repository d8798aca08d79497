"""LoGo's learned affinity: what the regressor maximises and the encoder minimises."""

from __future__ import annotations

from typing import Literal

from torch import Tensor
from torch.nn.functional import softplus

from glocal.losses.precision import full_precision

AffinityForm = Literal["softplus", "cosine"]


@full_precision
def affinity_objective(positive: Tensor, negative: Tensor, *, form: AffinityForm = "softplus") -> Tensor:
    """The regressor's loss: a high affinity f of two local crops of one image, a low one of crops of two images.

    Zhang, Qiu, Ke, Süsstrunk and Salzmann, "Leverage Your Local and Global Representations", CVPR 2022, supplement,
    eq. 4: maximise E[f(z₁, z₂) − f(z₁, z⁻)]. In the authors' code `softplus` is softplus(−f⁺) + softplus(f⁻), and
    `cosine`, whose f is bounded, −f⁺ + f⁻.

    Args:
        positive: (B,) affinities of pairs from one image.
        negative: (B,) affinities of pairs from two images.
        form: how f enters.

    Returns:
        Scalar in the dtype of the inputs.
    """
    if form == "cosine":
        return (negative - positive).mean()
    return (softplus(-positive) + softplus(negative)).mean()


@full_precision
def local_dissimilarity(affinity: Tensor, *, form: AffinityForm = "softplus") -> Tensor:
    """The encoder's term: it lowers the affinity f of two local crops of one image, f held fixed.

    LoGo (see `affinity_objective`), section 3.2; softplus(f) or f itself, as in the authors' code.

    Args:
        affinity: (B,) affinities of pairs from one image.
        form: how f enters.

    Returns:
        Scalar in the dtype of the inputs.
    """
    return (affinity if form == "cosine" else softplus(affinity)).mean()
