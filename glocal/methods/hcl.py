"""HCL: contrastive learning with hard negative samples.

Robinson, Chuang, Sra and Jegelka, "Contrastive Learning with Hard Negative Samples", ICLR 2021. SimCLR whose negatives
are reweighted: those that are like the anchor weigh more (concentration β), and what images of the anchor's own class
are expected to add is taken away (class prior τ⁺, from Chuang et al., "Debiased Contrastive Learning", NeurIPS 2020).
"""

from __future__ import annotations

import math
from typing import Any, Literal

import torch
from pydantic import Field
from torch import Tensor
from torch.nn.functional import normalize

from glocal.distributed import process_count
from glocal.losses import hard_nt_xent
from glocal.methods.base import Method, MethodSettings
from glocal.methods.simclr import SimCLR
from glocal.models.backbone import Backbone
from glocal.models.heads import mlp
from glocal.schedules import Temperature, Weight
from glocal.settings import Amount
from glocal.views.batch import Views
from glocal.views.plan import View


class HCLSettings(MethodSettings):
    """Defaults are those of the authors' code (STL-10 and CIFAR)."""

    name: Literal["hcl"] = "hcl"
    hidden_dim: Amount | None = 512  # null: the backbone's width
    output_dim: Amount = 128
    temperature: Temperature = 0.5
    concentration: Weight = 1.0  # β; a schedule down to 0 is the code's annealing
    prior: float = Field(0.1, ge=0, lt=1)  # τ⁺, 1 over the number of classes if all are as frequent


class HCL(Method):
    """SimCLR with reweighted negatives. The last layer of the projector is not normalised, as in the authors' code.

    There each view passes the networks by itself, and batch normalisation with it; here both are one batch.
    """

    Settings = HCLSettings
    compares_batch = True

    def __init__(self, backbone: Backbone, settings: HCLSettings) -> None:
        super().__init__(backbone, settings)
        self.settings = settings
        self.projector = mlp([backbone.dim, settings.hidden_dim or backbone.dim, settings.output_dim], norm=True)

    @classmethod
    def view_plan(cls, size: int, settings: Any = None) -> list[View]:
        return SimCLR.view_plan(size)

    def loss(self, views: Views) -> Tensor:
        """The hard objective with one positive; both views pass the networks as one batch."""
        projected = self.projector(self.backbone(torch.cat(views.pair()))).float()
        first, second = normalize(projected, dim=1).chunk(2)  # (B, D) each
        self.embedding = first.detach()
        self.chance = math.log(2 * process_count() * len(first) - 1)
        return hard_nt_xent(
            first,
            second,
            temperature=self.now.temperature,
            concentration=self.now.concentration,
            prior=self.settings.prior,
        )
