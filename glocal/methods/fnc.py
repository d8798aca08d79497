"""FNC: boosting contrastive self-supervised learning with false negative cancellation.

Huynh, Kornblith, Walter, Maire and Khademi, WACV 2022. Further views of each image, its support set, find
images of the batch that seem to show the same. SimCLR's loss then does not push them away (elimination), or pulls them
closer (attraction).

This is the form within a batch. The paper's best numbers come from one whose keys are a momentum encoder's of earlier
batches. As in the authors' code, all views are anchors and keys, scores are the largest similarity over the views, and
false negatives that attract stay in the denominator; the loss is half of theirs. Their code has attraction alone, and a
learned scale in the projector's last batch normalisation.
"""

from __future__ import annotations

import math
from typing import Any, Literal

from pydantic import Field
from torch import Tensor
from torch.nn.functional import normalize

from glocal.distributed import process_count
from glocal.losses import cancelled_nt_xent
from glocal.methods.base import Method, MethodSettings
from glocal.methods.simclr import SimCLR
from glocal.models.backbone import Backbone
from glocal.models.heads import mlp
from glocal.schedules import Temperature
from glocal.settings import Amount
from glocal.views.batch import Views, by_resolution
from glocal.views.plan import MOST_VIEWS, View


class FNCSettings(MethodSettings):
    """Defaults are those of the authors' code; `hidden_dim` null is the backbone's own width."""

    name: Literal["fnc"] = "fnc"
    hidden_dim: Amount | None = None
    output_dim: Amount = 128
    projector_layers: int = Field(3, ge=1, le=100)
    temperature: Temperature = 0.1
    support: int = Field(8, ge=0, le=MOST_VIEWS - 2)  # views of each image beside the two
    nearest: Amount = 10  # false negatives of an image at most
    threshold: float = Field(0.7, ge=-1, le=1)  # of their similarity to a view of it
    strategy: Literal["attraction", "elimination"] = "attraction"


class FNC(Method):
    """SimCLR that looks for false negatives. All layers of the projector are batch-normalised, as in SimCLR v2."""

    Settings = FNCSettings
    compares_batch = True

    def __init__(self, backbone: Backbone, settings: FNCSettings) -> None:
        super().__init__(backbone, settings)
        self.settings = settings
        hidden = [settings.hidden_dim or backbone.dim] * (settings.projector_layers - 1)
        self.projector = mlp([backbone.dim, *hidden, settings.output_dim], norm=True, last_norm=True)

    @classmethod
    def view_plan(cls, size: int, settings: Any = None) -> list[View]:
        [view] = SimCLR.view_plan(size)
        return [view.model_copy(update={"count": 2 + (settings or FNCSettings()).support})]

    def loss(self, views: Views) -> Tensor:
        """All views pass the networks as one batch, where they have one size."""
        images = views.several(2, "two views or more")
        projected = by_resolution(lambda batch: self.projector(self.backbone(batch)), images)
        unit = normalize(projected.float(), dim=1).unflatten(0, (len(images), -1))  # (V, B, D)
        self.embedding = unit[0].detach()
        self.chance = math.log(process_count() * unit.shape[0] * unit.shape[1] - 1)
        return cancelled_nt_xent(
            unit,
            temperature=self.now.temperature,
            nearest=self.settings.nearest,
            threshold=self.settings.threshold,
            attract=self.settings.strategy == "attraction",
        )
