"""Losses of methods that ask an image about itself: PIRL, colorization, inpainting."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import log_softmax

from glocal.losses.precision import full_precision


@full_precision
def pirl_nce(query: Tensor, own: Tensor, noise: Tensor, *, temperature: float, same: Tensor | None = None) -> Tensor:
    """An image's own vector is told from those of others, and each of theirs from all the rest.

    −log h(own) − Σₘ log(1 − h(noiseₘ)), averaged over the batch, with h the softmax of q·v/τ over v in {own, noise}.
    Misra and van der Maaten, "Self-Supervised Learning of Pretext-Invariant Representations", CVPR 2020, eq. 3 and 4.
    Eq. 4 swaps the arguments of h, so its denominator can be read in two ways; here it is that of eq. 3.

    Args:
        query: (B, D) unit vectors.
        own: (B, D) unit vectors of the same images, out of the memory bank.
        noise: (M, D) rows of the bank drawn at random, shared by the whole batch.
        temperature: τ > 0.
        same: (B, M) bool, where a row of the noise is that of the image itself: there it counts for nothing.

    Returns:
        Scalar in the dtype of the inputs.
    """
    others = query @ noise.T
    if same is not None:
        others = others.masked_fill(same, -torch.inf)
    logits = torch.cat([(query * own).sum(dim=1, keepdim=True), others], dim=1) / temperature  # (B, 1 + M)
    log_share = log_softmax(logits, dim=1)
    # 1 − h of the largest is the others' share: 1 minus a number next to 1 would be 0, whose logarithm is infinite.
    largest = logits.detach().argmax(dim=1, keepdim=True)
    rest = logits.scatter(1, largest, -torch.inf).logsumexp(dim=1, keepdim=True)
    log_rest = torch.log1p(-log_share.exp().scatter(1, largest, 0.0))
    log_rest = log_rest.scatter(1, largest, rest - logits.logsumexp(dim=1, keepdim=True))
    return (-log_share[:, 0] - log_rest[:, 1:].sum(dim=1)).mean()


@full_precision
def rebalanced_cross_entropy(logits: Tensor, bins: Tensor, shares: Tensor, weights: Tensor) -> Tensor:
    """Cross-entropy with a few bins' shares, each place weighted by how rare its nearest bin is.

    −v·Σₖ zₖ·log p(binₖ), averaged over places, with v the weight of the bin of the largest share. Zhang, Isola and
    Efros, "Colorful Image Colorization", ECCV 2016, eq. 2 and 3.

    Args:
        logits: (N, Q).
        bins: (N, K) int64, the one with the largest share first.
        shares: (N, K), z, which sum to 1.
        weights: (Q,), w.

    Returns:
        Scalar in the dtype of the inputs.
    """
    each = -(shares * log_softmax(logits, dim=1).gather(1, bins)).sum(dim=1)
    return (weights[bins[:, 0]] * each).mean()


@full_precision
def rarity_weights(prior: Tensor, *, uniform: float) -> Tensor:
    """w ∝ 1/((1 − λ)·p + λ/Q) with Σ p·w = 1: rare bins count for more. Zhang et al., ECCV 2016, eq. 4.

    Args:
        prior: (Q,), p, which sums to 1.
        uniform: λ, the share of the uniform distribution.

    Returns:
        (Q,) in the dtype of the inputs.
    """
    weights = 1 / torch.lerp(prior, torch.full_like(prior, 1 / len(prior)), uniform)
    return weights / (prior * weights).sum()


@full_precision
def masked_l2(prediction: Tensor, target: Tensor, weight: Tensor) -> Tensor:
    """The squared error over the pixels that were hidden, a weighted mean over each image's, averaged over images.

    Σ w·(x̂ − x)²/(C·Σ w). Pathak, Krähenbühl, Donahue, Darrell and Efros, "Context Encoders: Feature Learning by
    Inpainting", CVPR 2016, eq. 1, as a mean instead of a sum.

    Args:
        prediction, target: (B, C, H, W).
        weight: (B, 1, H, W), 0 where the image could be seen; some of each image is not 0.

    Returns:
        Scalar in the dtype of the inputs.
    """
    error = (weight * (prediction - target).square()).sum(dim=(1, 2, 3))
    return (error / (target.shape[1] * weight.sum(dim=(1, 2, 3)))).mean()
