"""Un-Mix: rethinking image mixtures for unsupervised visual representation learning.

Shen, Liu, Liu, Savvides, Darrell and Xing, AAAI 2022; as in the authors' code. On MoCo: beside the
queries of MoCo's own loss, the batch is mixed with itself in reverse order, so that each mixture holds two images in
proportions that are known. A mixture has to find the keys of both, as much as its share of each is.
"""

from __future__ import annotations

from typing import Any, Literal

import torch
from pydantic import Field
from torch import Tensor

from glocal.distributed import in_reverse
from glocal.losses import cutmix_info_nce
from glocal.methods.base import Method, MethodSettings
from glocal.methods.moco import MoCo, MoCoSettings
from glocal.models.backbone import Backbone
from glocal.models.momentum import Buffers
from glocal.schedules import Clock, Share, Temperature
from glocal.settings import Amount
from glocal.transfer import to_device
from glocal.views.batch import Views
from glocal.views.mixing import cutmix, draw_ratio, mixup
from glocal.views.plan import View
from glocal.views.random import uniform


class UnMixSettings(MethodSettings):
    """Defaults are those of ImageNet in the authors' code (run.sh); MoCo's part as in MoCo v2."""

    name: Literal["unmix"] = "unmix"
    hidden_dim: Amount | None = None  # null: the backbone's width
    linear_head: bool = False  # one layer instead of two
    normalised_hidden: bool = False  # batch normalisation in the projector (not in the paper; for small sets)
    output_dim: Amount = 128
    queue_size: int = Field(65536, ge=1)
    momentum: Share = 0.999
    temperature: Temperature = 0.2
    teacher_buffers: Buffers = "own"
    shuffle_groups: Amount = 1
    mixup: Share = 0.5  # how probable it is that a step mixes whole images (Mixup) and not a region (CutMix)
    alpha: float = Field(1.0, gt=0)  # of Beta(α, α), from which the share comes


class UnMix(Method):
    """MoCo, and mixtures of the batch in both orders. One share, and one region, is drawn for all images of a step."""

    Settings = UnMixSettings
    evaluated = "moco.backbone"
    compares_batch = True  # its images are mixed with each other

    def __init__(self, backbone: Backbone, settings: UnMixSettings) -> None:
        super().__init__(backbone, settings)
        self.settings = settings
        shared = {name: getattr(settings, name) for name in MoCoSettings.model_fields if hasattr(settings, name)}
        self.moco = MoCo(backbone, MoCoSettings(**{**shared, "name": "moco"}))

    @classmethod
    def view_plan(cls, size: int, settings: Any = None) -> list[View]:
        return MoCo.view_plan(size)

    def before_step(self, clock: Clock) -> None:
        super().before_step(clock)
        if "moco" in self._modules:  # not yet while the constructor runs
            self.moco.before_step(clock)

    def loss(self, views: Views) -> Tensor:
        """L(x) + λ·L(mixtures) + (1 − λ)·L(mixtures in reverse order), all with the second views' keys.

        The mixtures in reverse order against the keys are the mixtures against the keys in reverse order, which needs
        no second pass.
        """
        loss = self.moco.loss(views)
        self.embedding = self.moco.embedding
        [key] = self.moco.new_keys[-1:]
        mixed, share = self._mixed(views.images[0])
        self.chance = 2 * self.moco.chance if self.moco.chance is not None else None
        return loss + cutmix_info_nce(
            self.moco.represent(mixed),
            key,
            in_reverse(key),
            self.moco.queue.keys,
            ratio=share,
            temperature=self.now.temperature,
        )

    def _mixed(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """The batch mixed with itself in reverse order, and the shares (B,) that the images have in it."""
        step, batch = self.now.step, len(images)
        share = draw_ratio(self.settings.alpha, self.seed, "unmix share", torch.tensor([step])).expand(batch)
        if float(uniform(self.seed, "unmix kind", step)) < self.now.mixup:
            share = to_device(share.contiguous(), images.device, torch.float32)
            return mixup(images, in_reverse(images), share), share
        center = uniform(self.seed, "unmix centre", step, torch.arange(2)).expand(batch, 2)
        return cutmix(images, in_reverse(images), share.float().contiguous(), center.float().contiguous())

    def after_step(self) -> None:
        self.moco.after_step()
