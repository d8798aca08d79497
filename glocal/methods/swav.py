"""SwAV: swapping assignments between views.

Caron, Misra, Mairal, Goyal, Bojanowski and Joulin, "Unsupervised Learning of Visual Features by Contrasting Cluster
Assignments", NeurIPS 2020 (section 3, Algorithm 1). Views are compared with prototypes; a view predicts the code of
another, and the codes share the batch out equally among the prototypes.
"""

from __future__ import annotations

import math
from typing import Any, Literal

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn.functional import normalize

from glocal.distributed import own_share
from glocal.losses.clustering import sinkhorn, swapped_prediction
from glocal.losses.precision import inner_products
from glocal.methods.base import Method, MethodSettings, ParameterGroup
from glocal.models.backbone import Backbone
from glocal.models.heads import mlp
from glocal.models.queue import NegativeQueue
from glocal.schedules import Temperature
from glocal.settings import Amount, Groups, Rounds
from glocal.views.batch import Views, by_resolution, check_globals
from glocal.views.plan import MOST_VIEWS, Blur, Jitter, View

_LOOKED_AT = 128  # images whose codes are kept for a look at them


class SwAVSettings(MethodSettings):
    """Defaults are those of ImageNet with batches of 4,096 images (section 4.1 and appendix A)."""

    name: Literal["swav"] = "swav"
    hidden_dim: Amount = 2048
    output_dim: Amount = 128
    prototypes: Groups = 3000
    temperature: Temperature = 0.1
    epsilon: Temperature = 0.05
    sinkhorn_iterations: Rounds = 3
    queue_size: int = Field(0, ge=0)  # 3,840 for batches of 256 images; 0: codes of the batch alone
    queue_first_epoch: float = Field(15.0, ge=0)
    frozen_prototype_epochs: float = Field(1.0, ge=0)
    local_views: int = Field(6, ge=0, le=MOST_VIEWS)


class SwAV(Method):
    """Online clustering by swapped prediction."""

    Settings = SwAVSettings
    compares_batch = True

    def __init__(self, backbone: Backbone, settings: SwAVSettings) -> None:
        super().__init__(backbone, settings)
        self.settings = settings
        self.projector = mlp([backbone.dim, settings.hidden_dim, settings.output_dim], norm=True)
        self.prototypes = nn.Linear(settings.output_dim, settings.prototypes, bias=False)
        self._to_unit_length()
        queues = 2 if settings.queue_size else 0  # one for each global view
        self.queues = nn.ModuleList(NegativeQueue(settings.queue_size, settings.output_dim) for _ in range(queues))
        self.new_keys: list[Tensor] = []
        self._assigned: Tensor | None = None  # some of the last step's codes

    @classmethod
    def view_plan(cls, size: int, settings: Any = None) -> list[View]:
        settings = settings or SwAVSettings()
        local = settings.local_views
        jitter, blur = Jitter.of_strength(1.0), Blur(probability=0.5 if size > 64 else 0.0)
        shared = View(name="global", count=2, size=size, scale=(0.14 if local else 0.08, 1.0), jitter=jitter, grey=0.2)
        shared = shared.model_copy(update={"blur": blur})
        if not local:
            return [shared]
        side = max(8, round(size * 96 / 224 / 8) * 8)
        return [
            shared,
            shared.model_copy(update={"name": "local", "count": local, "size": side, "scale": (0.05, 0.14)}),
        ]

    def loss(self, views: Views) -> Tensor:
        """Algorithm 1: codes of the two global views, predicted from all others."""
        teachers, batch = check_globals(views), len(views.index)
        features = by_resolution(self.backbone, views.images)  # (V·B, D)
        unit = normalize(self.projector(features).float(), dim=1)
        self.embedding = unit[:batch].detach()
        frozen = self.now.epoch < self.settings.frozen_prototype_epochs
        prototypes = self.prototypes.weight.detach() if frozen else self.prototypes.weight
        scores = inner_products(unit, prototypes.float()).unflatten(0, (-1, batch))  # (V, B, K)
        codes = self._codes(
            unit.detach()[: teachers * batch].unflatten(0, (teachers, batch)), scores.detach()[:teachers]
        )
        self.chance, self._assigned = math.log(scores.shape[-1]), codes[0, :_LOOKED_AT].clone()
        return swapped_prediction(scores, codes, temperature=self.now.temperature)

    def _codes(self, unit: Tensor, scores: Tensor) -> Tensor:
        """The codes (G, B, K) of the global views, found together with those of the queue once that is in use."""
        batch = scores.shape[1]
        if self.queues:
            self.new_keys.append(unit)
            if self.now.epoch >= max(2.0, self.settings.queue_first_epoch):  # it is full after two epochs
                # All processes have the same queue; each brings its share of it to the codes of all.
                own = own_share(self.settings.queue_size)
                queued = torch.stack([queue.get_buffer("keys")[own] for queue in self.queues])
                queued = inner_products(queued, self.prototypes.weight.detach().float())
                scores = torch.cat([queued, scores], dim=1)
        codes = sinkhorn(scores, epsilon=self.now.epsilon, iterations=self.settings.sinkhorn_iterations)
        return codes[:, -batch:]

    def assignments(self) -> Tensor | None:
        return self._assigned

    def after_step(self) -> None:
        for number, queue in enumerate(self.queues):
            queue.enqueue(torch.cat([unit[number] for unit in self.new_keys]))  # type: ignore[operator]
        self.new_keys.clear()
        self._to_unit_length()

    @torch.no_grad()
    def _to_unit_length(self) -> None:
        self.prototypes.weight.copy_(normalize(self.prototypes.weight, dim=1))

    def parameter_groups(self) -> list[ParameterGroup]:
        return [ParameterGroup(self.backbone), ParameterGroup(self.projector), ParameterGroup(self.prototypes)]
