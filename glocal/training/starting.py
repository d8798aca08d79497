"""A training that begins with weights: what they say of the network and its images, and a rate that keeps them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import timm
import torch

from glocal.config import DEFAULT_METHOD, AnyRecipe, build_recipe, load_mapping, written_recipe
from glocal.console import note
from glocal.errors import GlocalError, did_you_mean
from glocal.models.architecture import ImageStatistics, ModelSettings, full_name, statistics_in_timm
from glocal.models.building import build_backbone
from glocal.models.fitting import fit_weights, likely_networks
from glocal.models.weights import Weights, read_weights, stem_of
from glocal.plain import copied, read_yaml
from glocal.training.folder import goes_on
from glocal.training.optimizers import OptimizerSettings, usual_settings

_NETWORK = ("name", "stem", "options")
_OF_THEIR_SIZE = ("img_size", "dynamic_img_size")
_SECTIONS = ("model", "data", "optimizer")  # in which weights have a say
_CHANNELS = ("channels", "rgb")  # settings of images that other statistics belong to
_RATES = ("lr", "final_lr", "norm_and_bias_lr")
_SHARE = 0.1  # of the rate from random weights
_METHOD = "sce"  # gains from weights, of which glocal forgets a part at first (docs/continuing.md, "Which method")


@dataclass(frozen=True)
class Start:
    """What is to be trained, as `build_recipe` takes it.

    Attributes:
        mapping, overrides: the recipe with what the weights say filled in.
        statistics: what the weights expect of images; None where there are none, or timm knows it.
        weights: read from a file; None where there is no file, or a checkpoint follows.
    """

    mapping: Mapping[str, Any]
    overrides: Mapping[str, Any]
    statistics: ImageStatistics | None = None
    weights: Weights | None = None

    def with_rates(self, rates: Mapping[str, float]) -> Start:
        """The same with other learning rates, by their names in the recipe's `optimizer` section."""
        return replace(self, overrides={**self.overrides, **{f"optimizer.{key}": rate for key, rate in rates.items()}})

    def check(self, recipe: AnyRecipe) -> None:
        """Finds out whether the weights fit the recipe's network, before a run's folder is made.

        Raises:
            GlocalError: they do not.
        """
        if self.weights is None:
            return
        assert recipe.data.size is not None  # resolved
        with torch.random.fork_rng(devices=[]):
            network = build_backbone(
                recipe.model.untrained(), size=recipe.data.size, channels=recipe.data.stored_channels
            ).network
        fit_weights(network, self.weights, label=recipe.model.name)


def begin(mapping: Mapping[str, Any], overrides: Mapping[str, Any], folder: Path) -> Start:
    """Fills in what the weights say that a training begins with (`model.init`).

    The network is that of the weights where they say which it is, unless `model.name` is set beside them; so are the
    mean and the deviation of images, and of a run the size of its images, unless the recipe says otherwise. Where no
    method is named, it is SCE. Without a rate that is set for weights, `optimizer.lr`, and with it the other rates of
    the section, is a tenth of what it is from random ones, and batch normalisation keeps its statistics
    (`model.keep_statistics`) unless that is set.

    Args:
        mapping: the recipe, unchecked.
        overrides: by dotted path.
        folder: the run's. A run in it goes on with what it found out when it began, and the weights are not read.

    Raises:
        GlocalError: the weights cannot be read, or do not say of which network they are and nothing else does.
    """
    given, described = (mapping, overrides), any(_section(mapping, "model").get(key) for key in ("init", "pretrained"))
    mapping, overrides = _with_single_settings(mapping, overrides)
    init = overrides.get("model.init", _section(mapping, "model").get("init"))
    pretrained = overrides.get("model.pretrained", _section(mapping, "model").get("pretrained"))
    if not init and not pretrained:
        return Start(*given)
    written = load_mapping(folder / "recipe.yaml") if goes_on(folder) else None
    start = _with_method(Start(copied(mapping), dict(overrides)), written)
    if init:
        start = _with_init(start, _whole(str(init)), written)
    named = bool(overrides.get("model.init") or overrides.get("model.pretrained"))
    start = _with_gentle_rate(start, mapping, overrides, written, chosen=described or not named)
    return _with_statistics_kept(start, written)


def _with_single_settings(
    mapping: Mapping[str, Any], overrides: Mapping[str, Any]
) -> tuple[Mapping[str, Any], Mapping[str, Any]]:
    """The same recipe with overrides of whole sections, which replace the recipe's, as overrides of their settings."""
    single: dict[str, Any] = {}
    for path, value in overrides.items():
        if path in _SECTIONS and isinstance(value, Mapping):
            mapping = {**mapping, path: {}}
            single = {key: earlier for key, earlier in single.items() if not key.startswith(f"{path}.")}
            single |= {f"{path}.{key}": setting for key, setting in value.items()}
        else:
            single[path] = value
    return mapping, single


def _section(mapping: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    found = mapping.get(name)
    return found if isinstance(found, Mapping) else {}


def _whole(init: str) -> str:
    """The same place from whichever folder it is looked for."""
    return init if init.startswith("timm:") else str(Path(init).expanduser().absolute())


def _with_method(start: Start, written: Mapping[str, Any] | None) -> Start:
    """Names the method for weights where none is named; an older run goes on with the default of then."""
    own = start.mapping.get("method") or {}
    if not isinstance(own, Mapping) or own.get("name") or {"method", "method.name"} & start.overrides.keys():
        return start  # what is no section is told where the recipe is checked
    older = written is not None and _section(written, "method").get("name") == DEFAULT_METHOD
    name = DEFAULT_METHOD if older else _METHOD
    if written is None:
        note(f"method.name is {name}, which gains from weights sooner than {DEFAULT_METHOD}; set it to choose another")
    return replace(start, mapping={**start.mapping, "method": {**own, "name": name}})


def _with_init(start: Start, init: str, written: Mapping[str, Any] | None) -> Start:
    if written is not None and _section(written, "model").get("init") == init:
        found = _written_down(written)
    elif init.startswith("timm:"):
        found = _of_timm(init, start.overrides)
    else:
        found = _of_file(init, start)
    own = _section(start.mapping, "model")
    if "model.init" in start.overrides and "name" in found.model:
        own = {key: value for key, value in own.items() if key not in _NETWORK}  # the weights say which it is
    model = {**found.model, **own, "init": init}
    data = {**_of_these_channels(found.data, start), **_section(start.mapping, "data")}
    overrides = {path: value for path, value in start.overrides.items() if path != "model.init"}
    return Start({**start.mapping, "model": model, "data": data}, overrides, found.statistics, found.weights)


def _of_these_channels(found: Mapping[str, Any], start: Start) -> Mapping[str, Any]:
    """What weights say of images, without mean and deviation where this training's have other channels."""
    given = {**_section(start.mapping, "data"), **_by_name(start.overrides)}
    if all(given.get(key, found.get(key)) == found.get(key) for key in _CHANNELS):
        return found
    return {key: value for key, value in found.items() if key == "size"}


def _by_name(overrides: Mapping[str, Any]) -> dict[str, Any]:
    return {path.removeprefix("data."): value for path, value in overrides.items() if path.startswith("data.")}


@dataclass(frozen=True)
class _Found:
    """What weights say of the recipe's sections."""

    model: Mapping[str, Any]
    data: Mapping[str, Any]
    statistics: ImageStatistics | None
    weights: Weights | None = None


def _written_down(written: Mapping[str, Any]) -> _Found:
    """What a run that goes on found in the weights when it began."""
    kept = ("size", "mean", "std", *_CHANNELS)
    data = {key: value for key, value in _section(written, "data").items() if key in kept}
    ways = {view.get("interpolation", "bilinear") for view in written.get("views") or []}
    recipe = build_recipe(written)
    way = ways.pop() if len(ways) == 1 else ""  # views of several kinds were not changed by the weights
    return _Found(_section(written, "model"), data, ImageStatistics(recipe.data.mean, recipe.data.std, way))


def _of_timm(init: str, overrides: Mapping[str, Any]) -> _Found:
    name = init.removeprefix("timm:")
    if not timm.is_model(full_name(name)):
        raise GlocalError(f"model.init={init}: {did_you_mean(init, [f'timm:{one}' for one in timm.list_models()])}")
    if full_name(overrides.get("model.name", name)) != full_name(name):
        raise GlocalError(
            f"model.name={overrides['model.name']} does not go with model.init={init}, which names it; leave it out"
        )
    return _Found({"name": name}, {}, statistics_in_timm(ModelSettings(name=name)))


def _of_file(init: str, start: Start) -> _Found:
    weights = read_weights(init)
    named = start.overrides.get("model.name")
    if weights.recipe is not None:
        return _of_run(weights, named)
    name = named or weights.architecture or _section(start.mapping, "model").get("name")
    if name is None:
        likely = likely_networks(weights)
        which = f"it fits {' and '.join(likely)}; " if likely else ""
        raise GlocalError(
            f"{init} does not say of which network it is; {which}name it: --set model.name={(likely or ['NAME'])[0]}"
        )
    settings = ModelSettings(name=str(name))
    stated = name == weights.architecture
    if stated:
        settings = settings.model_copy(update={"options": {"pretrained_cfg": dict(weights.config)}})
    options = dict(weights.options)
    if str(name).startswith("vit_"):  # built for the images of this training, to which codes of positions are resampled
        options = {key: value for key, value in options.items() if key not in _OF_THEIR_SIZE}
    model: dict[str, Any] = {"name": name, "options": options} if stated else {}
    stem = stem_of(weights)
    if stem != "standard" and settings.for_size(32).stem == "small":
        model["stem"] = stem
    return _Found(model, {}, statistics_in_timm(settings), weights)


def _of_run(weights: Weights, named: Any) -> _Found:
    """The model section, the size and the images' statistics of a run."""
    recipe = written_recipe(read_yaml(weights.recipe or "", str(weights.file)))
    model = recipe.model.untrained().model_dump(exclude={"init", "pretrained", "keep_statistics"})
    ways = {view.interpolation for view in recipe.views or []}
    way = ways.pop() if recipe.model.from_weights and len(ways) == 1 else ""
    data = recipe.data.model_dump(include={"size", "mean", "std", *_CHANNELS})
    statistics = ImageStatistics(recipe.data.mean, recipe.data.std, way)
    return _Found({} if named not in (None, recipe.model.name) else model, data, statistics, weights)


def _with_gentle_rate(
    start: Start,
    mapping: Mapping[str, Any],
    overrides: Mapping[str, Any],
    written: Mapping[str, Any] | None,
    *,
    chosen: bool,
) -> Start:
    """Takes a tenth of the learning rates, unless they were chosen for weights.

    Args:
        start: what is to be trained.
        mapping, overrides: the recipe as it was given.
        written: the recipe of the run that goes on; None where one begins.
        chosen: whether the recipe's rates are for weights.
    """
    own = _section(mapping, "optimizer")
    if "optimizer.lr" in overrides or ("lr" in own and chosen):
        return start
    by_name = usual_settings(_optimizer(start))
    usual = {
        "lr": by_name.get("lr", OptimizerSettings().lr),
        **{key: own[key] for key in _RATES if own.get(key) is not None},
    }
    usual = {key: rate for key, rate in usual.items() if rate != 0 and f"optimizer.{key}" not in overrides}
    if written is not None:
        before = written_recipe(written).optimizer.model_dump()
        return start.with_rates({key: before[key] for key in usual})
    if not usual or not all(isinstance(rate, int | float) for rate in usual.values()):
        return start  # where a rate is no number, the check of the recipe says what is wrong with it
    rates = {key: float(f"{_SHARE * rate:.6g}") for key, rate in usual.items()}
    changes = [f"optimizer.{key} is {rate:g} instead of {usual[key]:g}" for key, rate in rates.items()]
    note(
        f"{', '.join(changes)}: weights that were trained forget at the rate of random ones; set "
        f"{'it' if len(changes) == 1 else 'optimizer.lr'} to choose another"
    )
    return start.with_rates(rates)


def _optimizer(start: Start) -> str:
    """The optimiser's name, which network and method decide where none is given."""
    return build_recipe(start.mapping, start.overrides, statistics=start.statistics).optimizer.name


def _with_statistics_kept(start: Start, written: Mapping[str, Any] | None) -> Start:
    """Lets batch normalisation keep the statistics of the weights, unless something is said about it."""
    key = "keep_statistics"
    if f"model.{key}" in start.overrides or key in _section(start.mapping, "model"):
        return start
    kept = True if written is None else build_recipe(written).model.keep_statistics
    return replace(start, mapping={**start.mapping, "model": {**_section(start.mapping, "model"), key: kept}})
