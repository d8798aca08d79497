"""NNCLR: nearest-neighbour contrastive learning of visual representations.

Dwibedi, Aytar, Tompson, Sermanet and Zisserman, "With a Little Help from My Friends: Nearest-Neighbor Contrastive
Learning of Visual Representations", ICCV 2021 (section 3.2, Algorithm 1). The positive is not the other view but its
nearest neighbour in a queue of earlier embeddings: semantically alike, and another image.
"""

from __future__ import annotations

import math
from typing import Any, Literal

import torch
from pydantic import Field
from torch import Tensor
from torch.nn.functional import normalize

from glocal.distributed import all_gather_with_gradient, process_count, process_rank
from glocal.losses import batch_info_nce
from glocal.losses.precision import inner_products
from glocal.methods.base import Method, MethodSettings
from glocal.models.backbone import Backbone
from glocal.models.heads import mlp
from glocal.models.queue import NegativeQueue
from glocal.schedules import Temperature
from glocal.settings import Amount
from glocal.views.batch import Views
from glocal.views.plan import View, asymmetric_pair


class NNCLRSettings(MethodSettings):
    """Defaults are those of ImageNet (section 4.1)."""

    name: Literal["nnclr"] = "nnclr"
    hidden_dim: Amount = 2048
    output_dim: Amount = 256
    projector_layers: int = Field(3, ge=2, le=100)
    predictor_dim: Amount = 4096
    queue_size: int = Field(98304, ge=1)
    temperature: Temperature = 0.1


class NNCLR(Method):
    """Contrastive learning with neighbours out of a support set as positives."""

    Settings = NNCLRSettings
    compares_batch = True
    compares_rows = False

    def __init__(self, backbone: Backbone, settings: NNCLRSettings) -> None:
        super().__init__(backbone, settings)
        self.settings = settings
        hidden = [settings.hidden_dim] * (settings.projector_layers - 1)
        self.projector = mlp([backbone.dim, *hidden, settings.output_dim], norm=True, last_norm=True)
        self.predictor = mlp([settings.output_dim, settings.predictor_dim, settings.output_dim], norm=True)
        self.queue = NegativeQueue(settings.queue_size, settings.output_dim)
        self.new_keys: list[Tensor] = []

    @classmethod
    def view_plan(cls, size: int, settings: Any = None) -> list[View]:
        return asymmetric_pair(size)

    def represent(self, images: Tensor) -> Tensor:
        return self.projector(self.backbone(images))  # type: ignore[no-any-return]

    def query(self, representation: Tensor) -> Tensor:
        return normalize(self.predictor(representation).float(), dim=1)

    def keys(self, images: Tensor, representation: Tensor) -> Tensor:
        """The nearest neighbours in the queue, (B, D)."""
        key = normalize(representation.detach().float(), dim=1)
        self.new_keys.append(key)
        return self.queue.keys[inner_products(key, self.queue.keys).argmax(dim=1)]

    def compare(self, query: Tensor, key: Tensor) -> Tensor:
        """Eq. 3, as Algorithm 1 has it: each neighbour finds its image's prediction among those of the batch."""
        self.chance = math.log(process_count() * len(key))
        own = process_rank() * len(key) + torch.arange(len(key), device=key.device)
        return batch_info_nce(key, all_gather_with_gradient(query), own, temperature=self.now.temperature)

    def loss(self, views: Views) -> Tensor:
        """Algorithm 1: L(NN(z₁), p₂)/2 + L(NN(z₂), p₁)/2; the queue takes the first view."""
        images = views.pair()
        first, second = (self.represent(view) for view in images)  # (B, D) each
        self.embedding = first.detach().float()
        forward = self.compare(self.query(second), self.keys(images[0], first))
        backward = self.compare(self.query(first), self.keys(images[1], second))
        self.new_keys.pop()
        return (forward + backward) / 2

    def after_step(self) -> None:
        self.queue.enqueue(torch.cat(self.new_keys))
        self.new_keys.clear()
