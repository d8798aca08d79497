"""MSBReg: embeddings as particles that are drawn to their image's centroid and dispersed.

Moon, Buracas, Park, Kim and Canny, "An Embedding-Dynamic Approach to Self-supervised Learning", WACV 2023. Three terms:
a multi-view centroid loss pulls the views of an image together, a Brownian diffusive loss disperses them locally, and a
singular value loss globally.
"""

from __future__ import annotations

from typing import Any, Literal

import torch
from pydantic import Field
from torch import Tensor
from torch.nn.functional import normalize

from glocal.distributed import all_gather_with_gradient
from glocal.losses.dispersion import brownian, centroid_attraction, singular_spread
from glocal.losses.redundancy import variance_and_covariance
from glocal.methods.base import Method, MethodSettings
from glocal.models.backbone import Backbone
from glocal.models.heads import mlp
from glocal.models.momentum import Buffers, MomentumTeacher
from glocal.schedules import Schedule, Share, Weight
from glocal.settings import Amount
from glocal.transfer import to_device
from glocal.views.batch import Views, by_resolution
from glocal.views.plan import MOST_VIEWS, View, asymmetric_pair
from glocal.views.random import normal


class MSBRegSettings(MethodSettings):
    """Networks and momentum are BYOL's, the Brownian weight is a public implementation's, other weights are ours."""

    name: Literal["msbreg"] = "msbreg"
    hidden_dim: Amount = 4096
    output_dim: Amount = 256
    momentum: Share = Schedule(start=0.996, end=1.0)
    teacher_buffers: Buffers = "own"
    pairs: int = Field(2, ge=1, le=MOST_VIEWS // 2)  # of views of each image
    brownian: Weight = 0.1
    singular: Weight = 1.0
    variance: Weight = 0.0  # VICReg's, of √D·z, and its covariance: another global dispersion
    covariance: Weight = 0.0


class MSBReg(Method):
    """Attraction to a centroid, and dispersion in two ways.

    The centroid and Brownian terms are as a public implementation has them, where the online views pass a predictor and
    each is drawn to the target's centroid; the paper speaks of the distance between the centroids of both networks.
    **The global dispersion is ours**: the exact form of the paper's singular value loss could not be confirmed, so
    `glocal.losses.dispersion.singular_spread` stands in its place, and VICReg's variance and covariance are options.
    """

    Settings = MSBRegSettings
    compares_batch = True

    def __init__(self, backbone: Backbone, settings: MSBRegSettings) -> None:
        super().__init__(backbone, settings)
        self.settings = settings
        hidden, width = settings.hidden_dim, settings.output_dim
        self.projector = mlp([backbone.dim, hidden, width], norm=True, last_bias=False)
        self.predictor = mlp([width, hidden, width], norm=True, last_bias=False)
        self.teacher = MomentumTeacher(self.backbone, self.projector, buffers=settings.teacher_buffers)

    @classmethod
    def view_plan(cls, size: int, settings: Any = None) -> list[View]:
        pairs = (settings or MSBRegSettings()).pairs
        return [view.model_copy(update={"count": pairs}) for view in asymmetric_pair(size)]

    def loss(self, views: Views) -> Tensor:
        """The three terms, weighted; each image's random direction is that of all its views."""
        images, batch = views.several(2, "two views or more"), len(views.index)
        features = by_resolution(self.backbone, images)  # (V·B, D)
        online = normalize(self.predictor(self.projector(features)).float(), dim=1).unflatten(0, (-1, batch))
        target = by_resolution(self.teacher, images).float().unflatten(0, (-1, batch))  # (V, B, D)
        self.embedding = online[0].detach()
        columns = torch.arange(self.settings.output_dim)
        directions = normal(self.seed, "brownian", self.now.step, views.index[:, None], columns).to(online.dtype)
        loss = centroid_attraction(online, target)
        loss = loss + self.now.brownian * brownian(online, to_device(directions, online.device))
        return loss + self._dispersion(all_gather_with_gradient(online.transpose(0, 1).contiguous()))

    def _dispersion(self, embeddings: Tensor) -> Tensor:
        """How far the unit vectors (B, V, D) of all processes are from filling the sphere, averaged over the views."""
        terms = []
        for view in embeddings.unbind(dim=1):
            term = self.now.singular * singular_spread(view)
            if self.settings.variance or self.settings.covariance:
                # Deviations of unit vectors that fill the sphere are 1/√D.
                variance, covariance = variance_and_covariance(view * view.shape[1] ** 0.5)
                term = term + self.now.variance * variance + self.now.covariance * covariance
            terms.append(term)
        return torch.stack(terms).mean()

    def after_step(self) -> None:
        self.teacher.update(self.backbone, self.projector, momentum=self.now.momentum)
