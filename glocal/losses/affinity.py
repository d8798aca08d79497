"""LoGo's learned affinity: what the regressor maximises and the encoder minimises."""

from __future__ import annotations

import math
from typing import Literal

from torch import Tensor
from torch.nn.functional import softplus

from glocal.distributed import all_gather_with_gradient, process_count
from glocal.errors import GlocalError
from glocal.losses.precision import full_precision

AffinityForm = Literal["softplus", "printed", "cosine", "mine"]


@full_precision
def affinity_objective(positive: Tensor, negative: Tensor, *, form: AffinityForm = "softplus") -> Tensor:
    """The regressor's loss: a high affinity f of two local crops of one image, a low one of crops of two images.

    Zhang, Qiu, Ke, Süsstrunk and Salzmann, "Leverage Your Local and Global Representations", CVPR 2022, supplement,
    eq. 4: maximise E[f(z₁, z₂) − f(z₁, z⁻)], f ≥ 0. This is `printed`, which has no maximum: f⁺ can grow for ever. The
    authors' code has `softplus`, softplus(−f⁺) + softplus(f⁻), whose gradients fade where pairs are told apart, and
    `cosine`, whose f is bounded, −f⁺ + f⁻. `mine` is what eq. 4 relaxes (see `mine`).

    Args:
        positive: (B,) affinities of pairs from one image.
        negative: (B,) affinities of pairs from two images; for `mine` (M,), those of all such pairs.
        form: how f enters.

    Returns:
        Scalar in the dtype of the inputs.

    Raises:
        GlocalError: `mine` without a pair of two images.
    """
    if form == "mine":
        return mine(positive, negative)
    if form in ("printed", "cosine"):
        return (negative - positive).mean()
    return (softplus(-positive) + softplus(negative)).mean()


@full_precision
def mine(positive: Tensor, negative: Tensor) -> Tensor:
    """MINE's loss: the Donsker-Varadhan bound of mutual information, log E[exp f⁻] − E[f⁺], which training lowers.

    Belghazi et al., "Mutual Information Neural Estimation", ICML 2018, as in LoGo's supplement, section 5, eq. 2. There
    f ≥ 0; the bound holds for every f, and a constant added to f leaves it as it is. In a run of several processes the
    second expectation is over the pairs of all of them.

    The supplement comes from here to eq. 3, and to the `softplus` and `cosine` forms of eq. 4, by log E[exp f] < E[f].
    As printed this is the wrong way round: the logarithm is concave, so by Jensen's inequality log E[exp f] ≥ E[f], and
    eq. 3's right side lies above the bound of eq. 2 instead of below it. It is a loss of its own, no bound of
    the mutual information.

    Args:
        positive: (B,) affinities of pairs from the joint distribution: two crops of one image.
        negative: (M,) affinities of pairs from the product of the marginals: crops of two images, all pairs of the
            batch in LoGo; as many in every process.

    Returns:
        Scalar in the dtype of the inputs.

    Raises:
        GlocalError: no negative pair.

    >>> import torch
    >>> round(mine(torch.tensor([2.0, 4.0]), torch.tensor([1.0, 1.0, 1.0])).item(), 4)
    -2.0
    """
    if negative.numel() == 0:
        raise GlocalError("MINE compares crops of different images: it needs at least 2 images in the batch")
    sums = all_gather_with_gradient(negative.flatten().logsumexp(dim=0, keepdim=True))  # (P,)
    return sums.logsumexp(dim=0) - math.log(process_count() * negative.numel()) - positive.mean()


@full_precision
def local_dissimilarity(affinity: Tensor, *, form: AffinityForm = "softplus") -> Tensor:
    """The encoder's term: it lowers the affinity f of two local crops of one image, f held fixed.

    LoGo (see `affinity_objective`), section 3.2; softplus(f) or, for `cosine`, f itself, as in the authors' code. Under
    `printed` and `mine` f itself too, which is a softplus already.

    Args:
        affinity: (B,) affinities of pairs from one image.
        form: how f enters.

    Returns:
        Scalar in the dtype of the inputs.
    """
    return (softplus(affinity) if form == "softplus" else affinity).mean()
