"""Bags of visual words: images as what occurs in them, and the loss of predicting it."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import kl_div, log_softmax

from glocal.losses.precision import full_precision


@torch.no_grad()
@full_precision
def word_distances(features: Tensor, words: Tensor) -> Tensor:
    """Squared Euclidean distances of local features from visual words.

    Args:
        features: (B, N, C).
        words: (K, C).

    Returns:
        (B, N, K) in the dtype of the inputs; without gradient.
    """
    squares = features.square().sum(dim=-1, keepdim=True) + words.square().sum(dim=-1)
    return torch.baddbmm(squares, features, words.T.expand(len(features), -1, -1), alpha=-2).clamp_(min=0)


@torch.no_grad()
@full_precision
def bag_of_words(distances: Tensor, *, sharpness: float | Tensor) -> Tensor:
    """How much of each word occurs in an image: soft assignments, their largest over the image, scaled to sum to 1.

    Each location is assigned to the words by softmax(−s·d). Gidaris, Bursuc, Puy, Komodakis, Cord and Pérez, "OBoW:
    Online Bag-of-Visual-Words Generation for Self-Supervised Learning", CVPR 2021, section 3.

    Args:
        distances: (B, N, K) of N locations from K words.
        sharpness: s > 0, the inverse temperature.

    Returns:
        (B, K); without gradient.

    >>> bag_of_words(torch.tensor([[[0.0, 9.0, 9.0], [9.0, 0.0, 9.0]]]), sharpness=100.0).tolist()
    [[0.5, 0.5, 0.0]]
    """
    occurrence = torch.softmax(-sharpness * distances, dim=-1).amax(dim=1)
    return occurrence / occurrence.sum(dim=-1, keepdim=True)


@full_precision
def bag_prediction(logits: Tensor, bags: Tensor) -> Tensor:
    """The divergence of predicted bags of words from those of the same images: Σₖ yₖ·(log yₖ − log softmax(x)ₖ).

    The cross-entropy of Gidaris et al., CVPR 2021, less the target's own entropy (authors' code), averaged over images
    and crops.

    Args:
        logits: (S, B, K) of S crops of each image.
        bags: (B, K), rows summing to 1.

    Returns:
        Scalar in the dtype of the inputs.
    """
    prediction = log_softmax(logits, dim=-1)
    return kl_div(prediction, bags.expand_as(prediction), reduction="sum") / prediction[..., 0].numel()
