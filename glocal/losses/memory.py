"""Losses against a memory bank, which holds a vector of every image: NPID, local aggregation."""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy, softplus

from glocal.distributed import all_gather
from glocal.errors import GlocalError
from glocal.losses.precision import full_precision


@full_precision
def instance_softmax(query: Tensor, bank: Tensor, index: Tensor, *, temperature: float) -> Tensor:
    """Every image is a class of its own, whose weight is its row of the bank.

    −log( exp(q·v_i/τ) / Σⱼ exp(q·vⱼ/τ) ), averaged over the batch. Wu, Xiong, Yu and Lin, "Unsupervised Feature
    Learning via Non-Parametric Instance Discrimination", CVPR 2018, eq. 2 and 3.

    Args:
        query: (B, D) unit vectors.
        bank: (N, D) unit vectors of all images, without gradient.
        index: (B,) int64, the rows of the queries' images.
        temperature: τ > 0.

    Returns:
        Scalar in the dtype of the inputs.
    """
    return cross_entropy(query @ bank.T / temperature, index)


@full_precision
def instance_nce(
    query: Tensor, own: Tensor, noise: Tensor, *, temperature: float, log_normaliser: Tensor, images: int
) -> Tensor:
    """Noise-contrastive estimation of `instance_softmax`: an image's own row is told from rows drawn at random.

    −log h(own) − Σₘ log(1 − h(noiseₘ)), averaged over the batch, with h(v) = P(v)/(P(v) + M/N) and P(v) = exp(q·v/τ)/Z.
    Wu et al., CVPR 2018, eq. 4 to 6. In the logarithm, so nothing underflows: the authors' 10⁻⁷ is not needed.

    Args:
        query: (B, D) unit vectors.
        own: (B, D) the bank's rows of the queries' images.
        noise: (M, D) rows of the bank drawn at random, shared by the whole batch.
        temperature: τ > 0.
        log_normaliser: log Z, a scalar (`log_partition`).
        images: N, the rows of the bank.

    Returns:
        Scalar in the dtype of the inputs.
    """
    prior = math.log(len(noise) / images)  # log M/N
    positive = (query * own).sum(dim=1) / temperature - log_normaliser - prior  # (B,), the logit of h
    negative = query @ noise.T / temperature - log_normaliser - prior  # (B, M)
    return (softplus(-positive) + softplus(negative).sum(dim=1)).mean()


@torch.no_grad()
@full_precision
def log_partition(query: Tensor, noise: Tensor, *, temperature: float, images: int) -> Tensor:
    """log Z, estimated from random rows of the bank: Z ≈ N/M·Σₘ exp(q·noiseₘ/τ), averaged over the batch.

    Wu et al., CVPR 2018, eq. 7. In a run of several processes over the batches of all.

    Args:
        query: (B, D) unit vectors.
        noise: (M, D) rows of the bank drawn at random.
        temperature: τ > 0.
        images: N, the rows of the bank.

    Returns:
        Scalar in the dtype of the inputs.
    """
    sums = all_gather((query @ noise.T / temperature).flatten().logsumexp(dim=0, keepdim=True))  # (P,)
    return sums.logsumexp(dim=0) - math.log(len(sums) * len(query) * len(noise)) + math.log(images)


@full_precision
def local_aggregation(
    query: Tensor,
    bank: Tensor,
    clusters: Tensor,
    index: Tensor,
    *,
    background: int,
    temperature: float,
    eps: float = 1e-7,
) -> Tensor:
    """The likelihood of an image's close neighbours among its background neighbours.

    −log( P(C ∩ B)/P(B) + ε ) with P(A) ∝ Σ_{j ∈ A} exp(q·vⱼ/τ), averaged over the batch. The background neighbours B
    are the rows of the bank that are nearest to the query; close neighbours C share a cluster with the image in at
    least one of the clusterings. Zhuang, Zhai and Yamins, "Local Aggregation for Unsupervised Learning of Visual
    Embeddings", ICCV 2019, eq. 3 to 5; ε as in the authors' code, where no background neighbour may be close.

    Args:
        query: (B, D) unit vectors.
        bank: (N, D) unit vectors of all images, without gradient.
        clusters: (H, N) integers, the images' clusters in H clusterings.
        index: (B,) int64, the rows of the queries' images.
        background: how many rows are background neighbours, at most N.
        temperature: τ > 0.
        eps: ε > 0.

    Returns:
        Scalar in the dtype of the query.

    Raises:
        GlocalError: more background neighbours than rows.

    >>> bank, clusters = torch.tensor([[1.0, 0.0], [1.0, 0.0], [0.0, 1.0]]), torch.tensor([[0, 1, 0]])
    >>> one = local_aggregation(bank[:1], bank, clusters, torch.tensor([0]), background=2, temperature=1.0)
    >>> round(float(one), 4)  # itself and one that is as near but no close neighbour
    0.6931
    """
    if not 1 <= background <= len(bank):
        raise GlocalError(f"background={background} neighbours: choose from 1 to {len(bank)}, the rows of the bank")
    similarity, neighbors = (query @ bank.T).topk(background, dim=1)  # (B, M)
    close = (clusters[:, neighbors] == clusters[:, index, None]).any(dim=0)  # (B, M)
    logits = similarity / temperature
    # A finite number instead of −∞: where nothing is close, the gradient is 0 and not undefined.
    near = logits.masked_fill(~close, torch.finfo(logits.dtype).min).logsumexp(dim=1)
    likelihood = near - logits.logsumexp(dim=1)  # log, (B,)
    return -torch.logaddexp(likelihood, torch.full_like(likelihood, math.log(eps))).mean()
