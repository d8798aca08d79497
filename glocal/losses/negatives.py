"""NT-Xent whose negatives do not all count alike: hard ones more, false ones not at all."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from glocal.distributed import all_gather_with_gradient, process_rank
from glocal.losses.precision import full_precision


def _views_of_all(views: Tensor) -> tuple[Tensor, Tensor]:
    """The views (V, B, D) of all processes as rows (V·N, D), view by view, and the images' places (B,) among the N."""
    keys = all_gather_with_gradient(views.transpose(0, 1)).transpose(0, 1).flatten(0, 1)
    own = process_rank() * views.shape[1] + torch.arange(views.shape[1], device=views.device)
    return keys, own


@full_precision
def hard_nt_xent(first: Tensor, second: Tensor, *, temperature: float, concentration: float, prior: float) -> Tensor:
    """NT-Xent whose negatives weigh the more, the more they are like the anchor.

    −log( exp(p/τ) / (exp(p/τ) + N·max(e^(−1/τ), (E − τ⁺·exp(p/τ)) / (1 − τ⁺))) ), averaged over the 2B views, with the
    similarity p of an image's two views and the weighted mean E = Σ exp((1 + β)·s/τ) / Σ exp(β·s/τ) over the
    similarities s to the N views of other images. Robinson, Chuang, Sra and Jegelka, "Contrastive Learning with Hard
    Negative Samples", ICLR 2021, with one positive; as in the authors' code, β is multiplied by 1/τ and gradients flow
    through the weights too. β = 0 and τ⁺ = 0 is NT-Xent. In a run of several processes the negatives are the views of
    all, and gradients flow to them.

    Args:
        first: (B, D) unit vectors of the first views.
        second: (B, D) unit vectors of the second views, in the same order.
        temperature: τ > 0.
        concentration: β from 0 on, how much more a hard negative weighs.
        prior: τ⁺ in [0, 1), how probable it is that another image is of the same class.

    Returns:
        Scalar in the dtype of the inputs; 0 for a single image, which has no negatives.

    >>> one = torch.eye(2)
    >>> round(float(hard_nt_xent(one, one, temperature=1.0, concentration=0.0, prior=0.0)), 4)
    0.5514
    """
    views = torch.stack([first, second])
    keys, place = _views_of_all(views)
    images = len(keys) // 2
    if images == 1:
        return (views * 0).sum()
    logits = views.flatten(0, 1) @ keys.T / temperature  # (2B, 2N)
    itself = torch.cat([place, place + images])
    other = itself.roll(len(first))
    own = torch.zeros_like(logits, dtype=torch.bool).scatter(1, torch.stack([itself, other], dim=1), True)

    def log_sum(sharpness: float) -> Tensor:
        return (sharpness * logits).masked_fill(own, -torch.inf).logsumexp(dim=1)

    negatives = 2 * images - 2
    positive = logits.gather(1, other[:, None])[:, 0]
    hard = math.log(negatives) + log_sum(1 + concentration) - log_sum(concentration)  # log N·E
    # All exponentials are divided by the largest one, which keeps them in range at low temperatures.
    largest = torch.maximum(hard, positive).detach()
    own_share, all_share = (positive - largest).exp(), (hard - largest).exp()
    least = negatives * (-1 / temperature - largest).exp()
    rest = torch.maximum((all_share - prior * negatives * own_share) / (1 - prior), least)
    return ((own_share + rest).log() + largest - positive).mean()


@torch.no_grad()
def false_negatives(similarity: Tensor, own: Tensor, *, nearest: int, threshold: float) -> Tensor:
    """Which keys of other images seem to show what the image shows, found by all its views together.

    Huynh, Kornblith, Walter, Maire and Khademi, "Boosting Contrastive Self-Supervised Learning with False Negative
    Cancellation", WACV 2022: a key's score is its largest similarity to a view of the image; of those that
    lie above the threshold, the `nearest` with the highest scores are taken.

    Args:
        similarity: (V, B, K) cosines between the V views of B images and K keys.
        own: (B, K) bool, the keys of the image itself, which are none.
        nearest: how many at most, k.
        threshold: of the score, t.

    Returns:
        (B, K) bool.
    """
    score = similarity.amax(dim=0).masked_fill(own, -torch.inf)
    best, place = score.topk(min(nearest, score.shape[1]), dim=1)
    return torch.zeros_like(own).scatter(1, place, best > threshold)


@full_precision
def cancelled_nt_xent(
    views: Tensor, *, temperature: float, nearest: int, threshold: float, attract: bool = True
) -> Tensor:
    """NT-Xent over several views that does not push false negatives away.

    For each view v of an image, with its other views and, if they attract, its false negatives as positives P:
    log Σ exp(v·n/τ) − mean over P of v·p/τ, averaged over the V·B views. The sum is over all other views of the batch;
    where false negatives do not attract, it is without them (elimination). Huynh et al., "Boosting Contrastive
    Self-Supervised Learning with False Negative Cancellation", WACV 2022, as in the authors' code. In a run
    of several processes the views are those of all, and gradients flow to them.

    Args:
        views: (V, B, D) unit vectors, V ≥ 2.
        temperature: τ > 0.
        nearest: k of `false_negatives`.
        threshold: t of `false_negatives`.
        attract: false negatives are positives; otherwise they are left out.

    Returns:
        Scalar in the dtype of the inputs.

    >>> one = torch.eye(2)
    >>> round(float(cancelled_nt_xent(torch.stack([one, one]), temperature=1.0, nearest=1, threshold=0.5)), 4)
    0.5514
    """
    keys, place = _views_of_all(views)
    similarity = torch.einsum("vbd,kd->vbk", views, keys)
    image = torch.arange(len(keys), device=views.device).unflatten(0, (len(views), -1))  # (V, N)
    itself = torch.zeros_like(similarity, dtype=torch.bool).scatter(2, image[:, place, None], True)
    own = itself.any(dim=0)  # (B, K)
    false = false_negatives(similarity, own, nearest=nearest, threshold=threshold)
    positive, left_out = own & ~itself, itself
    if attract:
        positive = positive | false
    else:
        left_out = left_out | false
    logits = similarity / temperature
    attraction = (logits * positive).sum(dim=2) / positive.sum(dim=2)
    return (logits.masked_fill(left_out, -torch.inf).logsumexp(dim=2) - attraction).mean()
