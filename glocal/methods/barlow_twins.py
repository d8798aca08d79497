"""Barlow Twins: self-supervised learning via redundancy reduction.

Zbontar, Jing, Misra, LeCun and Deny, ICML 2021 (Algorithm 1). The cross-correlation between the dimensions of two
views' projections is drawn towards the identity: the same in both views, and no two dimensions alike.
"""

from __future__ import annotations

from typing import Any, Literal

from torch import Tensor

from glocal.distributed import all_gather_with_gradient
from glocal.losses import barlow_twins
from glocal.methods.base import Method, MethodSettings
from glocal.models.backbone import Backbone
from glocal.models.heads import mlp
from glocal.schedules import Weight
from glocal.settings import Amount
from glocal.views.batch import Views
from glocal.views.plan import View, asymmetric_pair


class BarlowTwinsSettings(MethodSettings):
    """Defaults are those of ImageNet (section 2.2)."""

    name: Literal["barlow_twins"] = "barlow_twins"
    output_dim: Amount = 8192
    coefficient: Weight = 0.0051  # λ


class BarlowTwins(Method):
    """Redundancy reduction between two views."""

    Settings = BarlowTwinsSettings
    compares_batch = True

    def __init__(self, backbone: Backbone, settings: BarlowTwinsSettings) -> None:
        super().__init__(backbone, settings)
        self.settings = settings
        width = settings.output_dim
        self.projector = mlp([backbone.dim, width, width, width], norm=True, last_bias=False)

    @classmethod
    def view_plan(cls, size: int, settings: Any = None) -> list[View]:
        return asymmetric_pair(size)

    def loss(self, views: Views) -> Tensor:
        """Algorithm 1, over the whole batch of all processes."""
        first, second = (self.projector(self.backbone(view)).float() for view in views.pair())  # (B, D) each
        self.embedding = first.detach()
        first, second = all_gather_with_gradient(first), all_gather_with_gradient(second)
        return barlow_twins(first, second, coefficient=self.now.coefficient)
