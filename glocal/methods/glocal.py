"""glocal: soft contrastive targets, local crops and mixed positives in one method.

What composes of the four lines of work that this package brings together. Soft targets: the teacher says how similar an
image is to others (SCE: Denize et al., WACV 2023). Local crops: small, cheap queries that are drawn to the global key
and pushed apart by a learned affinity (LoGo: Zhang et al., CVPR 2022). Mixed positives: the global query is an image
mixed with a neighbour that lies nearer to the centre of its cluster (CLIM: Li et al., BMVC 2021).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, Literal, Self, cast

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn.functional import normalize

from glocal.losses import local_dissimilarity, sce
from glocal.methods.base import Method, ParameterGroup
from glocal.methods.clim import SelectionSettings, draw_partners, mix, select
from glocal.models.affinity import affinity_loss, fixed_affinity
from glocal.models.backbone import Backbone
from glocal.models.heads import AffinityRegressor, mlp
from glocal.models.momentum import MomentumTeacher
from glocal.models.queue import NegativeQueue
from glocal.schedules import Share, Temperature
from glocal.transfer import to_device
from glocal.views.batch import Views, by_resolution, by_size
from glocal.views.geometry import MatchRule, ViewGeometry, match_patches
from glocal.views.plan import Blur, Jitter, Range, View


class GlocalSettings(SelectionSettings):
    """Soft targets, local crops, repulsion and mixing, each with what turns it off."""

    name: Literal["glocal"] = "glocal"
    hidden_dim: int = Field(512, ge=1)
    output_dim: int = Field(256, ge=1)
    predictor_dim: int | None = Field(None, ge=1)
    queue_size: int = Field(4096, ge=1)
    momentum: Share = 0.99
    temperature: Temperature = 0.1
    target_temperature: Temperature = 0.05
    coefficient: Share = 0.5  # 1: hard targets
    globals: int = Field(1, ge=1)  # strong views of the whole that the student sees
    locals: int = Field(2, ge=0)  # local crops that the student sees; 0: none
    local_size: int | None = Field(None, ge=8)  # null: half of the global views' side, 96 beside 224
    local_scale: Range = (0.08, 0.4)
    repulsion: float = Field(0.0, ge=0)  # of two local crops of an image, by the affinity; 0: none
    regressor_dim: int = Field(256, ge=1)
    noise: float = Field(0.3, ge=0)
    mixed: bool = False  # positives are selected and mixed in
    patches: float = Field(0.0, ge=0)  # weight of matched patches, of vision transformers; 0: none
    matching: MatchRule = "spread"

    def fit_to(self, images: int) -> Self:
        fitted = super().fit_to(images)
        return fitted if self.mixed else fitted.model_copy(update={"clusters": self.clusters})


class Glocal(Method):
    """Soft contrastive learning of global, local and mixed queries with a momentum teacher and a queue."""

    Settings = GlocalSettings

    def __init__(self, backbone: Backbone, settings: GlocalSettings) -> None:
        super().__init__(backbone, settings)
        self.settings = settings
        if settings.patches:
            backbone.grid(backbone.size)  # says it where the network has no patches
        if settings.mixed:
            self.refresh_epochs, self.refresh_first = settings.refresh_epochs, settings.first_epoch
        self.projector = mlp([backbone.dim, settings.hidden_dim, settings.output_dim], norm=True)
        self.predictor: nn.Module = nn.Identity()
        if settings.predictor_dim:
            self.predictor = mlp([settings.output_dim, settings.predictor_dim, settings.output_dim], norm=True)
        self.teacher = MomentumTeacher(self.backbone, self.projector, buffers="own")
        self.queue = NegativeQueue(settings.queue_size, settings.output_dim)
        if settings.repulsion:
            self.regressor = AffinityRegressor(settings.output_dim, hidden=settings.regressor_dim)
        self.new_keys: Tensor | None = None
        self.positives = torch.empty(0, settings.positives, dtype=torch.int32)  # on the CPU, for the loader

    @classmethod
    def view_plan(cls, size: int, settings: Any = None) -> list[View]:
        settings = settings or GlocalSettings()
        weak = View(name="weak", size=size)
        strong = View(name="strong", size=size, jitter=Jitter.of_strength(0.5), grey=0.2, blur=Blur(probability=0.5))
        plan = [weak, strong.model_copy(update={"count": settings.globals})]
        if settings.locals:
            side = settings.local_size or (size // 2 if size <= 64 else round(size * 96 / 224))
            local = {"name": "local", "count": settings.locals, "size": side, "scale": settings.local_scale}
            plan.append(strong.model_copy(update=local))
        if settings.mixed:
            plan += [
                view.model_copy(update={"name": f"{view.name} partner", "of": "partner"}) for view in (weak, strong)
            ]
        return plan

    def loss(self, views: Views) -> Tensor:
        """Each query of an image predicts the teacher's soft target; the first global one is mixed with a positive."""
        settings, batch = self.settings, len(views.index)
        count = 1 + settings.globals + settings.locals
        images = views.several(count + 2 * settings.mixed, "weak, strong, local and partner's views")
        students, share = list(images[1:count]), None
        weak = images[0]
        if settings.mixed:
            students[0], share = mix(
                students[0], images[-1], settings, index=views.index, seed=self.seed, step=self.now.step
            )
            weak = torch.cat([weak, images[-2]])
        tokens, key_tokens = self.tokens(students, weak)
        query = self.project(torch.cat([its[:, 0] for its in tokens]))  # (V·B, D)
        keys = self.project_key(key_tokens[:, 0]).split(batch)
        self.new_keys, self.embedding = keys[0], query[:batch].detach()

        key = keys[0].repeat(len(students), 1)
        weight = key.new_full((len(key),), 1 / len(key))
        if share is not None:  # the mixed query follows both keys, by their shares in it
            query, key = torch.cat([query, query[:batch]]), torch.cat([key, keys[1]])
            weight = torch.cat([share / len(weight), weight[batch:], (1 - share) / len(weight)])
        loss = self.follow(query, key, weight)
        if settings.repulsion:
            local = query[settings.globals * batch : len(students) * batch].unflatten(0, (settings.locals, batch))
            loss = loss + self.apart(local, views.index)
        if settings.patches:
            loss = loss + settings.patches * self.match(tokens, key_tokens, views.geometry)
        return loss

    def tokens(self, students: list[Tensor], weak: Tensor) -> tuple[list[Tensor], Tensor]:
        """The student's tokens (B, T, D) of each view and the teacher's; without patches the pooled features alone."""
        teacher, batch = cast(Backbone, self.teacher.chain[0]), len(students[0])
        if not self.settings.patches:
            with torch.no_grad():
                keys = teacher(weak)
            return [its[:, None] for its in by_resolution(self.backbone, students).split(batch)], keys[:, None]
        with torch.no_grad():
            keys = teacher.forward_tokens(weak)
        return [its for run in by_size(students) for its in self.backbone.forward_tokens(run).split(batch)], keys

    def match(self, tokens: list[Tensor], key_tokens: Tensor, geometry: Sequence[ViewGeometry]) -> Tensor:
        """Each patch of a student's view follows the teacher's patch that shows the same part of the image.

        A patch is compared as an image is. Each image and view has the same share; a mixed view has none.
        """
        learning = tokens[int(self.settings.mixed) :]
        boxes = [geometry[0], *geometry[1 + len(tokens) - len(learning) : 1 + len(tokens)]]
        box, flipped = (torch.stack([getattr(its, name) for its in boxes], dim=1) for name in ("box", "flipped"))
        grids = torch.tensor([math.isqrt(its.shape[1] - 1) for its in (key_tokens, *learning)])
        matches = match_patches(
            ViewGeometry(box[:, :1], flipped[:, :1]),  # (B, 1) beside (B, V)
            ViewGeometry(box[:, 1:], flipped[:, 1:]),
            grids[:1],
            grids[1:],
            rule=self.settings.matching,
        )
        image, view, _ = matches.valid.nonzero(as_tuple=True)  # (M,)
        start = torch.tensor([0, *(its.shape[0] * its.shape[1] for its in learning)]).cumsum(0)
        row = start[view] + image * (grids[1:][view] ** 2 + 1) + 1 + matches.index_b[matches.valid]
        found = matches.valid.sum(dim=-1)  # (B, V)
        weight = 1 / (found.numel() * found[image, view])
        row, image, column, weight = (
            to_device(its, key_tokens.device) for its in (row, image, 1 + matches.index_a[matches.valid], weight)
        )
        query = self.project(torch.cat([its.flatten(0, 1) for its in learning])[row])
        return self.follow(query, self.project_key(key_tokens[image, column]), weight)

    def follow(self, query: Tensor, key: Tensor, weight: Tensor) -> Tensor:
        """SCE over the queue, for queries and keys (M, D) with their weights (M,)."""
        if self.settings.predictor_dim:
            query = normalize(self.predictor(query).float(), dim=1)
        return sce(
            query,
            key,
            self.queue.keys,
            temperature=self.now.temperature,
            target_temperature=self.now.target_temperature,
            coefficient=self.now.coefficient,
            weight=weight,
        )

    def project(self, features: Tensor) -> Tensor:
        """Unit vectors (M, D) of the student's features."""
        return normalize(self.projector(features).float(), dim=1)

    @torch.no_grad()
    def project_key(self, features: Tensor) -> Tensor:
        """Unit vectors (M, D) of the teacher's features."""
        return normalize(self.teacher.chain[1](features).float(), dim=1)

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

    def embed(self, images: Tensor) -> Tensor:
        """The teacher's unit vectors, (B, D)."""
        return normalize(self.teacher(images).float(), dim=1)

    def refresh(self, embeddings: Tensor, epoch: int) -> None:
        self.positives = select(embeddings, self.settings, self.seed + epoch)

    def partners(self, epoch: int, index: Tensor) -> Tensor:
        return draw_partners(self.positives, self.seed, epoch, index)

    def get_extra_state(self) -> Tensor:
        return self.positives

    def set_extra_state(self, state: Tensor) -> None:
        self.positives = state

    def after_step(self) -> None:
        assert self.new_keys is not None
        self.queue.enqueue(self.new_keys)
        self.teacher.update(self.backbone, self.projector, momentum=self.now.momentum)

    def parameter_groups(self) -> list[ParameterGroup]:
        groups = [ParameterGroup(module) for module in (self.backbone, self.projector, self.predictor)]
        if self.settings.repulsion:
            groups.append(ParameterGroup(self.regressor, constant_lr=True))
        return groups
