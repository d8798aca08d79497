"""glocal: the views of an image find one another among those of the batch, after two stages of the network.

What composes of the four lines of work that this package brings together, on SimCLR's symmetric contrast within the
batch (Chen et al., ICML 2020), which learns faster than a momentum teacher and its queue where time is short.

Three parts are on by default. Local crops: small, cheap queries that are drawn to the whole views (LoGo: Zhang et al.,
CVPR 2022). Decorrelation: no dimension of the projection says what others say, as in VICReg (Bardes et al., ICLR 2022).
Stage: the contrast is learned after the last stage but one as well, so that the first layers hear of it directly (deep
supervision: Lee et al., AISTATS 2015).

The other parts did not pay in short trainings, and are off. Repulsion: local crops
are pushed apart by a learned affinity (LoGo). Regions: each place of the last feature map is a local view that costs
nothing. Soft targets: the positive says how similar the image is to others (SCE: Denize et al., WACV 2023). Mixed
positives: the first whole view is mixed with that of a neighbour that lies nearer to the centre of its cluster (CLIM:
Li et al., BMVC 2021). Matched patches of vision transformers: each follows the patch of another view that shows the
same part of the image (Javidani, Sadeghi and Araabi, 2023).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, Literal, Self

import torch
from pydantic import Field, model_validator
from torch import Tensor
from torch.nn.functional import normalize

from glocal.distributed import all_gather, all_gather_with_gradient, process_count, process_rank
from glocal.losses import decorrelation, local_dissimilarity, sce, view_contrast
from glocal.losses.tokens import patch_rows
from glocal.methods.base import Method, ParameterGroup
from glocal.methods.clim import SelectionSettings, draw_partners, mix, select
from glocal.models.affinity import affinity_loss, fixed_affinity
from glocal.models.backbone import Backbone
from glocal.models.heads import AffinityRegressor, mlp
from glocal.models.regions import pooled_regions, regions_of
from glocal.models.stages import stage_before_last, unpooled_and_stage
from glocal.schedules import Share, Temperature
from glocal.settings import Amount, TrainedSide
from glocal.transfer import to_device
from glocal.views.batch import Views, by_resolution, by_size
from glocal.views.geometry import MatchRule, ViewGeometry, match_patches
from glocal.views.plan import MOST_VIEWS, Areas, Blur, Jitter, View

_WHOLE = 2
_SIDE = 8  # regions a side at most: a patch of a large image shows too little, and many are dear to compare


class GlocalSettings(SelectionSettings):
    """What is added to the contrast of whole views, each with what turns it off."""

    name: Literal["glocal"] = "glocal"
    hidden_dim: Amount = 512
    output_dim: Amount = 128
    temperature: Temperature = 0.1
    scale: Areas = (0.08, 1.0)  # shares of the area of whole views
    decorrelation: float = Field(0.3, ge=0)  # weight of the correlations between the projection's dimensions; 0: none
    stage: float = Field(0.5, ge=0)  # weight of the same contrast after the last stage but one, where there is one
    regions: float = Field(0.0, ge=0)  # weight of the regions of whole views; 0: none
    locals: int = Field(2, ge=0, le=MOST_VIEWS)  # local crops; 0: none
    local_size: TrainedSide | None = None  # null: about half of the whole views' side, 96 beside 224
    local_scale: Areas = (0.08, 0.4)
    repulsion: float = Field(0.0, ge=0)  # weight of LoGo's dissimilarity of local crops; 0: none
    regressor_dim: Amount = 256
    noise: float = Field(0.3, ge=0)
    coefficient: Share = 1.0  # of the hard target; below 1 the rest is soft
    target_temperature: Temperature = 0.05
    mixed: bool = False  # positives are selected and mixed in
    patches: float = Field(0.0, ge=0)  # weight of matched patches, of vision transformers; 0: none
    matching: MatchRule = "spread"

    @model_validator(mode="after")
    def _check_locals(self) -> Self:
        if self.repulsion and self.locals < 2:
            raise ValueError("repulsion pushes local crops apart: it needs locals=2 or more")
        return self

    def fit_to(self, images: int) -> Self:
        return super().fit_to(images) if self.mixed else self  # selection's numbers are of no use else


class Glocal(Method):
    """Symmetric contrast of whole and local views within the batch."""

    Settings = GlocalSettings
    reads_geometry = True
    compares_batch = True
    of_one_size = "method.locals=0"

    def __init__(self, backbone: Backbone, settings: GlocalSettings) -> None:
        super().__init__(backbone, settings)
        self.settings = settings
        if settings.patches:
            backbone.grid(backbone.size)  # says it where the network has no patches
        if settings.mixed:
            self.refresh_epochs, self.refresh_first = settings.refresh_epochs, settings.first_epoch
        widths = [backbone.dim, settings.hidden_dim, settings.output_dim]
        self.projector = mlp(widths, norm=True, last_norm=True)
        self.stage = stage_before_last(backbone) if settings.stage else None
        if self.stage:
            self.stage_projector = mlp([self.stage.dim, *widths[1:]], norm=True, last_norm=True)
        if settings.repulsion:
            self.regressor = AffinityRegressor(settings.output_dim, hidden=settings.regressor_dim)
        self.positives = torch.empty(0, settings.positives, dtype=torch.int32)  # on the CPU, for the loader

    @classmethod
    def view_plan(cls, size: int, settings: Any = None) -> list[View]:
        settings = settings or GlocalSettings()
        small = size <= 64  # as SimCLR on CIFAR-10: half the colour distortion and no blur
        whole = View(
            name="global",
            count=_WHOLE,
            size=size,
            scale=settings.scale,
            interpolation="bicubic",
            jitter=Jitter.of_strength(0.5 if small else 1.0),
            grey=0.2,
            blur=Blur(probability=0.0 if small else 0.5),
        )
        plan = [whole]
        if settings.locals:
            side = settings.local_size or local_side(size)
            local = {"name": "local", "count": settings.locals, "size": side, "scale": settings.local_scale}
            plan.append(whole.model_copy(update=local))
        if settings.mixed:
            plan.append(whole.model_copy(update={"name": "partner", "of": "partner"}))
        return plan

    def loss(self, views: Views) -> Tensor:
        """The contrast of all views with the whole ones; with mixing, a partner's whole view is one more of them."""
        settings = self.settings
        expected = _WHOLE + settings.locals + _WHOLE * settings.mixed
        partner = ", two of a partner" if settings.mixed else ""
        wanted = f"two whole views{partner} and local ones (method.locals={settings.locals})"
        images = list(views.several(expected, wanted))
        share = None
        if settings.mixed:
            [images[0]], [share] = mix(
                images[:1], images[-2:-1], settings, index=views.index, seed=self.seed, step=self.now.step
            )
            images = [*images[:_WHOLE], images[-1], *images[_WHOLE:-2]]
        tokens, stages = self.look(images)
        count = _WHOLE + settings.mixed
        unit, regions = self.project_all(tokens)
        self.embedding = unit[0].detach()
        contrasts = 1 + settings.stage * bool(self.stage) + settings.regions + settings.patches
        self.chance = contrasts * math.log(count * process_count() * len(views.index) - 1)
        loss = self.contrast(unit, count, share)
        if settings.decorrelation:
            loss = loss + settings.decorrelation * decorrelation(all_gather_with_gradient(unit.flatten(0, 1)))
        if self.stage:
            early = normalize(self.stage_projector(torch.cat(stages)).float(), dim=1)
            loss = loss + settings.stage * self.contrast(early.unflatten(0, (len(stages), -1)), count, share)
        if settings.regions:
            loss = loss + settings.regions * self.contrast(torch.cat([unit[:count], regions]), count, share)
        if settings.repulsion:
            loss = loss + self.apart(unit[count:], views.index)
        if settings.patches:
            loss = loss + settings.patches * self.match(tokens, unit[:count], views.geometry)
        return loss

    def look(self, images: list[Tensor]) -> tuple[list[Tensor], list[Tensor]]:
        """The features of each view and of its regions (B, 1 + N, D), and those of the earlier stage (B, C).

        Where regions are not needed there is the view alone, and where the stage is not, none of it.
        """
        batch, settings = len(images[0]), self.settings
        local = settings.patches > 0 or settings.regions > 0
        if not local and not self.stage:
            return [its[:, None] for its in by_resolution(self.backbone, images).split(batch)], []
        tokens, stages = [], []
        for run in by_size(images):
            if self.stage:
                unpooled, early = unpooled_and_stage(self.backbone, run, self.stage)
                stages += early.split(batch)
            else:
                unpooled = self.backbone.forward_unpooled(run)
            if local:
                tokens += regions_of(self.backbone, unpooled).split(batch)
            else:
                whole = self.backbone.network.forward_head(unpooled)  # type: ignore[operator]
                tokens += whole[:, None].split(batch)
        return tokens, stages

    def project_all(self, tokens: list[Tensor]) -> tuple[Tensor, Tensor]:
        """Unit vectors of the views (V, B, D), and of the regions of whole views that are not mixed (R, B, D)."""
        batch, mixed = len(tokens[0]), self.settings.mixed
        own = tokens[1:_WHOLE] if mixed else tokens[:_WHOLE]  # the mixed view and the partner's show other images
        rows = [its[:, 0] for its in tokens]
        if self.settings.regions:
            rows += [pooled_regions(its[:, 1:], _SIDE).transpose(0, 1).flatten(0, 1) for its in own]
        unit = self.project(torch.cat(rows)).unflatten(0, (-1, batch))
        return unit[: len(tokens)], unit[len(tokens) :]

    def contrast(self, unit: Tensor, whole: int, share: Tensor | None) -> Tensor:
        """The contrast of views or regions (V, B, D) with the whole views, which are the first of them."""
        return view_contrast(
            unit,
            whole,
            temperature=self.now.temperature,
            coefficient=self.now.coefficient,
            target_temperature=self.now.target_temperature,
            weight=None if share is None else mixed_positives(share, len(unit)),
        )

    def project(self, features: Tensor) -> Tensor:
        """Unit vectors (M, D) of features."""
        return normalize(self.projector(features).float(), dim=1)

    def apart(self, local: Tensor, index: Tensor) -> Tensor:
        """Pushes apart local crops (L, B, D) of an image, each and the next, as alike as the regressor finds them."""
        first, second = local.flatten(0, 1), local.roll(1, 0).flatten(0, 1)
        learned = affinity_loss(
            self.regressor,
            local[0],
            local[1],
            index=index,
            seed=self.seed,
            step=self.now.step,
            noise=self.settings.noise,
        )
        return learned + self.settings.repulsion * local_dissimilarity(fixed_affinity(self.regressor, first, second))

    def match(self, tokens: list[Tensor], whole: Tensor, geometry: Sequence[ViewGeometry]) -> Tensor:
        """Each patch follows the patch of the second whole view that shows the same part of the image.

        A patch is compared as an image is, with the whole views of the batch's other images as what it is not. Each
        image and view has the same share. Mixed and partners' views have none.
        """
        settings = self.settings
        views = [*([] if settings.mixed else [0]), *range(_WHOLE + settings.mixed, len(tokens))]
        places = [view - settings.mixed * (view > 0) for view in views]  # the geometry has no partner between
        box, flipped = (
            torch.stack([getattr(geometry[place], name) for place in (1, *places)], dim=1)
            for name in ("box", "flipped")
        )
        grids = torch.tensor([math.isqrt(tokens[view].shape[1] - 1) for view in (1, *views)])
        matches = match_patches(
            ViewGeometry(box[:, :1], flipped[:, :1]),  # (B, 1) beside (B, V)
            ViewGeometry(box[:, 1:], flipped[:, 1:]),
            grids[:1],
            grids[1:],
            rule=settings.matching,
        )
        learning = [tokens[view] for view in views]
        rows = patch_rows(matches, [its.shape[1] for its in learning])
        row, image, token, weight = (to_device(its, whole.device) for its in rows)
        others = all_gather(whole.detach().transpose(0, 1))  # (P·B, W, D)
        place = torch.arange(len(others), device=whole.device).repeat_interleave(len(whole))
        return sce(
            self.project(torch.cat([its.flatten(0, 1) for its in learning])[row]),
            self.project(tokens[1][image, token]).detach(),
            others.flatten(0, 1),
            temperature=self.now.temperature,
            target_temperature=self.now.target_temperature,
            coefficient=self.now.coefficient,
            weight=weight,
            left_out=place == (process_rank() * whole.shape[1] + image)[:, None],
        )

    def embed(self, images: Tensor) -> Tensor:
        """Unit vectors, (B, D)."""
        return self.project(self.backbone(images))

    def refresh(self, embeddings: Tensor, epoch: int) -> None:
        self.positives = select(embeddings, self.settings, self.seed + epoch)

    def partners(self, epoch: int, index: Tensor) -> Tensor:
        return draw_partners(self.positives, self.seed, epoch, index)

    def get_extra_state(self) -> Tensor:
        return self.positives

    def set_extra_state(self, state: Tensor) -> None:
        self.positives = state

    def parameter_groups(self) -> list[ParameterGroup]:
        groups = [ParameterGroup(self.backbone), ParameterGroup(self.projector)]
        if self.stage:
            groups.append(ParameterGroup(self.stage_projector))
        if self.settings.repulsion:
            groups.append(ParameterGroup(self.regressor, constant_lr=True))
        return groups


def mixed_positives(share: Tensor, views: int) -> Tensor:
    """Who is whose positive, (V, 3, B), where the first whole view is mixed with the third, the partner's.

    The mixed view follows the second one by its share (B,) and the partner's by the rest; these two follow the mixed
    one, and local crops the second one.
    """
    weight = share.new_zeros(views, 3, len(share))
    weight[0, 1], weight[0, 2] = share, 1 - share
    weight[1:3, 0] = 1
    weight[3:, 1] = 1
    return weight


def local_side(size: int) -> int:
    """The side of local crops beside whole views of `size` pixels, which the patches of vision transformers divide.

    >>> local_side(32), local_side(160), local_side(224)
    (16, 64, 96)
    """
    if size <= 64:
        return max(8, round(size / 16) * 8)
    return round(size * 96 / 224 / 16) * 16
