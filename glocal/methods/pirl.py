"""PIRL: representations that do not change when the patches of an image are shuffled.

Misra and van der Maaten, "Self-Supervised Learning of Pretext-Invariant Representations", CVPR 2020 (section 3).
Jigsaw asks in which order patches are, so it learns what the order changes. Here the image and its shuffled patches are
both drawn to the image's row of a memory bank, so what the order changes is left out.
"""

from __future__ import annotations

import math
from typing import Any, Literal, Self

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn.functional import normalize

from glocal.losses.pretext import pirl_nce
from glocal.methods.base import Method, MethodSettings
from glocal.models.backbone import Backbone
from glocal.models.memory import MemoryBank
from glocal.models.patches import PATCHES, PatchesHead, cut_patches, patch_size_for, places_of_patches
from glocal.schedules import Share, Temperature
from glocal.settings import Amount, TrainedSide
from glocal.transfer import to_device
from glocal.views.batch import Views
from glocal.views.plan import Jitter, View
from glocal.views.random import random_bits, uniform


class PIRLSettings(MethodSettings):
    """Defaults are those of ImageNet (section 3.3 and VISSL's configuration).

    The loss is the paper's (eq. 4, with h as in eq. 3: eq. 4 swaps its arguments, and could be read otherwise); VISSL
    has that of NPID, whose partition function is estimated once. The noise is drawn once for the batch, as our NPID
    does it; an image's own row in it counts for nothing in that image's loss.
    """

    name: Literal["pirl"] = "pirl"
    output_dim: Amount = 128
    temperature: Temperature = 0.07
    negatives: Amount = 32_000
    momentum: Share = 0.5  # of the memory bank
    patches_weight: Share = 0.5  # λ; the image has the rest
    gap: float = Field(0.25, ge=0, lt=1)  # share of a cell's side by which a patch is smaller: 64 of 85 pixels
    patch_size: TrainedSide | None = None  # to which patches are resized; null: 64, and half of images up to 64 pixels
    images: int | None = Field(None, ge=1)  # a run fills in how many it has

    def fit_to(self, images: int) -> Self:
        update = {"images": images, "negatives": min(self.negatives, images)}
        return super().fit_to(images).model_copy(update=update)


class PIRL(Method):
    """Two noise-contrastive terms with a memory bank: of the image and of its nine patches in random order.

    The first view is the image, the second is cut into patches. Both are crops of their own. Colours and flip are drawn
    for the whole second view; VISSL cuts first and draws them for each patch, so here patches of one image have colours
    in common, which may be a short cut.
    """

    Settings = PIRLSettings

    def __init__(self, backbone: Backbone, settings: PIRLSettings) -> None:
        super().__init__(backbone, settings)
        self.settings = settings
        self.patch_size = settings.patch_size or patch_size_for(backbone.size)
        self.of_image = nn.Linear(backbone.dim, settings.output_dim)  # f
        self.of_patches = PatchesHead(backbone.dim, settings.output_dim, settings.output_dim, norm=False)  # g
        self.memory = MemoryBank(settings.images, settings.output_dim)
        self.new_rows: list[tuple[Tensor, Tensor]] = []

    @classmethod
    def view_plan(cls, size: int, settings: Any = None) -> list[View]:
        jitter = Jitter(probability=1.0, brightness=0.4, contrast=0.4, saturation=0.4, hue=0.2)
        image = View(name="image", size=size, scale=(0.08, 1.0), jitter=jitter, grey=0.2)
        cut = {"name": "patches", "size": 255 if size == 224 else size, "scale": (0.6, 1.0)}
        return [image, image.model_copy(update=cut)]

    def shuffled(self, images: Tensor, index: Tensor) -> Tensor:
        """A view's patches (B·9, 3, s, s), each image's in a random order of its own."""
        boxes = places_of_patches(images.shape[-1], self.settings.gap, seed=self.seed, step=self.now.step, index=index)
        bits = random_bits(self.seed, "order", self.now.step, index[:, None], torch.arange(PATCHES))
        order = bits.argsort(dim=1)  # (B, 9)
        return cut_patches(images, boxes.gather(1, order[:, :, None].expand_as(boxes)), self.patch_size)

    def loss(self, views: Views) -> Tensor:
        """Eq. 5: λ·L(m_I, g(v_It)) + (1 − λ)·L(m_I, f(v_I))."""
        image, cut = views.pair()
        places = self.memory.places(views.index)
        of_image = normalize(self.of_image(self.backbone(image)).float(), dim=1)
        patches = self.backbone(self.shuffled(cut, views.index))  # (B·9, D)
        of_patches = normalize(self.of_patches(patches).float(), dim=1)
        self.embedding = of_image.detach()
        self.new_rows.append((places, of_image.detach()))

        rows = self.memory.rows
        draws = uniform(self.seed, "noise", self.now.step, torch.arange(self.settings.negatives))
        drawn = to_device((draws * len(rows)).long(), rows.device)
        own, noise, same = rows[places], rows[drawn], places[:, None] == drawn
        self.chance = math.log(1 + len(noise)) + 1  # of h = 1/(1 + M)
        temperature = self.now.temperature
        patches_term, image_term = (
            pirl_nce(query, own, noise, temperature=temperature, same=same) for query in (of_patches, of_image)
        )
        return torch.lerp(image_term, patches_term, self.now.patches_weight)

    def after_step(self) -> None:
        """Section 3.2: the bank follows the representations of the images, not those of their patches."""
        for places, rows in self.new_rows:
            self.memory.update(places, rows, momentum=self.now.momentum)
        self.new_rows.clear()
