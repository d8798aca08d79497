"""Backbones from where they lie: run folders, checkpoints, timm."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import timm
import torch
from torch import nn

from glocal.console import note
from glocal.data.decoding.rules import Decoding
from glocal.errors import GlocalError, counted, did_you_mean, one_line
from glocal.models.architecture import (
    Architecture,
    has_plain_stem,
    known_interpolation,
    network_name,
    set_stem,
    statistics_of_weights,
)
from glocal.models.backbone import Backbone
from glocal.models.building import build_backbone
from glocal.models.fitting import load_into
from glocal.models.hub import check_weights_at_hand
from glocal.models.weights import OF_IMAGES, UNITS, Weights, read_weights, stem_of
from glocal.plain import read_yaml
from glocal.regular import check_regular

if TYPE_CHECKING:
    from glocal.config import AnyRecipe

# Families that take images of any size where asked to: they resize their codes of positions.
_ANY_SIZE = ("timm.models.vision_transformer", "timm.models.deit")
_NO_OPTIONS = ("pretrained", "pretrained_cfg", "pretrained_cfg_overlay", "num_classes")  # of the network itself


def choose_device(device: str) -> str:
    """`auto` → cuda, mps or cpu, the first that is there.

    Raises:
        GlocalError: the device that was asked for is unknown or not there.
    """
    usable = {"cpu": True, "cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}
    if device == "auto":
        return next(name for name in ("cuda", "mps", "cpu") if usable[name])
    if device not in usable:
        raise GlocalError(f"device {device!r}: {did_you_mean(device, [*usable, 'auto'])}")
    if not usable[device]:
        raise GlocalError(f"device {device!r} is not usable here; `glocal doctor` says what is")
    return device


def load_backbone(path: str | Path, weights: str | Path | None = None) -> Backbone:
    """The trained backbone of a run, on the CPU and in evaluation mode. No random state is changed.

    Args:
        path: a run's folder (its newest checkpoint is taken), a checkpoint file, `timm:NAME` (pretrained weights), or
            `untrained:RUN` (the run's backbone as it was before the first step), or `untrained:timm:NAME`.
        weights: with `timm:NAME`, a file of weights (.safetensors, .pth), a run or a checkpoint to take instead of
            those that timm knows (`glocal.models.weights`). Options, stem, size and normalisation of the network are
            those that the file says, where it does.

    Raises:
        GlocalError: nothing is there, it cannot be read, or its weights do not fit the network.
    """
    with torch.random.fork_rng(devices=[]):  # networks are drawn on the CPU
        return _load_backbone(path, weights)


def _load_backbone(path: str | Path, weights: str | Path | None) -> Backbone:
    from glocal.checkpoints import load_checkpoint, newest_readable
    from glocal.config import written_recipe

    text = str(path)
    if weights is not None:
        if not text.startswith("timm:"):
            raise GlocalError(f"{text}: weights of another file go with timm:NAME, not with a run, which has its own")
        return _with_weights(text.removeprefix("timm:"), weights)
    if text.startswith("timm:"):
        return _from_timm(text.removeprefix("timm:"))
    if text.startswith("untrained:"):
        if text.startswith("untrained:timm:"):
            return _from_timm(text.removeprefix("untrained:timm:"), pretrained=False)
        return _untrained(Path(text.removeprefix("untrained:")))
    path = Path(path)
    if not path.exists():
        raise GlocalError(f"there is no run folder or checkpoint {path}; pretrained models are named timm:NAME")
    if path.suffix == ".safetensors":
        its = read_weights(path).architecture or "NAME"
        raise GlocalError(f"{path} is no checkpoint of glocal; name its network: `timm:{its} --weights {path}`")
    try:
        check_regular(path)
    except OSError as error:
        raise GlocalError(f"{path}: cannot be read: {error.strerror}") from None
    found = newest_readable(path / "checkpoints") if path.is_dir() else (path, load_checkpoint(path))
    if found is None:
        if (path / "recipe.yaml").is_file():
            raise GlocalError(
                f"{path}: this run has not saved a checkpoint yet; the same pretrain command starts it again"
            )
        raise GlocalError(f"{path} holds no checkpoint; is it the folder that --out named?")
    backbone_file, state = found
    recipe = written_recipe(read_yaml(state["recipe"], text))
    backbone = _of_recipe(recipe)
    _load_part(backbone, state, state["evaluated"], what=text)
    backbone.checkpoint = backbone_file
    backbone.label = f"{path.name} ({recipe.model.name}, step {state['step']})"
    return backbone.eval()


def load_projector(checkpoint: Path, layers: int) -> nn.Sequential:
    """The first layers of a run's projector, each with what follows it up to its ReLU, on the CPU.

    Args:
        checkpoint: the file.
        layers: how many, at least 1.

    Raises:
        GlocalError: the run has no projector on the network that is evaluated, or one with fewer such layers.
    """
    from glocal.checkpoints import load_checkpoint
    from glocal.config import written_recipe
    from glocal.methods.building import build_method

    state = load_checkpoint(checkpoint)
    recipe = written_recipe(read_yaml(state["recipe"], str(checkpoint)))
    with torch.random.fork_rng(devices=[]):
        projector = getattr(build_method(recipe, weights=False), "projector", None)
    if state["evaluated"] != "backbone" or not isinstance(projector, nn.Sequential):
        raise GlocalError(
            f"method {recipe.method.name} has no projector on the network that is evaluated; leave it at 0"
        )
    _load_part(projector, state, "projector", what=str(checkpoint))
    ends = [place for place, layer in enumerate(projector, start=1) if isinstance(layer, nn.ReLU)]
    if layers > len(ends):
        whole = sum(isinstance(layer, nn.Linear) for layer in projector)
        raise GlocalError(
            f"of the projector's {counted(whole, 'layer')} the first {len(ends)} can be kept, those with an activation"
        )
    return projector[: ends[layers - 1]].eval()


def _load_part(module: nn.Module, state: dict[str, Any], name: str, *, what: str) -> None:
    """Puts a checkpoint's weights of the method's part of this name into a module."""
    from glocal.checkpoints import load_weights

    prefix = f"{name}."
    own = {name.removeprefix(prefix): tensor for name, tensor in state["method"].items() if name.startswith(prefix)}
    load_weights(module, own, what=what)


def _of_recipe(recipe: AnyRecipe) -> Backbone:
    """The backbone of a run that has this recipe, with random weights, and what it knows of its images."""
    data = recipe.data
    assert data.size is not None  # a resolved recipe has it
    backbone = build_backbone(
        recipe.model.untrained(), size=data.size, mean=data.mean, std=data.std, channels=data.stored_channels
    )
    _tell_of_images(backbone, recipe)
    source = recipe.data.source or ()
    backbone.learned_from = (source,) if isinstance(source, str) else tuple(source)
    return backbone


def _untrained(folder: Path) -> Backbone:
    from glocal.config import build_recipe, load_mapping
    from glocal.methods.building import build_method

    if not (folder / "recipe.yaml").is_file():
        raise GlocalError(f"untrained:{folder}: there is no run in {folder}")
    recipe = build_recipe(load_mapping(folder / "recipe.yaml"))
    torch.default_generator.manual_seed(recipe.seed)  # not those of GPUs, which would stay so
    backbone = build_method(recipe).backbone
    _tell_of_images(backbone, recipe)
    backbone.label = f"{folder.name} untrained ({recipe.model.name})"
    return backbone.eval()


def _tell_of_images(backbone: Backbone, recipe: AnyRecipe) -> None:
    """Lets a backbone know how its images were decoded, and resized where it began with trained weights."""
    backbone.decoding = recipe.data.decoding
    expected = statistics_of_weights(recipe.model)
    ways = {view.interpolation for view in recipe.views or []}
    if expected is not None:
        backbone.interpolation = known_interpolation(expected.interpolation)
    elif recipe.model.init is not None and len(ways) == 1:  # a file's, which may be gone
        backbone.interpolation = ways.pop()


def _with_weights(name: str, file: str | Path) -> Backbone:
    """timm's network with weights out of a file, and what that says of the network's options and its images."""
    weights = read_weights(file)
    backbone = _of_run(name, weights) if weights.recipe is not None else _of_file(name, weights)
    note(load_into(backbone.network, weights, label=name))
    backbone.label = f"timm:{name} with {Path(file).name}"
    return backbone


def _of_run(name: str, weights: Weights) -> Backbone:
    """The network of a run's recipe, if it is the one that was named."""
    from glocal.config import written_recipe

    recipe = written_recipe(read_yaml(weights.recipe or "", str(weights.file)))
    if network_name(recipe.model.name) != network_name(name):
        raise GlocalError(f"{weights.file} is of {recipe.model.name}, not of timm:{name}")
    return _of_recipe(recipe).eval()


def _of_file(name: str, weights: Weights) -> Backbone:
    """The network as the file says it was built, if it speaks of the one that was named; else as timm builds it."""
    stated = weights.architecture
    if stated is not None and network_name(stated) != network_name(name):
        note(f"{weights.file} says that it is of {stated}: what else it says is not taken for timm:{name}")
        stated = None
    backbone = _from_timm(name, pretrained=False, said=None if stated is None else weights)
    if has_plain_stem(backbone.network):
        assert backbone.architecture is not None
        backbone.architecture = backbone.architecture._replace(stem=stem_of(weights))
        set_stem(backbone.network, backbone.architecture.stem)
    return backbone.eval()


def _from_timm(name: str, *, pretrained: bool = True, said: Weights | None = None) -> Backbone:
    """timm's network; with `said`, built for the images and with the options that lie beside these weights."""
    if not timm.is_model(name.split(".")[0]):
        every = [f"timm:{one}" for one in timm.list_models()]
        raise GlocalError(f"timm:{name}: {did_you_mean(f'timm:{name}', every)}")
    family = timm.models.model_entrypoint(name.split(".")[0]).__module__
    options: dict[str, Any] = {"dynamic_img_size": True} if family in _ANY_SIZE else {}
    images: dict[str, Any] = {}
    if said is not None:
        options |= {key: value for key, value in said.options.items() if key not in _NO_OPTIONS}
        images = _of_images(said)
    torch.default_generator.manual_seed(0)  # for those that are not pretrained
    if pretrained:
        check_weights_at_hand(name, f"timm:{name}")
    try:
        network = timm.create_model(
            name, pretrained=pretrained, num_classes=0, **options, pretrained_cfg_overlay=images or None
        )
    except Exception as error:  # every hub client fails in its own way
        if said is not None:
            raise GlocalError(
                f"{said.file}: timm does not build {name} with the options that it notes ({options}): {one_line(error)}"
            ) from error
        raise GlocalError(
            f"timm:{name}: its weights cannot be fetched: {' '.join(str(error).split())[:200]}"
        ) from error
    config = network.pretrained_cfg
    label = f"timm:{name}" if pretrained else f"timm:{name} untrained"
    backbone = Backbone(network, size=config["input_size"][-1], mean=config["mean"], std=config["std"], label=label)
    backbone.interpolation = known_interpolation(str(config.get("interpolation", "")))
    if said is not None and said.config.get(UNITS) == "stored":
        backbone.decoding = Decoding(channels=len(config["mean"]))
    backbone.architecture = Architecture(name.split(".")[0], options)
    return backbone.eval()


def _of_images(said: Weights) -> dict[str, Any]:
    """What weights say of their images, as timm's `pretrained_cfg` has it.

    Raises:
        GlocalError: three numbers are expected, and it is something else.
    """
    found = {key: said.config[key] for key in OF_IMAGES if said.config.get(key) is not None}
    channels = said.options.get("in_chans", 3)
    for key, wanted in (("input_size", 3), ("mean", channels), ("std", channels)):
        value = found.get(key, (1,) * wanted)
        numbers = isinstance(value, list | tuple) and all(isinstance(n, int | float) for n in value)
        if not numbers or len(value) != wanted:
            words = "three" if wanted == 3 else wanted
            raise GlocalError(f"{said.file}: its {key} is {value!r}, not {words} numbers")
        if key in found:
            found[key] = tuple(value)
    return found
