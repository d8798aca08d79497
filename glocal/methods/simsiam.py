"""SimSiam: simple Siamese representation learning.

Chen and He, "Exploring Simple Siamese Representation Learning", CVPR 2021 (Algorithm 1). Each view predicts the other
view's projection, which is held fixed; there are no negatives, no momentum teacher and no large batches.
"""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field
from torch import Tensor

from glocal.losses import negative_cosine
from glocal.methods.base import Method, MethodSettings, ParameterGroup
from glocal.models.backbone import Backbone
from glocal.models.heads import mlp
from glocal.settings import Amount
from glocal.views.batch import Views
from glocal.views.plan import Blur, Jitter, View


class SimSiamSettings(MethodSettings):
    """Defaults are those of section 3, "Baseline settings"; the CIFAR experiments use two projection layers."""

    name: Literal["simsiam"] = "simsiam"
    projector_layers: int = Field(3, ge=2, le=100)
    output_dim: Amount = 2048
    predictor_dim: Amount = 512
    constant_predictor_lr: bool = True


class SimSiam(Method):
    """Siamese learning with a predictor and a stopped gradient."""

    Settings = SimSiamSettings

    def __init__(self, backbone: Backbone, settings: SimSiamSettings) -> None:
        super().__init__(backbone, settings)
        self.settings = settings
        width = settings.output_dim
        self.projector = mlp([backbone.dim, *[width] * settings.projector_layers], norm=True, last_norm=True)
        self.predictor = mlp([width, settings.predictor_dim, width], norm=True)

    @classmethod
    def view_plan(cls, size: int, settings: Any = None) -> list[View]:
        blur = Blur(probability=0.5 if size > 64 else 0.0)  # none on CIFAR (appendix D)
        return [View(count=2, size=size, jitter=Jitter(probability=0.8), grey=0.2, blur=blur)]

    def represent(self, images: Tensor) -> Tensor:
        return self.projector(self.backbone(images))  # type: ignore[no-any-return]

    def query(self, representation: Tensor) -> Tensor:
        return self.predictor(representation)  # type: ignore[no-any-return]

    def keys(self, images: Tensor, representation: Tensor) -> Tensor:
        return representation.detach()

    def compare(self, query: Tensor, key: Tensor) -> Tensor:
        return negative_cosine(query.float(), key.float())

    def loss(self, views: Views) -> Tensor:
        """Eq. 4: D(p₁, stopgrad(z₂))/2 + D(p₂, stopgrad(z₁))/2."""
        return self.both_directions(views) / 2

    def parameter_groups(self) -> list[ParameterGroup]:
        return [
            ParameterGroup(self.backbone),
            ParameterGroup(self.projector),
            ParameterGroup(self.predictor, constant_lr=self.settings.constant_predictor_lr),
        ]
