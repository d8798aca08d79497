"""Hard contrastive targets: one positive among negatives."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from glocal.distributed import all_gather_with_gradient, process_rank
from glocal.losses.precision import full_precision


@full_precision
def info_nce(query: Tensor, key: Tensor, negatives: Tensor, *, temperature: float) -> Tensor:
    """InfoNCE: cross-entropy of the positive among itself and the negatives.

    −log( exp(q·k/τ) / (exp(q·k/τ) + Σₙ exp(q·n/τ)) ), averaged over the batch.
    He et al., "Momentum Contrast for Unsupervised Visual Representation Learning", CVPR 2020, eq. 1.

    Args:
        query: (B, D) unit vectors.
        key: (B, D) unit vectors, the positives; detached by the caller where the method says so.
        negatives: (K, D) unit vectors shared by the whole batch.
        temperature: τ > 0.

    Returns:
        Scalar in the dtype of the inputs.

    >>> one = torch.eye(2)
    >>> round(float(info_nce(one, one, -one[:1], temperature=1.0)), 4)
    0.2201
    """
    positive = (query * key).sum(dim=1) / temperature  # (B,)
    negative = query @ negatives.T / temperature  # (B, K)
    return (torch.logaddexp(positive, negative.logsumexp(dim=1)) - positive).mean()


@full_precision
def batch_info_nce(
    query: Tensor, keys: Tensor, positive: Tensor, *, temperature: float, itself: Tensor | None = None
) -> Tensor:
    """InfoNCE whose negatives are the keys of the batch's other images.

    −log( exp(q·k₊/τ) / Σₖ exp(q·k/τ) ), averaged over the queries. Chen, Xie and He, "An Empirical Study of Training
    Self-Supervised Vision Transformers", ICCV 2021 (MoCo v3), eq. 1, without that paper's factor of 2τ.

    Args:
        query: (B, D) unit vectors.
        keys: (K, D) unit vectors; in a run of several processes those of all of them.
        positive: (B,) int64, the row of each query's positive.
        temperature: τ > 0.
        itself: (B,) int64, the row where the query itself stands among the keys and is left out; None: nowhere.

    Returns:
        Scalar in the dtype of the inputs.
    """
    logits = query @ keys.T / temperature  # (B, K)
    if itself is not None:
        logits = logits.scatter(1, itself[:, None], -torch.inf)
    return cross_entropy(logits, positive)


@full_precision
def nt_xent(first: Tensor, second: Tensor, *, temperature: float, memory: Tensor | None = None) -> Tensor:
    """NT-Xent: every view finds the other view of its image among all other views of the batch.

    Chen, Kornblith, Norouzi and Hinton, "A Simple Framework for Contrastive Learning of Visual Representations", ICML
    2020, eq. 1, averaged over the 2B views (Algorithm 1). In a run of several processes the negatives are the views of
    all, and gradients flow to them.

    Args:
        first: (B, D) unit vectors of the first views.
        second: (B, D) unit vectors of the second views, in the same order.
        temperature: τ > 0.
        memory: (K, D) unit vectors, negatives of every view beside those of the batch (Chen et al., "Big
            Self-Supervised Models are Strong Semi-Supervised Learners", NeurIPS 2020); the same in every process.

    Returns:
        Scalar in the dtype of the inputs.

    >>> one = torch.eye(2)
    >>> round(float(nt_xent(one, one, temperature=1.0)), 4)
    0.5514
    """
    views = torch.stack([first, second])  # (2, B, D)
    keys = all_gather_with_gradient(views.transpose(0, 1)).transpose(0, 1).flatten(0, 1)  # (2·P·B, D)
    images = len(keys) // 2
    own = process_rank() * len(first) + torch.arange(len(first), device=first.device)
    itself = torch.cat([own, own + images])
    if memory is not None:
        keys = torch.cat([keys, memory])
    return batch_info_nce(views.flatten(0, 1), keys, itself.roll(len(first)), temperature=temperature, itself=itself)


@full_precision
def view_contrast(
    views: Tensor,
    whole: int,
    *,
    temperature: float,
    coefficient: float = 1.0,
    target_temperature: float = 1.0,
    weight: Tensor | None = None,
) -> Tensor:
    """Every view of an image finds the whole views of its image among those of the batch: the loss of `glocal`.

    With two views, both whole, and λ = 1 it is NT-Xent (`nt_xent`). Views that are not whole, local crops, are queries
    only, as in LoGo (Zhang et al., CVPR 2022, section 3.1). Below λ = 1 the target is SCE's, w = λ·one-hot + (1 − λ)·s
    (Denize et al., WACV 2023, supplement, section B): s is the softmax of the positive's similarities to the whole
    views of other images, without gradient. In a run of several processes the keys are those of all, and gradients flow
    to them.

    Args:
        views: (V, B, D) unit vectors.
        whole: W, how many views are whole; they come first, and at least two.
        temperature: τ > 0 of the prediction.
        coefficient: λ in [0, 1].
        target_temperature: τₘ > 0 of s.
        weight: (V, W, B), the share of each whole view as a positive of each view, 0 of itself; sums to 1 over the
            whole ones. None: all others alike.

    Returns:
        Scalar in the dtype of the inputs, the mean over the V·B queries.

    >>> one = torch.eye(2)
    >>> round(float(view_contrast(torch.stack([one, one]), 2, temperature=1.0)), 4)
    0.5514
    """
    count, batch, _ = views.shape
    keys = all_gather_with_gradient(views[:whole].transpose(0, 1)).transpose(0, 1)  # (W, P·B, D)
    image = torch.arange(batch, device=views.device)
    place = process_rank() * batch + image  # among the images of all processes
    other = 1 - torch.eye(count, whole, dtype=views.dtype, device=views.device)
    if weight is None:
        weight = (other / other.sum(dim=1, keepdim=True))[:, :, None].expand(count, whole, batch)
    logits = torch.einsum("vbd,wnd->vbwn", views, keys) / temperature
    view = torch.arange(whole, device=views.device)
    itself = torch.zeros_like(logits, dtype=torch.bool)
    itself[view[:, None], image, view[:, None], place] = True
    log_p = logits.masked_fill(itself, -torch.inf).flatten(2).log_softmax(dim=2).masked_fill(itself.flatten(2), 0.0)
    positive = log_p.unflatten(2, (whole, -1))[:, image, :, place]  # (B, V, W)
    loss = -torch.einsum("bvw,vwb->", positive, weight)
    if coefficient < 1:
        known = keys.detach()
        similar = torch.einsum("wbd,xnd->wbxn", views[:whole].detach(), known) / target_temperature
        similar[:, image, :, place] = -torch.inf  # of its own image no view
        target = torch.einsum("vwb,wbk->vbk", weight, similar.flatten(2).softmax(dim=2))
        loss = coefficient * loss - (1 - coefficient) * (target * log_p).sum()
    return loss / (count * batch)


@full_precision
def cutmix_info_nce(
    mixed: Tensor, key: Tensor, partner_key: Tensor, negatives: Tensor, *, ratio: Tensor | float, temperature: float
) -> Tensor:
    """InfoNCE of a mixed image with the keys of both its parts, in proportion to their shares.

    λ·NCE(x_mix, x_i) + (1 − λ)·NCE(x_mix, x̃_i), averaged over the batch. Li, Xiong and Zhang, "Center-wise Local Image
    Mixture For Contrastive Representation Learning", BMVC 2021, eq. 4.

    Args:
        mixed: (B, D) unit vectors of the mixed images.
        key: (B, D) unit vectors of the anchors.
        partner_key: (B, D) unit vectors of the positives mixed in.
        negatives: (K, D) unit vectors shared by the whole batch.
        ratio: λ in [0, 1], the anchor's share: (B,), or one number for the batch.
        temperature: τ > 0.

    Returns:
        Scalar in the dtype of the inputs.
    """
    to_key = (mixed * key).sum(dim=1) / temperature  # (B,)
    to_partner = (mixed * partner_key).sum(dim=1) / temperature
    rest = (mixed @ negatives.T / temperature).logsumexp(dim=1)  # both terms share the negatives: one product
    of_key = torch.logaddexp(to_key, rest) - to_key
    of_partner = torch.logaddexp(to_partner, rest) - to_partner
    return (ratio * of_key + (1 - ratio) * of_partner).mean()
