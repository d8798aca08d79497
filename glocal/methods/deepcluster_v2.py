"""DeepCluster v2: prediction of k-means clusters that are found anew before each epoch.

Caron, Misra, Mairal, Goyal, Bojanowski and Joulin, "Unsupervised Learning of Visual Features by Contrasting Cluster
Assignments", NeurIPS 2020 (section 4.1 and appendix), after Caron, Bojanowski, Joulin and Douze, "Deep Clustering for
Unsupervised Learning of Visual Features", ECCV 2018. The embeddings of all images are clustered on the unit sphere, and
every crop predicts the cluster of its image among the centres, which serve as prototypes.
"""

from __future__ import annotations

import math
from typing import Any, Literal, Self

import torch
from pydantic import Field
from torch import Tensor
from torch.nn.functional import normalize

from glocal.losses.clustering import label_prediction
from glocal.losses.precision import inner_products
from glocal.methods.base import Method, MethodSettings
from glocal.methods.swav import SwAV
from glocal.models.backbone import Backbone
from glocal.models.heads import mlp
from glocal.models.labels import PseudoLabels
from glocal.neighbors import kmeans
from glocal.schedules import Temperature
from glocal.settings import Amount, Groups, Rounds
from glocal.transfer import to_device
from glocal.views.batch import Views, by_resolution
from glocal.views.plan import MOST_VIEWS, View


class DeepClusterV2Settings(MethodSettings):
    """Defaults are those of ImageNet (authors' script).

    The authors cluster the embeddings of the last epoch's crops; here those of whole images are made before each epoch,
    which takes one more pass of the network over them, and none is stale. Empty clusters are put on far images instead
    of staying where they were.
    """

    name: Literal["deepcluster_v2"] = "deepcluster_v2"
    hidden_dim: Amount = 2048
    output_dim: Amount = 128
    clusterings: int = Field(3, ge=1, le=100)
    prototypes: Groups = 3000  # of each clustering
    temperature: Temperature = 0.1
    cluster_iterations: Rounds = 10
    refresh_epochs: int = Field(1, ge=1)  # epochs between two clusterings
    local_views: int = Field(6, ge=0, le=MOST_VIEWS)

    def fit_to(self, images: int) -> Self:
        return super().fit_to(images).model_copy(update={"prototypes": min(self.prototypes, images)})


class DeepClusterV2(Method):
    """Clustering of all images and prediction of the clusters, in turn."""

    Settings = DeepClusterV2Settings
    prototypes: Tensor

    def __init__(self, backbone: Backbone, settings: DeepClusterV2Settings) -> None:
        super().__init__(backbone, settings)
        self.settings = settings
        self.refresh_epochs = settings.refresh_epochs
        self.projector = mlp([backbone.dim, settings.hidden_dim, settings.output_dim], norm=True)
        random = torch.randn(settings.clusterings, settings.prototypes, settings.output_dim)
        self.register_buffer("prototypes", normalize(random, dim=2))  # (H, K, D)
        self.pseudo_labels = PseudoLabels(settings.clusterings, settings.prototypes)

    @classmethod
    def view_plan(cls, size: int, settings: Any = None) -> list[View]:
        return SwAV.view_plan(size, settings or DeepClusterV2Settings())

    def embed(self, images: Tensor) -> Tensor:
        """What is clustered: unit vectors (B, D)."""
        return normalize(self.projector(self.backbone(images)).float(), dim=1)

    def refresh(self, embeddings: Tensor, epoch: int) -> None:
        """Clusters all images by spherical k-means, each clustering from its own start; centres become prototypes."""
        found = [
            kmeans(
                embeddings,
                self.settings.prototypes,
                iterations=self.settings.cluster_iterations,
                seed=(self.seed + epoch) * self.settings.clusterings + number,
                start="random",
                metric="cosine",
            )
            for number in range(self.settings.clusterings)
        ]
        self.prototypes.copy_(torch.stack([centers for centers, _, _ in found]))
        self.pseudo_labels.assign(torch.stack([assignment for _, assignment, _ in found], dim=1))

    def loss(self, views: Views) -> Tensor:
        """Cross-entropy of all crops with their image's clusters; the prototypes get no gradient."""
        batch = len(views.index)
        self.chance = math.log(self.settings.prototypes)
        unit = normalize(self.projector(by_resolution(self.backbone, views.images)).float(), dim=1)  # (V·B, D)
        self.embedding = unit[:batch].detach()
        scores = inner_products(unit, self.prototypes.flatten(0, 1)).unflatten(1, self.prototypes.shape[:2])
        labels = to_device(self.pseudo_labels(views.index, self.seed), unit.device)  # (B, H)
        return label_prediction(scores.unflatten(0, (-1, batch)), labels, temperature=self.now.temperature)
