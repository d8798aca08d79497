"""SelfPatch: patch-level representation learning for vision transformers.

Yun, Lee, Kim and Shin, "Patch-level Representation Learning for Self-supervised Vision Transformers", CVPR 2022,
section 3. DINO between views, and each patch of the student learns from what the teacher makes of its surroundings in
the same view: of the eight neighbours the most similar ones, which likely show the same, aggregated by class attention.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, Literal

import torch
from pydantic import Field
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor

from glocal.errors import GlocalError
from glocal.losses.regions import pair_in_place
from glocal.losses.tokens import pair_tokens
from glocal.methods.base import Method, ParameterGroup
from glocal.methods.dino import DINOSettings, build_distiller, build_head, multi_crop, small_transformer
from glocal.models.aggregation import PatchAggregation
from glocal.models.backbone import Backbone
from glocal.models.distiller import Distiller
from glocal.schedules import Temperature, Weight
from glocal.settings import Groups
from glocal.views.batch import Views, by_size, check_globals
from glocal.views.plan import View


class SelfPatchSettings(DINOSettings):
    """DINO's settings with the authors' teacher temperature, and those of the patches (sections 3.2 and 4)."""

    name: Literal["selfpatch"] = "selfpatch"  # type: ignore[assignment]
    teacher_temperature: Temperature = 0.04
    patch_prototypes: Groups = 4096
    patch_weight: Weight = 0.1
    neighbors: int = Field(4, ge=1, le=8)  # of the eight around a patch


class SelfPatch(Method):
    """Self-distillation of views and of patches from their surroundings.

    The network has no CLS token: class attention on top of it, trained with it, gives a view's vector, and with the
    same weights a neighbourhood's. A patch at the border has neighbours at the opposite border, as in the authors'
    code. What is evaluated is the network alone, with the mean of its patches; the authors take its patches for dense
    tasks. The centre of views is the mean over the global ones, as in DINO; the authors' code takes local ones as well.
    """

    Settings = SelfPatchSettings
    evaluated = "distiller.teacher.chain.0"

    def __init__(self, backbone: Backbone, settings: SelfPatchSettings) -> None:
        super().__init__(backbone, settings)
        self.settings = settings
        network = backbone.network
        if not isinstance(network, VisionTransformer) or network.num_prefix_tokens:
            raise GlocalError(
                "model: selfpatch needs a vision transformer without CLS token: "
                "model.options={class_token: false, global_pool: avg}"
            )
        network.fc_norm.requires_grad_(False)  # behind the mean of the patches, from which no loss is computed
        self.aggregation = PatchAggregation(backbone.dim, network.blocks[0].attn.num_heads)
        self.distiller = build_distiller(backbone, settings)
        of_patches = settings.model_copy(update={"prototypes": settings.patch_prototypes})
        self.of_patches = Distiller(self.aggregation, build_head(backbone.dim, of_patches))

    @classmethod
    def default_model(cls, size: int) -> dict[str, Any]:
        model = small_transformer(size)
        return {**model, "options": {**model["options"], "class_token": False, "global_pool": "avg"}}

    @classmethod
    def view_plan(cls, size: int, settings: Any = None) -> list[View]:
        scales = {"global": (0.25, 1.0), "local": (0.05, 0.25)}
        return [view.model_copy(update={"scale": scales[view.name]}) for view in multi_crop(size)]

    def check(self, views: Sequence[View], batch: int) -> None:
        """Refuses views with fewer than 3 × 3 patches."""
        for number, view in enumerate(views):
            side = self.backbone.grid(view.size)
            if side < 3:
                patch = view.size // side
                raise GlocalError(
                    f"views.{number}.size={view.size} has {side} × {side} patches of {patch} pixels; selfpatch needs "
                    f"3 × 3 or more, where each has eight neighbours; set it to {3 * patch} or more, data.size larger, "
                    "or model.options.patch_size smaller"
                )

    def loss(self, views: Views) -> Tensor:
        """DINO's loss + λ times that of the patches of all views."""
        teachers, batch = check_globals(views), len(views.index)
        self.chance = math.log(self.settings.prototypes) + self.now.patch_weight * math.log(
            self.settings.patch_prototypes
        )
        runs = by_size(views.images)
        with torch.no_grad():
            aggregation: PatchAggregation = self.of_patches.teacher.chain[0]  # type: ignore[assignment]
            theirs = [patches_of(self.distiller.teacher_backbone, run) for run in runs]  # (n·B, N, D) each
            target = aggregation(theirs[0][: teachers * batch])  # (G·B, D)
            around = [aggregation.around(patches, self.settings.neighbors) for patches in theirs]
        ours = [patches_of(self.backbone, run) for run in runs]
        prediction = torch.cat([self.aggregation(patches) for patches in ours])  # (V·B, D)
        self.embedding = prediction[:batch].detach().float()
        pairs = pair_tokens(None, batch=batch, teachers=teachers, tokens=[1] * len(views.images)).to(prediction.device)
        of_views = self.distiller.loss(target[pairs.teacher], prediction[pairs.student], pairs, **self._temperatures())
        learning, teaching = (
            [patches for run in side for patches in run.split(batch)] for side in (ours, around)
        )  # V of (B, Nᵥ, D) each
        pairs = pair_in_place(batch, regions=[patches.shape[1] for patches in learning]).to(prediction.device)
        of_patches = self.of_patches.loss(
            torch.cat(teaching, dim=1).flatten(0, 1),
            self.aggregation.norm(torch.cat(learning, dim=1)).flatten(0, 1),
            pairs,
            **self._temperatures(),
        )
        return of_views + self.now.patch_weight * of_patches  # type: ignore[no-any-return]

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
        self.of_patches.after_step(self.aggregation, **momenta)

    def parameter_groups(self) -> list[ParameterGroup]:
        trained = (self.backbone, self.aggregation, self.distiller.head, self.of_patches.head)
        return [ParameterGroup(module) for module in trained]


def patches_of(backbone: Backbone, images: Tensor) -> Tensor:
    """The network's patches, (B, N, D)."""
    return backbone.forward_map(images).flatten(2).mT
