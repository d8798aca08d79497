"""NPID: non-parametric instance discrimination.

Wu, Xiong, Yu and Lin, "Unsupervised Feature Learning via Non-Parametric Instance Discrimination", CVPR 2018 (section
3). Every image is a class of its own; instead of learned weights the classifier has a memory bank of what the network
said about each image when it was last seen.
"""

from __future__ import annotations

import math
from typing import Any, Literal, Self

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn.functional import normalize

from glocal.losses.memory import instance_nce, instance_softmax, log_partition
from glocal.methods.base import Method, MethodSettings
from glocal.models.backbone import Backbone
from glocal.models.memory import MemoryBank
from glocal.schedules import Share, Temperature
from glocal.settings import Amount
from glocal.transfer import to_device
from glocal.views.batch import Views, by_resolution
from glocal.views.plan import Jitter, View
from glocal.views.random import uniform


class NPIDSettings(MethodSettings):
    """Defaults are those of ImageNet (section 4.1 and the authors' code).

    As in the authors' code the bank moves with a momentum, in place of the paper's proximal term (eq. 8). The noise is
    drawn once for the batch instead of for each image, which makes a gather of B·M rows one matrix product; jitter
    comes before grey.
    """

    name: Literal["npid"] = "npid"
    output_dim: Amount = 128
    temperature: Temperature = 0.07
    negatives: Amount | None = 4096  # null: all images (the softmax without approximation)
    momentum: Share = 0.5  # of the memory bank
    images: int | None = Field(None, ge=1)  # a run fills in how many it has

    def fit_to(self, images: int) -> Self:
        negatives = None if self.negatives is None else min(self.negatives, images)
        return super().fit_to(images).model_copy(update={"images": images, "negatives": negatives})


class NPID(Method):
    """Instance discrimination with a memory bank. Of several views, each is classified and the bank gets their mean."""

    Settings = NPIDSettings
    log_normaliser: Tensor

    def __init__(self, backbone: Backbone, settings: NPIDSettings) -> None:
        super().__init__(backbone, settings)
        self.settings = settings
        self.projector = nn.Linear(backbone.dim, settings.output_dim)
        self.memory = MemoryBank(settings.images, settings.output_dim)
        self.register_buffer("log_normaliser", torch.tensor(torch.inf))  # log Z, until the first batch
        self.new_rows: list[tuple[Tensor, Tensor]] = []

    @classmethod
    def view_plan(cls, size: int, settings: Any = None) -> list[View]:
        jitter = Jitter(probability=1.0, brightness=0.4, contrast=0.4, saturation=0.4, hue=0.4)
        return [View(size=size, jitter=jitter, grey=0.2)]

    def observe(self, views: Views) -> tuple[Tensor, Tensor]:
        """Unit vectors (V·B, D) of all views and their images' rows in the bank (V·B,); the bank gets them later."""
        places = self.memory.places(views.index)
        unit = normalize(self.projector(by_resolution(self.backbone, views.images)).float(), dim=1)
        of_views = unit.detach().unflatten(0, (-1, len(places)))  # (V, B, D)
        self.embedding = of_views[0]
        self.new_rows.append((places, normalize(of_views.mean(dim=0), dim=1)))
        return unit, places.repeat(len(of_views))

    def discriminate(self, query: Tensor, places: Tensor) -> Tensor:
        """Eq. 3, or its estimate by eq. 6, for unit vectors (B, D) of the images in the bank's rows `places` (B,)."""
        rows, temperature = self.memory.rows, self.now.temperature
        if self.settings.negatives is None:
            self.chance = math.log(len(rows))
            return instance_softmax(query, rows, places, temperature=temperature)
        draws = uniform(self.seed, "noise", self.now.step, torch.arange(self.settings.negatives))
        noise, images = rows[to_device((draws * len(rows)).long(), rows.device)], len(rows)
        estimate = log_partition(query, noise, temperature=temperature, images=images)
        self.log_normaliser.copy_(torch.where(self.log_normaliser.isinf(), estimate, self.log_normaliser))
        self.chance = math.log(1 + len(noise)) + 1  # of P = 1/N
        return instance_nce(
            query, rows[places], noise, temperature=temperature, log_normaliser=self.log_normaliser, images=images
        )

    def loss(self, views: Views) -> Tensor:
        """Section 3: every view is recognised among all images."""
        return self.discriminate(*self.observe(views))

    def after_step(self) -> None:
        for places, rows in self.new_rows:
            self.memory.update(places, rows, momentum=self.now.momentum)
        self.new_rows.clear()
