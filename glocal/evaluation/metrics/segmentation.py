"""Segmentation by the nearest patches: votes of labelled patches for other patches, and their score."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor
from torch.nn.functional import embedding_bag, interpolate, one_hot

from glocal.data.annotated.masks import UNKNOWN
from glocal.neighbors import nearest_neighbors

Upsampling = Literal["bilinear", "nearest"]

_CHUNK_BYTES = 256 << 20  # of votes for each pixel and class, held at a time
_CLASSES = 256  # numbers that a mask can hold


def patch_counts(masks: Tensor, rows: int, columns: int) -> Tensor:
    """How many pixels of each class lie in each patch.

    Args:
        masks: (B, S, S) uint8; 255 is unknown and does not count.
        rows, columns: of patches; where they do not divide S, a pixel belongs to the patch that its upper left lies in.

    Returns:
        (B, rows·columns, 256) int64, patches row-major.
    """
    batch, height, width = masks.shape
    device = masks.device
    row = torch.arange(height, device=device) * rows // height
    column = torch.arange(width, device=device) * columns // width
    image = torch.arange(batch, device=device)[:, None, None] * rows * columns
    place = (image + row[:, None] * columns + column) * _CLASSES + masks
    counts = place.flatten().bincount(minlength=batch * rows * columns * _CLASSES)
    counts = counts.view(batch, rows * columns, _CLASSES)
    counts[:, :, UNKNOWN] = 0
    return counts


def patch_labels(counts: Tensor, how: Literal["soft", "majority"]) -> Tensor:
    """Labels (…, C) float32 of patches by their pixels per class (…, C): shares, or 1 for the most frequent class.

    Of equally frequent classes the first one; of patches without a labelled pixel all zeros.
    """
    whole = counts.sum(dim=-1, keepdim=True)
    if how == "soft":
        return counts / whole.clamp(min=1)
    return one_hot(counts.argmax(dim=-1), counts.shape[-1]).float() * (whole > 0)


def vote(queries: Tensor, bank: Tensor, labels: Tensor, *, k: int, temperature: float) -> Tensor:
    """Votes of the k nearest patches by cosine similarity s, each with its share of Σ exp(s / τ).

    Balažević et al., "Towards In-Context Scene Understanding", NeurIPS 2023, section 3.1: attention over neighbours.

    Args:
        queries: (Q, D) float.
        bank: (N, D), on the same device.
        labels: (N, C) float32, how much each patch of the bank is of each class.
        k: neighbours, at most N.
        temperature: τ.

    Returns:
        (Q, C) float32; rows add up to 1 where those of `labels` do.
    """
    distance, index = nearest_neighbors(queries, bank, k, metric="cosine")
    weight = (-distance / temperature).softmax(dim=1)
    return embedding_bag(index, labels, per_sample_weights=weight.to(labels), mode="sum")


def upsampled(votes: Tensor, size: int, how: Upsampling) -> Tensor:
    """The class with the most votes at each pixel.

    Args:
        votes: (B, rows, columns, C).
        size: S.
        how: votes are interpolated between the centres of patches, or are those of the patch in which a pixel lies.

    Returns:
        (B, S, S) int64.
    """
    votes = votes.permute(0, 3, 1, 2)  # (B, C, rows, columns)
    few = max(1, _CHUNK_BYTES // (4 * votes.shape[1] * size * size))
    if how == "nearest":
        chosen = votes.argmax(dim=1, keepdim=True).float()  # exact: there are fewer than 2²⁴ classes
        return interpolate(chosen, (size, size), mode="nearest-exact")[:, 0].long()
    return torch.cat([interpolate(part, (size, size), mode=how).argmax(dim=1) for part in votes.split(few)])


def confusion(truth: Tensor, prediction: Tensor) -> Tensor:
    """Counts (256, 256) int64 of pixels by true and predicted class; pixels whose truth is 255 do not count."""
    known = truth != UNKNOWN
    both = truth[known].long() * _CLASSES + prediction[known].long()
    return both.bincount(minlength=_CLASSES**2).view(_CLASSES, _CLASSES)


def intersection_over_union(counts: Tensor) -> Tensor:
    """IoU in percent of each class, (C,) float64: pixels that are and are said to be of it, over those that are either.

    NaN for classes that no true pixel has.

    Args:
        counts: (C, C) by true and predicted class.
    """
    counts = counts.cpu().double()
    true, said, both = counts.sum(dim=1), counts.sum(dim=0), counts.diagonal()
    return torch.where(true > 0, 100 * both / (true + said - both), torch.nan)


def segmentation_scores(counts: Tensor) -> dict[str, float]:
    """mIoU over the classes that are there, the mean of their accuracies and the share of right pixels, in percent."""
    whole = counts.cpu().double()
    true, both = whole.sum(dim=1), whole.diagonal()
    there = true > 0
    return {
        "mIoU": float(intersection_over_union(counts).nanmean()),
        "pixel_accuracy": float(100 * both.sum() / whole.sum()),
        "mean_per_class": float(100 * (both / true)[there].mean()),
    }
