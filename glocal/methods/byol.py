"""BYOL: bootstrap your own latent.

Grill et al., "Bootstrap Your Own Latent: A New Approach to Self-Supervised Learning", NeurIPS 2020 (section 3.1,
appendix A). The online network predicts the target network's projection of the other view; the target follows it
slowly, and nothing is pushed apart.
"""

from __future__ import annotations

from typing import Any, Literal

from torch import Tensor

from glocal.losses import negative_cosine
from glocal.methods.base import Method, MethodSettings
from glocal.models.backbone import Backbone
from glocal.models.heads import mlp
from glocal.models.momentum import Buffers, MomentumTeacher
from glocal.schedules import Schedule, Share
from glocal.settings import Amount
from glocal.views.batch import Views
from glocal.views.plan import View, asymmetric_pair


class BYOLSettings(MethodSettings):
    """Defaults are those of ImageNet (section 3.2)."""

    name: Literal["byol"] = "byol"
    hidden_dim: Amount = 4096
    output_dim: Amount = 256
    momentum: Share = Schedule(start=0.996, end=1.0)
    teacher_buffers: Buffers = "own"


class BYOL(Method):
    """Prediction of a momentum teacher's projections."""

    Settings = BYOLSettings

    def __init__(self, backbone: Backbone, settings: BYOLSettings) -> None:
        super().__init__(backbone, settings)
        self.settings = settings
        hidden, width = settings.hidden_dim, settings.output_dim
        self.projector = mlp([backbone.dim, hidden, width], norm=True, last_bias=False)
        self.predictor = mlp([width, hidden, width], norm=True, last_bias=False)
        self.teacher = MomentumTeacher(self.backbone, self.projector, buffers=settings.teacher_buffers)

    @classmethod
    def view_plan(cls, size: int, settings: Any = None) -> list[View]:
        return asymmetric_pair(size)

    def represent(self, images: Tensor) -> Tensor:
        return self.projector(self.backbone(images))  # type: ignore[no-any-return]

    def query(self, representation: Tensor) -> Tensor:
        return self.predictor(representation)  # type: ignore[no-any-return]

    def keys(self, images: Tensor, representation: Tensor) -> Tensor:
        return self.teacher(images)  # type: ignore[no-any-return]

    def compare(self, query: Tensor, key: Tensor) -> Tensor:
        """Eq. 2: ‖q̄ − z̄‖² = 2 − 2·cos(q, z)."""
        return 2 + 2 * negative_cosine(query.float(), key.float())

    def loss(self, views: Views) -> Tensor:
        """The symmetric loss: each view's prediction against the target's projection of the other view."""
        return self.both_directions(views)

    def after_step(self) -> None:
        self.teacher.update(self.backbone, self.projector, momentum=self.now.momentum)
