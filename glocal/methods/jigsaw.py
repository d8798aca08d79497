"""Jigsaw: telling in which order the patches of an image were put.

Noroozi and Favaro, "Unsupervised Learning of Visual Representations by Solving Jigsaw Puzzles", ECCV 2016 (sections 3
and 4), on ResNets as Goyal, Mahajan, Gupta and Misra, "Scaling and Benchmarking Self-Supervised Visual Representation
Learning", ICCV 2019, have it. Nine patches of a view pass the same network; a classifier on their joined features says
which of a set of permutations they are in.
"""

from __future__ import annotations

import math
from typing import Any, Literal

import torch
from pydantic import Field
from torch import Tensor
from torch.nn.functional import cross_entropy

from glocal.methods.base import Method, MethodSettings
from glocal.models.backbone import Backbone
from glocal.models.patches import PATCHES, PatchesHead, cut_patches, patch_size_for, places_of_patches, standardised
from glocal.models.permutations import distant_permutations
from glocal.settings import Amount, TrainedSide
from glocal.transfer import to_device
from glocal.views.batch import Views
from glocal.views.plan import View
from glocal.views.random import uniform


class JigsawSettings(MethodSettings):
    """Defaults are those of ImageNet in VISSL; the paper has 1,000 permutations and patches of 64 in cells of 75.

    Each patch is normalised by itself, as in the paper (section 4.2); VISSL leaves that out. The paper also moves the
    colour channels of a patch against one another by up to two pixels, which is left out here.
    """

    name: Literal["jigsaw"] = "jigsaw"
    permutations: int = Field(2000, ge=2, le=20_000)
    gap: float = Field(0.25, ge=0, lt=1)  # share of a cell's side by which a patch is smaller: 64 of 85 pixels
    patch_size: TrainedSide | None = None  # to which patches are resized; null: 64, and half of images up to 64 pixels
    hidden_dim: Amount = 1000  # of each patch
    standardise: bool = True  # each patch by its own mean and deviation


class Jigsaw(Method):
    """Classification of permutations of nine patches. Of several views, each is a puzzle of its own."""

    Settings = JigsawSettings
    permutations: Tensor

    def __init__(self, backbone: Backbone, settings: JigsawSettings) -> None:
        super().__init__(backbone, settings)
        self.settings = settings
        self.patch_size = settings.patch_size or patch_size_for(backbone.size)
        self.classifier = PatchesHead(backbone.dim, settings.hidden_dim, settings.permutations, norm=True)
        self.register_buffer("permutations", distant_permutations(settings.permutations), persistent=False)  # (K, 9)

    @classmethod
    def view_plan(cls, size: int, settings: Any = None) -> list[View]:
        # VISSL cuts 255 pixels out of an image whose shorter side has 256, and makes two thirds of them grey.
        return [View(size=255 if size == 224 else size, scale=(0.6, 1.0), ratio=(1.0, 1.0), grey=0.66)]

    def puzzle(self, images: Tensor, index: Tensor, view: int) -> tuple[Tensor, Tensor]:
        """The patches of a view (B·9, 3, s, s) in their new order, and the numbers (B,) of these orders."""
        boxes = places_of_patches(
            images.shape[-1], self.settings.gap, seed=self.seed, step=self.now.step, index=index, view=view
        )
        draws = uniform(self.seed, "permutation", self.now.step, index, view)
        order = to_device((draws * len(self.permutations)).long(), images.device)
        patches = cut_patches(images, boxes, self.patch_size)
        if self.settings.standardise:
            patches = standardised(patches)
        first = torch.arange(len(images), device=images.device)[:, None] * PATCHES  # of each image
        return patches[(first + self.permutations[order]).flatten()], order

    def loss(self, views: Views) -> Tensor:
        """Eq. 1: −log p(permutation | patches), averaged over images and views."""
        puzzles = [self.puzzle(images, views.index, number) for number, images in enumerate(views.images)]
        features = self.backbone(torch.cat([patches for patches, _ in puzzles]))  # (V·B·9, D)
        order = torch.cat([order for _, order in puzzles])  # (V·B,)
        self.embedding = features[: len(views.index) * PATCHES].detach().float().unflatten(0, (-1, PATCHES)).mean(dim=1)
        scores = self.classifier(features).float()
        self.chance = math.log(len(self.permutations))
        self.solved = (scores.detach().argmax(dim=1) == order).float().mean()
        return cross_entropy(scores, order)
