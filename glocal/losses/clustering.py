"""Losses over prototypes: prediction of Sinkhorn's codes (SwAV) and of clusters (DeepCluster v2)."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from glocal.distributed import all_gather, all_sum
from glocal.losses.precision import full_precision


@torch.no_grad()
@full_precision
def sinkhorn(scores: Tensor, *, epsilon: float, iterations: int = 3) -> Tensor:
    """Soft codes that share the samples out equally among the prototypes.

    The rows of diag(u)·exp(scores/ε)·diag(v), whose rows sum to 1 and whose columns are drawn towards B/K by Sinkhorn's
    iterations. Caron, Misra, Mairal, Goyal, Bojanowski and Joulin, "Unsupervised Learning of Visual Features by
    Contrasting Cluster Assignments", NeurIPS 2020, eq. 3 to 5 and appendix A.1. In a run of several processes, each has
    its share of the samples and the columns' sums are those of all.

    Args:
        scores: (B, K) similarities of samples and prototypes, or (…, B, K) for several sets of samples at once.
        epsilon: smoothness ε > 0; towards 0 codes become one-hot.
        iterations: of normalising columns, then rows.

    Returns:
        (…, B, K) in the dtype of the scores; each row sums to 1; without gradient.

    >>> sinkhorn(torch.tensor([[0.9, 0.1], [0.8, 0.1]]), epsilon=0.01, iterations=50).round().tolist()
    [[1.0, 0.0], [0.0, 1.0]]
    """
    # Matrix scaling: the matrix stays, rows and columns get factors. Each row has a 1, so none underflows as a whole.
    smallest = torch.finfo(scores.dtype).tiny ** 0.75
    top = scores.amax(dim=-1, keepdim=True)  # (…, B, 1)
    codes = ((scores - top) / epsilon).exp()
    row = ((top - all_gather(top.amax().reshape(1)).amax()) / epsilon).exp()
    for _ in range(iterations):
        column = 1 / all_sum(row.mT @ codes).clamp_(min=smallest)  # (…, 1, K)
        row = 1 / (codes @ column.mT)
    return codes * column * row


@full_precision
def swapped_prediction(scores: Tensor, codes: Tensor, *, temperature: float) -> Tensor:
    """Every view predicts the codes of the global views of its image, but for its own.

    −(1/G) Σ_g 1/(V − 1) Σ_{v ≠ g} Σₖ q_gk·log softmax(s_v/τ)ₖ, averaged over the batch. Caron et al., NeurIPS 2020,
    eq. 1, 2 and 6.

    Args:
        scores: (V, B, K) similarities of all views with the prototypes, the G global views first.
        codes: (G, B, K) of the global views, rows summing to 1 (`sinkhorn`).
        temperature: τ > 0.

    Returns:
        Scalar in the dtype of the inputs.
    """
    total, count = scores.sum(dim=0), len(scores)
    normaliser = (scores / temperature).logsumexp(dim=-1)  # (V, B)
    # A code's rows sum to 1, so its cross-entropies with all other views need one product with their scores' sum.
    expected = (codes * (total - scores[: len(codes)])).sum(dim=-1) / temperature  # (G, B)
    others = normaliser.sum(dim=0) - normaliser[: len(codes)]
    return (others - expected).mean() / (count - 1)


@full_precision
def label_prediction(scores: Tensor, labels: Tensor, *, temperature: float = 1.0) -> Tensor:
    """Every view predicts the cluster of its image, once for each clustering.

    −1/(V·H) Σ_v Σ_h log softmax(s_vh/τ)_{y_h}, averaged over the batch. Caron et al., NeurIPS 2020, appendix A
    (DeepCluster v2).

    Args:
        scores: (V, B, H, K) scores of all views for the K clusters of H clusterings.
        labels: (B, H) int64, the images' clusters.
        temperature: τ > 0.

    Returns:
        Scalar in the dtype of the scores.
    """
    return cross_entropy(scores.flatten(0, 2) / temperature, labels.expand(scores.shape[:-1]).flatten())
