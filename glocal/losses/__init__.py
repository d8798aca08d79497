"""Losses: pure functions of tensors. Each returns a scalar mean over the batch in the dtype of its inputs."""

from glocal.losses.affinity import affinity_objective, local_dissimilarity, mine
from glocal.losses.clustering import sinkhorn, swapped_prediction
from glocal.losses.contrastive import batch_info_nce, cutmix_info_nce, info_nce, nt_xent, view_contrast
from glocal.losses.cosine import negative_cosine
from glocal.losses.distillation import dino, patchwise
from glocal.losses.memory import instance_nce, instance_softmax, local_aggregation
from glocal.losses.predictive import patch_info_nce
from glocal.losses.prototypes import proto_nce
from glocal.losses.redundancy import arb, barlow_twins, decorrelation, vicreg
from glocal.losses.soft import ceil, knowledge_distillation, relational, sce

__all__ = [
    "affinity_objective",
    "arb",
    "barlow_twins",
    "batch_info_nce",
    "ceil",
    "cutmix_info_nce",
    "decorrelation",
    "dino",
    "info_nce",
    "instance_nce",
    "instance_softmax",
    "knowledge_distillation",
    "local_aggregation",
    "local_dissimilarity",
    "mine",
    "negative_cosine",
    "nt_xent",
    "patch_info_nce",
    "patchwise",
    "proto_nce",
    "relational",
    "sce",
    "sinkhorn",
    "swapped_prediction",
    "vicreg",
    "view_contrast",
]
