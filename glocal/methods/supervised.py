"""Supervised learning: the reference row, from the same training loop.

Cross-entropy with the source's labels; label smoothing as in Szegedy, Vanhoucke, Ioffe, Shlens and Wojna, "Rethinking
the Inception Architecture for Computer Vision", CVPR 2016 (section 7). What self-supervised methods are measured
against: the same backbone, views and optimiser, with labels.
"""

from __future__ import annotations

import math
from typing import Any, Literal, Self

from pydantic import Field
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from glocal.errors import GlocalError
from glocal.methods.base import Method, MethodSettings
from glocal.models.backbone import Backbone
from glocal.settings import Groups
from glocal.transfer import to_device
from glocal.views.batch import Views, by_resolution
from glocal.views.plan import View


class SupervisedSettings(MethodSettings):
    """Defaults are those with which ResNets are trained on ImageNet; `classes` null is as many as the source has."""

    name: Literal["supervised"] = "supervised"
    classes: Groups | None = None
    label_smoothing: float = Field(0.0, ge=0, lt=1)

    def fit_to_classes(self, classes: int) -> Self:
        if classes < 2:
            raise GlocalError("method supervised needs at least 2 classes, and all images have the same label")
        if self.classes is not None and self.classes < classes:
            raise GlocalError(f"method.classes={self.classes}, but the images have {classes} classes; leave it out")
        return self.model_copy(update={"classes": self.classes or classes})


class Supervised(Method):
    """A linear classifier on the backbone, trained with it. Every view of an image is classified, so any views do.

    An unreadable image is replaced by the next one but keeps its label: wrong labels for at most `data.broken_limit`.
    """

    Settings = SupervisedSettings
    needs_labels = True

    def __init__(self, backbone: Backbone, settings: SupervisedSettings) -> None:
        super().__init__(backbone, settings)
        self.settings = settings
        if settings.classes is None:
            raise GlocalError("method.classes: say how many classes there are (a run counts those of its source)")
        self.classifier = nn.Linear(backbone.dim, settings.classes)

    @classmethod
    def view_plan(cls, size: int, settings: Any = None) -> list[View]:
        return [View(size=size, scale=(0.08, 1.0))]

    def loss(self, views: Views) -> Tensor:
        """−Σₖ ((1 − ε)·[k = y] + ε/K)·log softmax(s)ₖ, averaged over images and views."""
        if self.labels is None:
            raise GlocalError("method supervised has no labels; set its `labels` to those of all images, (N,) int64")
        features = by_resolution(self.backbone, views.images)  # (V·B, D)
        self.embedding = features[: len(views.index)].detach().float()
        target = self.labels[to_device(views.index, self.labels.device)].repeat(len(views.images))
        logits = self.classifier(features).float()
        self.chance = math.log(logits.shape[1])
        return cross_entropy(logits, target, label_smoothing=self.settings.label_smoothing)
