"""Losses over prototypes and clusters: prediction of codes and labels, and Sinkhorn's way to find them."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy, linear

from glocal.distributed import all_gather, all_sum, gather_shares, own_share
from glocal.losses.precision import full_precision

_CHUNK_BYTES = 256 << 20  # of scores held at a time


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
    tiny = torch.finfo(scores.dtype).tiny
    largest = all_gather(scores.amax().reshape(1)).amax()  # a common factor of all codes: no exponential overflows
    codes = ((scores - largest) / epsilon).exp()
    for _ in range(iterations):
        codes /= all_sum(codes.sum(dim=-2, keepdim=True)).clamp_(min=tiny)
        codes /= codes.sum(dim=-1, keepdim=True).clamp_(min=tiny)
    return codes


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
    (DeepCluster v2); Asano, Rupprecht and Vedaldi, "Self-labelling via simultaneous clustering and representation
    learning", ICLR 2020, eq. 1.

    Args:
        scores: (V, B, H, K) scores of all views for the K clusters of H clusterings.
        labels: (B, H) int64, the images' clusters.
        temperature: τ > 0.

    Returns:
        Scalar in the dtype of the scores.
    """
    return cross_entropy(scores.flatten(0, 2) / temperature, labels.expand(scores.shape[:-1]).flatten())


@torch.no_grad()
@full_precision
def balanced_labels(
    features: Tensor,
    weight: Tensor,
    bias: Tensor,
    *,
    sharpness: float,
    iterations: int = 200,
    tolerance: float = 0.01,
) -> Tensor:
    """Labels that follow a linear classifier's scores and share all images out equally among the clusters.

    argmaxₖ of the rows of diag(u)·P^λ·diag(v) with P = softmax(scores), whose rows sum to 1 and whose columns sum to
    N/K. Asano, Rupprecht and Vedaldi, ICLR 2020, eq. 5 to 8. The (N, K) scores are never held as a whole: only the
    logarithms of v are, so no power of P underflows and memory does not grow with N·K. In a run of several processes
    all have the same features, each works on its share of them, and all get the same result.

    Args:
        features: (N, D).
        weight: (K, D) of the classifier.
        bias: (K,) of the classifier.
        sharpness: λ > 0, the inverse of the entropy's weight.
        iterations: at most.
        tolerance: it ends earlier when columns miss N/K by no more than this share on average.

    Returns:
        (N,) int64.

    >>> scores = torch.tensor([[2.0, 0.0], [1.0, 0.0], [3.0, 0.0], [0.5, 0.0]])
    >>> balanced_labels(scores, torch.eye(2), torch.zeros(2), sharpness=10).tolist()
    [0, 1, 0, 1]
    """
    own = features[own_share(len(features))]
    parts = own.split(max(1, _CHUNK_BYTES // (len(weight) * features.element_size())))
    scale = torch.zeros_like(bias)  # log v
    for _ in range(iterations):
        shares = torch.zeros_like(scale)
        for part in parts:
            shares += (sharpness * linear(part, weight, bias) + scale).softmax(dim=1).sum(dim=0)
        shares = all_sum(shares) * (len(weight) / len(features))
        if (shares - 1).abs().mean() <= tolerance:
            break
        scale -= shares.clamp_(min=torch.finfo(shares.dtype).tiny).log()
    labels = torch.cat([(sharpness * linear(part, weight, bias) + scale).argmax(dim=1) for part in parts])
    return gather_shares(labels, len(features))
