"""CLIM: centre-wise local image mixture.

Li, Xiong and Zhang, "Center-wise Local Image Mixture For Contrastive Representation Learning", BMVC 2021. MoCo v2 whose
query is an image mixed with one of its positives: neighbours that lie nearer to the centre of its cluster than the
image itself (section 3.2). The same crops shown at several resolutions make the representation scale invariant (section
3.3).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, Literal, Self

import torch
from pydantic import Field, model_validator
from torch import Tensor
from torch.nn.functional import normalize

from glocal.errors import GlocalError
from glocal.losses import cutmix_info_nce
from glocal.methods.base import Method, MethodSettings
from glocal.methods.moco import MoCo, MoCoSettings
from glocal.models.backbone import Backbone
from glocal.neighbors import kmeans, select_positives
from glocal.neighbors.positives import Rule
from glocal.schedules import Clock, Share, Temperature
from glocal.settings import Amount, Rounds, Side
from glocal.transfer import to_device
from glocal.views.batch import Views
from glocal.views.mixing import cutmix, draw_ratio, mixup
from glocal.views.plan import View
from glocal.views.random import uniform

_IMAGES_PER_CLUSTER = 128
_SMALL_CROPS = (0.05, 0.14)  # shares of the area, section 4.4


class SelectionSettings(MethodSettings):
    """How positives are selected and mixed in.

    The rule and CutMix are those of section 3, refresh_epochs, neighbors and positives those of appendix A, alpha of
    appendix B. The others are ours.
    """

    rule: Rule = "center"  # random, knn, kmeans, knn_kmeans: the alternatives of Table 6 (there knn has neighbors=10)
    refresh_epochs: int = Field(5, ge=1)  # epochs between two selections
    first_epoch: int = Field(0, ge=0)  # of the first selection: till then every image is its own positive
    clusters: Amount | None = None  # null: one for 128 images, about the paper's 10,000 for ImageNet
    cluster_start: Literal["k-means++", "random"] = "random"
    cluster_iterations: Rounds = 20
    neighbors: Amount = 40
    positives: Amount = 10
    mixing: Literal["cutmix", "mixup", "none"] = "cutmix"
    alpha: float | None = Field(None, gt=0)  # of Beta(α, α); null: 2 for cutmix, 0.2 for mixup

    def fit_to(self, images: int) -> Self:
        neighbors = min(self.neighbors, images - 1)
        return (
            super()
            .fit_to(images)
            .model_copy(
                update={
                    "clusters": min(self.clusters or max(1, images // _IMAGES_PER_CLUSTER), images),
                    "neighbors": neighbors,
                    "positives": min(self.positives, neighbors),
                }
            )
        )

    @property
    def beta(self) -> float:
        """α of Beta(α, α): the paper's for the kind of mixing, where none is given."""
        return self.alpha or (0.2 if self.mixing == "mixup" else 2.0)

    def explicit(self) -> Self:
        return self.model_copy(update={"alpha": self.beta})

    @model_validator(mode="after")
    def _check_positives(self) -> Self:
        if self.positives > self.neighbors:
            raise ValueError(f"positives={self.positives} is above neighbors={self.neighbors}, from which they come")
        return self


class CLIMSettings(SelectionSettings):
    """Defaults are those of appendix A; MoCo's part as in MoCo v2."""

    name: Literal["clim"] = "clim"
    hidden_dim: Amount | None = None  # null: the backbone's width
    normalised_hidden: bool = False  # batch normalisation in the projector (not in the paper; for small sets)
    output_dim: Amount = 128
    queue_size: int = Field(65536, ge=1)
    momentum: Share = 0.999
    temperature: Temperature = 0.2
    shuffle_groups: Amount = 1
    resolutions: tuple[Side, ...] = ()  # more sides of the same crops, e.g. [160] beside 224
    multi_crop: bool = False  # two smaller crops (96 beside 224) as further queries: the alternative of Table 7

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.multi_crop and self.resolutions:
            raise ValueError("multi_crop and resolutions are alternatives; choose one")
        return self


class CLIM(Method):
    """Contrastive learning of images mixed with neighbours that were selected by cluster and distance."""

    Settings = CLIMSettings
    evaluated = "moco.backbone"

    def __init__(self, backbone: Backbone, settings: CLIMSettings) -> None:
        super().__init__(backbone, settings)
        self.settings = settings
        self.refresh_epochs, self.refresh_first = settings.refresh_epochs, settings.first_epoch
        shared = {name: getattr(settings, name) for name in MoCoSettings.model_fields if hasattr(settings, name)}
        self.moco = MoCo(backbone, MoCoSettings(**{**shared, "name": "moco"}))
        self.positives = torch.empty(0, settings.positives, dtype=torch.int32)  # on the CPU, for the loader

    @classmethod
    def view_plan(cls, size: int, settings: Any = None) -> list[View]:
        settings = settings or CLIMSettings()
        [view] = MoCo.view_plan(size)
        view = view.model_copy(update={"resolutions": settings.resolutions})
        plan = [
            view.model_copy(update={"name": "anchor", "count": 2}),
            view.model_copy(update={"name": "positive", "count": 2, "of": "partner"}),
        ]
        if settings.multi_crop:
            small = view.model_copy(update={"size": round(size * 96 / 224), "scale": _SMALL_CROPS, "count": 2})
            plan += [
                small.model_copy(update={"name": "small anchor"}),
                small.model_copy(update={"name": "small positive", "of": "partner"}),
            ]
        return plan

    def before_step(self, clock: Clock) -> None:
        super().before_step(clock)
        if "moco" in self._modules:  # not yet while the constructor runs
            self.moco.before_step(clock)

    def embed(self, images: Tensor) -> Tensor:
        """The momentum encoder's unit vectors, (B, D)."""
        return normalize(self.moco.teacher(images).float(), dim=1)

    def refresh(self, embeddings: Tensor, epoch: int) -> None:
        """Clusters the whole set and selects positives by eq. 2, for all images at once."""
        self.positives = select(embeddings, self.settings, self.seed + epoch)

    def partners(self, epoch: int, index: Tensor) -> Tensor:
        """One of the selected positives of each image, drawn anew every epoch."""
        return draw_partners(self.positives, self.seed, epoch, index)

    def get_extra_state(self) -> Tensor:
        return self.positives

    def set_extra_state(self, state: Tensor) -> None:
        self.positives = state

    def loss(self, views: Views) -> Tensor:
        """Eq. 4 for each pair of a query's and a key's resolution, summed (eq. 6)."""
        shown = 1 + len(self.settings.resolutions)
        expected = 4 * shown + 4 * self.settings.multi_crop
        if len(views.images) != expected:
            raise GlocalError(
                f"CLIM gets {len(views.images)} views instead of {expected}: of anchor and positive two each, in every "
                "resolution; set method.resolutions or method.multi_crop, not the views' number"
            )
        anchors, anchor_keys, positives, positive_keys, *small = (
            views.images[first : first + shown] for first in range(0, len(views.images), shown)
        )
        if small:  # multi-crop: two more queries of each kind
            anchors, positives = (*anchors, *small[0], *small[1]), (*positives, *small[2], *small[3])
        queries, ratios = self._mixed(anchors, positives, views.index)
        self.embedding = queries[0].detach()
        keys = [self._keys(images, queue=number == 0) for number, images in enumerate(anchor_keys)]
        partner_keys = [self._keys(images, queue=False) for images in positive_keys]
        losses = [
            cutmix_info_nce(query, key, partner, self.moco.queue.keys, ratio=ratio, temperature=self.now.temperature)
            for query, ratio in zip(queries, ratios, strict=True)
            for key, partner in zip(keys, partner_keys, strict=True)
        ]
        self.chance = len(losses) * math.log(1 + len(self.moco.queue.keys))
        return torch.stack(losses).sum()

    def _mixed(
        self, anchors: Sequence[Tensor], positives: Sequence[Tensor], index: Tensor
    ) -> tuple[list[Tensor], list[Tensor]]:
        """Representations of mixed images and the anchors' shares in them; all resolutions of a crop mix alike."""
        mixed, ratios = mix(anchors, positives, self.settings, index=index, seed=self.seed, step=self.now.step)
        return [self.moco.represent(images) for images in mixed], ratios

    def _keys(self, images: Tensor, *, queue: bool) -> Tensor:
        """The momentum encoder's keys; those that are queued are the anchors' at the first resolution."""
        key = self.moco.keys(images, images)
        if not queue:
            self.moco.new_keys.pop()
        return key

    def after_step(self) -> None:
        self.moco.after_step()


def select(embeddings: Tensor, settings: SelectionSettings, seed: int) -> Tensor:
    """Clusters the whole set and selects positives by eq. 2, for all images at once.

    Args:
        embeddings: (N, D) of all images.
        settings: clusters, neighbours and the rule.
        seed: decides where k-means begins and what is taken of what the rule admits.

    Returns:
        (N, positives) int32 on the CPU, for the loader.
    """
    centers, assignment, _ = kmeans(
        embeddings,
        min(settings.clusters or max(1, len(embeddings) // _IMAGES_PER_CLUSTER), len(embeddings)),
        iterations=settings.cluster_iterations,
        seed=seed,
        start=settings.cluster_start,
    )
    chosen = select_positives(
        embeddings, assignment, centers, settings.neighbors, rule=settings.rule, keep=settings.positives, seed=seed
    )
    return chosen.to("cpu", torch.int32)


def draw_partners(positives: Tensor, seed: int, epoch: int, index: Tensor) -> Tensor:
    """One positive (B,) for each image of `index` (B,), drawn anew every epoch; before any selection the image."""
    if len(positives) == 0:
        return index
    draw = uniform(seed, "positive", epoch, index) * positives.shape[1]
    return positives[index, draw.long()].long()


def mix(
    anchors: Sequence[Tensor],
    positives: Sequence[Tensor],
    settings: SelectionSettings,
    *,
    index: Tensor,
    seed: int,
    step: int,
) -> tuple[list[Tensor], list[Tensor]]:
    """Mixes views of each image with its positive's, resolution by resolution, (B, C, H, W) each.

    All resolutions mix alike: what is drawn depends on `index` (B,), `seed` and `step` alone.

    Returns:
        The mixed images and the anchors' shares in them (B,). `none` leaves the anchors as they are, with a share of a
        half: they are drawn to their own keys and to their positives' alike.
    """
    if settings.mixing == "none":
        return list(anchors), [torch.full((len(index),), 0.5, device=anchor.device) for anchor in anchors]
    device = anchors[0].device
    ratio = to_device(draw_ratio(settings.beta, seed, "mix", step, index), device, torch.float32)
    pairs = list(zip(anchors, positives, strict=True))
    if settings.mixing == "mixup":
        return [mixup(anchor, positive, ratio) for anchor, positive in pairs], [ratio] * len(pairs)
    drawn = uniform(seed, "mix centre", step, index[:, None], torch.arange(2))
    center = to_device(drawn, device, torch.float32)
    found = [cutmix(anchor, positive, ratio, center) for anchor, positive in pairs]
    return [mixed for mixed, _ in found], [share for _, share in found]
