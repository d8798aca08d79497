"""MYOW: mine your own view.

Azabou, Azar, Liu, Lin, Johnson, Bhaskaran-Nair, Dabagia, Hengen, Gray-Roncal, Valko and Dyer, "Mine Your Own vieW:
Self-Supervised Learning Through Across-Sample Prediction", 2021. BYOL, and beside it predictions across images: an
image predicts one of those that the target network shows nearest to it. These predictions have a projector and a
predictor of their own, which stand on BYOL's projector (cascaded), so that they do not work against BYOL's.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import torch
from torch import Tensor
from torch.nn.functional import normalize

from glocal.distributed import all_gather, process_rank
from glocal.errors import GlocalError
from glocal.losses.precision import inner_products
from glocal.methods.base import Method, MethodSettings
from glocal.methods.byol import BYOL, BYOLSettings
from glocal.models.backbone import Backbone
from glocal.models.heads import mlp
from glocal.models.momentum import Buffers, MomentumTeacher
from glocal.schedules import Clock, Schedule, Share, Weight
from glocal.settings import Amount
from glocal.transfer import to_device
from glocal.views.batch import Views
from glocal.views.plan import View, asymmetric_pair
from glocal.views.random import uniform


class MYOWSettings(MethodSettings):
    """Defaults are those of the authors' code for CIFAR-10, whose heads have a bias in their last layers too."""

    name: Literal["myow"] = "myow"
    hidden_dim: Amount = 4096
    output_dim: Amount = 256
    mined_hidden_dim: Amount = 1024  # of the projector and the predictor across images
    mined_output_dim: Amount = 64
    momentum: Share = Schedule(start=0.98, end=1.0)
    teacher_buffers: Buffers = "own"
    neighbors: Amount = 1  # nearest others of the batch, of which one is predicted
    weight: Weight = Schedule(start=0.0, end=1.0, kind="linear", warmup_epochs=100, epochs=110)  # of mined views


class MYOW(Method):
    """BYOL, and prediction of mined views.

    The candidates are the other images of the batch, of all processes, in views that are only cropped a little and
    flipped. The authors' code draws a second batch for them; theirs runs in the order of the first, so an image finds
    itself there, which is no other sample. The mined part is computed while its weight is 0 as well: processes
    that train together expect the same gradients in every step.
    """

    Settings = MYOWSettings
    evaluated = "byol.backbone"
    compares_batch = True

    def __init__(self, backbone: Backbone, settings: MYOWSettings) -> None:
        super().__init__(backbone, settings)
        self.settings = settings
        shared = {name: getattr(settings, name) for name in BYOLSettings.model_fields if hasattr(settings, name)}
        self.byol = BYOL(backbone, BYOLSettings(**{**shared, "name": "byol"}))
        hidden, width = settings.mined_hidden_dim, settings.mined_output_dim
        self.projector = mlp([settings.output_dim, hidden, width], norm=True, last_bias=False)
        self.predictor = mlp([width, hidden, width], norm=True, last_bias=False)
        self.teacher = MomentumTeacher(self.projector, buffers=settings.teacher_buffers)

    @classmethod
    def view_plan(cls, size: int, settings: Any = None) -> list[View]:
        """BYOL's two views, and one for mining."""
        return [*asymmetric_pair(size), View(name="mined", size=size, scale=(0.8, 1.0))]

    def check(self, views: Sequence[View], batch: int) -> None:
        """Refuses more neighbours than there are other images in a batch."""
        if self.settings.neighbors >= batch:
            raise GlocalError(
                f"method.neighbors={self.settings.neighbors}: an image has only the {batch - 1} others of its batch to "
                f"choose from; set it to {batch - 1} or less, or train.batch_size higher"
            )

    def before_step(self, clock: Clock) -> None:
        super().before_step(clock)
        if "byol" in self._modules:  # not yet while the constructor runs
            self.byol.before_step(clock)

    def loss(self, views: Views) -> Tensor:
        """(L + w·L_mined) / (1 + w) with BYOL's L as the mean of both directions, as in the authors' code."""
        first, second, plain, *_ = views.several(3, "three views, the last of them for mining,")
        own = self.byol.loss(Views((first, second), views.geometry[:2], views.index)) / 2
        self.embedding = self.byol.embedding
        weight = self.now.weight
        return (own + weight * self._mined(plain, views.index)) / (1 + weight)

    def _mined(self, images: Tensor, index: Tensor) -> Tensor:
        """Each image's prediction of a neighbour's projection: ‖r̄ − v̄′‖², averaged over the batch."""
        features = self.byol.backbone(images)  # (B, C)
        with torch.no_grad():
            backbone, projector = self.byol.teacher.chain
            pool = all_gather(backbone(images))  # (P·B, C)
            key = self.teacher(projector(pool[self._neighbors(features, pool, index)]))
        query = self.predictor(self.projector(self.byol.projector(features)))
        return self.byol.compare(query, key)

    def _neighbors(self, features: Tensor, pool: Tensor, index: Tensor) -> Tensor:
        """For each image one of its nearest others, (B,) rows of the pool (P·B, C)."""
        cosine = inner_products(normalize(features.detach().float(), dim=1), normalize(pool.float(), dim=1))
        own = process_rank() * len(features) + torch.arange(len(features), device=features.device)
        others = cosine.scatter(1, own[:, None], -torch.inf)
        count = max(1, min(self.settings.neighbors, len(pool) - 1))
        nearest = others.topk(count, dim=1).indices  # (B, k)
        chosen = (uniform(self.seed, "mined", self.now.step, index) * count).long()
        return nearest.gather(1, to_device(chosen, features.device)[:, None])[:, 0]

    def after_step(self) -> None:
        self.byol.after_step()
        self.teacher.update(self.projector, momentum=self.now.momentum)
