"""Attraction alone: cosine similarity between a prediction and a fixed target."""

from __future__ import annotations

from torch import Tensor
from torch.nn.functional import cosine_similarity

from glocal.losses.precision import full_precision


@full_precision
def negative_cosine(prediction: Tensor, target: Tensor) -> Tensor:
    """Negative cosine similarity D(p, z), averaged over the batch.

    Chen and He, "Exploring Simple Siamese Representation Learning", CVPR 2021, eq. 1.

    Args:
        prediction: (B, D), any length.
        target: (B, D), any length; detached by the caller (the stop-gradient of eq. 3).

    Returns:
        Scalar in [−1, 1], in the dtype of the inputs; −1 is perfect agreement.
    """
    return -cosine_similarity(prediction, target, dim=1).mean()
