"""SimCLR v2: big self-supervised models are strong semi-supervised learners.

Chen, Kornblith, Swersky, Norouzi and Hinton, "Big Self-Supervised Models are Strong Semi-Supervised Learners", NeurIPS
2020, section 2 (pretraining). SimCLR with a projector of three layers, the first of which is kept for fine-tuning
(`finetune.projector_layers=1`), and with a memory: keys of a slowly moving network are further negatives. Distillation
(section 2, eq. 2 and 3) is the protocol `distil`.
"""

from __future__ import annotations

import math
from typing import Any, Literal

import torch
from pydantic import Field
from torch import Tensor
from torch.nn.functional import normalize

from glocal.distributed import process_count
from glocal.losses import nt_xent
from glocal.methods.base import Method, MethodSettings
from glocal.methods.simclr import SimCLR
from glocal.models.backbone import Backbone
from glocal.models.heads import mlp
from glocal.models.momentum import MomentumTeacher
from glocal.models.queue import NegativeQueue
from glocal.schedules import Share, Temperature
from glocal.settings import LARGEST, Amount
from glocal.views.batch import Views
from glocal.views.plan import View


class SimCLRv2Settings(MethodSettings):
    """Defaults are those of section 3; `hidden_dim` null is the backbone's own width, `queue_size` 0 no memory."""

    name: Literal["simclr_v2"] = "simclr_v2"
    hidden_dim: Amount | None = None
    output_dim: Amount = 128
    projector_layers: int = Field(3, ge=1, le=100)
    temperature: Temperature = 0.1
    queue_size: int = Field(65536, ge=0, le=LARGEST)  # keys in the memory
    momentum: Share = 0.999  # of the memory's network


class SimCLRv2(Method):
    """Contrastive learning within the batch and against a memory.

    The paper says of the memory that a moving average of the network fills it with negatives beside those of the batch,
    and gives no formula; the authors' public code has none. Here the buffered keys join the denominator of eq. 1, and
    each step buffers the keys of its second views. All layers of the projector are batch-normalised, as in their code,
    where the last one's normalisation also has a learned scale.
    """

    Settings = SimCLRv2Settings
    compares_batch = True

    def __init__(self, backbone: Backbone, settings: SimCLRv2Settings) -> None:
        super().__init__(backbone, settings)
        self.settings = settings
        hidden = [settings.hidden_dim or backbone.dim] * (settings.projector_layers - 1)
        self.projector = mlp([backbone.dim, *hidden, settings.output_dim], norm=True, last_norm=True)
        self.teacher = MomentumTeacher(self.backbone, self.projector) if settings.queue_size else None
        self.queue = NegativeQueue(settings.queue_size, settings.output_dim)
        self.new_keys: list[Tensor] = []

    @classmethod
    def view_plan(cls, size: int, settings: Any = None) -> list[View]:
        return SimCLR.view_plan(size)

    def loss(self, views: Views) -> Tensor:
        """Eq. 1; both views pass the networks as one batch."""
        first, second = views.pair()
        projected = self.projector(self.backbone(torch.cat([first, second]))).float()
        ours, theirs = normalize(projected, dim=1).chunk(2)  # (B, D) each
        self.embedding = ours.detach()
        self.chance = math.log(2 * process_count() * len(ours) - 1 + len(self.queue.keys))
        if self.teacher is not None:
            self.new_keys.append(normalize(self.teacher(second).float(), dim=1))
        return nt_xent(ours, theirs, temperature=self.now.temperature, memory=self.queue.keys)

    def after_step(self) -> None:
        if self.teacher is not None:
            self.queue.enqueue(torch.cat(self.new_keys))
            self.new_keys.clear()
            self.teacher.update(self.backbone, self.projector, momentum=self.now.momentum)
