"""Losses over classes that nobody has named: an image's views in one, images in many (TWIST, Self-Classifier)."""

from __future__ import annotations

import math
from itertools import combinations

import torch
from torch import Tensor
from torch.nn.functional import log_softmax

from glocal.distributed import all_gather_with_gradient, process_count
from glocal.losses.precision import full_precision


@full_precision
def twin_classes(logits: Tensor, *, sharpness: float = 1.0, diversity: float = 1.0, global_views: int = 2) -> Tensor:
    """Class distributions of an image's views that agree, are sharp, and differ over the batch.

    ½·(KL(p₁‖p₂) + KL(p₂‖p₁)) + α·H(p) − β·H(p̄), where H(p) is the mean entropy of single images and p̄ the mean
    distribution of the batch, both averaged over the two views. Wang, Kong, Zhang, Liu and Li, "Self-Supervised
    Learning by Estimating Twin Class Distributions", 2021, with the symmetric divergence of the authors' code;
    with α = β = 1 it is the mutual information of images and classes. Of more than two views, it is the mean over the
    pairs that have a global view among them. In a run of several processes, p̄ is that of all.

    Args:
        logits: (V, B, K) of V views, the global ones first.
        sharpness, diversity: α and β.
        global_views: how many of the views are global.

    Returns:
        Scalar in the dtype of the logits.
    """
    logs = log_softmax(logits, dim=-1)
    shares = logs.exp()
    entropy = -(shares * logs).sum(dim=-1).mean(dim=1)  # (V,)
    mean = all_gather_with_gradient(shares.mean(dim=1)[None]).mean(dim=0)  # (V, K)
    spread = -torch.special.xlogy(mean, mean).sum(dim=-1)  # (V,)
    own = sharpness * entropy - diversity * spread
    pairs = [(a, b) for a, b in combinations(range(len(logits)), 2) if a < global_views]
    terms = [
        ((shares[a] - shares[b]) * (logs[a] - logs[b])).sum(dim=-1).mean() / 2 + (own[a] + own[b]) / 2 for a, b in pairs
    ]
    return torch.stack(terms).mean()


@full_precision
def self_classification(
    logits: Tensor, *, row_temperature: float, column_temperature: float, global_views: int = 2
) -> Tensor:
    """Cross-entropy between the classes of two views of an image, under a uniform prior over the classes.

    −(1/B) Σₙ Σ_c p(c|x₁ₙ)·log p(c|x₂ₙ) with the classes' posteriors by Bayes' rule: the target's is the softmax over
    the batch, its rows scaled to sum to 1; the prediction's is the softmax over the classes, its columns scaled to sum
    to B/C. A class that takes all images pays for each of them. Amrani, Karlinsky and Bronstein, "Self-Supervised
    Classification Network", ECCV 2022; gradients flow through both, and it is averaged over all ordered
    pairs of views that have a global one among them. The batch is that of all processes.

    Args:
        logits: (V, B, C) of V views, the global ones first.
        row_temperature: of the softmax over classes.
        column_temperature: of the softmax over the batch.
        global_views: how many of the views are global.

    Returns:
        Scalar in the dtype of the logits.
    """
    views, batch, classes = logits.shape
    columns = logits / column_temperature
    targets = torch.softmax(columns - _over_batch(columns), dim=-1)  # a softmax over the batch, then rows to 1
    rows = log_softmax(logits / row_temperature, dim=-1)
    prediction = rows - _over_batch(rows) + math.log(process_count() * batch / classes)
    of_globals = targets[:global_views].sum(dim=0)
    everyone = targets.sum(dim=0)
    total = (prediction[global_views:] * of_globals).sum()
    total = total + (prediction[:global_views] * (everyone - targets[:global_views])).sum()
    pairs = global_views * (views - 1) + global_views * (views - global_views)
    return -total / (batch * pairs)


def _over_batch(logits: Tensor) -> Tensor:
    """log Σₙ exp over the images of all processes: (V, B, C) → (V, 1, C)."""
    own = logits.logsumexp(dim=1, keepdim=True)
    return all_gather_with_gradient(own[None].contiguous()).logsumexp(dim=0)
