"""MoCo v1 and v2: momentum contrast.

He, Fan, Wu, Xie and Girshick, "Momentum Contrast for Unsupervised Visual Representation Learning", CVPR 2020
(Algorithm 1), with the MLP head, the blur and the cosine schedule of Chen, Fan, Girshick and He, "Improved Baselines
with Momentum Contrastive Learning", 2020. Each query finds its image's key of a slowly moving encoder among a queue of
others. With `jigsaw`, so does a vector of shuffled patches, as in the authors' code of Tian, Sun, Poole, Krishnan,
Schmid and Isola, "What Makes for Good Views for Contrastive Learning?", NeurIPS 2020 (InfoMin). With `symmetric`, both
views are query and key, as in the authors' notebook for CIFAR-10 (also called MoCo v2+): twice the work a step.
"""

from __future__ import annotations

import math
from typing import Any, Literal, Self

import torch
from pydantic import Field, model_validator
from torch import Tensor
from torch.nn.functional import normalize

from glocal.errors import GlocalError
from glocal.losses import info_nce
from glocal.methods.base import Method, MethodSettings
from glocal.models.backbone import Backbone
from glocal.models.heads import mlp
from glocal.models.momentum import Buffers, MomentumTeacher
from glocal.models.queue import NegativeQueue
from glocal.models.shuffled import ShuffledHead, shuffled_patches
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
    symmetric: bool = False  # each view is query and key (LoGo, which has its own pairs, does not look at it)
    jigsaw: bool = False  # a third view whose shuffled patches are a query too (InfoMin; LoGo does not look at it)
    jigsaw_weight: Share = 0.5  # of that query in the loss; the first view's has the rest

    @model_validator(mode="after")
    def _check_queries(self) -> Self:
        if self.symmetric and self.jigsaw:
            raise ValueError("symmetric and jigsaw both add a query; leave one of them out")
        return self


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
        self.jigsaw = ShuffledHead(backbone.dim, hidden, settings.output_dim) if settings.jigsaw else None

    @classmethod
    def view_plan(cls, size: int, settings: Any = None) -> list[View]:
        pair = View(count=2, size=size, jitter=Jitter(probability=0.8), grey=0.2, blur=Blur(probability=0.5))
        if settings is None or not settings.jigsaw:
            return [pair]
        return [pair, View(name="jigsaw", size=max(3, 3 * round(size * 85 / 224)), scale=(0.6, 1.0))]

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
        """Algorithm 1: `views` are the query's and the key's view of each image. Symmetric: the mean of both ways."""
        if self.settings.symmetric:
            return self.both_directions(views) / 2
        first, second = views.pair() if self.jigsaw is None else self._three(views)[:2]
        query = self.represent(first)  # (B, D)
        key = self.keys(second, query)  # (B, D)
        self.embedding = query.detach()
        loss = self.compare(query, key)
        if self.jigsaw is None:
            return loss
        patches, order = shuffled_patches(views.images[2], self.seed, self.now.step, views.index)
        shuffled = normalize(self.jigsaw(self.backbone(patches), order).float(), dim=1)
        return torch.lerp(loss, self.compare(shuffled, key), self.now.jigsaw_weight)

    @staticmethod
    def _three(views: Views) -> tuple[Tensor, ...]:
        if len(views.images) != 3:
            raise GlocalError(f"method.jigsaw needs three views of each image, not {len(views.images)}; change `views`")
        return views.images

    def after_step(self) -> None:
        self.queue.enqueue(torch.cat(self.new_keys))
        self.new_keys.clear()
        self.teacher.update(self.backbone, self.projector, momentum=self.now.momentum)
