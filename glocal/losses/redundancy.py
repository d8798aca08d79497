"""Losses that keep the dimensions of a representation from saying the same: Barlow Twins, VICReg, ARB."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn.functional import mse_loss

from glocal.errors import GlocalError
from glocal.losses.precision import full_precision


@full_precision
def barlow_twins(first: Tensor, second: Tensor, *, coefficient: float, eps: float = 1e-5) -> Tensor:
    """Cross-correlation of two views' representations drawn towards the identity.

    Σᵢ (1 − Cᵢᵢ)² + λ Σᵢ Σ_{j≠i} Cᵢⱼ². Zbontar, Jing, Misra, LeCun and Deny, "Barlow Twins: Self-Supervised Learning
    via Redundancy Reduction", ICML 2021, eq. 1 and 2. Dimensions are standardised over the batch as batch normalisation
    does it (authors' code).

    The D × D matrix is not made where the batch is smaller than D: Σᵢⱼ Cᵢⱼ² = ⟨Z₁Z₁ᵀ, Z₂Z₂ᵀ⟩/B².

    Args:
        first, second: (B, D) representations of two views, B ≥ 2.
        coefficient: λ, the weight of the redundancy reduction.
        eps: added to the variances.

    Returns:
        Scalar in the dtype of the inputs.

    Raises:
        GlocalError: a batch of one.
    """
    batch = several_images(first)
    first, second = (standardised(z, eps) for z in (first, second))
    diagonal = (first * second).sum(dim=0) / batch  # (D,)
    everything = squared_products(first, second) / batch**2
    redundancy = everything - diagonal.square().sum()
    return (1 - diagonal).square().sum() + coefficient * redundancy


@full_precision
def vicreg(
    first: Tensor,
    second: Tensor,
    *,
    invariance: float = 25.0,
    variance: float = 25.0,
    covariance: float = 1.0,
    eps: float = 1e-4,
) -> Tensor:
    """Variance, invariance and covariance of two views' representations.

    λ·s(Z, Z′) + μ·(v(Z) + v(Z′))/2 + ν·(c(Z) + c(Z′)). Bardes, Ponce and LeCun, "VICReg:
    Variance-Invariance-Covariance Regularization for Self-Supervised Learning", ICLR 2022, eq. 1 to 6, with the two
    scales of the authors' code, for which λ = μ = 25 and ν = 1 were found: s is averaged over the dimensions too, and v
    over the two views.

    Args:
        first, second: (B, D) representations of two views, B ≥ 2.
        invariance, variance, covariance: λ, μ, ν.
        eps: added to the variances.

    Returns:
        Scalar in the dtype of the inputs.

    Raises:
        GlocalError: a batch of one.
    """
    total = invariance * mse_loss(first, second)
    for view in (first, second):
        hinge, others = variance_and_covariance(view, eps=eps)
        total = total + variance / 2 * hinge + covariance * others
    return total


@full_precision
def variance_and_covariance(z: Tensor, *, eps: float = 1e-4) -> tuple[Tensor, Tensor]:
    """VICReg's two terms of one view: v, what deviations lack of 1, and c, the squared covariances of the dimensions.

    v = meanⱼ max(0, 1 − √(Var(zⱼ) + ε)) and c = Σ_{i≠j} Cov(zᵢ, zⱼ)²/D. Bardes, Ponce and LeCun, ICLR 2022, eq. 1 to 4.

    Args:
        z: (B, D) representations, B ≥ 2.
        eps: added to the variances.

    Returns:
        v and c, scalars in the dtype of the inputs.

    Raises:
        GlocalError: a batch of one.
    """
    batch = several_images(z)
    centred = z - z.mean(dim=0)
    spread = centred.square().sum(dim=0) / (batch - 1)  # (D,)
    hinge = torch.relu(1 - (spread + eps).sqrt()).mean()
    others = squared_products(centred, centred) / (batch - 1) ** 2 - spread.square().sum()
    return hinge, others / z.shape[1]


@full_precision
def arb(first: Tensor, second: Tensor, *, shrinkage: float = 1e-4, eps: float = 1e-5) -> Tensor:
    """Each view's dimensions aligned with the other view's nearest orthonormal base.

    Σᵢ (1 − ⟨z₁ᵢ, b₂ᵢ⟩/B)² + Σᵢ (1 − ⟨z₂ᵢ, b₁ᵢ⟩/B)² over the standardised dimensions zᵢ; the base b is the view
    whitened, without gradient (`whiten`). Zhang et al., "Align Representations with Base: A New Approach to
    Self-Supervised Learning", CVPR 2022, divided by the batch as in the authors' code for ImageNet. Dimensions are
    standardised as batch normalisation does it, by the biased variance, where the authors take the unbiased one.

    Args:
        first, second: (B, D) representations of two views, B ≥ 2.
        shrinkage, eps: of the whitening; `eps` is added to the variances of the standardisation as well.

    Returns:
        Scalar in the dtype of the inputs.

    Raises:
        GlocalError: a batch of one.
    """
    batch = several_images(first)
    first, second = (standardised(z, eps) for z in (first, second))
    pairs = (
        (first, whiten(second, shrinkage=shrinkage, eps=eps)),
        (second, whiten(first, shrinkage=shrinkage, eps=eps)),
    )
    return torch.stack([(1 - (z * base).sum(dim=0) / batch).square().sum() for z, base in pairs]).sum()


@full_precision
def decorrelation(z: Tensor, *, eps: float = 1e-8) -> Tensor:
    """How much each dimension says what others say: the sum of its squared correlations with them, on average.

    Σᵢ Σ_{j≠i} Cᵢⱼ² / D, with C the correlations of the dimensions over the rows. It is the covariance term of VICReg
    (Bardes, Ponce and LeCun, ICLR 2022, eq. 3) of standardised dimensions, and for one batch of views what the
    redundancy term of Barlow Twins (Zbontar et al., ICML 2021, eq. 1) is between two.

    Args:
        z: (B, D) representations, B ≥ 2.
        eps: added to the variances, which are about 1/D for unit vectors.

    Returns:
        Scalar in the dtype of the inputs: 0 for dimensions without correlation, D − 1 where all are the same.

    Raises:
        GlocalError: a batch of one.

    >>> round(float(decorrelation(torch.tensor([[0.0, 0.0], [1.0, 1.0]]), eps=0.0)), 4)
    1.0
    """
    batch, dim = several_images(z), z.shape[1]
    z = standardised(z, eps)
    itself = z.square().sum(dim=0) / batch  # (D,), 1 but for eps
    return (squared_products(z, z) / batch**2 - itself.square().sum()) / dim


@torch.no_grad()
@full_precision
def whiten(z: Tensor, *, shrinkage: float = 0.0, eps: float = 0.0) -> Tensor:
    """The orthonormal base nearest to the columns of z: ZCA whitening.

    Z·((1 − ρ)·C + (ρ + ε)·I)^(−1/2) with C = ZᵀZ/B. With Z = USVᵀ this is a function of the Gram matrix ZZᵀ = US²Uᵀ as
    well, times Z: the smaller of the two matrices is decomposed.

    Args:
        z: (B, D), centred.
        shrinkage: ρ in [0, 1], of the covariance towards the identity.
        eps: ε ≥ 0, added to the eigenvalues.

    Returns:
        (B, D) in the dtype of `z`, without gradient.
    """
    batch, dim = z.shape
    gram = (z.T @ z if dim <= batch else z @ z.T) / batch
    root = symmetric_function(gram, lambda values: ((1 - shrinkage) * values + shrinkage + eps).rsqrt())
    return z @ root if dim <= batch else root @ z


@torch.no_grad()
def symmetric_function(gram: Tensor, scale: Callable[[Tensor], Tensor]) -> Tensor:
    """A function of a symmetric matrix without negative eigenvalues, given as one of these; without gradient.

    Args:
        gram: (n, n).
        scale: of the n eigenvalues.

    Returns:
        (n, n); NaN where the matrix is not finite: what has diverged gives no numbers, not an error of the
        decomposition.
    """
    finite = gram.isfinite().all()
    values, vectors = torch.linalg.eigh(torch.where(finite, gram, 0))
    return torch.where(finite, (vectors * scale(values.clamp(min=0))) @ vectors.T, torch.nan)


def squared_products(first: Tensor, second: Tensor) -> Tensor:
    """‖Z₁ᵀZ₂‖² of two (B, D), by the smaller of the matrices that give it: (D, D), or two of (B, B)."""
    batch, dim = first.shape
    if dim <= batch:
        return (first.T @ second).square().sum()
    gram = first @ first.T
    return (gram * (gram if first is second else second @ second.T)).sum()


def standardised(z: Tensor, eps: float) -> Tensor:
    """The columns of z (B, D) with mean 0 and, but for `eps`, biased variance 1."""
    centred = z - z.mean(dim=0)
    return centred * (centred.square().mean(dim=0) + eps).rsqrt()


def several_images(z: Tensor) -> int:
    """The number of images.

    Raises:
        GlocalError: it is one.
    """
    if len(z) < 2:
        raise GlocalError("statistics over the batch need at least 2 images in it")
    return len(z)
