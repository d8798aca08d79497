"""Hard contrastive targets: one positive among negatives."""

from __future__ import annotations

import torch
from torch import Tensor

from glocal.losses.precision import full_precision


@full_precision
def info_nce(query: Tensor, key: Tensor, negatives: Tensor, *, temperature: float) -> Tensor:
    """InfoNCE: cross-entropy of the positive among itself and the negatives.

    −log( exp(q·k/τ) / (exp(q·k/τ) + Σₙ exp(q·n/τ)) ), averaged over the batch.
    He et al., "Momentum Contrast for Unsupervised Visual Representation Learning", CVPR 2020, eq. 1.

    Args:
        query: (B, D) unit vectors.
        key: (B, D) unit vectors, the positives; detached by the caller where the method says so.
        negatives: (K, D) unit vectors shared by the whole batch.
        temperature: τ > 0.

    Returns:
        Scalar in the dtype of the inputs.

    >>> one = torch.eye(2)
    >>> round(float(info_nce(one, one, -one[:1], temperature=1.0)), 4)
    0.2201
    """
    positive = (query * key).sum(dim=1) / temperature  # (B,)
    negative = query @ negatives.T / temperature  # (B, K)
    return (torch.logaddexp(positive, negative.logsumexp(dim=1)) - positive).mean()
