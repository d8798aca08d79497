"""MoCo v3: momentum contrast within large batches.

Chen, Xie and He, "An Empirical Study of Training Self-Supervised Vision Transformers", ICCV 2021 (Algorithm 1). MoCo
without its queue and with BYOL's predictor; a vision transformer keeps its random patch embedding.
"""

from __future__ import annotations

import math
from typing import Any, Literal

import torch
from pydantic import Field
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor
from torch.nn.functional import normalize

from glocal.distributed import all_gather, process_count, process_rank
from glocal.losses import batch_info_nce
from glocal.methods.base import Method, MethodSettings
from glocal.models.backbone import Backbone
from glocal.models.heads import mlp
from glocal.models.momentum import Buffers, MomentumTeacher
from glocal.schedules import Schedule, Share, Temperature
from glocal.settings import Amount
from glocal.views.batch import Views
from glocal.views.plan import View, asymmetric_pair


class MoCoV3Settings(MethodSettings):
    """Defaults are those of ResNet-50; vision transformers take three projector layers and a temperature of 0.2."""

    name: Literal["moco_v3"] = "moco_v3"
    hidden_dim: Amount = 4096
    output_dim: Amount = 256
    projector_layers: int = Field(2, ge=2, le=100)
    predictor_norm: bool = False  # batch normalisation after the predictor (vision transformers)
    momentum: Share = Schedule(start=0.99, end=1.0)
    temperature: Temperature = 1.0
    smallest_crop: float = Field(0.2, gt=0, le=1)  # share of the image's area; 0.08 for vision transformers
    frozen_patches: bool = True  # vision transformers: the patch embedding stays random (section 4.2)
    teacher_buffers: Buffers = "own"


class MoCoV3(Method):
    """Contrastive learning against the momentum encoder's keys of the same batch."""

    Settings = MoCoV3Settings
    compares_batch = True
    compares_rows = False

    def __init__(self, backbone: Backbone, settings: MoCoV3Settings) -> None:
        super().__init__(backbone, settings)
        self.settings = settings
        hidden, width = settings.hidden_dim, settings.output_dim
        layers = [hidden] * (settings.projector_layers - 1)
        self.projector = mlp([backbone.dim, *layers, width], norm=True, last_norm=True)
        self.predictor = mlp([width, hidden, width], norm=True, last_norm=settings.predictor_norm, last_bias=False)
        self.teacher = MomentumTeacher(self.backbone, self.projector, buffers=settings.teacher_buffers)
        if settings.frozen_patches and isinstance(backbone.network, VisionTransformer):
            backbone.network.patch_embed.requires_grad_(False)

    @classmethod
    def view_plan(cls, size: int, settings: Any = None) -> list[View]:
        smallest = (settings or MoCoV3Settings()).smallest_crop
        return asymmetric_pair(size, scale=(smallest, 1.0), interpolation="bilinear")

    def represent(self, images: Tensor) -> Tensor:
        return self.projector(self.backbone(images))  # type: ignore[no-any-return]

    def query(self, representation: Tensor) -> Tensor:
        return normalize(self.predictor(representation).float(), dim=1)

    def keys(self, images: Tensor, representation: Tensor) -> Tensor:
        return normalize(self.teacher(images).float(), dim=1)

    def compare(self, query: Tensor, key: Tensor) -> Tensor:
        """Eq. 1 and the factor 2τ of Algorithm 1; the keys of all processes are negatives."""
        positive = process_rank() * len(key) + torch.arange(len(key), device=key.device)
        temperature = self.now.temperature
        self.chance = 2 * temperature * math.log(process_count() * len(key))
        return 2 * temperature * batch_info_nce(query, all_gather(key), positive, temperature=temperature)

    def loss(self, views: Views) -> Tensor:
        """Algorithm 1: ctr(q₁, k₂) + ctr(q₂, k₁)."""
        loss = self.both_directions(views)
        self.chance = 2 * (self.chance or 0)
        return loss

    def after_step(self) -> None:
        self.teacher.update(self.backbone, self.projector, momentum=self.now.momentum)
