"""How embeddings lie on the sphere: measures that train nothing. All look at directions; lengths do not matter."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import normalize

from glocal.errors import GlocalError
from glocal.transfer import exact_device

_ROWS = 2048  # at a time, so that copies in float64 and blocks of distances stay small


class ClassSimilarity(NamedTuple):
    """How near images of one class and of different classes are.

    Attributes:
        intra: mean cosine of the pairs of a class, averaged over the classes with two images or more; None without any.
        inter: mean cosine of a class's images with all images of other classes, averaged over the classes; None where
            there is one class.
        alignment: mean squared distance of all pairs of one class; None without any.
        classes: classes with at least one image.
        alone: classes with one image, which have no pair.
    """

    intra: float | None
    inter: float | None
    alignment: float | None
    classes: int
    alone: int


def class_similarity(features: Tensor, labels: Tensor) -> ClassSimilarity:
    """Similarity within and between classes, and the alignment of same-class pairs; exact, in one pass over N images.

    The sum of u·v over the ordered pairs of a class is |Σ u|² − Σ |u|², of unit vectors |Σ u|² − n. Alignment is that
    of Wang and Isola, "Understanding Contrastive Representation Learning through Alignment and Uniformity on the
    Hypersphere", ICML 2020, equation 2 with α = 2, over the pairs of one class.

    Args:
        features: (N, D) float, of any length each; zero vectors have cosine 0 with everything.
        labels: (N,) int64, classes from 0; classes without an image do not count.

    >>> class_similarity(torch.tensor([[1.0, 0.0], [0.0, 2.0]]), torch.tensor([0, 0])).alignment
    2.0
    """
    number = int(labels.max()) + 1
    labels = labels.cpu()
    sums = torch.zeros(number, features.shape[1], dtype=torch.float64)  # (C, D): Σ u
    squares = torch.zeros(number, dtype=torch.float64)  # (C,): Σ |u|²
    for rows, classes in zip(features.split(_ROWS), labels.split(_ROWS), strict=True):
        unit = normalize(rows.cpu().double(), dim=1)
        sums.index_add_(0, classes, unit)
        squares.index_add_(0, classes, unit.square().sum(dim=1))
    count = labels.bincount(minlength=number).double()
    product = sums.square().sum(dim=1)
    several, there = count > 1, count > 0
    pairs = count * (count - 1)
    within = ((product - squares) / pairs)[several]
    apart = 2 * (count * squares - product)[several]  # Σ |u − v|² over the ordered pairs
    others = (sums * (sums.sum(dim=0) - sums)).sum(dim=1)
    between = (others / (count * (count.sum() - count)))[there]
    return ClassSimilarity(
        intra=float(within.mean()) if len(within) else None,
        inter=float(between.mean()) if len(between) > 1 else None,
        alignment=float(apart.sum() / pairs[several].sum()) if len(within) else None,
        classes=int(there.sum()),
        alone=int((count == 1).sum()),
    )


def alignment(first: Tensor, second: Tensor) -> float:
    """Mean squared distance of unit vectors of two views of the same images, 0 to 4, lower is nearer.

    Wang and Isola, ICML 2020, equation 2 with α = 2.

    Args:
        first, second: (N, D) float, rows of the same images, of any length each.
    """
    return float((normalize(first, dim=1) - normalize(second, dim=1)).square().sum(dim=1).double().mean())


def uniformity(features: Tensor, *, t: float = 2.0) -> float:
    """log of the mean of exp(−t · |u − v|²) over all pairs of different images; lower is spread more evenly.

    Wang and Isola, ICML 2020, equation 3. Exact, block by block: memory does not grow with N².

    Args:
        features: (N, D) float, of any length each, on the device where it is computed.
        t: 2 in the paper.

    Raises:
        GlocalError: fewer than two images.
    """
    count = len(features)
    if count < 2:
        raise GlocalError(f"uniformity needs two images or more, not {count}")
    unit = normalize(features, dim=1)
    square = unit.square().sum(dim=1)
    blocks = []
    for first in range(0, count, _ROWS):
        rows = slice(first, first + _ROWS)
        for second in range(first, count, _ROWS):
            columns = slice(second, second + _ROWS)
            squared = (square[rows, None] + square[columns] - 2 * unit[rows] @ unit[columns].T).clamp_(min=0)
            if second == first:  # each pair once, and no image with itself
                squared.masked_fill_(torch.ones_like(squared, dtype=torch.bool).tril_(), torch.inf)
            blocks.append(torch.logsumexp((-t * squared).flatten(), dim=0))
    total = torch.logsumexp(torch.stack(blocks).cpu().double(), dim=0)
    return float(total) - math.log(count * (count - 1) / 2)


LOW_SPREAD, LOW_RANK = 0.1, 2.0
"""Below these, embeddings have collapsed: nearly to a point, or to a line."""


def spread(features: Tensor) -> float:
    """√D times the mean standard deviation of the coordinates of unit vectors (N, D).

    1 when they lie evenly on the sphere, 0 when all are the same (Chen and He, SimSiam, section 4.1).
    """
    return float(spread_of(features))


def spread_of(features: Tensor) -> Tensor:
    """The same as a scalar where the features are, for which nothing waits."""
    return normalize(features.float(), dim=1).std(dim=0, unbiased=False).mean() * features.shape[1] ** 0.5


def effective_rank(features: Tensor) -> float:
    """The number of directions that unit vectors (N, D) use, from 1 to min(N, D).

    exp of the entropy of the normalised singular values (Roy and Vetterli, "The effective rank", 2007; RankMe, 2023).
    These are the roots of the eigenvalues of the smaller Gram matrix, which in float64 are exact enough. Of features
    that are infinite or no numbers it is no number.
    """
    features = features.to(exact_device(features.device))
    if len(features) < features.shape[1]:
        unit = normalize(features.double(), dim=1)
        gram = unit @ unit.T
    else:
        gram = features.new_zeros(features.shape[1], features.shape[1], dtype=torch.float64)
        for rows in features.split(_ROWS):
            unit = normalize(rows.double(), dim=1)
            gram.addmm_(unit.T, unit)
    if not bool(gram.isfinite().all()):
        return math.nan
    values = torch.linalg.eigvalsh(gram).clamp(min=0).sqrt()
    share = values / values.sum().clamp(min=1e-12)
    return float((-torch.xlogy(share, share).sum()).exp())
