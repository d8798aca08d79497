"""Losses between whitened embeddings: W-MSE, Zero-CL."""

from __future__ import annotations

from itertools import combinations

import torch
from torch import Tensor
from torch.nn.functional import normalize

from glocal.errors import GlocalError
from glocal.losses.precision import full_precision
from glocal.losses.redundancy import several_images, standardised, symmetric_function


@full_precision
def w_mse(views: Tensor, groups: Tensor, *, shrinkage: float = 0.0) -> Tensor:
    """Distance between the whitened embeddings of an image's views.

    2 − 2·cos of every two views, averaged over pairs, images and partitions, after each group of each view was whitened
    by itself (`cholesky_whiten`). Ermolov, Siarohin, Sangineto and Sebe, "Whitening for Self-Supervised Representation
    Learning", ICML 2021.

    Args:
        views: (V, B, D) embeddings, V ≥ 2.
        groups: (P, G, n) int64, P ways to part images into G groups of n > D, by their places in the batch.
        shrinkage: of the covariance towards the identity.

    Returns:
        Scalar in the dtype of the embeddings.

    Raises:
        GlocalError: a group too small for its covariance to be inverted.
    """
    whitened = normalize(cholesky_whiten(views[:, groups], shrinkage=shrinkage), dim=-1)  # (V, P, G, n, D)
    terms = [2 - 2 * (first * second).sum(dim=-1).mean() for first, second in combinations(whitened, 2)]
    return torch.stack(terms).mean()


@full_precision
def cholesky_whiten(z: Tensor, *, shrinkage: float = 0.0) -> Tensor:
    """Rows with mean 0 and covariance I: L⁻¹(z − μ) with the Cholesky factor LLᵀ of the covariance.

    Ermolov et al., ICML 2021 (after Siarohin, Sangineto and Sebe, ICLR 2019); gradients flow through mean
    and covariance too.

    Args:
        z: (…, n, D); the covariance is that of the n rows, by n − 1.
        shrinkage: ε in [0, 1], of the covariance towards the identity.

    Returns:
        (…, n, D) in the dtype of `z`.

    Raises:
        GlocalError: without shrinkage, n ≤ D, where the covariance has no inverse.
    """
    rows, dim = z.shape[-2:]
    if rows <= dim and not shrinkage and not z.is_meta:  # where a rehearsal looks at two images
        raise GlocalError(
            f"{rows} embeddings of width {dim} cannot be whitened: take more embeddings than dimensions, or a "
            "shrinkage above 0"
        )
    centred = z - z.mean(dim=-2, keepdim=True)
    covariance = (1 - shrinkage) * centred.mT @ centred / max(1, rows - 1)
    covariance = covariance + shrinkage * torch.eye(dim, dtype=z.dtype, device=z.device)
    factor, _ = torch.linalg.cholesky_ex(covariance)  # without a look at errors, for which the host would wait
    return torch.linalg.solve_triangular(factor, centred.mT, upper=False).mT


@full_precision
def zero_cl(first: Tensor, second: Tensor, *, instance: float = 1.0, feature: float = 1.0, eps: float = 0.01) -> Tensor:
    """Two views' whitened embeddings aligned, dimension by dimension and image by image.

    α·Σₙ (1 − ⟨h₁ₙ, h₂ₙ⟩/D)² + β·Σ_d (1 − ⟨g₁_d, g₂_d⟩/B)². The g are the standardised dimensions, whitened over the
    batch (feature-wise); the h the images' standardised embeddings, whitened over the dimensions as if images were
    what varies (instance-wise). Zhang, Zhu, Yan, Zhao and Yang, "Zero-CL: Instance and Feature Decorrelation for
    Negative-Free Symmetric Contrastive Learning", ICLR 2022. As in the authors' code, whitening is ZCA and its matrix
    gets no gradient. Their sum is ours: their code has one or the other.

    Args:
        first, second: (B, D) embeddings of two views, B ≥ 2.
        instance, feature: α and β.
        eps: added to the eigenvalues of the covariances.

    Returns:
        Scalar in the dtype of the inputs.

    Raises:
        GlocalError: a batch of one.
    """
    several_images(first)
    total = first.new_zeros(())
    if feature:
        total = total + feature * _misaligned(first, second, eps)
    if instance:
        total = total + instance * _misaligned(first.T, second.T, eps)
    return total


def _misaligned(first: Tensor, second: Tensor, eps: float) -> Tensor:
    """Σⱼ (1 − ⟨uⱼ, vⱼ⟩/n)² over the columns of two (n, m), standardised and whitened."""
    u, v = (zca(standardised(z, 1e-5), eps=eps) for z in (first, second))
    return (1 - (u * v).sum(dim=0) / len(u)).square().sum()


def zca(z: Tensor, *, eps: float) -> Tensor:
    """Columns whitened by a matrix without gradient: z·(C + ε·I)^(−1/2) with C = zᵀz/n.

    Where n < m the m × m matrix is not made. (C + ε)^(−1/2) is the identity by √ε, less what the n directions of z
    have of it: with zzᵀ/n = UsUᵀ, it is ε^(−1/2)·I − zᵀ·U·diag(w/n)·Uᵀ·z, 1/w = √(s + ε)·√ε·(√(s + ε) + √ε).

    Args:
        z: (n, m), centred columns.
        eps: ε > 0.

    Returns:
        (n, m) in the dtype of `z`.
    """
    rows, columns = z.shape
    fixed = z.detach()
    if columns <= rows:
        return z @ symmetric_function(fixed.T @ fixed / rows, lambda s: (s + eps).rsqrt())
    root = eps**0.5
    inner = symmetric_function(
        fixed @ fixed.T / rows, lambda s: 1 / ((s + eps).sqrt() * root * ((s + eps).sqrt() + root)) / rows
    )
    return z / root - (z @ fixed.T) @ inner @ fixed
