"""DINO: self-distillation with no labels.

Caron, Touvron, Misra, Jégou, Mairal, Bojanowski and Joulin, "Emerging Properties in Self-Supervised Vision
Transformers", ICCV 2021 (Algorithm 1). From every view, local ones as well, the student predicts what a momentum
teacher says about the global views; centring and sharpening keep the teacher from collapse.
"""

from __future__ import annotations

import math
from typing import Any, Literal

import torch
from pydantic import Field
from torch import Tensor

from glocal.losses.tokens import pair_tokens
from glocal.methods.base import Method, MethodSettings, ParameterGroup
from glocal.models.backbone import Backbone
from glocal.models.distiller import Distiller
from glocal.models.heads import PrototypeHead
from glocal.schedules import Schedule, Share, Temperature
from glocal.settings import Amount, Groups
from glocal.views.batch import Views, by_resolution, check_globals
from glocal.views.plan import Blur, Jitter, Solarize, View


class DINOSettings(MethodSettings):
    """Defaults are those of the paper (section 3.2, "Implementation details", and appendix C)."""

    name: Literal["dino"] = "dino"
    prototypes: Groups = 65536
    hidden_dim: Amount = 2048
    bottleneck_dim: Amount = 256
    learned_length: bool = False  # of the prototypes (norm_last_layer false in the authors' code)
    momentum: Share = Schedule(start=0.996, end=1.0)
    center_momentum: Share = 0.9
    temperature: Temperature = 0.1
    teacher_temperature: Temperature = Schedule(start=0.04, end=0.07, kind="linear", epochs=30)
    frozen_prototype_epochs: float = Field(1.0, ge=0)  # the last layer stands still for so long


class DINO(Method):
    """Self-distillation between global and local views."""

    Settings = DINOSettings
    evaluated = "distiller.teacher.chain.0"

    def __init__(self, backbone: Backbone, settings: DINOSettings) -> None:
        super().__init__(backbone, settings)
        self.settings = settings
        self.distiller = build_distiller(backbone, settings)

    @classmethod
    def default_model(cls, size: int) -> dict[str, Any]:
        return small_transformer(size)

    @classmethod
    def view_plan(cls, size: int, settings: Any = None) -> list[View]:
        return multi_crop(size)

    def loss(self, views: Views) -> Tensor:
        """Algorithm 1: the first two views are the teacher's."""
        teachers, batch = check_globals(views), len(views.index)
        self.chance = math.log(self.settings.prototypes)
        with torch.no_grad():
            target = self.distiller.teacher_backbone(torch.cat(views.images[:teachers]))  # (G·B, D)
        prediction = by_resolution(self.backbone, views.images)  # (V·B, D)
        self.embedding = prediction[:batch].detach().float()
        pairs = pair_tokens(None, batch=batch, teachers=teachers, tokens=[1] * len(views.images)).to(prediction.device)
        return self.distiller.loss(
            target[pairs.teacher],
            prediction[pairs.student],
            pairs,
            teacher_temperature=self.now.teacher_temperature,
            student_temperature=self.now.temperature,
            frozen_prototypes=self.now.epoch < self.settings.frozen_prototype_epochs,
        )

    def assignments(self) -> Tensor | None:
        return self.distiller.assignments(self.now.teacher_temperature)

    def after_step(self) -> None:
        self.distiller.after_step(self.backbone, momentum=self.now.momentum, center_momentum=self.now.center_momentum)

    def parameter_groups(self) -> list[ParameterGroup]:
        return [ParameterGroup(self.backbone), ParameterGroup(self.distiller.head)]


def build_distiller(backbone: Backbone, settings: DINOSettings, *, positions: int = 1) -> Distiller:
    """Head, teacher and centre by the method's settings; one centre for each of `positions`."""
    return Distiller(backbone, build_head(backbone.dim, settings), positions=positions)


def build_head(dim: int, settings: DINOSettings) -> PrototypeHead:
    """A head for features of width `dim` by the method's settings."""
    return PrototypeHead(
        dim,
        settings.prototypes,
        hidden=settings.hidden_dim,
        bottleneck=settings.bottleneck_dim,
        learned_length=settings.learned_length,
    )


def small_transformer(size: int) -> dict[str, Any]:
    """ViT-Tiny with 14 patches a side at 224 pixels (patch 16) and 8 or so for small images (patch 4 or 8)."""
    return {"name": "vit_tiny", "options": {"patch_size": 16 if size >= 128 else 8 if size > 48 else 4}}


def multi_crop(size: int) -> list[View]:
    """DINO's views: two global ones that are blurred and solarised in turn, and eight local ones.

    Section 3.2 and appendix C; local views are 96 pixels beside 224, and in proportion, in whole patches.
    """
    unit = 16 if size >= 128 else 8  # what the patches of `small_transformer` divide
    jitter = Jitter(probability=0.8, brightness=0.4, contrast=0.4, saturation=0.2, hue=0.1)
    shared = View(size=size, scale=(0.4, 1.0), interpolation="bicubic", jitter=jitter, grey=0.2)
    changes: list[dict[str, object]] = [
        {"name": "global", "blur": Blur(probability=1.0)},
        {"name": "global", "blur": Blur(probability=0.1), "solarize": Solarize(probability=0.2)},
        {
            "name": "local",
            "count": 8,
            "size": max(8, round(size * 96 / 224 / unit) * unit),
            "scale": (0.05, 0.4),
            "blur": Blur(probability=0.5),
        },
    ]
    return [shared.model_copy(update=change) for change in changes]
