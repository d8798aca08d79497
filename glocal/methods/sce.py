"""SCE: Similarity Contrastive Estimation.

Denize, Rabarisoa, Orcesi, Hérault and Canu, "Similarity Contrastive Estimation for Self-Supervised Soft Contrastive
Learning", WACV 2023. The teacher looks at a weak view and says how similar each image is to those in the queue; the
student, from a strong view, predicts this distribution while contrasting its positive (eq. 4–6; Algorithm 1 and
settings in the supplement, section E).
"""

from __future__ import annotations

from typing import Literal

import torch
from pydantic import Field
from torch import Tensor
from torch.nn.functional import normalize

from glocal.losses import sce
from glocal.methods.base import Method, MethodSettings
from glocal.models.backbone import Backbone
from glocal.models.heads import mlp
from glocal.models.momentum import Buffers, MomentumTeacher
from glocal.models.queue import NegativeQueue
from glocal.training.schedules import Share, Temperature
from glocal.views.batch import Views
from glocal.views.plan import Blur, Jitter, View


class SCESettings(MethodSettings):
    """Defaults are those of CIFAR-10 (Table 2 and section E of the supplement)."""

    name: Literal["sce"] = "sce"
    hidden_dim: int = Field(512, ge=1)
    output_dim: int = Field(256, ge=1)
    queue_size: int = Field(4096, ge=1)
    momentum: Share = 0.99
    temperature: Temperature = 0.2
    target_temperature: Temperature = 0.1
    coefficient: Share = 0.5
    teacher_buffers: Buffers = "own"
    shuffle_groups: int = Field(1, ge=1)


class SCE(Method):
    """Soft contrastive learning with a momentum teacher and a queue."""

    Settings = SCESettings

    def __init__(self, backbone: Backbone, settings: SCESettings) -> None:
        super().__init__(backbone, settings)
        self.settings = settings
        self.projector = mlp([backbone.dim, settings.hidden_dim, settings.output_dim], norm=True)
        self.teacher = MomentumTeacher(self.backbone, self.projector, buffers=settings.teacher_buffers)
        self.queue = NegativeQueue(settings.queue_size, settings.output_dim)
        self.new_keys: list[Tensor] = []

    @classmethod
    def view_plan(cls, size: int) -> list[View]:
        weak = View(name="weak", size=size)
        strong = View(name="strong", size=size, jitter=Jitter.of_strength(0.5), grey=0.2, blur=Blur(probability=0.5))
        return [weak, strong]

    def loss(self, views: Views) -> Tensor:
        """Algorithm 1: `views` are one weak (teacher) and one strong (student) view of each image."""
        weak, strong = views.images
        query = normalize(self.projector(self.backbone(strong)).float(), dim=1)  # (B, D)
        key = normalize(self.teacher(weak, self.settings.shuffle_groups, self.now.step).float(), dim=1)  # (B, D)
        self.new_keys.append(key)
        self.embedding = query.detach()
        return sce(
            query,
            key,
            self.queue.keys,
            temperature=self.now.temperature,
            target_temperature=self.now.target_temperature,
            coefficient=self.now.coefficient,
        )

    def after_step(self) -> None:
        self.queue.enqueue(torch.cat(self.new_keys))
        self.new_keys.clear()
        self.teacher.update(self.backbone, self.projector, momentum=self.now.momentum)
