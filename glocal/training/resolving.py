"""A recipe meets the images that it shall learn from: everything that is left open gets a value, and is told."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from glocal.config import DEFAULT_METHOD, AnyRecipe, build_recipe, load_mapping, sections, settle_row
from glocal.console import note, warn
from glocal.data.decoding.reading import allow_pixels
from glocal.data.lanes.choice import natural_size
from glocal.data.ranges import open_by, settle_decoding
from glocal.data.settings import DataSettings
from glocal.data.sources.base import Source
from glocal.data.sources.opening import Images, names_of
from glocal.errors import GlocalError, counted
from glocal.methods import method_class
from glocal.models.loading import choose_device
from glocal.models.weights import Weights
from glocal.plain import copied
from glocal.settings import assign
from glocal.training.flat import flatten
from glocal.training.folder import goes_on
from glocal.training.ladder import least_warmup
from glocal.training.machine import as_launched
from glocal.training.precision import choose_precision
from glocal.training.starting import begin

_FEW = 1000  # photographs; 240 teach less than ImageNet's weights know (docs/choosing.md)
_SMALL_BATCH, _STEPS = 64, 4  # of a set that is smaller than the recipe's batch: images of a batch, steps of an epoch


def resolve(
    data: Images | None,
    recipe: str | Path | None,
    overrides: Mapping[str, Any] | None,
    folder: Path,
    *,
    progress: bool,
    timed: bool = False,
) -> tuple[AnyRecipe, Source, Weights | None]:
    """The recipe with a value for everything, its images, and the weights out of a file that it begins with.

    Args:
        data, recipe, overrides: as for `pretrain`.
        folder: the run's; a run in it has chosen its precision.
        progress: say what was measured of the images.
        timed: a time decides later how long the training is, so that nothing is said here of its warm-up.

    Raises:
        GlocalError: no images are named, they cannot be opened or do not go with the recipe, or a setting is wrong.
    """
    mapping: dict[str, Any] = {"name": "default"} if recipe is None else load_mapping(recipe)
    named = data if data is not None else source_in(mapping, overrides or {})
    if named is None or (isinstance(named, str | Sequence) and len(named) == 0):
        there = f"; the run in {folder} goes on with --recipe {folder}/recipe.yaml" if goes_on(folder) else ""
        raise GlocalError(f"no images: give a folder or a data set (--data), or data.source in the recipe{there}")
    start = begin(mapping, overrides or {}, folder)
    sections(start.mapping, start.overrides)  # a mistyped key is told before a million images are listed
    largest = start.overrides.get("data.max_pixels", (start.mapping.get("data") or {}).get("max_pixels"))
    allow_pixels(largest if isinstance(largest, int) else None)  # before the first header is read
    source = open_by(named, start.mapping.get("data"), start.overrides, without=folder)
    described, mapping = mapping, dict(start.mapping)
    overrides = dict(start.overrides) | {"data.source": names_of(source)}
    size = (mapping.get("data") or {}).get("size") or overrides.get("data.size") or natural_size(source)
    built = as_launched(build_recipe(mapping, overrides, data_size=size, statistics=start.statistics))
    start.check(built)
    fitted = _warm_up(_fit_to(built, source), len(source), start.mapping, start.overrides, folder, told=not timed)
    resolved = settle_row(fitted, described)
    resolved = _settle_precision(resolved, folder)
    known = _known_statistics(resolved, folder)
    _tell_of_optimizer(resolved, start.mapping, start.overrides)
    if progress and not goes_on(folder):
        _tell_of_weights(resolved, source)
    stored = resolved.data.stored_channels is not None
    if stored and progress and not (mapping.get("views") or overrides.get("views")):
        _tell_of_views(resolved)
    decoding = settle_decoding(known, source, progress=progress)
    return resolved.model_copy(update={"data": decoding}), source, start.weights


def source_in(mapping: Mapping[str, Any], overrides: Mapping[str, Any]) -> Any:
    """`data.source` of a recipe and what is set on top of it; None where there is none."""
    sections = (overrides.get("data"), mapping.get("data"))
    others = (section.get("source") for section in sections if isinstance(section, Mapping))
    return next((found for found in (overrides.get("data.source"), *others) if found), None)


def _tell_of_views(recipe: AnyRecipe) -> None:
    """Says what of the method's own views is left out, for these images have no colours."""
    plan = method_class(recipe.method.name).view_plan(recipe.data.size or 0, recipe.method)
    lost = {path: None for view in plan for path in view.colors()}
    if lost:
        note(f"views are without {', '.join(lost)}, which need RGB (data.channels={recipe.data.channels})")


def _known_statistics(recipe: AnyRecipe, folder: Path) -> DataSettings:
    """The recipe's `data`, with the mean and deviation that the run in the folder has measured of such images."""
    data = recipe.data
    if data.stored_channels is None or (data.mean and data.std) or not goes_on(folder):
        return data
    before = build_recipe(load_mapping(folder / "recipe.yaml")).data
    if before.stored_channels != data.stored_channels:
        return data
    return data.model_copy(update={"mean": data.mean or before.mean, "std": data.std or before.std})


def _fit_to(recipe: AnyRecipe, source: Source) -> AnyRecipe:
    """Makes a recipe fit fewer images than it was written for, and says so."""
    batch, images = recipe.train.batch_size, len(source)
    parts = recipe.train.processes * recipe.train.accumulate
    if images < batch:
        # An epoch of one step learns little; a batch that small has few negatives.
        fitting = max(min(images, _SMALL_BATCH), images // _STEPS) // parts * parts
        if fitting < 2:
            raise GlocalError(f"{source.name}: {counted(images, 'image')} cannot be learned from; two are the least")
        note(f"train.batch_size is {fitting} instead of {batch}: there are only {images} images")
        recipe = recipe.model_copy(update={"train": recipe.train.model_copy(update={"batch_size": fitting})})
    if method_class(recipe.method.name).needs_labels:
        recipe = recipe.model_copy(update={"method": recipe.method.fit_to_classes(_count_classes(recipe, source))})
    fitted = recipe.method.fit_to(images)
    before, after = (flatten(m.model_dump(mode="json")) for m in (recipe.method, fitted))
    for key in (key for key in after if before.get(key) != after[key]):
        if key == "images":  # of a memory bank: no choice
            continue
        why = "for" if before.get(key) is None else f"instead of {before[key]}: there are only"
        note(f"method.{key} is {after[key]} {why} {images} images")
    return recipe.model_copy(update={"method": fitted})


def _warm_up(
    recipe: AnyRecipe,
    images: int,
    mapping: Mapping[str, Any],
    overrides: Mapping[str, Any],
    folder: Path,
    *,
    told: bool,
) -> AnyRecipe:
    """Lengthens a warm-up of a few steps, as few images make it, unless it is set; a run keeps the one that it has.

    At the full rate the first steps can make the embedding so uneven that the whole training does not mend it. So the
    default method, and AdamW with any, have a warm-up where nothing is said about it.
    """
    before, epochs = recipe.optimizer.warmup_epochs, recipe.train.epochs
    said, on_top = _settings_of(mapping, overrides), "optimizer.warmup_epochs" in flatten(dict(overrides))
    name = recipe.optimizer.name
    usual = name == "adamw" or (name == "sgd" and recipe.method.name == DEFAULT_METHOD)
    by_default = usual and "optimizer.warmup_epochs" not in said
    steps = max(1, images // recipe.train.batch_size)
    warmup = least_warmup(steps, epochs)
    if goes_on(folder):
        warmup = build_recipe(load_mapping(folder / "recipe.yaml")).optimizer.warmup_epochs
    if before < warmup and (before > 0 or by_default) and not on_top:
        if before > 0 and told:
            few = f"an epoch has only {counted(steps, 'step')}"
            note(f"optimizer.warmup_epochs is {warmup:g} instead of {before:g}: {few}")
        return recipe.model_copy(update={"optimizer": recipe.optimizer.model_copy(update={"warmup_epochs": warmup})})
    if told:
        tell_of_warm_up(recipe)
    return recipe


def tell_of_warm_up(recipe: AnyRecipe) -> None:
    """Says of a warm-up that takes more than half of the training that it is long."""
    warmup, epochs = recipe.optimizer.warmup_epochs, recipe.train.epochs
    if warmup > epochs / 2:
        longer = f"of {counted(warmup, 'epoch')} is longer than the training of {epochs}"
        much = longer if warmup > epochs else f"takes {warmup:g} of {counted(epochs, 'epoch')}"
        note(f"the warm-up {much}; for a short run set optimizer.warmup_epochs lower")


def _tell_of_optimizer(recipe: AnyRecipe, mapping: Mapping[str, Any], overrides: Mapping[str, Any]) -> None:
    """Says which optimiser it is, where the network alone has decided it, and whose rate it has, if another's."""
    said, first, on_top = _settings_of(mapping, overrides), flatten(mapping), _settings_of({}, overrides)
    name = recipe.optimizer.name
    if "optimizer.lr" in first and "optimizer.lr" in said and "optimizer.lr" not in on_top:
        others = {path: value for path, value in overrides.items() if path != "optimizer.name"}
        usual = build_recipe(mapping, others, data_size=recipe.data.size).optimizer.name
        before = first.get("optimizer.name", usual)
        if before != name:
            rate = f"optimizer.lr={recipe.optimizer.lr:g} is the recipe's for {before}"
            warn(f"{rate}, and optimizer.name is {name}; set optimizer.lr too")
    if recipe.optimizer.name == "adamw" and "optimizer.name" not in said:
        rate = "" if "optimizer.lr" in said else f", at optimizer.lr={recipe.optimizer.lr:g}"
        note(f"optimizer.name is adamw{rate}, for {recipe.model.name} is a transformer")


def _tell_of_weights(recipe: AnyRecipe, source: Source) -> None:
    """Says where few photographs are to teach a network what trained weights know already."""
    photographs = hasattr(source, "files") and recipe.data.stored_channels is None
    if photographs and len(source) < _FEW and not recipe.model.from_weights:
        note(f"{len(source)} images are few to learn from nothing; --init timm:resnet50 begins with ImageNet's weights")


def _settings_of(mapping: Mapping[str, Any], overrides: Mapping[str, Any]) -> Mapping[str, Any]:
    """All that is said by a recipe and on top of it, by dotted path; whole sections on top replace the recipe's."""
    said = copied(mapping)
    for path, value in overrides.items():
        if not path.startswith("views."):  # which are there when the method's are known
            assign(said, path, value)
    return flatten(said)


def _count_classes(recipe: AnyRecipe, source: Source) -> int:
    """The number of classes, those without an image counted in."""
    if source.labels is None or bool((source.labels < 0).any()):
        raise GlocalError(
            f"method {recipe.method.name} learns from labels, which {source.name} does not have; give a folder with "
            "one subfolder for each class or a labelled data set such as torchvision:CIFAR10, or choose another method"
        )
    return max(int(source.labels.max()) + 1, len(source.classes or ()))


def _settle_precision(recipe: AnyRecipe, folder: Path) -> AnyRecipe:
    """The recipe with a precision in place of `auto`: that of the run in the folder, or what suits the machine."""
    if recipe.train.precision != "auto":
        return recipe
    going = goes_on(folder)
    chosen = flatten(load_mapping(folder / "recipe.yaml")).get("train.precision", "fp32") if going else None
    if chosen is None:
        chosen, reason = choose_precision(choose_device(recipe.train.device), recipe.train.devices)
        note(f"train.precision is {chosen}: {reason}")
    return recipe.model_copy(update={"train": recipe.train.model_copy(update={"precision": chosen})})
