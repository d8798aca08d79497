"""Losses: pure functions of tensors. Each returns a scalar mean over the batch in the dtype of its inputs."""

from glocal.losses.affinity import affinity_objective, local_dissimilarity
from glocal.losses.contrastive import cutmix_info_nce, info_nce
from glocal.losses.cosine import negative_cosine
from glocal.losses.distillation import dino, patchwise
from glocal.losses.soft import relational, sce

__all__ = [
    "affinity_objective",
    "cutmix_info_nce",
    "dino",
    "info_nce",
    "local_dissimilarity",
    "negative_cosine",
    "patchwise",
    "relational",
    "sce",
]
