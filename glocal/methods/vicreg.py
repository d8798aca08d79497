"""VICReg: variance-invariance-covariance regularization.

Bardes, Ponce and LeCun, ICLR 2022 (Algorithm 1). Two views have the same projection, every dimension keeps a variance
of its own, and dimensions are decorrelated within each view.
"""

from __future__ import annotations

from typing import Any, Literal

from torch import Tensor

from glocal.distributed import all_gather_with_gradient
from glocal.losses import vicreg
from glocal.methods.base import Method, MethodSettings
from glocal.models.backbone import Backbone
from glocal.models.heads import mlp
from glocal.schedules import Weight
from glocal.settings import Amount
from glocal.views.batch import Views
from glocal.views.plan import View, asymmetric_pair


class VICRegSettings(MethodSettings):
    """Defaults are those of ImageNet (section 4.2)."""

    name: Literal["vicreg"] = "vicreg"
    output_dim: Amount = 8192
    invariance: Weight = 25.0  # λ
    variance: Weight = 25.0  # μ
    covariance: Weight = 1.0  # ν


class VICReg(Method):
    """Variance, invariance and covariance of two views."""

    Settings = VICRegSettings
    compares_batch = True

    def __init__(self, backbone: Backbone, settings: VICRegSettings) -> None:
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
        return vicreg(
            all_gather_with_gradient(first),
            all_gather_with_gradient(second),
            invariance=self.now.invariance,
            variance=self.now.variance,
            covariance=self.now.covariance,
        )
