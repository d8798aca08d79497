"""Predictions of features that lie elsewhere in the image."""

from __future__ import annotations

import torch
from torch import Tensor

from glocal.distributed import all_gather_with_gradient, process_rank
from glocal.losses.contrastive import batch_info_nce
from glocal.losses.precision import full_precision


@full_precision
def patch_info_nce(prediction: Tensor, target: Tensor, *, ahead: int, scale: float) -> Tensor:
    """InfoNCE of what lies some rows further down: predictions find it among all patches of the batch.

    −log( exp(s·ẑ·z₊) / Σ exp(s·ẑ·z) ), averaged over the patches that have a row so far below them. Hénaff et al.,
    "Data-Efficient Image Recognition with Contrastive Predictive Coding", ICML 2020, eq. 2 and the pseudo-code of its
    appendix. In a run of several processes the patches are those of all, and gradients flow to them.

    Args:
        prediction: (B, H, W, D), made at each patch.
        target: (B, H, W, D).
        ahead: rows between a patch and what is predicted at it, 1 to H − 1.
        scale: s > 0.

    Returns:
        Scalar in the dtype of the inputs.

    >>> grid = torch.eye(2).view(1, 2, 1, 2)  # one image, two rows
    >>> round(float(patch_info_nce(grid.flip(1), grid, ahead=1, scale=1.0)), 4)
    0.3133
    """
    place = torch.arange(target.shape[:-1].numel(), device=target.device).view(target.shape[:-1])
    own = process_rank() * place.numel() + place
    keys = all_gather_with_gradient(target).flatten(0, 2)
    queries, positive = prediction[:, :-ahead].flatten(0, 2), own[:, ahead:].flatten()
    return batch_info_nce(queries, keys, positive, temperature=1 / scale)
