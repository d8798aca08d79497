"""TWIST: twin class distributions that agree, are sharp and are diverse.

Wang, Kong, Zhang, Liu and Li, "Self-Supervised Learning by Estimating Twin Class Distributions", 2021 (arXiv
2110.07402). Two views of an image should have the same distribution over unnamed classes. Each image's should be sharp,
and their mean over the batch even, so neither all images in one class nor even shares for each is a way out; there is
no second network and no stop of the gradient.
"""

from __future__ import annotations

from typing import Any, Literal

from torch import Tensor

from glocal.losses.classes import twin_classes
from glocal.methods.base import Method, MethodSettings
from glocal.models.backbone import Backbone
from glocal.models.heads import mlp
from glocal.schedules import Weight
from glocal.settings import Amount, Groups
from glocal.views.batch import Views, by_resolution, check_globals
from glocal.views.plan import View, asymmetric_pair

_LOOKED_AT = 128  # images whose distributions are kept for a look at them


class TWISTSettings(MethodSettings):
    """Defaults are those of ImageNet in the authors' code, with two views and without self-labelling."""

    name: Literal["twist"] = "twist"
    hidden_dim: Amount = 4096
    prototypes: Groups = 32768  # classes
    sharpness: Weight = 1.0  # α, of the entropy of single images
    diversity: Weight = 1.0  # β, of the entropy of their mean


class TWIST(Method):
    """Class distributions of two views.

    The last layer is batch-normalised before the softmax, which keeps gradients alive;
    its statistics are those of all processes, where the authors take groups of 256 images. Their second stage, in
    which confident images label others, and their multi-crop are not here; the loss takes more views than two.
    """

    Settings = TWISTSettings
    compares_batch = True

    def __init__(self, backbone: Backbone, settings: TWISTSettings) -> None:
        super().__init__(backbone, settings)
        self.settings = settings
        hidden = settings.hidden_dim
        self.head = mlp([backbone.dim, hidden, hidden, settings.prototypes], norm=True, last_norm=True)
        self._assigned: Tensor | None = None

    @classmethod
    def view_plan(cls, size: int, settings: Any = None) -> list[View]:
        return asymmetric_pair(size)

    def loss(self, views: Views) -> Tensor:
        """The pairs of views with a global one among them; views of one size pass the networks as one batch."""
        check_globals(views)
        features = by_resolution(self.backbone, views.images)  # (V·B, D)
        logits = self.head(features).float().unflatten(0, (-1, len(views.index)))  # (V, B, K)
        self.embedding = features[: len(views.index)].detach().float()
        self._assigned = logits[0, :_LOOKED_AT].detach().softmax(dim=1)
        return twin_classes(logits, sharpness=self.now.sharpness, diversity=self.now.diversity)

    def assignments(self) -> Tensor | None:
        return self._assigned
