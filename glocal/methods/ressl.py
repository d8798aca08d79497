"""ReSSL: relational self-supervised learning.

Zheng, You, Wang, Qian, Zhang, Wang and Xu, "ReSSL: Relational Self-Supervised Learning with Weak Augmentation", NeurIPS
2021 (section 3.2, Algorithm 1). A teacher says from a weak view how similar an image is to those in a queue, the
student says it from a strong view; the positive itself is in neither.
"""

from __future__ import annotations

import math
from typing import Any, Literal

import torch
from pydantic import Field
from torch import Tensor
from torch.nn.functional import normalize

from glocal.losses import relational
from glocal.methods.base import Method, MethodSettings
from glocal.methods.sce import SCE, SCESettings
from glocal.models.backbone import Backbone
from glocal.models.heads import mlp
from glocal.models.momentum import Buffers, MomentumTeacher
from glocal.models.queue import NegativeQueue
from glocal.schedules import Share, Temperature
from glocal.settings import Amount
from glocal.views.batch import Views
from glocal.views.plan import View


class ReSSLSettings(MethodSettings):
    """Defaults are those of ImageNet (section 4.2)."""

    name: Literal["ressl"] = "ressl"
    hidden_dim: Amount = 4096
    output_dim: Amount = 512
    normalised_hidden: bool = False  # batch normalisation in the projector
    queue_size: int = Field(131072, ge=1)
    momentum: Share = 0.999
    temperature: Temperature = 0.1
    target_temperature: Temperature = 0.04
    multi_crop: bool = False  # four smaller student views: 192, 160, 128 and 96 pixels beside 224
    teacher_buffers: Buffers = "own"
    shuffle_groups: Amount = 1


class ReSSL(Method):
    """Relations to the queue, carried over from a momentum teacher."""

    Settings = ReSSLSettings

    def __init__(self, backbone: Backbone, settings: ReSSLSettings) -> None:
        super().__init__(backbone, settings)
        self.settings = settings
        self.projector = mlp([backbone.dim, settings.hidden_dim, settings.output_dim], norm=settings.normalised_hidden)
        self.teacher = MomentumTeacher(self.backbone, self.projector, buffers=settings.teacher_buffers)
        self.queue = NegativeQueue(settings.queue_size, settings.output_dim)
        self.new_keys: list[Tensor] = []

    @classmethod
    def view_plan(cls, size: int, settings: Any = None) -> list[View]:
        """SCE took the weak and the strong view, and the smaller crops, over from ReSSL."""
        return SCE.view_plan(size, SCESettings(multi_crop=bool(settings and settings.multi_crop)))

    def represent(self, images: Tensor) -> Tensor:
        return normalize(self.projector(self.backbone(images)).float(), dim=1)

    def keys(self, images: Tensor, representation: Tensor) -> Tensor:
        key = normalize(self.teacher(images, self.settings.shuffle_groups, self.now.step).float(), dim=1)
        self.new_keys.append(key)
        return key

    def compare(self, query: Tensor, key: Tensor) -> Tensor:
        self.chance = math.log(len(self.queue.keys))
        return relational(
            query,
            key,
            self.queue.keys,
            temperature=self.now.temperature,
            target_temperature=self.now.target_temperature,
        )

    def loss(self, views: Views) -> Tensor:
        """Algorithm 1: the first view is the teacher's (weak), the others are the student's (strong)."""
        weak, *strong = views.several(2, "the teacher's view and the student's")
        queries = [self.represent(image) for image in strong]  # (B, D) each
        self.embedding = queries[0].detach()
        key = self.keys(weak, queries[0])
        return self.compare(torch.cat(queries), key.repeat(len(queries), 1))

    def after_step(self) -> None:
        self.queue.enqueue(torch.cat(self.new_keys))
        self.new_keys.clear()
        self.teacher.update(self.backbone, self.projector, momentum=self.now.momentum)
