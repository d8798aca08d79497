"""PCL: contrast with the centres of clusters, each with a concentration of its own."""

from __future__ import annotations

import torch
from torch import Tensor

from glocal.losses.precision import full_precision


@full_precision
def proto_nce(
    query: Tensor, prototypes: Tensor, concentration: Tensor, positive: Tensor, *, drawn: Tensor | None = None
) -> Tensor:
    """One clustering's term of ProtoNCE: cross-entropy of the own prototype among itself and others.

    −log( exp(q·c₊/φ₊) / (exp(q·c₊/φ₊) + Σⱼ exp(q·cⱼ/φⱼ)) ), averaged over the batch. Li, Zhou, Xiong and Hoi,
    "Prototypical Contrastive Learning of Unsupervised Representations", ICLR 2021, eq. 11, second term. A query's own
    prototype is never among its negatives; in the authors' code another image's positive may be the same prototype.

    Args:
        query: (B, D) unit vectors.
        prototypes: (K, D) unit vectors.
        concentration: (K,) φ > 0, each prototype's temperature (`concentrations`).
        positive: (B,) int64, the cluster of each query's image.
        drawn: (R,) int64, the prototypes that serve as negatives; None: all.

    Returns:
        Scalar in the dtype of the inputs.
    """
    others = torch.arange(len(prototypes), device=query.device) if drawn is None else drawn
    negative = query @ prototypes[others].T / concentration[others]  # (B, R)
    negative = negative.masked_fill(others == positive[:, None], -torch.inf)
    own = (query * prototypes[positive]).sum(dim=1) / concentration[positive]  # (B,)
    return (torch.logaddexp(own, negative.logsumexp(dim=1)) - own).mean()


@torch.no_grad()
def concentrations(
    features: Tensor, centers: Tensor, assignment: Tensor, *, temperature: float, alpha: float = 10.0
) -> Tensor:
    """How loosely the features lie around each centre, scaled to a mean of `temperature`.

    φ = Σ ‖v − c‖ / (Z·log(Z + α)) over a cluster's Z features. Li et al., ICLR 2021, eq. 12. As in the authors' code,
    clusters of one feature take the largest φ, and values beyond the 10th and 90th percentile are cut.

    Args:
        features: (N, D).
        centers: (K, D), the clusters' means.
        assignment: (N,) int64.
        temperature: τ, the mean afterwards.
        alpha: smooths small clusters.

    Returns:
        (K,) in the dtype of the features.
    """
    distance = (features - centers[assignment]).norm(dim=1)
    size = torch.zeros_like(centers[:, 0]).index_add_(0, assignment, torch.ones_like(distance))
    total = torch.zeros_like(size).index_add_(0, assignment, distance)
    loose = total / (size.clamp(min=1) * (size + alpha).log())
    loose = torch.where(size > 1, loose, loose.max())
    low, high = torch.quantile(loose, torch.tensor([0.1, 0.9], dtype=loose.dtype, device=loose.device))
    loose = loose.clamp(low, high).clamp_(min=torch.finfo(loose.dtype).tiny)
    return loose * (temperature / loose.mean())
