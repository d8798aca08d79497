"""SimCLR: a simple framework for contrastive learning of visual representations.

Chen, Kornblith, Norouzi and Hinton, ICML 2020 (Algorithm 1). Two views of each image find each other among all views of
the batch; no queue, no momentum encoder, but large batches, which LARS trains.
"""

from __future__ import annotations

import math
from typing import Any, Literal

import torch
from torch import Tensor
from torch.nn.functional import normalize

from glocal.distributed import process_count
from glocal.losses import nt_xent
from glocal.methods.base import Method, MethodSettings
from glocal.models.backbone import Backbone
from glocal.models.heads import mlp
from glocal.schedules import Temperature
from glocal.settings import Amount
from glocal.views.batch import Views
from glocal.views.plan import Blur, Jitter, View


class SimCLRSettings(MethodSettings):
    """Defaults are those of ImageNet (section 2 and appendix B.6); `hidden_dim` null is the backbone's own width."""

    name: Literal["simclr"] = "simclr"
    hidden_dim: Amount | None = None
    output_dim: Amount = 128
    temperature: Temperature = 0.1


class SimCLR(Method):
    """Contrastive learning within the batch. Both layers of the projector are batch-normalised, as in their code."""

    Settings = SimCLRSettings
    compares_batch = True

    def __init__(self, backbone: Backbone, settings: SimCLRSettings) -> None:
        super().__init__(backbone, settings)
        self.settings = settings
        widths = [backbone.dim, settings.hidden_dim or backbone.dim, settings.output_dim]
        self.projector = mlp(widths, norm=True, last_norm=True)

    @classmethod
    def view_plan(cls, size: int, settings: Any = None) -> list[View]:
        small = size <= 64  # CIFAR-10: half the colour distortion and no blur (appendix B.9)
        jitter = Jitter.of_strength(0.5 if small else 1.0)
        blur = Blur(probability=0.0 if small else 0.5)
        crop = View(count=2, size=size, scale=(0.08, 1.0), interpolation="bicubic")
        return [crop.model_copy(update={"jitter": jitter, "grey": 0.2, "blur": blur})]

    def loss(self, views: Views) -> Tensor:
        """Algorithm 1; both views pass the networks as one batch."""
        images = torch.cat(views.pair())
        first, second = normalize(self.projector(self.backbone(images)).float(), dim=1).chunk(2)  # (B, D) each
        self.embedding = first.detach()
        self.chance = math.log(2 * process_count() * len(first) - 1)
        return nt_xent(first, second, temperature=self.now.temperature)
