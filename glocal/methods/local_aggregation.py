"""Local aggregation: images move towards the neighbours that cluster with them.

Zhuang, Zhai and Yamins, "Local Aggregation for Unsupervised Learning of Visual Embeddings", ICCV 2019 (section 3).
After a start by NPID, each image is drawn to its close neighbours in the memory bank, those that share a cluster with
it in any of several k-means, and away from its other nearest neighbours, the background.
"""

from __future__ import annotations

import math
from typing import Any, Literal, Self

import torch
from pydantic import Field
from torch import Tensor

from glocal.losses.memory import local_aggregation
from glocal.methods.base import Method, MethodSettings
from glocal.methods.npid import NPID, NPIDSettings
from glocal.models.backbone import Backbone
from glocal.neighbors import kmeans
from glocal.schedules import Clock, Share, Temperature
from glocal.settings import Amount, Groups, Rounds
from glocal.views.batch import Views
from glocal.views.plan import View

_IMAGES_PER_CLUSTER = 43


class LocalAggregationSettings(MethodSettings):
    """Defaults are those of ImageNet (section 4.1 and the authors' code); NPID's part as there."""

    name: Literal["local_aggregation"] = "local_aggregation"
    output_dim: Amount = 128
    temperature: Temperature = 0.07
    negatives: Amount | None = 4096  # of NPID; null: all images
    momentum: Share = 0.5  # of the memory bank
    images: int | None = Field(None, ge=1)  # a run fills in how many it has
    first_epoch: int = Field(10, ge=0)  # before it, NPID alone
    background: Groups = 4096  # nearest rows of the bank
    clusterings: Rounds = 10
    clusters: Groups | None = None  # of each; null: one for 43 images, which is 30,000 for ImageNet
    cluster_iterations: Rounds = 20

    def fit_to(self, images: int) -> Self:
        npid = NPIDSettings(negatives=self.negatives).fit_to(images)
        clusters = min(self.clusters or max(2, images // _IMAGES_PER_CLUSTER), images)
        update = {"images": images, "negatives": npid.negatives, "clusters": clusters}
        return super().fit_to(images).model_copy(update={**update, "background": min(self.background, images)})


class LocalAggregation(Method):
    """Aggregation of close neighbours in a memory bank, which is clustered anew at the start of each epoch."""

    Settings = LocalAggregationSettings
    clusters: Tensor

    def __init__(self, backbone: Backbone, settings: LocalAggregationSettings) -> None:
        super().__init__(backbone, settings)
        self.settings = settings
        shared = {name: getattr(settings, name) for name in NPIDSettings.model_fields if hasattr(settings, name)}
        self.npid = NPID(backbone, NPIDSettings(**{**shared, "name": "npid"}))
        images = len(self.npid.memory)
        self.clustered_epoch = -1  # in which the bank was last clustered
        self.register_buffer("clusters", torch.zeros(settings.clusterings, images, dtype=torch.int32))  # (H, N)

    @classmethod
    def view_plan(cls, size: int, settings: Any = None) -> list[View]:
        return NPID.view_plan(size)

    def before_step(self, clock: Clock) -> None:
        super().before_step(clock)
        if "npid" not in self._modules:  # the constructor still runs
            return
        self.npid.seed = self.seed
        self.npid.before_step(clock)
        epoch = clock.step // clock.steps_per_epoch
        if epoch >= self.settings.first_epoch and epoch != self.clustered_epoch:
            self._cluster()
            self.clustered_epoch = epoch

    def get_extra_state(self) -> Tensor:
        return torch.tensor(self.clustered_epoch)

    def set_extra_state(self, state: Tensor) -> None:
        self.clustered_epoch = int(state)

    def _cluster(self) -> None:
        """Section 3.2: several k-means of the bank, each from its own start."""
        rows, settings = self.npid.memory.rows, self.settings
        fitting = settings.fit_to(len(rows)).clusters or 2
        for number in range(settings.clusterings):
            seed = self.seed + number
            found = kmeans(rows, fitting, iterations=settings.cluster_iterations, seed=seed, start="random")
            self.clusters[number] = found[1]

    def loss(self, views: Views) -> Tensor:
        """Eq. 5 once the bank has been clustered, NPID's loss before."""
        query, places = self.npid.observe(views)  # (V·B, D), (V·B,)
        self.embedding = self.npid.embedding
        if self.now.epoch < self.settings.first_epoch:
            loss = self.npid.discriminate(query, places)
            self.chance = self.npid.chance
            return loss
        self.chance = math.log(self.settings.background)  # where no neighbour is close but the image itself
        return local_aggregation(
            query,
            self.npid.memory.rows,
            self.clusters,
            places,
            background=self.settings.background,
            temperature=self.now.temperature,
        )

    def after_step(self) -> None:
        self.npid.after_step()
