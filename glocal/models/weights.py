"""Weights from files: whatever wrapped them, their tensors by name, and what is said beside them."""

from __future__ import annotations

import argparse
import json
import pickle
import zipfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, get_args

import timm
import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from glocal.checkpoints import load_checkpoint, newest_readable
from glocal.errors import GlocalError, one_line
from glocal.models.architecture import Stem
from glocal.plain import read_json
from glocal.regular import check_regular

OF_IMAGES = ("input_size", "mean", "std", "interpolation")  # timm's names of what a network expects of them
UNITS = "values"  # "stored" beside weights of images whose values come in their own units

_IN_FOLDERS = ("model.safetensors", "pytorch_model.bin")  # as on Hugging Face's hub
_NOT_OF_A_BACKBONE = ("num_classes", "checkpoint_path")  # arguments of timm's constructors


@dataclass(frozen=True)
class Weights:
    """What a file, a checkpoint or a run's folder holds.

    Attributes:
        file: where it was read.
        tensors: by name, of nested mappings with their names joined by dots.
        architecture: timm's name of the network, where the file or what lies beside it says so.
        options: of its constructor in timm, where they are said.
        stem: of a ResNet, where the file says it.
        config: what is said beside it of the images (timm's pretrained_cfg); empty where nothing is.
        recipe: of a checkpoint of this package, the recipe as YAML.
    """

    file: Path
    tensors: Mapping[str, Tensor]
    architecture: str | None = None
    options: Mapping[str, Any] = field(default_factory=dict)
    config: Mapping[str, Any] = field(default_factory=dict)
    stem: Stem | None = None
    recipe: str | None = None


def read_weights(place: str | Path) -> Weights:
    """Reads weights without executing anything that is in a file.

    Args:
        place: a .safetensors file, a file of torch (.pth, .pt, .bin, .ckpt, .tar; only tensors and plain values in it
            are accepted), a run's folder (its newest readable checkpoint) or a checkpoint (the network that is
            evaluated is taken), or a folder as on Hugging Face's hub (model.safetensors and config.json).

    Raises:
        GlocalError: nothing is there, or it is no such file.
    """
    path = Path(place)
    if path.is_dir() and (found := newest_readable(path / "checkpoints")) is not None:
        return _of_checkpoint(*found)
    path = _file_in(path)
    if path.suffix == ".safetensors":
        tensors, said = _safetensors(path)
        return Weights(path, tensors, *_beside(path, said))
    state = _unpickled(path)
    if "format" in state and "method" in state and "evaluated" in state:
        return _of_checkpoint(path, load_checkpoint(path))
    tensors = dict(_flattened(state, ""))
    if not tensors:
        raise GlocalError(f"{path} holds no tensors; give a file of a network's weights")
    header = getattr(state, "_metadata", {}).get("glocal")  # where an export to torchvision has it
    said = {key: _from_json(value) for key, value in _mapping(header).items()}
    return Weights(path, tensors, *_beside(path, {**state, **said}))


def _of_checkpoint(path: Path, state: Mapping[str, Any]) -> Weights:
    return Weights(path, under(state["method"], f"{state['evaluated']}.network."), recipe=state["recipe"])


def _file_in(place: Path) -> Path:
    """The file that is meant by a file, or by a folder without checkpoints."""
    if not place.exists():
        raise GlocalError(
            f"there are no weights {place}; give a file (.safetensors, .pth), a run's folder, or timm:NAME where a "
            "network's own are meant"
        )
    if not place.is_dir():
        try:
            check_regular(place)
        except OSError as error:
            raise GlocalError(f"{place}: cannot be read: {error.strerror}") from None
        return place
    found = [place / name for name in _IN_FOLDERS if (place / name).is_file()]
    if not found:
        raise GlocalError(
            f"{place} holds no weights: neither a run's checkpoints nor {' or '.join(_IN_FOLDERS)}; give the file"
        )
    return found[0]


def _safetensors(path: Path) -> tuple[dict[str, Tensor], Mapping[str, Any]]:
    try:
        with safe_open(path, "pt") as file:  # type: ignore[no-untyped-call]
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
            return tensors, {key: _from_json(value) for key, value in (file.metadata() or {}).items()}
    except (SafetensorError, OSError) as error:
        raise GlocalError(f"{path} is no readable safetensors file: {one_line(error)}") from error


def _from_json(text: str) -> Any:
    """A value that a header holds as JSON, for it holds text only; text that is no JSON as it is."""
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return text


def _unpickled(path: Path) -> dict[Any, Any]:
    """What torch saved to a file, if it is a mapping of tensors and plain values.

    Arguments of a command line are let through as well: many published files hold those that they were made with.
    """
    with torch.serialization.safe_globals([argparse.Namespace]):
        try:
            with path.open("rb") as file:
                mapped = zipfile.is_zipfile(file)  # older files cannot be mapped into memory
            state = torch.load(path, map_location="cpu", weights_only=True, mmap=mapped)
        except pickle.UnpicklingError as error:
            raise GlocalError(
                f"{path} is not read: it is damaged, or holds Python objects besides tensors and plain values, which "
                "could execute anything; save the network's state_dict() alone, best as .safetensors"
            ) from error
        except (OSError, EOFError, RuntimeError, ValueError, KeyError, zipfile.BadZipFile) as error:
            raise GlocalError(f"{path} is no file of weights that torch has saved, or is damaged") from error
    if not isinstance(state, dict):
        raise GlocalError(f"{path} holds a {type(state).__name__}, not a network's weights by name")
    return state


def _flattened(state: Mapping[Any, Any], before: str) -> Iterator[tuple[str, Tensor]]:
    for name, value in state.items():
        if isinstance(name, str):
            if isinstance(value, Tensor):
                yield before + name, value
            elif isinstance(value, Mapping):
                yield from _flattened(value, f"{before}{name}.")


def under(tensors: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """The tensors whose names begin with a prefix, by what follows it."""
    return {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}


def _beside(
    path: Path, said: Mapping[str, Any]
) -> tuple[str | None, Mapping[str, Any], Mapping[str, Any], Stem | None]:
    """Architecture, its options, what is known of its images, and stem, out of timm's config.json or of the file."""
    beside: Mapping[str, Any] = {}
    if path.name in _IN_FOLDERS and (path.parent / "config.json").is_file():
        beside = _mapping(read_json(path.parent / "config.json"))
    for words in (beside, said):
        for key in ("architecture", "arch", "model_name", "model"):
            name = words.get(key)
            name = name.strip().removeprefix("timm").lstrip(" :/") if isinstance(name, str) else ""
            if name and timm.is_model(name):
                images = {key: words[key] for key in (*OF_IMAGES, UNITS) if key in words}
                options = _mapping(words.get("model_args"))
                options = {key: value for key, value in options.items() if key not in _NOT_OF_A_BACKBONE}
                if options.get("in_chans") == 3:  # RGB is what all are built for
                    del options["in_chans"]
                stem = words["stem"] if words.get("stem") in get_args(Stem) else None  # others use the word otherwise
                return name, options, images | _mapping(words.get("pretrained_cfg")), stem
    return None, {}, {}, None


def stem_of(weights: Weights) -> Stem:
    """The stem of a ResNet whose weights these are.

    It is what the file says. Tensors alone tell 3×3 from 7×7, but not the stride: 3×3 is then taken for small.
    """
    if weights.stem is not None:
        return weights.stem
    for name, tensor in weights.tensors.items():
        if name.endswith("conv1.weight") and "layer" not in name and tensor.ndim == 4:
            return "small" if tensor.shape[-1] == 3 else "standard"
    return "standard"


def _mapping(value: Any) -> dict[str, Any]:
    return dict(value) if isinstance(value, Mapping) else {}
