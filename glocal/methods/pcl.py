"""PCL: prototypical contrastive learning.

Li, Zhou, Xiong and Hoi, "Prototypical Contrastive Learning of Unsupervised Representations", ICLR 2021 (Algorithm 1).
MoCo, whose queries are drawn to the centres of their clusters as well: before each epoch the momentum encoder's
embeddings of all images are clustered, with several numbers of clusters at once.
"""

from __future__ import annotations

import math
from typing import Any, Literal, Self

import torch
from pydantic import Field
from torch import Tensor
from torch.nn.functional import normalize

from glocal.losses.prototypes import concentrations, proto_nce
from glocal.methods.base import Method, MethodSettings
from glocal.methods.moco import MoCo, MoCoSettings
from glocal.models.backbone import Backbone
from glocal.neighbors import kmeans
from glocal.schedules import Clock, Share, Temperature
from glocal.settings import Amount, Rounds
from glocal.transfer import to_device
from glocal.views.batch import Views
from glocal.views.plan import View
from glocal.views.random import permutation

_IMAGES_PER_CLUSTER = (51, 26, 13)  # 25,000, 50,000 and 100,000 clusters of ImageNet


class PCLSettings(MethodSettings):
    """Defaults are those of PCL v2: section 4 and the authors' repository.

    There k-means is started five times on at most 1,000 images a cluster, here once on all.
    """

    name: Literal["pcl"] = "pcl"
    hidden_dim: Amount | None = None  # null: the backbone's width
    normalised_hidden: bool = False  # batch normalisation in the projector (not in the paper; for small sets)
    output_dim: Amount = 128
    queue_size: int = Field(16384, ge=1)
    momentum: Share = 0.999
    temperature: Temperature = 0.2
    shuffle_groups: Amount = 1
    clusters: tuple[Amount, ...] | None = None  # null: one for 51, 26 and 13 images
    negatives: Amount = 16384  # prototypes that a query is contrasted with, drawn anew each step
    alpha: float = Field(10.0, gt=0)
    first_epoch: int = Field(20, ge=0)  # before it, MoCo alone
    cluster_iterations: Rounds = 20
    cluster_start: Literal["k-means++", "random"] = "random"

    def fit_to(self, images: int) -> Self:
        wanted = self.clusters or tuple(max(2, images // each) for each in _IMAGES_PER_CLUSTER)
        return super().fit_to(images).model_copy(update={"clusters": tuple(min(count, images) for count in wanted)})


class PCL(Method):
    """Contrastive learning with the queue and with prototypes."""

    Settings = PCLSettings
    evaluated = "moco.backbone"
    refresh_epochs = 1

    def __init__(self, backbone: Backbone, settings: PCLSettings) -> None:
        super().__init__(backbone, settings)
        self.settings = settings
        self.refresh_first = settings.first_epoch
        shared = {name: getattr(settings, name) for name in MoCoSettings.model_fields if hasattr(settings, name)}
        self.moco = MoCo(backbone, MoCoSettings(**{**shared, "name": "moco"}))
        # Of each clustering: prototypes (K, D), their concentrations (K,), and the images' clusters (N,) on the CPU.
        self.clusterings: list[tuple[Tensor, Tensor, Tensor]] = []

    @classmethod
    def view_plan(cls, size: int, settings: Any = None) -> list[View]:
        return MoCo.view_plan(size)

    def before_step(self, clock: Clock) -> None:
        super().before_step(clock)
        if "moco" in self._modules:  # not yet while the constructor runs
            self.moco.before_step(clock)

    def embed(self, images: Tensor) -> Tensor:
        """The momentum encoder's unit vectors, (B, D)."""
        return normalize(self.moco.teacher(images).float(), dim=1)

    def refresh(self, embeddings: Tensor, epoch: int) -> None:
        """The E-step: clusters the whole set once for each number of clusters."""
        self.clusterings = []
        for clusters in self.settings.fit_to(len(embeddings)).clusters or ():
            centers, assignment, _ = kmeans(
                embeddings,
                clusters,
                iterations=self.settings.cluster_iterations,
                seed=self.seed + epoch,
                start=self.settings.cluster_start,
            )
            loose = concentrations(
                embeddings, centers, assignment, temperature=self.now.temperature, alpha=self.settings.alpha
            )
            self.clusterings.append((normalize(centers, dim=1), loose, assignment.cpu()))

    def get_extra_state(self) -> list[tuple[Tensor, Tensor, Tensor]]:
        return self.clusterings

    def set_extra_state(self, state: list[tuple[Tensor, Tensor, Tensor]]) -> None:
        self.clusterings = state

    def loss(self, views: Views) -> Tensor:
        """Eq. 11: InfoNCE plus the mean over the clusterings of contrast with prototypes."""
        first, second = views.pair()
        query = self.moco.represent(first)  # (B, D)
        key = self.moco.keys(second, query)
        self.embedding = query.detach()
        loss = self.moco.compare(query, key)
        # After a resume they come from the CPU; otherwise nothing is moved.
        self.clusterings = [(c.to(query.device), loose.to(query.device), a) for c, loose, a in self.clusterings]
        terms = [self._prototypical(query, number, views.index) for number in range(len(self.clusterings))]
        self.chance = self.moco.chance
        if not terms:
            return loss
        choices = [min(len(its[0]), 1 + self.settings.negatives) for its in self.clusterings]
        self.chance = (self.moco.chance or 0) + math.log(math.prod(choices)) / len(choices)
        return loss + torch.stack(terms).mean()

    def _prototypical(self, query: Tensor, number: int, index: Tensor) -> Tensor:
        prototypes, loose, assignment = self.clusterings[number]
        drawn = None
        if len(prototypes) > self.settings.negatives + 1:
            order = permutation(len(prototypes), self.seed, "negative prototypes", self.now.step, number)
            drawn = to_device(order[: self.settings.negatives], query.device)
        return proto_nce(query, prototypes, loose, to_device(assignment[index], query.device), drawn=drawn)

    def after_step(self) -> None:
        self.moco.after_step()
