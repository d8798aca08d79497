"""Zero-CL: alignment after whitening over the batch and over the dimensions.

Zhang, Zhu, Yan, Zhao and Yang, "Zero-CL: Instance and Feature Decorrelation for Negative-Free Symmetric Contrastive
Learning", ICLR 2022. Two views' dimensions are whitened over the batch and compared one by one (Zero-FCL), and so are
their images, whitened over the dimensions (Zero-ICL); both networks are the same, and there are no negatives.
"""

from __future__ import annotations

from typing import Any, Literal

from torch import Tensor

from glocal.distributed import all_gather_with_gradient
from glocal.losses.whitening import zero_cl
from glocal.methods.base import Method, MethodSettings
from glocal.models.backbone import Backbone
from glocal.models.heads import mlp
from glocal.schedules import Weight
from glocal.settings import Amount
from glocal.views.batch import Views
from glocal.views.plan import View, asymmetric_pair


class ZeroCLSettings(MethodSettings):
    """Defaults are those of ImageNet in the authors' code; the weights of the two parts are ours."""

    name: Literal["zero_cl"] = "zero_cl"
    output_dim: Amount = 8192
    instance: Weight = 1.0  # 0: Zero-FCL alone
    feature: Weight = 1.0  # 0: Zero-ICL alone


class ZeroCL(Method):
    """Whitening by images and by dimensions.

    The authors' code whitens within each GPU and averages the correlations, the instance-wise ones across images too;
    here both are those of the whole batch of all processes. It computes one of the two parts at a time (`--mode ins` or
    `fea`, the latter for ImageNet), so the weight of their sum could not be seen. Dimensions are standardised by the
    biased variance.
    """

    Settings = ZeroCLSettings
    compares_batch = True

    def __init__(self, backbone: Backbone, settings: ZeroCLSettings) -> None:
        super().__init__(backbone, settings)
        self.settings = settings
        width = settings.output_dim
        self.projector = mlp([backbone.dim, width, width, width], norm=True, last_bias=False)

    @classmethod
    def view_plan(cls, size: int, settings: Any = None) -> list[View]:
        return asymmetric_pair(size)

    def loss(self, views: Views) -> Tensor:
        """Both parts, over the whole batch of all processes."""
        first, second = (self.projector(self.backbone(view)).float() for view in views.pair())  # (B, D) each
        self.embedding = first.detach()
        return zero_cl(
            all_gather_with_gradient(first),
            all_gather_with_gradient(second),
            instance=self.now.instance,
            feature=self.now.feature,
        )
