"""Losses: pure functions of tensors. Each returns a scalar mean over the batch in the dtype of its inputs."""

from glocal.losses.affinity import affinity_objective, local_dissimilarity, mine
from glocal.losses.classes import self_classification, twin_classes
from glocal.losses.clustering import sinkhorn, swapped_prediction
from glocal.losses.contrastive import batch_info_nce, cutmix_info_nce, info_nce, nt_xent, view_contrast
from glocal.losses.cosine import negative_cosine
from glocal.losses.dispersion import brownian, centroid_attraction, singular_spread
from glocal.losses.distillation import dino, patchwise
from glocal.losses.memory import instance_nce, instance_softmax, local_aggregation
from glocal.losses.negatives import cancelled_nt_xent, false_negatives, hard_nt_xent
from glocal.losses.predictive import patch_info_nce
from glocal.losses.pretext import masked_l2, pirl_nce, rebalanced_cross_entropy
from glocal.losses.prototypes import proto_nce
from glocal.losses.redundancy import arb, barlow_twins, decorrelation, vicreg
from glocal.losses.soft import ceil, knowledge_distillation, relational, sce
from glocal.losses.whitening import w_mse, zero_cl

__all__ = [
    "affinity_objective",
    "arb",
    "barlow_twins",
    "batch_info_nce",
    "brownian",
    "cancelled_nt_xent",
    "ceil",
    "centroid_attraction",
    "cutmix_info_nce",
    "decorrelation",
    "dino",
    "false_negatives",
    "hard_nt_xent",
    "info_nce",
    "instance_nce",
    "instance_softmax",
    "knowledge_distillation",
    "local_aggregation",
    "local_dissimilarity",
    "masked_l2",
    "mine",
    "negative_cosine",
    "nt_xent",
    "patch_info_nce",
    "patchwise",
    "pirl_nce",
    "proto_nce",
    "rebalanced_cross_entropy",
    "relational",
    "sce",
    "self_classification",
    "singular_spread",
    "sinkhorn",
    "swapped_prediction",
    "twin_classes",
    "vicreg",
    "view_contrast",
    "w_mse",
    "zero_cl",
]
