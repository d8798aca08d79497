"""MoCo v1 and v2: momentum contrast.

He, Fan, Wu, Xie and Girshick, "Momentum Contrast for Unsupervised Visual Representation Learning", CVPR 2020
(Algorithm 1), with the MLP head, the blur and the cosine schedule of Chen, Fan, Girshick and He, "Improved Baselines
with Momentum Contrastive Learning", 2020. Each query finds its image's key of a slowly moving encoder among a queue of
others.
"""

from __future__ import annotations

import math
from typing import Any, Literal

import torch
from pydantic import Field
from torch import Tensor
from torch.nn.functional import normalize

from glocal.losses import info_nce
from glocal.methods.base import Method, MethodSettings
from glocal.models.backbone import Backbone
from glocal.models.heads import mlp
from glocal.models.momentum import Buffers, MomentumTeacher
from glocal.models.queue import NegativeQueue
from glocal.schedules import Share, Temperature
from glocal.settings import Amount
from glocal.views.batch import Views
from glocal.views.plan import Blur, Jitter, View


class MoCoSettings(MethodSettings):
    """Defaults are those of MoCo v2 on ImageNet (its Table 1); `hidden_dim` null is the backbone's own width."""

    name: Literal["moco"] = "moco"
    hidden_dim: Amount | None = None
    linear_head: bool = False  # one layer instead of two (MoCo v1)
    normalised_hidden: bool = False  # batch normalisation in the projector (not in the paper; for small sets)
    output_dim: Amount = 128
    queue_size: int = Field(65536, ge=1)
    momentum: Share = 0.999
    temperature: Temperature = 0.2
    teacher_buffers: Buffers = "own"
    shuffle_groups: Amount = 1


class MoCo(Method):
    """Contrastive learning with a momentum encoder and a queue."""

    Settings = MoCoSettings

    def __init__(self, backbone: Backbone, settings: MoCoSettings) -> None:
        super().__init__(backbone, settings)
        self.settings = settings
        hidden = [] if settings.linear_head else [settings.hidden_dim or backbone.dim]
        self.projector = mlp([backbone.dim, *hidden, settings.output_dim], norm=settings.normalised_hidden)
        self.teacher = MomentumTeacher(self.backbone, self.projector, buffers=settings.teacher_buffers)
        self.queue = NegativeQueue(settings.queue_size, settings.output_dim)
        self.new_keys: list[Tensor] = []

    @classmethod
    def view_plan(cls, size: int, settings: Any = None) -> list[View]:
        return [View(count=2, size=size, jitter=Jitter(probability=0.8), grey=0.2, blur=Blur(probability=0.5))]

    def represent(self, images: Tensor) -> Tensor:
        return normalize(self.projector(self.backbone(images)).float(), dim=1)

    def keys(self, images: Tensor, representation: Tensor) -> Tensor:
        key = normalize(self.teacher(images, self.settings.shuffle_groups, self.now.step).float(), dim=1)
        self.new_keys.append(key)
        return key

    def compare(self, query: Tensor, key: Tensor) -> Tensor:
        self.chance = math.log(1 + len(self.queue.keys))
        return info_nce(query, key, self.queue.keys, temperature=self.now.temperature)

    def loss(self, views: Views) -> Tensor:
        """Algorithm 1: `views` are the query's and the key's view of each image."""
        first, second = views.pair()
        query = self.represent(first)  # (B, D)
        key = self.keys(second, query)  # (B, D)
        self.embedding = query.detach()
        return self.compare(query, key)

    def after_step(self) -> None:
        self.queue.enqueue(torch.cat(self.new_keys))
        self.new_keys.clear()
        self.teacher.update(self.backbone, self.projector, momentum=self.now.momentum)
