"""Patch-wise DINO: matched patches are distilled beside the CLS tokens.

Javidani, Sadeghi and Araabi, "Local-Global Self-Supervised Visual Representation Learning", 2023 (arXiv 2310.18651).
DINO, and in the same way each patch of a student view follows the teacher's patch that shows the same part of the image
(section 3.3, patch matching; section 3.4, losses).
"""

from __future__ import annotations

import math
from typing import Any, Literal, Self

import torch
from pydantic import Field, model_validator
from torch import Tensor

from glocal.errors import GlocalError
from glocal.losses.tokens import Reduction, TokenPairs, pair_tokens, view_pairs
from glocal.methods.base import Method, ParameterGroup
from glocal.methods.dino import (
    DINOSettings,
    build_distiller,
    multi_crop,
    small_transformer,
)
from glocal.models.backbone import Backbone
from glocal.views.batch import Views, by_resolution, check_globals
from glocal.views.geometry import MatchRule, ViewGeometry, match_patches
from glocal.views.plan import View


class PatchwiseDINOSettings(DINOSettings):
    """DINO's settings and those of the patches.

    `matching`: `spread` is the rule of the authors' code, which keeps the rows and columns of the paper's figure 2;
    `printed` is that of the words of section 3.3, `nearest` the package's own (`glocal.views.geometry.match_patches`).
    `center`: `shared` is the one of K numbers in the paper's Algorithm 1, `position` that of the authors' code, which
    keeps one for each token's position.
    """

    name: Literal["patchwise_dino"] = "patchwise_dino"  # type: ignore[assignment]
    matching: MatchRule = "spread"
    reduction: Reduction = "mean"
    cls_weight: float | None = Field(None, ge=0, le=1)  # λ of reduction lambda; the authors' code has 0.9
    center: Literal["shared", "position"] = "shared"

    @model_validator(mode="after")
    def _check(self) -> Self:
        if (self.cls_weight is not None) != (self.reduction == "lambda"):
            raise ValueError("cls_weight goes with reduction=lambda, which needs it (0.9 in the authors' code)")
        return self


class PatchwiseDINO(Method):
    """Self-distillation of views and of matched patches.

    Only matched patches pass the head, so a centre is the mean over the matched tokens (with `position` over those
    there); the authors' code sends all tokens through the head and averages over them.
    """

    Settings = PatchwiseDINOSettings
    reads_geometry = True
    evaluated = "distiller.teacher.chain.0"

    def __init__(self, backbone: Backbone, settings: PatchwiseDINOSettings) -> None:
        super().__init__(backbone, settings)
        self.settings = settings
        positions = 1 + backbone.grid(backbone.size) ** 2 if settings.center == "position" else 1
        self.distiller = build_distiller(backbone, settings, positions=positions)

    @classmethod
    def default_model(cls, size: int) -> dict[str, Any]:
        return small_transformer(size)

    @classmethod
    def view_plan(cls, size: int, settings: Any = None) -> list[View]:
        return multi_crop(size)

    def loss(self, views: Views) -> Tensor:
        """Section 3.4 over all pairs of a teacher view and another student view."""
        teachers, batch = check_globals(views), len(views.index)
        pairs = self.pair(views, teachers)
        self.chance = math.log(self.settings.prototypes) * float(pairs.weight.sum())
        pairs = pairs.to(views.images[0].device)
        with torch.no_grad():
            target = self.distiller.teacher_backbone.forward_tokens(torch.cat(views.images[:teachers])).flatten(0, 1)
        prediction = by_resolution(self.backbone.forward_tokens, views.images)  # (tokens of all views, D)
        width = 1 + self.backbone.grid(views.images[0].shape[-1]) ** 2
        if len(self.distiller.center) not in (1, width):
            raise GlocalError(
                f"global views of {views.images[0].shape[-1]} pixels have {width} tokens, but the centre is made for "
                f"{len(self.distiller.center)}; set data.size to the global views' size, or method.center=shared"
            )
        self.embedding = prediction[: batch * width : width].detach().float()
        return self.distiller.loss(
            target[pairs.teacher],
            prediction[pairs.student],
            pairs,
            teacher_temperature=self.now.teacher_temperature,
            student_temperature=self.now.temperature,
            frozen_prototypes=self.now.epoch < self.settings.frozen_prototype_epochs,
        )

    def pair(self, views: Views, teachers: int) -> TokenPairs:
        """Matches the patches of all pairs of views of the batch in one call, on the CPU, where geometry is drawn."""
        grids = torch.tensor([self.backbone.grid(image.shape[-1]) for image in views.images])
        of_teacher, of_student = (
            torch.tensor(side) for side in zip(*view_pairs(teachers, len(views.images)), strict=True)
        )
        box = torch.stack([geometry.box for geometry in views.geometry], dim=1).cpu()  # (B, V, 4)
        flipped = torch.stack([geometry.flipped for geometry in views.geometry], dim=1).cpu()
        matches = match_patches(
            ViewGeometry(box[:, of_teacher], flipped[:, of_teacher]),
            ViewGeometry(box[:, of_student], flipped[:, of_student]),
            grids[of_teacher],
            grids[of_student],
            rule=self.settings.matching,
        )
        return pair_tokens(
            matches,
            batch=len(views.index),
            teachers=teachers,
            tokens=(1 + grids**2).tolist(),
            reduction=self.settings.reduction,
            cls_weight=self.settings.cls_weight,
        )

    def assignments(self) -> Tensor | None:
        return self.distiller.assignments(self.now.teacher_temperature)

    def after_step(self) -> None:
        self.distiller.after_step(self.backbone, momentum=self.now.momentum, center_momentum=self.now.center_momentum)

    def parameter_groups(self) -> list[ParameterGroup]:
        return [ParameterGroup(self.backbone), ParameterGroup(self.distiller.head)]
