"""SeLa: self-labelling by optimal transport, and training on the labels, in turn.

Asano, Rupprecht and Vedaldi, "Self-labelling via simultaneous clustering and representation learning", ICLR 2020. The
labels are those that the network's own predictions like best among all that share the images out equally (found
by Sinkhorn and Knopp's algorithm); the network then learns them as if somebody had given them. Several heads with
labels of their own see the same images in several ways.
"""

from __future__ import annotations

import math
from typing import Any, Literal, Self

import torch
from pydantic import Field
from torch import Tensor, nn

from glocal.distributed import gather_shares, own_share, whole_tensor
from glocal.losses.clustering import balanced_labels, label_prediction
from glocal.methods.base import Method, MethodSettings
from glocal.models.backbone import Backbone
from glocal.models.labels import PseudoLabels
from glocal.settings import Groups, Rounds
from glocal.transfer import to_device
from glocal.views.batch import Views, by_resolution
from glocal.views.plan import Jitter, View


class SeLaSettings(MethodSettings):
    """Defaults are those of ImageNet with a ResNet-50 in the authors' script (ten heads of 3,000 labels).

    The authors find labels a hundred times in 400 epochs, at first often and then seldom; here it is every
    `refresh_epochs`, which they name as an equal choice (comment in `main.py`). They do it from augmented crops of the
    training, here it is from whole images.
    """

    name: Literal["sela"] = "sela"
    heads: int = Field(10, ge=1, le=1000)
    prototypes: Groups = 3000  # labels of each head
    sharpness: float = Field(25.0, gt=0, le=1000)  # λ, how closely labels follow the predictions
    sinkhorn_iterations: Rounds = 2000  # at most; it ends when labels are shared out equally
    refresh_epochs: int = Field(4, ge=1)  # epochs between two labellings

    def fit_to(self, images: int) -> Self:
        return super().fit_to(images).model_copy(update={"prototypes": min(self.prototypes, images)})


class SeLa(Method):
    """Labels for all images, equally many of each, and their prediction."""

    Settings = SeLaSettings

    def __init__(self, backbone: Backbone, settings: SeLaSettings) -> None:
        super().__init__(backbone, settings)
        self.settings = settings
        self.refresh_epochs = settings.refresh_epochs
        self.heads = nn.Linear(backbone.dim, settings.heads * settings.prototypes)
        self.pseudo_labels = PseudoLabels(settings.heads, settings.prototypes)

    @classmethod
    def view_plan(cls, size: int, settings: Any = None) -> list[View]:
        jitter = Jitter(probability=1.0, brightness=0.4, contrast=0.4, saturation=0.4, hue=0.4)
        return [View(size=size, scale=(0.08, 1.0), jitter=jitter, grey=0.2)]

    def embed(self, images: Tensor) -> Tensor:
        """Features (B, D), on which the heads' scores of all images are made."""
        return self.backbone(images).float()  # type: ignore[no-any-return]

    @torch.no_grad()
    def refresh(self, embeddings: Tensor, epoch: int) -> None:
        """Labels all images anew, head by head; each process labels its share of them."""
        images = len(embeddings)
        own = embeddings[own_share(images)]
        weight, bias = whole_tensor(self.heads.weight), whole_tensor(self.heads.bias)
        count = self.settings.prototypes
        found = []
        for head in range(self.settings.heads):
            rows = slice(head * count, (head + 1) * count)
            scores = own @ weight[rows].T.to(own) + bias[rows].to(own)
            labels = balanced_labels(
                scores, images=images, sharpness=self.settings.sharpness, iterations=self.settings.sinkhorn_iterations
            )
            found.append(gather_shares(labels, images))
        self.pseudo_labels.assign(torch.stack(found, dim=1))

    def loss(self, views: Views) -> Tensor:
        """Cross-entropy with the image's label of each head, averaged over the heads."""
        batch = len(views.index)
        self.chance = math.log(self.settings.prototypes)
        features = by_resolution(self.backbone, views.images)  # (V·B, D)
        self.embedding = features[:batch].detach().float()
        scores = self.heads(features).float().unflatten(1, (self.settings.heads, -1))  # (V·B, H, K)
        labels = to_device(self.pseudo_labels(views.index, self.seed), scores.device)  # (B, H)
        return label_prediction(scores.unflatten(0, (-1, batch)), labels)
