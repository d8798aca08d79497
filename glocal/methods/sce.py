"""SCE: Similarity Contrastive Estimation.

Denize, Rabarisoa, Orcesi, Hérault and Canu, "Similarity Contrastive Estimation for Self-Supervised Soft Contrastive
Learning", WACV 2023. The teacher looks at a weak view and says how similar each image is to those in the queue; the
student, from a strong view, predicts this distribution while contrasting its positive (eq. 4–6; Algorithm 1 in
the supplement, section A, settings in section E).
"""

from __future__ import annotations

import math
from typing import Any, Literal

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn.functional import normalize

from glocal.losses import sce
from glocal.methods.base import Method, MethodSettings
from glocal.models.backbone import Backbone
from glocal.models.heads import mlp
from glocal.models.momentum import Buffers, MomentumTeacher
from glocal.models.queue import NegativeQueue
from glocal.schedules import Share, Temperature
from glocal.settings import Amount
from glocal.views.batch import Views
from glocal.views.plan import Blur, Jitter, View

# Sides beside 224 and shares of the area of the smaller crops (section 4.3 and the authors' configuration, from ReSSL).
_CROPS = {192: (0.172, 0.86), 160: (0.143, 0.715), 128: (0.114, 0.571), 96: (0.086, 0.429)}


class SCESettings(MethodSettings):
    """Defaults are those of CIFAR-10 (Table 2 and section E of the supplement)."""

    name: Literal["sce"] = "sce"
    hidden_dim: Amount = 512
    output_dim: Amount = 256
    projector_layers: int = Field(2, ge=2, le=100)
    normalised_output: bool = False  # batch normalisation after the projector's last layer (large sets)
    predictor_dim: Amount | None = None  # hidden width of a predictor on the student's side (large sets)
    queue_size: int = Field(4096, ge=1)
    momentum: Share = 0.99
    temperature: Temperature = 0.2
    target_temperature: Temperature = 0.1
    coefficient: Share = 0.5
    symmetric: bool = False
    multi_crop: bool = False  # four smaller student views: 192, 160, 128 and 96 pixels beside 224
    teacher_buffers: Buffers = "own"
    shuffle_groups: Amount = 1


class SCE(Method):
    """Soft contrastive learning with a momentum teacher and a queue."""

    Settings = SCESettings

    def __init__(self, backbone: Backbone, settings: SCESettings) -> None:
        super().__init__(backbone, settings)
        self.settings = settings
        hidden = [settings.hidden_dim] * (settings.projector_layers - 1)
        self.projector = mlp(
            [backbone.dim, *hidden, settings.output_dim], norm=True, last_norm=settings.normalised_output
        )
        self.predictor: nn.Module = nn.Identity()
        if settings.predictor_dim:
            self.predictor = mlp([settings.output_dim, settings.predictor_dim, settings.output_dim], norm=True)
        self.teacher = MomentumTeacher(self.backbone, self.projector, buffers=settings.teacher_buffers)
        self.queue = NegativeQueue(settings.queue_size, settings.output_dim)
        self.new_keys: list[Tensor] = []

    @classmethod
    def view_plan(cls, size: int, settings: Any = None) -> list[View]:
        weak = View(name="weak", size=size)
        strong = View(name="strong", size=size, jitter=Jitter.of_strength(0.5), grey=0.2, blur=Blur(probability=0.5))
        if not (settings and settings.multi_crop):
            return [weak, strong]
        small = [
            strong.model_copy(update={"name": f"crop {number}", "size": round(size * number / 224), "scale": scale})
            for number, scale in _CROPS.items()
        ]
        return [weak, strong, *small]

    def represent(self, images: Tensor) -> Tensor:
        return self.projector(self.backbone(images))  # type: ignore[no-any-return]

    def query(self, representation: Tensor) -> Tensor:
        return normalize(self.predictor(representation).float(), dim=1)

    def keys(self, images: Tensor, representation: Tensor) -> Tensor:
        key = normalize(self.teacher(images, self.settings.shuffle_groups, self.now.step).float(), dim=1)
        self.new_keys.append(key)
        return key

    def compare(self, query: Tensor, key: Tensor) -> Tensor:
        self.chance = math.log(1 + len(self.queue.keys))
        return sce(
            query,
            key,
            self.queue.keys,
            temperature=self.now.temperature,
            target_temperature=self.now.target_temperature,
            coefficient=self.now.coefficient,
        )

    def loss(self, views: Views) -> Tensor:
        """Algorithm 1: the first view is the teacher's (weak), the others are the student's (strong).

        `symmetric`: the first two views are both the teacher's and the student's. With several views (multi-crop), the
        losses of all pairs of a teacher's view and another student's view are averaged.
        """
        images = views.several(2, "the teacher's view and the student's")
        teachers = 2 if self.settings.symmetric else 1
        first = 0 if self.settings.symmetric else 1
        queries = {view: self.query(self.represent(images[view])) for view in range(first, len(images))}
        self.embedding = queries[1].detach()
        keys = [self.keys(images[view], queries[1]) for view in range(teachers)]  # (B, D) each
        pairs = [(key, query) for key in range(teachers) for query in queries if query != key]
        return self.compare(
            torch.cat([queries[query] for _, query in pairs]), torch.cat([keys[key] for key, _ in pairs])
        )

    def after_step(self) -> None:
        self.queue.enqueue(torch.cat(self.new_keys))
        self.new_keys.clear()
        self.teacher.update(self.backbone, self.projector, momentum=self.now.momentum)
