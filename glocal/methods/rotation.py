"""RotNet: predicting how an image was turned.

Gidaris, Singh and Komodakis, "Unsupervised Representation Learning by Predicting Image Rotations", ICLR 2018 (section
3.1). Every image is shown turned by 0, 90, 180 and 270 degrees, and the network says by how much. To know it, it must
recognise what is in the image and how that usually stands.
"""

from __future__ import annotations

import math
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from glocal.methods.base import Method, MethodSettings
from glocal.models.backbone import Backbone
from glocal.views.batch import Views, by_resolution
from glocal.views.plan import View

_TURNS = 4  # by 90 degrees; of all numbers of turns, four are best (Table 2)


class RotationSettings(MethodSettings):
    """There is nothing to choose but the views and the optimiser."""

    name: Literal["rotation"] = "rotation"


class Rotation(Method):
    """Classification of a view's rotation, all four in the same batch (section 3.1, "Implementation details").

    So the network sees four times as many images as the batch has. The classifier is linear on the pooled features, as
    Kolesnikov, Zhai and Beyer (CVPR 2019) have it for ResNets; the paper's own network ends in more layers. Nothing is
    learned from images without an upright position, such as `shapes`.
    """

    Settings = RotationSettings

    def __init__(self, backbone: Backbone, settings: RotationSettings) -> None:
        super().__init__(backbone, settings)
        self.settings = settings
        self.classifier = nn.Linear(backbone.dim, _TURNS)

    @classmethod
    def view_plan(cls, size: int, settings: Any = None) -> list[View]:
        # The authors crop padded images of 32 pixels at random: a crop of most of the image is nearest to that.
        return [View(size=size, scale=(0.08 if size > 64 else 0.5, 1.0))]

    def loss(self, views: Views) -> Tensor:
        """Eq. 2 and 3: −1/4 Σ_y log F^y(g(X|y)), averaged over images (and views, where there are several)."""
        turned = [torch.rot90(image, turn, (2, 3)) for image in views.images for turn in range(_TURNS)]
        features = by_resolution(self.backbone, turned)  # (V·4·B, D)
        batch = len(views.index)
        self.embedding = features[:batch].detach().float()
        self.chance = math.log(_TURNS)
        target = torch.arange(_TURNS, device=features.device).repeat_interleave(batch).repeat(len(views.images))
        scores = self.classifier(features).float()
        self.solved = (scores.detach().argmax(dim=1) == target).float().mean()
        return cross_entropy(scores, target)
