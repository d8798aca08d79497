"""Forces between embeddings as between particles: towards a centroid, at random, and apart (MSBReg)."""

from __future__ import annotations

from torch import Tensor
from torch.nn.functional import cosine_similarity, normalize

from glocal.losses.precision import full_precision
from glocal.losses.redundancy import squared_products


@full_precision
def centroid_attraction(online: Tensor, target: Tensor) -> Tensor:
    """Every view of the online network drawn to the centroid of the target network's views of its image.

    2 − 2·cos(z_v, c̄), averaged over views and batch, with c̄ the mean of the target's unit vectors at unit length. The
    multi-view centroid loss of Moon, Buracas, Park, Kim and Canny, "An Embedding-Dynamic Approach to Self-supervised
    Learning", WACV 2023, as a public implementation has it. With one view each it is BYOL's loss (Grill et al., NeurIPS
    2020, eq. 2).

    Args:
        online: (V, B, D) embeddings of V views, any length.
        target: (W, B, D) embeddings of W views of the same images, any length; detached by the caller.

    Returns:
        Scalar in [0, 4], in the dtype of the inputs.
    """
    centroid = normalize(normalize(target, dim=-1).mean(dim=0), dim=-1)  # (B, D)
    return 2 - 2 * (normalize(online, dim=-1) * centroid).sum(dim=-1).mean()


@full_precision
def brownian(embeddings: Tensor, directions: Tensor) -> Tensor:
    """A push of all views of an image against one random direction: cos(z_v, u), averaged over views and batch.

    The Brownian diffusive loss of Moon et al., WACV 2023, as a public implementation has it. Its gradient is a random
    step of each image, the same for all its views.

    Args:
        embeddings: (V, B, D), any length.
        directions: (B, D) random directions, any length.

    Returns:
        Scalar in [−1, 1], in the dtype of the embeddings.
    """
    return cosine_similarity(embeddings, directions.expand_as(embeddings), dim=-1).mean()


@full_precision
def singular_spread(embeddings: Tensor) -> Tensor:
    """How far the embeddings are from lying equally in all directions.

    Σᵢ (σᵢ²/B − 1/D)² over the D singular values σ of the (B, D) matrix, those that are 0 where B < D among them. It is
    ‖ZᵀZ/B − I/D‖², so no singular values are computed. Unit vectors have Σᵢ σᵢ²/B = 1: it is 0 where all directions
    have the same share of that, and 1 − 1/D where all embeddings are the same.

    This form is ours. Moon et al., WACV 2023, have a singular value loss for the same end, whose formula could not be
    confirmed.

    Args:
        embeddings: (B, D) unit vectors.

    Returns:
        Scalar in the dtype of the embeddings.

    >>> import torch
    >>> round(float(singular_spread(torch.eye(4))), 4), float(singular_spread(torch.eye(4)[[0, 0, 0, 0]]))
    (0.0, 0.75)
    """
    batch, dim = embeddings.shape
    length = embeddings.square().sum() / batch  # Σᵢ σᵢ²/B
    return squared_products(embeddings, embeddings) / batch**2 - 2 * length / dim + 1 / dim
