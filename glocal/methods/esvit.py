"""EsViT: efficient self-supervised vision transformers.

Li, Yang, Zhang, Gao, Xiao, Dai, Yuan and Gao, "Efficient Self-supervised Vision Transformers for Representation
Learning", ICLR 2022 (view-level and region-level task). DINO between views, and the same between their regions: each
region of a student view learns from the region of the teacher's view whose features are most like its own.
"""

from __future__ import annotations

import math
from typing import Any, Literal

import torch
from torch import Tensor, nn

from glocal.losses.regions import match_regions, pair_regions
from glocal.losses.tokens import pair_tokens
from glocal.methods.base import Method, ParameterGroup
from glocal.methods.dino import (
    DINOSettings,
    build_distiller,
    build_head,
    multi_crop,
    small_transformer,
)
from glocal.models.backbone import Backbone
from glocal.models.distiller import Distiller
from glocal.models.regions import view_and_regions
from glocal.schedules import Share
from glocal.views.batch import Views, by_size, check_globals
from glocal.views.plan import View


class EsViTSettings(DINOSettings):
    """DINO's settings, for the head of views and the head of regions alike."""

    name: Literal["esvit"] = "esvit"  # type: ignore[assignment]
    region_weight: Share = 0.5  # of the regions in the loss; the views have the rest (the authors' code)


class EsViT(Method):
    """Self-distillation of views and of regions that are matched by their features.

    A view is what the network gives for it: a vision transformer's CLS token, or the mean of its regions, which are
    then the places of the last feature map (Swin, as in the paper, or a ResNet). Only regions that teach pass the
    teacher's head, and the regions' centre is the mean over them; the authors' code sends all through it and averages
    over all.
    """

    Settings = EsViTSettings
    evaluated = "distiller.teacher.chain.0"

    def __init__(self, backbone: Backbone, settings: EsViTSettings) -> None:
        super().__init__(backbone, settings)
        self.settings = settings
        self.distiller = build_distiller(backbone, settings)
        self.of_regions = Distiller(nn.Identity(), build_head(backbone.dim, settings))  # on the same backbones

    @classmethod
    def default_model(cls, size: int) -> dict[str, Any]:
        return small_transformer(size)

    @classmethod
    def view_plan(cls, size: int, settings: Any = None) -> list[View]:
        return multi_crop(size)

    def loss(self, views: Views) -> Tensor:
        """(1 − w)·L_V + w·L_R, over all pairs of a teacher view and another student view."""
        teachers, batch = check_globals(views), len(views.index)
        self.chance = math.log(self.settings.prototypes)
        with torch.no_grad():
            target = view_and_regions(self.distiller.teacher_backbone, torch.cat(views.images[:teachers]))
        target = target.unflatten(0, (teachers, batch)).transpose(0, 1)  # (B, G, 1 + N, D)
        prediction = [
            tokens for run in by_size(views.images) for tokens in view_and_regions(self.backbone, run).split(batch)
        ]  # V of (B, 1 + Nᵥ, D)
        self.embedding = prediction[0][:, 0].detach().float()

        whole = pair_tokens(None, batch=batch, teachers=teachers, tokens=[1] * len(prediction)).to(target.device)
        of_views = self.distiller.loss(
            target[:, :, 0].transpose(0, 1).flatten(0, 1)[whole.teacher],
            torch.cat([tokens[:, 0] for tokens in prediction])[whole.student],
            whole,
            **self._temperatures(),
        )
        regions = torch.cat([tokens[:, 1:] for tokens in prediction], dim=1)  # (B, M, D)
        matches = match_regions(target[:, :, 1:], regions.detach())
        pairs = pair_regions(matches, regions=[tokens.shape[1] - 1 for tokens in prediction])
        of_regions = self.of_regions.loss(
            target[:, :, 1:].flatten(0, 2)[pairs.teacher],
            regions.flatten(0, 1)[pairs.student],
            pairs,
            **self._temperatures(),
        )
        return torch.lerp(of_views, of_regions, self.now.region_weight)

    def _temperatures(self) -> dict[str, Any]:
        return {
            "teacher_temperature": self.now.teacher_temperature,
            "student_temperature": self.now.temperature,
            "frozen_prototypes": self.now.epoch < self.settings.frozen_prototype_epochs,
        }

    def assignments(self) -> Tensor | None:
        return self.distiller.assignments(self.now.teacher_temperature)

    def after_step(self) -> None:
        momenta = {"momentum": self.now.momentum, "center_momentum": self.now.center_momentum}
        self.distiller.after_step(self.backbone, **momenta)
        self.of_regions.after_step(nn.Identity(), **momenta)

    def parameter_groups(self) -> list[ParameterGroup]:
        return [ParameterGroup(module) for module in (self.backbone, self.distiller.head, self.of_regions.head)]
