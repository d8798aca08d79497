"""Losses: pure functions of tensors. Each returns a scalar mean over the batch in the dtype of its inputs."""

from glocal.losses.contrastive import info_nce
from glocal.losses.cosine import negative_cosine
from glocal.losses.distillation import dino, patchwise
from glocal.losses.soft import relational, sce

__all__ = ["dino", "info_nce", "negative_cosine", "patchwise", "relational", "sce"]
