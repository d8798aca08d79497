"""How alike images of a set are by chance, so that what is more alike is a copy.

Similarities mean something else for every backbone and every set, so thresholds come from the set itself.

*The embeddings alone.* Around an image, the number of others within a distance d = 1 − s grows as a power of d
(E. Levina, P. Bickel: Maximum likelihood estimation of intrinsic dimension, NIPS 2004), which the distances to its 8th
to 32nd neighbours tell: copies, of which an image has few, are not among them. Carried down to small distances, that
power says how many pairs of the set are nearer than d by chance: (K / 2) Σᵢ (d / dᵢ)ᵐ, with dᵢ the distance to the
K-th neighbour. The threshold is where that is one twentieth of a pair, or one pair for 100,000 images if that is more.

*Hashes.* Hashes of images that the embeddings find unlike give mean and spread of the distance of unrelated hashes, and
the normal distribution says how rarely they are nearer than d bits.

*Both.* A pair counts where the product of both probabilities, times the number of pairs and a hundred for what hashes
and embeddings have in common, is below the same number; an embedding never counts for more than one in ten thousand.
These are the numbers of false alarms of a-contrario detection (A. Desolneux, L. Moisan, J.-M. Morel: From Gestalt
Theory to Image Analysis, 2008).
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from scipy.special import ndtr
from torch import Tensor

from glocal.curation.hashes import Hashes
from glocal.embeddings.folder import Embeddings
from glocal.errors import counted

_FALSE_PAIRS, _FALSE_PAIRS_EACH = 0.05, 1e-5  # in a small set, and for each image of a large one
NEIGHBORS = 32
"""Neighbours of each image among which copies are looked for, at most."""
FEW = 32
"""Images below which a set has no distribution of its own …"""
USUAL_THRESHOLD = 0.95
"""… and this similarity counts."""

_IN_COMMON = 100.0  # how much likelier near hashes are among images whose embeddings are near
_RAREST = 1e-4  # what an embedding alone says, at most, beside a hash
_NEAREST = 1e-5  # of distances: what float16 leaves of a difference
_SAMPLED = 2000  # rows on either side of the sampled pairs
# Of the distance of independent balanced hashes of 64 bits: its spread, and its mean where the nearest of three counts.
_INDEPENDENT, _NEAREST_OF_THREE = 4.0, 28.7


@dataclass(frozen=True)
class Threshold:
    """The similarity from which embeddings alone make two images copies.

    Attributes:
        similarity: the cosine.
        words: what it comes from, in a sentence.
    """

    similarity: float
    words: str


def false_pairs(images: int) -> float:
    """How many pairs of a set may be found that are alike by chance.

    >>> false_pairs(1000), false_pairs(300_000)
    (0.05, 3.0)
    """
    return max(_FALSE_PAIRS, round(_FALSE_PAIRS_EACH * images, 6))


def usual_neighbors(images: int) -> int:
    """How many neighbours of each image tell how alike images are by chance: 32, fewer in small sets."""
    return max(1, min(NEIGHBORS, images - 1, max(4, images // 16)))


def chance_threshold(similarity: Tensor) -> Threshold:
    """The similarity that less than `false_pairs` pairs of a set reach if it has no copies.

    Args:
        similarity: (N, K) of each image to its nearest others, the largest first.

    >>> chance_threshold(torch.zeros(3, 2)).similarity
    0.95
    """
    images, count = similarity.shape
    if images < FEW:
        words = f"the usual one: {images} images are too few to tell how alike they are by chance"
        return Threshold(USUAL_THRESHOLD, words)
    distance = (1 - similarity).clamp(min=_NEAREST).double().numpy()
    first = max(2, count // 4)
    ranks = np.arange(first, count + 1)
    medians = np.median(np.log(distance[:, first - 1 :]), axis=0)
    slope = max(float(np.polyfit(np.log(ranks), medians, 1)[0]), 1e-3)  # equal distances have none
    power = 1 / slope
    last = np.log(distance[:, -1])
    middle = float(np.median(last))
    rarity = slope * np.log(2 * false_pairs(images) / (count * images))
    # An image whose K-th neighbour is still a copy says nothing of its surroundings: left out are those whose K-th
    # neighbour is nearer than copies are, if all surroundings were as different as the thinner half of them.
    spread = float(np.quantile(last, 0.84)) - middle
    last = last[last >= middle - power * spread**2 / 2 + rarity]
    last = np.maximum(last, np.quantile(last, 0.01))
    nearest = middle + rarity - slope * np.log(np.mean(np.exp(-power * (last - middle))))
    found = float(np.clip(1 - np.exp(nearest), -1.0, 1 - _NEAREST))
    low, usual, high = np.quantile(similarity[:, 0].numpy(), [0.1, 0.5, 0.9]).tolist()
    words = (
        f"{_rare(images)}, going by how similarity falls off from neighbour to neighbour. The nearest other image of "
        f"an image has similarity {shown(usual)} here, {shown(low)} to {shown(high)} for four fifths of them"
    )
    return Threshold(found, words)


def _rare(images: int) -> str:
    allowed = false_pairs(images)
    if allowed < 1:
        return f"by chance one in {1 / allowed:.0f} sets of {images:,} images would hold a pair as near"
    return f"by chance {counted(round(allowed), 'pair')} of {images:,} images would be as near"


def shown(similarity: float) -> str:
    """A similarity with as many digits as tell it from 1.

    >>> shown(0.9312), shown(0.99987)
    ('0.93', '0.9999')
    """
    digits = 2
    while digits < 5 and round(similarity, digits) >= 1 - 10**-digits / 2:
        digits += 1
    return f"{similarity:.{digits}f}"


@dataclass(frozen=True)
class Evidence:
    """How often unrelated images of a set are as alike as a pair.

    Attributes:
        pairs: of the set.
        allowed: how many of them may be found that are alike by chance.
        similarities: of sampled pairs, in ascending order.
        mean, spread: of the distance between the hashes of unrelated images, in bits; no hashes: None.
    """

    pairs: float
    allowed: float
    similarities: np.ndarray
    mean: float | None
    spread: float

    def by_hash(self, distance: np.ndarray) -> np.ndarray:
        """How many pairs of the set have hashes so near by chance."""
        assert self.mean is not None
        return self.pairs * ndtr((distance + 1 - self.mean) / self.spread)

    def by_both(self, distance: np.ndarray, similarity: np.ndarray) -> np.ndarray:
        """How many pairs of the set have hashes and embeddings so near by chance."""
        above = len(self.similarities) - np.searchsorted(self.similarities, similarity)
        share = np.maximum(above / len(self.similarities), _RAREST)
        return self.by_hash(distance) * np.minimum(share * _IN_COMMON, 1.0)

    @cached_property
    def alone(self) -> int:
        """Bits within which hashes alone make two images copies; −1 where not even equal ones do."""
        return self._reach(1.0)

    @cached_property
    def reach(self) -> int:
        """Bits within which hashes count beside the nearest embeddings."""
        return self._reach(_RAREST * _IN_COMMON)

    def _reach(self, share: float) -> int:
        if self.mean is None:
            return -1
        return int((self.by_hash(np.arange(65)) * share <= self.allowed).sum()) - 1


def measure_evidence(embeddings: Embeddings, hashes: Hashes | None, *, seed: int = 0) -> Evidence:
    """Looks at random pairs of a set.

    Args:
        embeddings: of at least two images.
        hashes: of the same images; None leaves them out.
        seed: of the pairs.
    """
    count = len(embeddings)
    rows = np.sort(np.random.default_rng(seed).permutation(count)[: 2 * _SAMPLED])
    vectors = torch.nn.functional.normalize(embeddings.take(torch.from_numpy(rows)), dim=1)
    one, other = np.triu_indices(len(rows), 1) if count <= _SAMPLED else _across(len(rows))
    similarity = (vectors @ vectors.T).numpy()[one, other]
    pairs = count * (count - 1) / 2
    mean, spread = None, _INDEPENDENT
    if hashes is not None and hashes.usable.any():
        unlike = similarity <= np.median(similarity)  # no copies among them, if the embeddings are worth anything
        first, second = rows[one[unlike]], rows[other[unlike]]
        usable = hashes.usable[first] & hashes.usable[second]
        distance = hashes.distance(first[usable], second[usable]).astype(np.float32)
        distance = distance[distance > 0]  # equal ones are copies, or too many of a kind that has no hash
        mean = float(distance.mean()) if len(distance) else _NEAREST_OF_THREE
        below = distance[distance < mean]
        if len(below):
            spread = max(spread, float(np.sqrt(np.mean((below - mean) ** 2))))
    return Evidence(pairs, false_pairs(count), np.sort(similarity), mean, spread)


def _across(rows: int) -> tuple[np.ndarray, np.ndarray]:
    """Every even row beside every odd one."""
    even, odd = np.meshgrid(np.arange(0, rows, 2), np.arange(1, rows, 2), indexing="ij")
    return even.ravel(), odd.ravel()
