"""Recipes: typed, checked when loaded, and written to the run folder as they were resolved."""

from __future__ import annotations

import difflib
import math
from collections.abc import Iterator, Mapping
from functools import cache
from importlib import resources
from itertools import pairwise
from pathlib import Path
from typing import Any, Generic, Literal, TypeVar

from pydantic import ConfigDict, Field, ValidationInfo, field_validator

from glocal.data.settings import DataSettings, keeps_values
from glocal.errors import GlocalError, counted, did_you_mean, shortened, shown
from glocal.methods import method_class, method_names
from glocal.methods.base import Method, MethodSettings
from glocal.methods.own_file import same_method, with_copies
from glocal.models.architecture import ImageStatistics, ModelSettings, statistics_of_weights
from glocal.papers import Published, find_row, load_paper
from glocal.plain import copied, read_yaml, read_yaml_file, typed, write_yaml
from glocal.settings import Seed, Settings, assign, choices_of, validated
from glocal.training.optimizers import OptimizerSettings, usual_optimizer, usual_settings
from glocal.views.plan import MOST_VIEWS, View

M = TypeVar("M", bound=MethodSettings)

# What makes a run; all else in a recipe is of the machine, or says how the run was watched.
_SECTIONS = ("method", "model", "optimizer", "views")
_SINGLE = {
    "data": ("size", "source", "shared_geometry", "channels", "rgb"),
    "train": ("epochs", "batch_size", "clip_norm", "freeze_backbone_epochs"),
}
# Of LoGo: they say what the views are, which are compared themselves.
_CROPS = ("global_ratio", "local_ratio", "smallest_local", "global_scale", "local_scale")
_IN_THE_VIEWS = {f"method.{name}" for name in _CROPS}
_FILLED_IN = {"method.images", "method.classes", "method.clusters"}  # by a run, from its images, where they are null

_VIEWS = "views."  # so begin the paths of single settings of views, which are there when the method is known
_RESIZES = ("bilinear", "bicubic")  # what views can do of the ways in which weights' images were resized


LoggerName = Literal["wandb", "mlflow"]
"""Services that a run may tell its numbers."""


class TrainSettings(Settings):
    """The training loop."""

    epochs: int = Field(200, ge=1, le=1_000_000)
    extended_from: tuple[int, ...] = ()  # epochs after which --extend made it longer; schedules had these ends first
    batch_size: int = Field(256, ge=2, le=2**24)  # images in an optimiser step, over all processes and parts
    freeze_backbone_epochs: float = Field(0.0, ge=0)  # so long only the heads learn; then the backbone as well
    accumulate: int = Field(1, ge=1)  # parts in which a process computes its share of the batch
    clip_norm: float | None = Field(None, gt=0)  # gradients are cut to it, together or each alone (optimizer.clip)
    precision: Literal["auto", "fp32", "bf16", "fp16"] = "fp32"  # auto: bf16 where this machine is fast at it
    channels_last: bool = True
    keep_memory: bool = True  # on a CPU: give no freed memory back; a fifth faster or more, for more memory
    recompute: bool | Literal["blocks"] = True  # transformers make cheap activations again; blocks: all of a block
    sharded: bool = False  # of several processes each keeps its part of weights, gradients and optimiser state
    compile: bool = False
    deterministic: bool = False  # the same weights twice on one device; on a GPU slower, on a CPU they are so anyway
    device: Literal["auto", "cpu", "cuda", "mps"] = "auto"
    devices: int = Field(1, ge=1, le=2**16)  # processes on each machine, of which each has a GPU where there are any
    machines: int = Field(1, ge=1, le=2**16)  # that train together, started by torchrun or SLURM on each of them
    requeue: bool = True  # on SIGUSR1, a SLURM job goes back into the queue when its checkpoint is written
    log_steps: int = Field(10, ge=1)  # optimiser steps between two lines of metrics.csv
    loggers: tuple[LoggerName, ...] = ()  # wandb, mlflow: told as well, beside metrics.csv and TensorBoard
    checkpoint_minutes: float = Field(5.0, gt=0)
    checkpoint_steps: int | None = Field(None, ge=1)  # in addition to the time
    keep_checkpoints: int = Field(2, ge=1)

    @property
    def processes(self) -> int:
        """How many train together."""
        return self.devices * self.machines

    @field_validator("freeze_backbone_epochs")
    @classmethod
    def _thaws(cls, frozen: float, info: ValidationInfo) -> float:
        if frozen >= info.data.get("epochs", math.inf):
            raise ValueError(
                f"the backbone would learn nothing in a training of {counted(info.data['epochs'], 'epoch')}; give fewer"
            )
        return frozen

    @field_validator("extended_from")
    @classmethod
    def _rises_up_to_epochs(cls, lengths: tuple[int, ...], info: ValidationInfo) -> tuple[int, ...]:
        if any(before >= after for before, after in pairwise((0, *lengths))):
            raise ValueError("each number of epochs must be higher than the one before, as in [100, 200]")
        if lengths and lengths[-1] >= info.data.get("epochs", math.inf):
            raise ValueError(
                f"the run has had {counted(lengths[-1], 'epoch')} already; give more, not "
                f"train.epochs={info.data['epochs']}"
            )
        return lengths


class MonitorSettings(Settings):
    """What is watched while training."""

    knn_epochs: int = Field(10, ge=0)  # epochs between two k-NN measurements on labelled data; 0: none
    knn_k: int = Field(20, ge=1)
    knn_images: int = Field(10_000, ge=10)  # at most this many images in the bank
    collapse_epochs: float = Field(1.0, ge=0)  # epochs between two looks at the embeddings; 0: none


DEFAULT_METHOD = "glocal"
_DEFAULT_RATE = 0.24  # of that method, by SGD


class Recipe(Settings, Generic[M]):
    """Everything that decides a run."""

    name: str = "custom"
    reproduces: str = ""  # paper, table, row
    row: str = ""  # its place in the papers' tables (`glocal tables`): sce/2/tau=0.2 target=0.10 CIFAR10
    published: str = ""  # the number in print, with its protocol; where there is a row, that row's
    planned: str = ""  # by --time: the plan and its reasons
    seed: Seed = 0
    data: DataSettings = DataSettings()
    views: list[View] | None = Field(None, min_length=1)  # null: the method's own, for `data.size`
    model: ModelSettings = ModelSettings()
    method: M
    optimizer: OptimizerSettings = OptimizerSettings()
    train: TrainSettings = TrainSettings()
    monitor: MonitorSettings = MonitorSettings()

    @field_validator("views")
    @classmethod
    def _are_not_too_many(cls, views: list[View] | None) -> list[View] | None:
        count = sum(view.count * (1 + len(view.resolutions)) for view in views or [])
        if count > MOST_VIEWS:
            raise ValueError(f"{count:,} of each image are more than {MOST_VIEWS:,}")
        return views

    def to_yaml(self) -> str:
        """The recipe as a file that `load_mapping` reads back."""
        return write_yaml(self.model_dump(mode="json"))


AnyRecipe = Recipe[Any]


class _AsWritten(MethodSettings):
    model_config = ConfigDict(extra="allow")


def recipe_names() -> list[str]:
    """The names of the recipes in the package, sorted.

    >>> "sce-cifar10" in recipe_names()
    True
    """
    files = resources.files("glocal.recipes").iterdir()
    return sorted(file.name.removesuffix(".yaml") for file in files if file.name.endswith(".yaml"))


def load_mapping(recipe: str | Path) -> dict[str, Any]:
    """A recipe's file as a mapping, unchecked.

    Where a run's `recipe.yaml` names a method's file that is no longer there, the run's own copy takes its place.

    Args:
        recipe: the name of a recipe in the package, or a path that ends in .yaml.

    Raises:
        GlocalError: no such recipe or file, no valid YAML mapping in it, a key that stands twice, or a `row` that is in
            no paper's table.
    """
    if not isinstance(recipe, str | Path):
        raise GlocalError(f"a recipe is a name or a file, not {type(recipe).__name__}; single settings are overrides")
    name = str(recipe)
    if name.endswith((".yaml", ".yml")):
        mapping = read_yaml_file(Path(name), f"recipe {name}")
    elif name in recipe_names():
        text = resources.files("glocal.recipes").joinpath(f"{name}.yaml").read_text(encoding="utf-8")
        mapping = read_yaml(text, f"recipe {name}")
    else:
        raise GlocalError(f"there is no recipe {shown(name)}; {_near_recipes(name)}")
    if not isinstance(mapping, dict):
        raise GlocalError(f"recipe {name}: must be a mapping of sections (data, model, method, …)")
    mapping.setdefault("name", Path(name).stem)
    if mapping.get("row") and "published" not in mapping:  # the recipe.yaml of a run says what it was
        mapping["published"] = find_row(str(mapping["row"])).text
    if Path(name).name == "recipe.yaml" and isinstance(method := mapping.get("method"), Mapping):
        mapping["method"] = with_copies(method, Path(name).parent.absolute())
    return mapping


def _near_recipes(name: str) -> str:
    """`did_you_mean`, with all recipes of a method where the name is about that of one: w_mse, rotatoin."""
    methods = [method.replace("_", "-") for method in method_names()]
    near = difflib.get_close_matches(name.lower().replace("_", "-"), methods, n=1, cutoff=0.8)
    its = [recipe for recipe in recipe_names() if near and recipe.startswith(f"{near[0]}-")]
    return f"did you mean {' or '.join(its)}?" if its else did_you_mean(name, recipe_names())


def written_recipe(mapping: Mapping[str, Any]) -> AnyRecipe:
    """A recipe as a run has written it, without a look at its method, which may be in a file that is not here.

    Raises:
        GlocalError: an unknown key, a wrong type or value outside of the method.
    """
    return validated(Recipe[_AsWritten], mapping, f"recipe {mapping.get('name', 'custom')}")


def build_recipe(
    mapping: Mapping[str, Any],
    overrides: Mapping[str, Any] | None = None,
    *,
    data_size: int | None = None,
    statistics: ImageStatistics | None = None,
) -> AnyRecipe:
    """Checks a mapping with its overrides and fills in what is derived: the size, the views, the stem.

    Where overrides make another training of it, its `row` and `published` are that training's, or empty (`settle_row`).

    Args:
        mapping: sections as in a recipe file.
        overrides: values by dotted path, `{"train.epochs": 10, "views.1.grey": 0.2}`. Where `method.name` names
            another method than the mapping does, the mapping's other settings of the method are left out.
        data_size: side of the images in pixels, used when neither says `data.size`.
        statistics: what weights out of a file expect of images; of timm's weights it is known.

    Raises:
        GlocalError: an unknown key, a wrong type or value; one line that names the place and the nearest valid key.
    """
    recipe = _resolved(mapping, dict(overrides or {}), data_size, statistics)
    return settle_row(recipe, mapping) if overrides else recipe


def _resolved(
    mapping: Mapping[str, Any],
    overrides: Mapping[str, Any],
    data_size: int | None,
    statistics: ImageStatistics | None = None,
) -> AnyRecipe:
    raw, recipe = sections(mapping, overrides)
    of_views = {path: value for path, value in overrides.items() if path.startswith(_VIEWS)}
    kind = method_class(recipe.method.name)
    size = recipe.data.size or data_size or 224
    raw["data"] = {**(raw.get("data") or {}), "size": size}
    model = recipe.model
    if "name" not in (raw.get("model") or {}):
        model = ModelSettings.model_validate({**kind.default_model(size), **(raw.get("model") or {})})
    raw["model"] = model.for_size(size).model_dump()
    raw["optimizer"] = _with_usual(raw.get("optimizer"), kind, recipe.method.name, model.name)
    weights = statistics or statistics_of_weights(model)
    stored = recipe.data.stored_channels is not None
    if weights is not None and not stored:  # those of values are measured
        raw["data"] = {"mean": weights.mean, "std": weights.std, **raw["data"]}
    if recipe.views is None:
        plan = kind.view_plan(size, recipe.method)
        plan = [view.without_colors() for view in plan] if stored else plan
        resized = {"interpolation": weights.interpolation} if weights and weights.interpolation in _RESIZES else {}
        raw["views"] = [{**view.model_dump(mode="json"), **resized} for view in plan]
    for path, value in of_views.items():
        assign(raw, path, value)
    recipe = _fit_to_channels(_check(raw))
    if kind.reads_geometry:
        _refuse_warps(recipe)
    return recipe


def sections(mapping: Mapping[str, Any], overrides: Mapping[str, Any]) -> tuple[dict[str, Any], AnyRecipe]:
    """Checks what can be checked before the images are known: all but single settings of views.

    Args:
        mapping, overrides: as for `build_recipe`.

    Returns:
        The mapping with what is set on top of it, and what that says.

    Raises:
        GlocalError: as `build_recipe`.
    """
    raw = copied(mapping)
    method = raw.get("method")
    named = overrides.get("method.name")
    if isinstance(method, Mapping) and named is not None and not same_method(_word(named), _word(method.get("name"))):
        raw["method"] = {}  # settings of one method say nothing about another
    for path, value in overrides.items():
        if not path.startswith(_VIEWS):
            assign(raw, path, value)
    raw = _with_method(raw)
    return raw, _check(raw)


def _refuse_warps(recipe: AnyRecipe) -> None:
    """What a warp has moved lies elsewhere than the geometry of its view says.

    Raises:
        GlocalError: a view is warped.
    """
    for number, view in enumerate(recipe.views or []):
        if view.randaugment.operations and view.randaugment.warps:
            raise GlocalError(
                f"recipe {recipe.name}: views.{number}.randaugment.warps=true moves what a view shows, and "
                f"{recipe.method.name} matches places of views; set it to false"
            )


def _with_method(raw: Mapping[str, Any]) -> dict[str, Any]:
    """The sections with the default method where they name none.

    Raises:
        GlocalError: the method is no section.
    """
    method = raw.get("method")
    method = {} if method is None else method
    if not isinstance(method, Mapping):
        raise GlocalError(
            f"recipe {raw.get('name', 'custom')}: method must be a section with a name, for example method.name=sce"
        )
    return {**raw, "method": {"name": DEFAULT_METHOD, **method}}


def _with_usual(optimizer: Mapping[str, Any] | None, kind: type[Method], method: str, network: str) -> dict[str, Any]:
    """The optimiser that a network is usually trained with, where none is named, and its usual settings."""
    optimizer = optimizer or {}
    name = optimizer.get("name") or usual_optimizer(network, kind.optimizers)
    usual = {"lr": _DEFAULT_RATE} if name == "sgd" and method == DEFAULT_METHOD else usual_settings(name)
    return {"name": name, **usual, **optimizer}


def _fit_to_channels(recipe: AnyRecipe) -> AnyRecipe:
    """The recipe whose views change no colours, where its images have none.

    Raises:
        GlocalError: a view was told to change colours, or to drop the only channel.
    """
    if recipe.data.stored_channels is None:
        return recipe
    views = recipe.views or []
    for number, view in enumerate(views):
        for path, value in view.colors().items():
            if view.says(path):
                raise GlocalError(
                    f"recipe {recipe.name}: views.{number}.{path}={value:g} needs RGB, which images of "
                    f"data.channels={recipe.data.channels} are not; set it to 0, or views=null for the method's own"
                )
        if view.channel_drop > 0 and recipe.data.channels == 1:
            raise GlocalError(f"recipe {recipe.name}: views.{number}.channel_drop would leave nothing of one channel")
    return recipe.model_copy(update={"views": [view.without_colors() for view in views]})


def settle_row(recipe: AnyRecipe, mapping: Mapping[str, Any]) -> AnyRecipe:
    """A recipe that says of itself no number that belongs to another training.

    Args:
        recipe: what was made of `mapping`, by overrides or to fit its images.
        mapping: whose `row` and `published` the recipe has.

    Returns:
        The recipe as it is, where it still is the training that the mapping describes; else with the row of the same
        paper that it is exactly, or with neither row nor number.
    """
    own = {key: str(mapping.get(key) or "") for key in ("row", "published")}
    if not any(own.values()) or (recipe.row, recipe.published) != (own["row"], own["published"]):
        return recipe  # nothing is said, or an override says it
    if next(differences(_resolved(mapping, {}, recipe.data.size), recipe), None) is None:
        return recipe
    for found, wanted in _rows_of(own["row"].partition("/")[0], recipe.name):
        if next(differences(wanted, recipe), None) is None:
            return recipe.model_copy(update={"row": found.place, "published": found.text})
    return recipe.model_copy(update={"row": "", "published": ""})


@cache
def _rows_of(paper: str, recipe: str) -> tuple[tuple[Published, AnyRecipe], ...]:
    """The rows of a paper that one of the package's recipes is, with the row's settings."""
    if not paper or recipe not in recipe_names():
        return ()
    mapping, whole = load_mapping(recipe), load_paper(paper)
    return tuple(
        (Published(whole, table, row), _resolved(mapping, row.settings, None))
        for table in whole.tables
        for row in table.rows
        if row.recipe == recipe
    )


def differences(wanted: AnyRecipe, found: AnyRecipe) -> Iterator[tuple[str, Any, Any]]:
    """Where two recipes are different trainings: the path of each setting, and both values, as JSON.

    A data set's name may say its part where the wanted one does not (torchvision:CIFAR10:train), and a recipe without a
    data set, or with null for what images decide, is the same training whatever stands there.
    """
    for path, printed, own in _apart("", _decisive(wanted), _decisive(found)):
        if path == "data.source":
            if printed is not None and not str(own).startswith(f"{printed}:"):
                yield path, printed, own
        elif path not in _IN_THE_VIEWS and not (path in _FILLED_IN and printed is None):
            yield path, printed, own


def _decisive(recipe: AnyRecipe) -> dict[str, Any]:
    whole = {**recipe.model_dump(mode="json"), "method": recipe.method.explicit().model_dump(mode="json")}
    parts = {section: {key: whole[section][key] for key in keys} for section, keys in _SINGLE.items()}
    return {**{section: whole[section] for section in _SECTIONS}, **parts}


def _apart(path: str, wanted: Any, found: Any) -> Iterator[tuple[str, Any, Any]]:
    """Where two trees of settings differ: the path, and both values."""
    if isinstance(wanted, Mapping) and isinstance(found, Mapping):
        for key in {**wanted, **found}:
            yield from _apart(f"{path}.{key}".removeprefix("."), wanted.get(key), found.get(key))
    elif wanted != found:
        yield path, wanted, found


def method_options(recipe: AnyRecipe) -> list[tuple[str, str, str, str]]:
    """The options of a recipe's method: path, value, default and choices of each, as `--set` takes them."""
    method = recipe.method
    return list(_options("method", method))


def _options(path: str, settings: MethodSettings) -> Iterator[tuple[str, str, str, str]]:
    default = type(settings)(name=settings.name)
    for key, field in type(settings).model_fields.items():
        value, usual = getattr(settings, key), getattr(default, key)
        if isinstance(value, MethodSettings):  # the method that LoGo works on
            yield f"{path}.{key}.name", value.name, usual.name, ""
            yield from _options(f"{path}.{key}", value)
        elif key != "name":
            yield f"{path}.{key}", typed(_short(value)), typed(_short(usual)), choices_of(field)


def _short(value: Any) -> Any:
    """A setting's value; of a schedule what is not the default."""
    return value.model_dump(exclude_defaults=True) if isinstance(value, Settings) else value


def _word(value: Any) -> str:
    """What should be a name, as one: there are numbers that Python writes out for nobody."""
    return value if isinstance(value, str) else shown(value)


def _check(raw: Mapping[str, Any]) -> AnyRecipe:
    where = f"recipe {shortened(_word(raw.get('name', 'custom')))}"
    name, data = _word(raw["method"]["name"]), raw.get("data")
    kind = method_class(name)
    settings = kind.Settings
    if kind.needs_color and isinstance(data, Mapping) and keeps_values(data.get("channels", 3), data.get("rgb")):
        given = "data.rgb=false" if data.get("channels", 3) == 3 else f"data.channels={_word(data['channels'])}"
        raise GlocalError(
            f"{where}: method {name} learns from colours, which images of {given} have not; leave {given} out (RGB is "
            "the default) or choose another method"
        )
    schema = Recipe[settings]  # type: ignore[valid-type]
    return validated(schema, raw, where)
