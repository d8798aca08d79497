"""Losses: pure functions of tensors. Each returns a scalar mean over the batch in the dtype of its inputs."""

from glocal.losses.affinity import affinity_objective, local_dissimilarity
from glocal.losses.contrastive import batch_info_nce, cutmix_info_nce, info_nce, nt_xent
from glocal.losses.cosine import negative_cosine
from glocal.losses.distillation import dino, patchwise
from glocal.losses.redundancy import barlow_twins, vicreg
from glocal.losses.soft import relational, sce

__all__ = [
    "affinity_objective",
    "barlow_twins",
    "batch_info_nce",
    "cutmix_info_nce",
    "dino",
    "info_nce",
    "local_dissimilarity",
    "negative_cosine",
    "nt_xent",
    "patchwise",
    "relational",
    "sce",
    "vicreg",
]
