"""Whitening of features with the principal components of other images' features."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import normalize

from glocal.errors import GlocalError

_FLOOR = 1e-5  # of the largest variance: no direction is divided by less than its root
_ROWS = 4096


class Whitening(NamedTuple):
    """A shift and a linear map.

    Attributes:
        mean: (D,) float64.
        projection: (D, K) float64, columns in descending order of the variance along them.
    """

    mean: Tensor
    projection: Tensor

    def __call__(self, features: Tensor) -> Tensor:
        """(N, D) → (N, K), in the dtype of the features."""
        here = self.mean.device
        # One at a time, device and dtype: what has no float64 cannot be asked for it in passing.
        parts = [(part.to(here).double() - self.mean) @ self.projection for part in features.split(_ROWS)]
        return torch.cat([part.to(features.dtype) for part in parts]).to(features.device)


def learn_whitening(features: Tensor, dim: int | None = None) -> Whitening:
    """What turns features like these into uncorrelated ones of variance 1, those that vary most first.

    Jégou and Chum, "Negative evidences and co-occurrences in image retrieval: the benefit of PCA and whitening", ECCV
    2012, section 3. Variances below 1e-5 of the largest count as that much. (DINO's authors take the second moment
    about zero where this takes the covariance; the two differ in the direction of the mean.)

    Args:
        features: (N, D) float, N ≥ 2, on a device with float64 (`glocal.transfer.exact_device`).
        dim: how many directions are kept; None keeps all D.

    Raises:
        GlocalError: fewer than two rows, no variance, a value that is not finite, or a `dim` outside 1 … D.
    """
    dim = features.shape[1] if dim is None else dim
    if len(features) < 2 or not 1 <= dim <= features.shape[1]:
        raise GlocalError(
            f"whitening: to learn {dim} directions takes 2 images at least and as many features, "
            f"not {len(features)} images with {features.shape[1]} features"
        )
    mean = features.mean(dim=0, dtype=torch.float64)
    covariance = torch.zeros(len(mean), len(mean), dtype=torch.float64, device=features.device)
    for part in features.split(_ROWS):
        centred = part.double() - mean
        covariance += centred.mT @ centred
    if not bool(covariance.isfinite().all()) or not bool(covariance.any()):
        raise GlocalError(f"whitening: the features of the {len(features)} images are all the same, or not finite")
    variance, direction = torch.linalg.eigh(covariance / len(features))  # ascending
    variance, direction = variance.flip(0)[:dim], direction.flip(1)[:, :dim]
    return Whitening(mean, direction / variance.clamp(min=_FLOOR * float(variance[0])).sqrt())


def comparable(features: Tensor, whitening: Whitening | None, device: str) -> Tensor:
    """Features (N, D) on a device as unit vectors (N, K), whitened before where there is a whitening.

    Their inner products are cosine similarities. Rows of unreadable images stay NaN.
    """
    features = features.to(device)
    return normalize(features if whitening is None else whitening(features), dim=1)
