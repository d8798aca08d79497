"""LoGo: local and global representations.

Zhang, Qiu, Ke, Süsstrunk and Salzmann, "Leverage Your Local and Global Representations: A New Self-Supervised Learning
Strategy", CVPR 2022. Global crops attract each other and the local ones, which are queries only; two local crops of an
image, which may show different things, are pushed apart under an affinity that a regressor learns meanwhile. It works
on any method with queries and keys: MoCo and SimSiam in the paper.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal, Self

import torch
from pydantic import Field, SerializeAsAny, ValidationError, field_validator, model_validator
from torch import Tensor

from glocal.distributed import own_part, whole_tensor
from glocal.errors import did_you_mean, shown
from glocal.losses import local_dissimilarity
from glocal.losses.affinity import AffinityForm
from glocal.methods import method_class
from glocal.methods.base import Method, MethodSettings, ParameterGroup
from glocal.models.affinity import affinity_loss, fixed_affinity
from glocal.models.backbone import Backbone
from glocal.models.heads import AffinityRegressor
from glocal.schedules import Clock
from glocal.settings import Amount, TrainedSide
from glocal.views.batch import Views
from glocal.views.plan import View

_GLOBALS = 2
_Share = Annotated[float, Field(gt=0, le=1)]
Scale = tuple[_Share, _Share]


class LoGoSettings(MethodSettings):
    """Defaults are those of the authors' code for MoCo; ratios as in section 4.1 (supplement, section 1), but for
    `smallest_local`, which is the code's: the supplement prints 0.08 for CIFAR-10 and STL-10, none for ImageNet-100.

    `base` is the section of the method that LoGo works on, e.g. `{name: moco, temperature: 0.07}`. Global crops take
    [r_g, 1] of the area and local ones [smallest_local, r_l]; `global_scale` and `local_scale` put any other range in
    their place: with [0.08, τ_g] and [0.08, 1] the two change roles (supplement, Table 9).
    """

    name: Literal["logo"] = "logo"
    base: SerializeAsAny[MethodSettings] = Field(default_factory=lambda: method_class("moco").Settings(name="moco"))
    variant: Literal["logo", "no_dissimilarity", "multi_crop"] = "logo"  # w/o L2L; every crop to every other (eq. 1)
    global_ratio: float | None = Field(None, gt=0, lt=1)  # r_g, τ_g; null: 0.4, for multi_crop 0.3
    local_ratio: float | None = Field(None, gt=0, le=1)  # r_l, τ_l; null: 0.4, for multi_crop 0.3
    smallest_local: float = Field(0.05, gt=0, lt=1)
    global_scale: Scale | None = None  # shares of the area; null: [global_ratio, 1]
    local_scale: Scale | None = None  # null: [smallest_local, local_ratio]
    local_size: TrainedSide | None = None  # null: 96 beside 224, and all of it for images up to 64 pixels
    affinity: AffinityForm = "softplus"  # printed: eq. 4 as it stands; mine: what it relaxes, over all pairs
    regressor_dim: Amount = 256
    noise: float = Field(0.3, ge=0)  # standard deviation on the positives, over √D
    dissimilarity_clip: float = Field(0.015, ge=0)  # of the last similarity gradient's norm; the authors' code, on MoCo
    dissimilarity_weight: float | None = Field(None, gt=0)  # λ of eq. 9, in one update; 1e-4 on SimSiam; null: the clip

    @field_validator("base", mode="before")
    @classmethod
    def _of_its_method(cls, value: Any) -> Any:
        if not isinstance(value, dict):
            return value
        name = value.get("name", "moco")
        kind = method_class(name if isinstance(name, str) else shown(name))
        if kind.compare is Method.compare:
            raise ValueError(f"LoGo needs a method with queries and keys; {value['name']} has none")
        unused = next((key for key in ("symmetric", "multi_crop") if value.get(key)), None)
        if unused:
            raise ValueError(f"{unused} has no meaning under LoGo, which pairs the views itself")
        try:
            return kind.Settings.model_validate({"name": "moco", **value})
        except ValidationError as error:
            first = error.errors()[0]
            key = str(first["loc"][0])
            if first["type"] == "extra_forbidden":
                raise ValueError(f"{key} is not a setting; {did_you_mean(key, kind.Settings.model_fields)}") from None
            raise ValueError(f"{key}: {first['msg']}, not {shown(first['input'])}") from None

    def fit_to(self, images: int) -> Self:
        return self.model_copy(update={"base": self.base.fit_to(images)})

    @model_validator(mode="after")
    def _check(self) -> Self:
        for name, scale in (("global_scale", self.global_scale), ("local_scale", self.local_scale)):
            if scale is not None and scale[0] > scale[1]:
                raise ValueError(f"{name} must ascend, not {list(scale)}")
        clip, usual = self.dissimilarity_clip, type(self).model_fields["dissimilarity_clip"].default
        if self.dissimilarity_weight is not None and clip != usual:
            beside = f"dissimilarity_weight={self.dissimilarity_weight:g}"
            raise ValueError(f"dissimilarity_clip={clip:g} has no meaning beside {beside}; set the weight to null")
        smallest, largest = self.local_area
        if smallest > largest:
            raise ValueError(f"smallest_local={smallest} is above local_ratio={largest}")
        return self

    @property
    def global_area(self) -> Scale:
        """The shares of an image's area that global crops take."""
        return self.global_scale or (self.global_ratio or self._ratio, 1.0)

    @property
    def local_area(self) -> Scale:
        """The shares that local crops take."""
        return self.local_scale or (self.smallest_local, self.local_ratio or self._ratio)

    @property
    def _ratio(self) -> float:
        """The paper's own; SwAV-style multi-crop gets the best of DINO's ablation (supplement, section 2)."""
        return 0.3 if self.variant == "multi_crop" else 0.4


class LoGo(Method):
    """Local-to-global attraction and local-to-local repulsion on top of another method.

    The regressor sees representations of unit length, which MoCo's are already.

    Three updates a step, as in the authors' code, which has MoCo alone: the regressor; the encoder by the
    dissimilarity, its gradient's norm cut to a share of the last similarity gradient's; the encoder by the similarity.
    With `dissimilarity_weight` two, as in the paper (eq. 9, Algorithm 1): the regressor; the encoder by
    L_gg + L_lg + λ L_ll, divided by the number of similarity terms, which are averaged (six with two local crops). The
    momentum teacher, if there is one, moves once a step (in the authors' code before each of two forward passes).
    """

    Settings = LoGoSettings
    optimizers: tuple[str, ...] = (
        "sgd",
    )  # of its three phases: the others scale gradients, and would undo the dissimilarity's cut

    similarity_norm: Tensor

    def __init__(self, backbone: Backbone, settings: LoGoSettings) -> None:
        super().__init__(backbone, settings)
        self.settings = settings
        self.base = method_class(settings.base.name)(backbone, settings.base)
        self.evaluated = f"base.{self.base.evaluated}"
        self.compares_batch = self.base.compares_batch
        self.pushes = settings.variant == "logo"
        self.clips = self.pushes and settings.dissimilarity_weight is None
        self.phases = ("similarity",)
        if self.pushes:
            self.phases = ("affinity", *(["dissimilarity"] if self.clips else []), "similarity")
            with torch.no_grad():
                width = self._width()
            self.regressor = AffinityRegressor(width, hidden=settings.regressor_dim, form=settings.affinity)
        if self.clips:
            self.register_buffer("similarity_norm", torch.zeros(()))
        else:
            self.optimizers = Method.optimizers
        self._locals: list[tuple[Tensor, Tensor]] = []

    def _width(self) -> int:
        """The width of the base's representations, found by trying one."""
        training, state = self.training, torch.get_rng_state()
        self.base.eval()
        width = self.base.represent(
            torch.zeros(1, len(self.backbone.mean), self.backbone.size, self.backbone.size)
        ).shape[1]
        self.base.train(training)
        torch.set_rng_state(state)
        return width

    @classmethod
    def view_plan(cls, size: int, settings: Any = None) -> list[View]:
        settings = settings or LoGoSettings()
        photometry = method_class(settings.base.name).view_plan(size, settings.base)[-1]
        local_size = settings.local_size or (size if size <= 64 else round(size * 96 / 224))
        crops = [
            {"name": "global", "size": size, "scale": settings.global_area},
            {"name": "local", "size": local_size, "scale": settings.local_area},
        ]
        return [photometry.model_copy(update={**crop, "count": 2}) for crop in crops]

    def before_step(self, clock: Clock) -> None:
        super().before_step(clock)
        if "base" in self._modules:  # not yet while the constructor runs
            self.base.before_step(clock)
            self._locals.clear()  # of a step that broke off

    def affinity(self, views: Views) -> Tensor:
        """The regressor's objective on detached representations of two local crops (supplement, eq. 4 or eq. 2)."""
        locals_ = self._represent_locals(views)
        self._locals.append(locals_)
        return affinity_loss(
            self.regressor,
            *locals_,
            index=views.index,
            seed=self.seed,
            step=self.now.step,
            noise=self.settings.noise,
        )

    def dissimilarity(self, views: Views) -> Tensor:
        """The affinity of two local crops under the regressor as it stands, which gets no gradient."""
        return self._push(*self._represent_locals(views, again=True))

    def similarity(self, views: Views) -> Tensor:
        """Global to global and local to global, averaged over all pairs.

        For `multi_crop` every crop to every other, the mean of supplement, eq. 1: each crop has the M − 1 other crops
        of its image as positives. With `dissimilarity_weight` the dissimilarity is added.
        """
        images = views.several(_GLOBALS + 2, "two global and two local views")
        representations = [self.base.represent(view) for view in images[:_GLOBALS]]
        representations += self._represent_locals(views, again=True)
        representations += [self.base.represent(view) for view in images[_GLOBALS + 2 :]]
        queries = [self.base.query(representation) for representation in representations]
        keyed = len(images) if self.settings.variant == "multi_crop" else _GLOBALS
        keys = [self.base.keys(images[number], representations[number]) for number in range(keyed)]
        pairs = [(query, key) for query in range(len(images)) for key in range(keyed) if query != key]
        self.embedding = representations[0].detach().float()
        if self.base.compares_rows:
            loss = self.base.compare(
                torch.cat([queries[query] for query, _ in pairs]), torch.cat([keys[key] for _, key in pairs])
            )
        else:  # a method with negatives out of the batch must not meet an image's own key in another row
            loss = torch.stack([self.base.compare(queries[query], keys[key]) for query, key in pairs]).mean()
        self.chance = self.base.chance
        weight = self.settings.dissimilarity_weight
        if self.pushes and weight is not None:
            loss = loss + weight / len(pairs) * self._push(*representations[_GLOBALS : _GLOBALS + 2])
        return loss

    def _push(self, first: Tensor, second: Tensor) -> Tensor:
        return local_dissimilarity(fixed_affinity(self.regressor, first, second), form=self.settings.affinity)

    def _represent_locals(self, views: Views, *, again: bool = False) -> tuple[Tensor, Tensor]:
        """Two local crops of each image, `again` as for the last update if the encoder has not moved since."""
        if again and self._locals:
            return self._locals.pop(0)
        first, second = (
            self.base.represent(view)
            for view in views.several(_GLOBALS + 2, "two global and two local views")[_GLOBALS : _GLOBALS + 2]
        )
        return first, second

    def before_update(self, phase: str, gradients: list[Tensor]) -> None:
        """Keeps the similarity gradient's norm, and cuts that of the dissimilarity to a share of it."""
        if phase == "affinity" or not self.clips:
            return
        norm = whole_tensor(torch.nn.utils.get_total_norm(gradients))
        if phase == "similarity":
            self.similarity_norm.copy_(torch.where(norm.isfinite(), norm, self.similarity_norm))
        else:
            limit = self.settings.dissimilarity_clip * self.similarity_norm
            torch._foreach_mul_([own_part(gradient) for gradient in gradients], (limit / (norm + 1e-6)).clamp(max=1))

    def after_step(self) -> None:
        self.base.after_step()

    def parameter_groups(self) -> list[ParameterGroup]:
        groups = self.base.parameter_groups()
        return [
            *([ParameterGroup(self.regressor, "affinity", constant_lr=True)] if self.pushes else []),
            *(
                ParameterGroup(g.module, phase, g.constant_lr)
                for phase in self.phases
                if phase != "affinity"
                for g in groups
            ),
        ]
