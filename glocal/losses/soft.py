"""Soft contrastive targets: the similarity of images to one another (SCE, ReSSL)."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy, softplus

from glocal.errors import GlocalError
from glocal.losses.precision import full_precision


@full_precision
def sce(
    query: Tensor,
    key: Tensor,
    negatives: Tensor | None = None,
    *,
    temperature: float,
    target_temperature: float,
    coefficient: float,
    weight: Tensor | None = None,
    left_out: Tensor | None = None,
) -> Tensor:
    """Similarity Contrastive Estimation: cross-entropy between w = λ·one-hot + (1 − λ)·s and the prediction p.

    p is the softmax of the query's similarities at temperature τ, s that of the key's at temperature τₘ.
    Denize et al., "Similarity Contrastive Estimation for Self-Supervised Soft Contrastive Learning", WACV 2023. Over
    the batch it is λ · InfoNCE + (1 − λ) · (`relational` + `ceil`), Proposition 1.

    With `negatives`, Algorithm 1 of the supplement: both distributions run over the positive and the negatives, and the
    positive's logit in s is 0, as printed there. Without, the equations of the supplement's section B: both run
    over the keys of the batch, and sᵢᵢ = 0.

    Args:
        query: (B, D) unit vectors of the online network.
        key: (B, D) unit vectors of the momentum network, detached by the caller.
        negatives: (K, D) unit vectors (the queue), or None for the keys of the batch (B ≥ 2).
        temperature: τ > 0 of the prediction.
        target_temperature: τₘ > 0 of the target, smaller than τ to sharpen it.
        coefficient: λ in [0, 1]; 1 is InfoNCE.
        weight: (B,) of the rows, which sum to 1; None: 1 / B each.
        left_out: (B, K) bool, the negatives that do not count for a row, fewer than all; None: all count.

    Returns:
        Scalar in the dtype of the inputs.

    Raises:
        GlocalError: no negatives and a batch of one.
    """
    if negatives is None:
        logits = query @ key.T / temperature  # (B, B)
        positive = logits.diagonal()
        target = _similarity_to_others(key, target_temperature)
        expected = (target * logits).sum(dim=1)
        normaliser = logits.logsumexp(dim=1)
    else:
        positive = (query * key).sum(dim=1) / temperature  # (B,)
        logits = query @ negatives.T / temperature  # (B, K)
        # Algorithm 1's zero logit for the positive shares the softmax with the negatives.
        target_logits = key @ negatives.T / target_temperature
        if left_out is not None:  # the lowest number, not −∞, of which a share of 0 would be no number
            lowest = torch.finfo(logits.dtype).min
            logits, target_logits = (its.masked_fill(left_out, lowest) for its in (logits, target_logits))
        target = torch.softmax(torch.nn.functional.pad(target_logits, (1, 0)), dim=1)  # (B, 1 + K)
        expected = target[:, 0] * positive + (target[:, 1:] * logits).sum(dim=1)
        normaliser = torch.logaddexp(positive, logits.logsumexp(dim=1))
    # −Σ w·log p with Σ w = 1: the B × K log-probabilities are never held.
    rows = normaliser - coefficient * positive - (1 - coefficient) * expected
    return rows.mean() if weight is None else (weight * rows).sum()


@full_precision
def relational(
    query: Tensor,
    key: Tensor,
    negatives: Tensor | None = None,
    *,
    temperature: float,
    target_temperature: float,
) -> Tensor:
    """ReSSL: cross-entropy between the key's and the query's similarities to other images, the positive left out.

    Zheng et al., "ReSSL: Relational Self-Supervised Learning with Weak Augmentation", NeurIPS 2021, eq. 5–7.

    Args:
        query: (B, D) unit vectors of the online network.
        key: (B, D) unit vectors of the momentum network, detached by the caller.
        negatives: (K, D) unit vectors (the queue), or None for the other keys of the batch (B ≥ 2).
        temperature: of the prediction.
        target_temperature: of the target.

    Returns:
        Scalar in the dtype of the inputs.

    Raises:
        GlocalError: no negatives and a batch of one.
    """
    if negatives is None:
        target = _similarity_to_others(key, target_temperature)
        logits = query @ key.T / temperature  # (B, B)
        normaliser = _without_self(logits).logsumexp(dim=1)
    else:
        target = torch.softmax(key @ negatives.T / target_temperature, dim=1)
        logits = query @ negatives.T / temperature  # (B, K)
        normaliser = logits.logsumexp(dim=1)
    return (normaliser - (target * logits).sum(dim=1)).mean()


@full_precision
def ceil(query: Tensor, key: Tensor, negatives: Tensor | None = None, *, temperature: float) -> Tensor:
    """L_Ceil of SCE's Proposition 1: it keeps the positive's share of the prediction from the other images.

    −log of the prediction's mass on other images. Denize et al. (see `sce`), supplement, section B. With every
    distribution over the keys of the batch, `sce` is λ · InfoNCE + (1 − λ) · (`relational` + `ceil`). With a queue that
    sum leaves out what Algorithm 1's zero logit gives to the positive: there w's first entry is more than λ.

    Args:
        query: (B, D) unit vectors of the online network.
        key: (B, D) unit vectors of the momentum network, detached by the caller.
        negatives: (K, D) unit vectors (the queue), or None for the other keys of the batch (B ≥ 2).
        temperature: of the prediction.

    Returns:
        Scalar in the dtype of the inputs.

    Raises:
        GlocalError: no negatives and a batch of one.
    """
    if negatives is None:
        _check_others(key)
        logits = query @ key.T / temperature  # (B, B)
        positive = logits.diagonal()
        others = _without_self(logits).logsumexp(dim=1)
    else:
        positive = (query * key).sum(dim=1) / temperature  # (B,)
        others = (query @ negatives.T / temperature).logsumexp(dim=1)
    # −log(Σ others / (exp positive + Σ others)), without the difference of two nearly equal logarithms.
    return softplus(positive - others).mean()


def _similarity_to_others(key: Tensor, temperature: float) -> Tensor:
    """Softmax of each key's similarity to the other keys of the batch: (B, B) with a zero diagonal."""
    _check_others(key)
    return torch.softmax(_without_self(key @ key.T / temperature), dim=1)


def _check_others(key: Tensor) -> None:
    if len(key) < 2:
        raise GlocalError("a loss over the batch needs at least 2 images in it, or negatives from a queue")


def _without_self(logits: Tensor) -> Tensor:
    itself = torch.eye(len(logits), dtype=torch.bool, device=logits.device)
    return logits.masked_fill(itself, -torch.inf)


@full_precision
def knowledge_distillation(
    student: Tensor,
    teacher: Tensor,
    *,
    temperature: float,
    labels: Tensor | None = None,
    labelled_weight: float = 0.0,
) -> Tensor:
    """A student's cross-entropy with a teacher's softened answers, and with the labels where there are some.

    −(1 − α)/B · Σ over labelled images of log P(y) − α/B · Σ over all images of Σᵧ Pᵀ(y; τ) log P(y; τ), where P(y; τ)
    is the softmax of scores/τ. Chen, Kornblith, Swersky, Norouzi and Hinton, "Big Self-Supervised Models are Strong
    Semi-Supervised Learners", NeurIPS 2020, eq. 2 (1 − α = 0) and eq. 3, divided by the number of images.

    Args:
        student: (B, C) scores.
        teacher: (B, C) scores, constants.
        temperature: τ > 0 of both.
        labels: (B,) int64, −1 for images without; None: none has one.
        labelled_weight: 1 − α in [0, 1].

    Returns:
        Scalar in the dtype of the inputs.

    >>> scores = torch.tensor([[2.0, 0.0], [0.0, 1.0]])
    >>> round(float(knowledge_distillation(scores, scores, temperature=1.0)), 4)
    0.4738
    """
    target = torch.softmax(teacher.detach() / temperature, dim=1)
    loss = (1 - labelled_weight) * cross_entropy(student / temperature, target)
    if labels is not None and labelled_weight:
        of_labels = cross_entropy(student, labels, ignore_index=-1, reduction="sum") / len(student)
        loss = loss + labelled_weight * of_labels
    return loss
