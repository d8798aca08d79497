"""Self-Classifier: labels and representation learned at once, in one network from end to end.

Amrani, Karlinsky and Bronstein, "Self-Supervised Classification Network", ECCV 2022. Two views of an
image should have the same distribution over unnamed classes; a uniform prior over the classes, which is in the loss,
keeps all images from ending in one. Several classifiers of different sizes share the network.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn.functional import normalize

from glocal.distributed import process_count
from glocal.losses.classes import self_classification
from glocal.losses.precision import inner_products
from glocal.methods.base import Method, MethodSettings
from glocal.methods.dino import multi_crop
from glocal.models.backbone import Backbone
from glocal.models.queue import IndexedQueue
from glocal.schedules import Temperature
from glocal.settings import Amount, Groups
from glocal.transfer import to_device
from glocal.views.batch import Views, by_resolution, check_globals
from glocal.views.plan import MOST_VIEWS, Blur, View


class SelfClassifierSettings(MethodSettings):
    """Defaults are those of ImageNet (authors' script for 800 epochs)."""

    name: Literal["self_classifier"] = "self_classifier"
    hidden_dim: Amount = 4096
    output_dim: Amount = 128
    classes: Annotated[tuple[Groups, ...], Field(min_length=1, max_length=100)] = (1000, 2000, 4000, 8000)
    row_temperature: Temperature = 0.1
    column_temperature: Temperature = 0.05
    queue_size: int = Field(262144, ge=0)  # embeddings among which the first view's neighbour is; 0: the view itself
    local_views: int = Field(6, ge=0, le=MOST_VIEWS)


class SelfClassifier(Method):
    """Classification of views into classes that nobody has named.

    Once the queue is full, the first view's nearest neighbour in it stands in for that view, as in the authors' code.
    Like there, an earlier embedding of the same image is not its neighbour: the queue holds a fifth of ImageNet.
    """

    Settings = SelfClassifierSettings
    compares_batch = True

    def __init__(self, backbone: Backbone, settings: SelfClassifierSettings) -> None:
        super().__init__(backbone, settings)
        self.settings = settings
        hidden, width = settings.hidden_dim, settings.output_dim
        self.projector = nn.Sequential(
            nn.Linear(backbone.dim, hidden),
            nn.BatchNorm1d(hidden),
            nn.LeakyReLU(inplace=True),
            nn.Linear(hidden, width),
        )
        for layer in self.projector:
            if isinstance(layer, nn.Linear):
                nn.init.trunc_normal_(layer.weight, std=0.02)
                nn.init.zeros_(layer.bias)
        # Weight normalisation: each class has a direction, and a length that is 1 at first.
        self.directions = nn.Parameter(normalize(torch.randn(sum(settings.classes), width), dim=1))
        self.length = nn.Parameter(torch.ones(sum(settings.classes), 1))
        self.queue = IndexedQueue(settings.queue_size, width) if settings.queue_size else None
        self.new_keys: list[tuple[Tensor, Tensor]] = []  # embeddings and their images' indices

    @classmethod
    def view_plan(cls, size: int, settings: Any = None) -> list[View]:
        """DINO's crops; here the first is the one that is seldom blurred."""
        first, second, local = multi_crop(size)
        count = (settings or SelfClassifierSettings()).local_views
        blurs = Blur(probability=0.1), Blur(probability=1.0)
        crops = [one.model_copy(update={"blur": blur}) for one, blur in zip((first, second), blurs, strict=True)]
        return [*crops, local.model_copy(update={"count": count})] if count else crops

    def loss(self, views: Views) -> Tensor:
        """Cross-entropy between the classes of the views, averaged over the classifiers."""
        check_globals(views)
        batch = len(views.index)
        unit = normalize(self.projector(by_resolution(self.backbone, views.images)).float(), dim=1)
        unit = unit.unflatten(0, (-1, batch))  # (V, B, D)
        self.embedding = unit[0].detach()
        unit = self._with_neighbours(unit, views.index)
        weights = normalize(self.directions, dim=1) * self.length  # (ΣC, D)
        terms = [
            self_classification(
                inner_products(unit, own.float()),
                row_temperature=self.now.row_temperature,
                column_temperature=self.now.column_temperature,
            )
            for own in weights.split(self.settings.classes)
        ]
        return torch.stack(terms).mean()

    def _with_neighbours(self, unit: Tensor, index: Tensor) -> Tensor:
        """The views' embeddings (V, B, D), the first of them by its neighbours once the queue has filled."""
        if self.queue is None:
            return unit
        own, index = unit[0].detach(), to_device(index, unit.device)
        self.new_keys.append((own, index))
        # The number of steps says whether it is full; its position would have to be waited for.
        if self.now.step * unit.shape[1] * process_count() < self.settings.queue_size:
            return unit
        return torch.cat([self.queue.nearest(own, index)[None], unit[1:]])

    def after_step(self) -> None:
        if self.queue is not None:
            keys, index = zip(*self.new_keys, strict=True)
            self.queue.enqueue_of(torch.cat(keys), torch.cat(index))
        self.new_keys.clear()
