"""Weighted k-nearest-neighbour classification of frozen features."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from glocal.errors import GlocalError
from glocal.neighbors import nearest_neighbors


def knn(
    train_features: Tensor,
    train_labels: Tensor,
    test_features: Tensor,
    test_labels: Tensor,
    *,
    k: int | Sequence[int] = (10, 20, 200),
    temperature: float = 0.07,
    weighted: bool = True,
) -> dict[int, float]:
    """Top-1 accuracy of the vote of the k nearest training features by cosine similarity.

    A neighbour's vote counts exp(similarity / τ). Wu et al., "Unsupervised Feature Learning via Non-Parametric Instance
    Discrimination", CVPR 2018, section 3.4, with τ = 0.07. Neighbours are searched once for all k.

    Args:
        train_features: (N, D); lengths do not matter.
        train_labels: (N,) int64, classes from 0.
        test_features: (M, D).
        test_labels: (M,) int64.
        k: one number of neighbours or several.
        temperature: τ of the weights.
        weighted: False counts every neighbour once.

    Returns:
        Accuracy in percent for each k.

    Raises:
        GlocalError: a k below 1 or above N.
    """
    numbers = [k] if isinstance(k, int) else sorted(set(k))
    if not numbers or numbers[0] < 1 or numbers[-1] > len(train_features):
        raise GlocalError(f"k-NN: k={numbers} must lie between 1 and {len(train_features)}, the training images")
    distance, index = nearest_neighbors(test_features, train_features, numbers[-1], metric="cosine")
    # Weights relative to the nearest neighbour's, so that no exponential overflows in a small dtype.
    similarity = distance[:, :1] - distance
    weight = (similarity / temperature).exp() if weighted else torch.ones_like(similarity)
    label = train_labels.to(index.device)[index]  # (M, K)
    classes = int(train_labels.max()) + 1
    votes = weight.new_zeros(len(test_features), classes)
    truth = test_labels.to(index.device)
    accuracy: dict[int, float] = {}
    for before, number in zip([0, *numbers], numbers, strict=False):
        votes.scatter_add_(1, label[:, before:number], weight[:, before:number])
        accuracy[number] = 100 * float((votes.argmax(dim=1) == truth).float().mean())
    return accuracy
