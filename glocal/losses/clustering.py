"""Losses over prototypes: prediction of Sinkhorn's codes (SwAV), clusters (DeepCluster v2), balanced labels (SeLa)."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from glocal.distributed import all_gather, all_sum
from glocal.losses.precision import full_precision
from glocal.transfer import exact_device


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


@torch.no_grad()
@full_precision
def balanced_labels(
    scores: Tensor, *, images: int, sharpness: float, iterations: int = 2000, tolerance: float = 0.1
) -> Tensor:
    """The likeliest labels of all images of which each label has equally many.

    The largest entry of each row of diag(u)·P^λ·diag(v) with P = softmax(scores), rows summing to 1/N and columns to
    1/K. Asano, Rupprecht and Vedaldi, "Self-labelling via simultaneous clustering and representation learning", ICLR
    2020; in float64, and until Σ|Δu/u| is below the tolerance, as in the authors' code. In a run of
    several processes each has its share of the images, and columns are those of all.

    It reads values, so the host waits for the device: it belongs between epochs.

    Args:
        scores: (n, K) of this process' images, before the softmax.
        images: N, of all processes.
        sharpness: λ > 0; the larger it is, the closer labels follow the scores.
        iterations: of normalising columns, then rows, at most.
        tolerance: on the last change of the rows' factors, summed over all images.

    Returns:
        (n,) int64.

    >>> balanced_labels(torch.tensor([[0.9, 0.0], [0.8, 0.0]]), images=2, sharpness=25.0).tolist()
    [0, 1]
    """
    matrix = scores.to(exact_device(scores.device)).double().log_softmax(dim=1).mul_(sharpness).exp_()  # (n, K)
    smallest = torch.finfo(matrix.dtype).tiny
    row = torch.full_like(matrix[:, 0], 1 / images)
    for done in range(iterations):
        column = 1 / (matrix.shape[1] * all_sum(row @ matrix)).clamp_(min=smallest)  # (K,)
        scaled = 1 / (images * (matrix @ column)).clamp_(min=smallest)
        change = all_sum((row / scaled - 1).abs().sum()) if done % 10 == 0 else None
        row = scaled
        if change is not None and float(change) < tolerance:
            break
    return matrix.mul_(column).argmax(dim=1).to(scores.device)


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
