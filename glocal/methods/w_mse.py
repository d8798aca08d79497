"""W-MSE: views of an image close to each other after the batch was whitened.

Ermolov, Siarohin, Sangineto and Sebe, "Whitening for Self-Supervised Representation Learning", ICML 2021.
Whitening scatters the embeddings over the sphere, so positives alone are enough; there are no negatives and no second
network, and any number of views.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal, Self

import torch
from pydantic import Field, model_validator
from torch import Tensor

from glocal.distributed import all_gather_with_gradient
from glocal.errors import GlocalError
from glocal.losses.whitening import w_mse
from glocal.methods.base import Method, MethodSettings
from glocal.models.backbone import Backbone
from glocal.models.heads import mlp
from glocal.schedules import Share
from glocal.settings import Amount
from glocal.transfer import to_device
from glocal.views.batch import Views, by_resolution
from glocal.views.plan import MOST_VIEWS, Blur, Jitter, View
from glocal.views.random import permutation

_SMALL = 96  # up to this side, the paper's weaker colours and narrower crops, and no blur


class WMSESettings(MethodSettings):
    """Defaults are those of CIFAR-10 with four views (W-MSE 4) in the authors' commands."""

    name: Literal["w_mse"] = "w_mse"
    hidden_dim: Amount = 1024
    output_dim: Amount = 64
    positives: int = Field(4, ge=2, le=MOST_VIEWS)  # d, views of each image
    sub_batch: int = Field(128, ge=2, le=2**20)  # images that are whitened together; more than `output_dim`
    iterations: int = Field(1, ge=1, le=100)  # partitions of a batch into sub-batches, averaged
    shrinkage: Share = 0.0  # of the covariance towards the identity

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.sub_batch <= self.output_dim and not self.shrinkage:
            raise ValueError(
                f"sub_batch={self.sub_batch} must be larger than output_dim={self.output_dim} where shrinkage is 0"
            )
        return self


class WMSE(Method):
    """Attraction between whitened views.

    Sub-batches are random parts of the whole batch, over all processes, the same for all views; what the size of a
    sub-batch does not divide is left out of the step.
    """

    Settings = WMSESettings
    compares_batch = True

    def __init__(self, backbone: Backbone, settings: WMSESettings) -> None:
        super().__init__(backbone, settings)
        self.settings = settings
        self.projector = mlp([backbone.dim, settings.hidden_dim, settings.output_dim], norm=True)

    @classmethod
    def view_plan(cls, size: int, settings: Any = None) -> list[View]:
        count = (settings or WMSESettings()).positives
        crop = View(count=count, size=size, interpolation="bicubic")
        if size <= _SMALL:
            return [crop.model_copy(update={"scale": (0.2, 1.0), "jitter": Jitter.of_strength(0.5), "grey": 0.1})]
        large = {"scale": (0.08, 1.0), "jitter": Jitter.of_strength(1.0), "grey": 0.2, "blur": Blur(probability=0.5)}
        return [crop.model_copy(update=large)]

    def check(self, views: Sequence[View], batch: int) -> None:
        """Without shrinkage, refuses a batch with no more images than the embeddings have dimensions."""
        dim = self.settings.output_dim
        if batch <= dim and not self.settings.shrinkage:
            raise GlocalError(
                f"w_mse whitens {batch} embeddings at a time (train.batch_size / train.accumulate), which must be more "
                f"than method.output_dim={dim}; raise train.batch_size, set method.output_dim below {batch}, or "
                "method.shrinkage above 0"
            )

    def loss(self, views: Views) -> Tensor:
        """The distance of every two views, over the whole batch of all processes."""
        images, batch = views.several(2, "two views or more"), len(views.index)
        projected = self.projector(by_resolution(self.backbone, images)).float().unflatten(0, (-1, batch))  # (V, B, D)
        self.embedding = projected[0].detach()
        everything = all_gather_with_gradient(projected.transpose(0, 1).contiguous()).transpose(0, 1)
        groups = to_device(self._groups(everything.shape[1]), everything.device)
        return w_mse(everything, groups, shrinkage=self.now.shrinkage)

    def _groups(self, images: int) -> Tensor:
        """The step's partitions of so many images into sub-batches: (P, G, n), on the CPU."""
        count = max(1, images // self.settings.sub_batch)
        size = min(images, self.settings.sub_batch)
        orders = [
            permutation(images, self.seed, "sub-batches", self.now.step, number)
            for number in range(self.settings.iterations)
        ]
        return torch.stack(orders)[:, : count * size].unflatten(1, (count, size))
