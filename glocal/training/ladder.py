"""Smaller trainings of the same kind: lower views, then smaller networks; and shorter ones, with what depends on it."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch.utils.flop_counter import FlopCounterMode

from glocal.config import AnyRecipe, settle_row
from glocal.errors import GlocalError, counted
from glocal.methods.base import MethodSettings
from glocal.models.backbone import Backbone
from glocal.schedules import Schedule
from glocal.training.budget import shortened
from glocal.training.rehearsal import shadow_backbone

_SMALLEST = 96  # pixels
_STEP = 32  # pixels
_SMALLER = {  # networks of a family, each less than half of the one before
    **{f"resnet{depth}": "resnet18" for depth in (34, 50, 101, 152)},
    **{
        f"vit_{large}{suffix}": f"vit_{small}{suffix}"
        for large, small in (("large", "base"), ("base", "small"), ("small", "tiny"))
        for suffix in ("", "_patch16_224")
    },
}
_CHANNELS = (64, 128, 256, 512)  # of a ResNet
_FEWEST_CHANNELS = 16
_SIZES = re.compile(r"data\.size|views|views\.\d+(\.(size|resolutions)(\.\d+)?)?|method\.(local_size|resolutions)")
_WARMUP_STEPS, _WARMUP_SHARE = 80, 0.2
_LONGEST_WARMUP = 0.1  # of a training that became shorter


@dataclass(frozen=True)
class Rung:
    """A training that could be chosen.

    Attributes:
        recipe: resolved.
        network: its network in words.
        arithmetic: floating-point operations of its network for all views of an image.
    """

    recipe: AnyRecipe
    network: str
    arithmetic: float

    @property
    def words(self) -> str:
        """Size and network."""
        return f"{self.recipe.data.size} pixels with {self.network}"


def ladder(recipe: AnyRecipe, given: Iterable[str], side: int) -> list[Rung]:
    """The trainings to choose from, the wanted one first, each with less arithmetic than the one before.

    First the sides of the views become smaller, all in proportion; then, at the smallest, the network. What the user
    has given stays as it is, and so does a network that begins with weights.

    Args:
        recipe: resolved.
        given: the paths of the settings that the user has given.
        side: of the images, in pixels: views do not become smaller than these, if they are smaller than 96.
    """
    given = list(given)
    sizes = [] if sizes_given(given) else _sizes(recipe, side)
    wanted = _rung(recipe, recipe.model.name)
    if wanted is None:
        raise GlocalError(f"model.name={recipe.model.name} cannot be planned with: it does not take the views")
    rungs = [wanted]
    unit = _patch(recipe) if sizes else 1
    for size in sizes:
        _append(rungs, _resized(recipe, size, unit), recipe.model.name)
    if not any(_is_model(path) for path in given) and not recipe.model.from_weights:
        smallest = rungs[-1].recipe
        model, network = _smaller(smallest), ""
        while model is not None:
            smallest = smallest.model_copy(update={"model": model})
            network = _in_words(smallest)
            _append(rungs, smallest, network)
            model = _smaller(smallest)
    return rungs


def sizes_given(given: Iterable[str]) -> bool:
    """Whether the user has given the size of the images or of a view."""
    return any(_SIZES.fullmatch(path) for path in given)


def fixed_by(given: Iterable[str]) -> list[str]:
    """The paths among those that the user has given that keep the size or the network from becoming smaller."""
    return [path for path in given if _SIZES.fullmatch(path) or _is_model(path)]


def _is_model(path: str) -> bool:
    return path == "model" or path.startswith("model.")


def _append(rungs: list[Rung], recipe: AnyRecipe, network: str) -> None:
    """Adds a training that works and is smaller than the last one."""
    rung = _rung(recipe, network)
    if rung is not None and rung.arithmetic < rungs[-1].arithmetic:
        rungs.append(rung)


def _rung(recipe: AnyRecipe, network: str) -> Rung | None:
    """The recipe with the arithmetic of its network; None where that does not take the views."""
    try:
        backbone = shadow_backbone(recipe).eval()
        views = recipe.views or []
        sides = Counter(side for view in views for side in (view.size, *view.resolutions) * view.count)
        count = sum(times * _operations(backbone, side) for side, times in sides.items())
    except Exception:  # networks check their input in many ways
        return None
    return Rung(recipe, network, max(1.0, float(count)))


def _operations(backbone: Backbone, size: int) -> int:
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        backbone(torch.zeros(1, len(backbone.mean), size, size, device=backbone.mean.device))
    return counter.get_total_flops()


def _sizes(recipe: AnyRecipe, side: int) -> list[int]:
    """Smaller sides than the recipe's: multiples of 32 down to 96, then the images' own where that is smaller still."""
    now = recipe.data.size or 0
    below = [size for size in range(now - now % _STEP, _SMALLEST - 1, -_STEP) if size < now]
    own = max(8, side)
    return [*below, *([own] if own < min(_SMALLEST, now) else [])]


def _resized(recipe: AnyRecipe, size: int, unit: int) -> AnyRecipe:
    """The recipe with all views in proportion to a new `data.size`, in whole patches of `unit` pixels."""
    share = size / (recipe.data.size or size)

    def side(pixels: int) -> int:
        return max(unit, round(pixels * share / unit) * unit)

    views = [
        view.model_copy(
            update={"size": side(view.size), "resolutions": tuple(side(pixels) for pixels in view.resolutions)}
        )
        for view in recipe.views or []
    ]
    data = recipe.data.model_copy(update={"size": side(recipe.data.size or size)})
    return recipe.model_copy(update={"data": data, "views": views})


def _patch(recipe: AnyRecipe) -> int:
    """The side of a network's patches; 1 where it has none, or they overlap and make no grid of the views."""
    embedding = getattr(shadow_backbone(recipe).network, "patch_embed", None)
    patch = getattr(embedding, "patch_size", None)
    stride = getattr(getattr(embedding, "proj", None), "stride", None)
    return int(patch[0]) if isinstance(patch, tuple) and stride == patch else 1


def _smaller(recipe: AnyRecipe) -> Any:
    """The model section of the next smaller network of a family; None where there is none."""
    model = recipe.model
    if model.name in _SMALLER:
        return model.model_copy(update={"name": _SMALLER[model.name]})
    if model.name != "resnet18":
        return None
    channels = [count // 2 for count in model.options.get("channels", _CHANNELS)]
    if min(channels) < _FEWEST_CHANNELS:
        return None
    return model.model_copy(update={"options": {**model.options, "channels": channels}})


def _in_words(recipe: AnyRecipe) -> str:
    channels = recipe.model.options.get("channels")
    return f"{recipe.model.name} of {channels[0]} to {channels[-1]} channels" if channels else recipe.model.name


def with_epochs(recipe: AnyRecipe, epochs: int, given: Iterable[str] = (), *, steps: int | None = None) -> AnyRecipe:
    """The recipe for so many epochs, with what is counted in epochs in proportion.

    In a shorter training the warm-up, the method's schedules and the epochs at which it begins something come earlier
    in proportion, and the warm-up takes a tenth at most, or what `least_warmup` asks for where that is more; in a
    longer one they stay. Milestones move in both. What the user has given stays as it is. The number in print, where
    the recipe has one, is that of another training and goes. A backbone that stands still at first does so for a part
    of the training in proportion.

    Args:
        recipe: resolved.
        epochs: how many.
        given: the paths of the settings that the user has given.
        steps: in an epoch; without it the warm-up is in proportion alone.

    Raises:
        GlocalError: the backbone would learn nothing in so few, for the user has given how long it stands still.
    """
    before, given = recipe.train.epochs, set(given)
    frozen = recipe.train.freeze_backbone_epochs
    if epochs < before and "train.freeze_backbone_epochs" not in given:
        frozen = _rounded(frozen * epochs / before)
    if frozen >= epochs:
        raise GlocalError(
            f"train.freeze_backbone_epochs={frozen:g}: the backbone would learn nothing in a training of "
            f"{counted(epochs, 'epoch')}; give fewer"
        )
    optimizer: dict[str, Any] = {}
    if epochs != before:
        optimizer["milestones"] = tuple(_rounded(at * epochs / before) for at in recipe.optimizer.milestones)
    if epochs < before:
        warmup = recipe.optimizer.warmup_epochs
        shorter = min(warmup * epochs / before, epochs * _LONGEST_WARMUP)
        if steps is not None:  # no warm-up of a few steps
            shorter = max(shorter, min(warmup, least_warmup(steps, epochs)))
        optimizer["warmup_epochs"] = _rounded(shorter)
    optimizer["weight_decay"] = _shorter(recipe.optimizer.weight_decay, epochs, before)
    optimizer = {key: value for key, value in optimizer.items() if not _is_given(f"optimizer.{key}", given)}
    changed = recipe.model_copy(
        update={
            "train": recipe.train.model_copy(
                update={"epochs": epochs, "extended_from": (), "freeze_backbone_epochs": frozen}
            ),
            "optimizer": recipe.optimizer.model_copy(update=optimizer),
            "method": _method_for(recipe.method, epochs, before, given, "method"),
        }
    )
    return settle_row(changed, recipe.model_dump(mode="json"))


def _method_for(method: MethodSettings, epochs: int, before: int, given: Iterable[str], where: str) -> MethodSettings:
    changed: dict[str, Any] = {}
    for key, value in method:
        if _is_given(f"{where}.{key}", given):
            continue
        if isinstance(value, MethodSettings):  # the one that LoGo works on
            changed[key] = _method_for(value, epochs, before, given, f"{where}.{key}")
        elif isinstance(value, Schedule):
            changed[key] = _shorter(value, epochs, before)
        elif key.endswith("first_epoch") and isinstance(value, int | float):
            earlier = (
                shortened(int(value), epochs, before) if isinstance(value, int) else _rounded(value * epochs / before)
            )
            changed[key] = min(value, earlier)
    return method.model_copy(update=changed)


def _shorter(value: Any, epochs: int, before: int) -> Any:
    """A schedule whose lengths shrink with the training; other values as they are."""
    if not isinstance(value, Schedule) or epochs >= before:
        return value
    length = None if value.epochs is None else _rounded(value.epochs * epochs / before)
    return value.model_copy(update={"epochs": length, "warmup_epochs": _rounded(value.warmup_epochs * epochs / before)})


def least_warmup(steps: int, epochs: int) -> float:
    """The epochs of the shortest warm-up that calms a training: 80 steps of `steps` an epoch, or a fifth of it.

    >>> least_warmup(39, 200), least_warmup(4, 10)
    (2.05, 2.0)
    """
    return max(0.01, round(min(_WARMUP_STEPS / steps, _WARMUP_SHARE * epochs), 2))  # of millions of images too


def _rounded(epochs: float) -> float:
    return round(epochs, 4)


def _is_given(path: str, given: Iterable[str]) -> bool:
    return any(own == path or own.startswith(f"{path}.") for own in given)


def matching(rungs: Iterable[Rung], written: AnyRecipe) -> Rung | None:
    """The rung with the size and the network of a run's recipe; None where there is none."""
    wanted = (written.data.size, _plain(written.model))
    return next((rung for rung in rungs if (rung.recipe.data.size, _plain(rung.recipe.model)) == wanted), None)


def _plain(model: Any) -> Mapping[str, Any]:
    return dict(model.model_dump(mode="json"))
