"""ARB: aligning representations with a base.

Zhang, Qiu, Zhu, Yan, Zhang, Zhao, Li and Yang, "Align Representations with Base: A New Approach to Self-Supervised
Learning", CVPR 2022. Each view's projections are drawn to the orthonormal base that lies nearest to the other view's:
its dimensions, whitened. The base has no two dimensions alike, so only dimensions of one number are compared.
"""

from __future__ import annotations

from typing import Any, Literal

from torch import Tensor

from glocal.distributed import all_gather_with_gradient
from glocal.losses.redundancy import arb
from glocal.methods.base import Method, MethodSettings
from glocal.models.backbone import Backbone
from glocal.models.heads import mlp
from glocal.schedules import Share
from glocal.settings import Amount
from glocal.views.batch import Views
from glocal.views.plan import View, asymmetric_pair


class ARBSettings(MethodSettings):
    """Defaults are those of ImageNet in the authors' code."""

    name: Literal["arb"] = "arb"
    output_dim: Amount = 8192
    shrinkage: Share = 1e-4  # of the covariance towards the identity before it is inverted


class ARB(Method):
    """Alignment with the nearest base of the other view.

    The base is of all dimensions at once. The authors' code can also whiten random groups of them, to make the matrix
    smaller; `glocal.losses.redundancy.arb` needs no matrix larger than the batch.
    """

    Settings = ARBSettings
    compares_batch = True

    def __init__(self, backbone: Backbone, settings: ARBSettings) -> None:
        super().__init__(backbone, settings)
        self.settings = settings
        width = settings.output_dim
        self.projector = mlp([backbone.dim, width, width, width], norm=True, last_bias=False)

    @classmethod
    def view_plan(cls, size: int, settings: Any = None) -> list[View]:
        return asymmetric_pair(size)

    def loss(self, views: Views) -> Tensor:
        """Both views' projections against each other's base, over the whole batch of all processes."""
        first, second = (self.projector(self.backbone(view)).float() for view in views.pair())  # (B, D) each
        self.embedding = first.detach()
        first, second = all_gather_with_gradient(first), all_gather_with_gradient(second)
        return arb(first, second, shrinkage=self.now.shrinkage)
