"""A folder that timm loads: `config.json` and `model.safetensors`, as timm itself saves them for the Hub."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import timm
from timm.data import resolve_model_data_config
from timm.models.vision_transformer import VisionTransformer

from glocal.errors import GlocalError, one_line
from glocal.exports.preprocessing import Preprocessing, is_rgb
from glocal.exports.safetensors import TOLERANCE, read_metadata, runner, write_weights
from glocal.exports.subject import Subject
from glocal.exports.target import Loaded, Target, quoted
from glocal.files import write_text
from glocal.models.architecture import Architecture

CONFIG, WEIGHTS = "config.json", "model.safetensors"

# What timm notes of weights and where they came from, which is not so of these.
_NOT_OURS = frozenset(
    {"url", "file", "hf_hub_id", "hf_hub_filename", "source", "tag", "custom_load", "label_offset", "license"}
    | {"label_names", "label_descriptions", "description", "origin_url", "paper_name", "paper_ids", "notes"}
    | {"test_input_size", "test_crop_pct", "test_pool_size", "pool_size", "architecture", "state_dict"}
)


def why_not(architecture: Architecture | None) -> str:
    """Why timm cannot build a network by name alone; "" where it can."""
    if architecture is None:
        return "the network was not built by timm's create_model"
    if not timm.is_model(architecture.name):
        return f"timm has no {architecture.name}"
    if architecture.stem != "standard":
        named = f"the {architecture.stem} stem (model.stem={architecture.stem})"
        return f"no name or argument of timm's gives a ResNet {named}"
    return ""


def write(subject: Subject, place: Path) -> None:
    """Writes the folder.

    Raises:
        GlocalError: timm cannot build the network by name.
    """
    reason = why_not(subject.architecture)
    if reason:
        raise GlocalError(f"--to timm: {reason}; --to safetensors, onnx and hub-folder take this network")
    place.mkdir(exist_ok=True)
    write_weights(subject.weights(), place / WEIGHTS, subject.metadata())
    write_text(place / CONFIG, json.dumps(config(subject), indent=2, ensure_ascii=False) + "\n")


def config(subject: Subject) -> dict[str, Any]:
    """What `config.json` says, by the names that timm reads."""
    known = subject.architecture
    assert known is not None
    noted = getattr(subject.network, "pretrained_cfg", None) or {}
    pretrained = {key: value for key, value in noted.items() if key not in _NOT_OURS and value is not None}
    pretrained |= {**subject.preprocessing.timm(), "crop_mode": "center", "num_classes": 0}
    if isinstance(subject.network, VisionTransformer):
        pretrained["fixed_input_size"] = not known.options.get("dynamic_img_size", False)
    if subject.license is not None:
        pretrained["license"] = subject.license
    return {
        "architecture": known.name,
        "num_classes": 0,
        "num_features": subject.backbone.dim,
        "model_args": known.options,
        "pretrained_cfg": pretrained,
        **({} if subject.preprocessing.rgb else {"values": "stored"}),
    }


def load(path: Path) -> list[Loaded]:
    """Lets timm load the folder."""
    try:
        network = timm.create_model(f"local-dir:{path}", pretrained=True)
        its = resolve_model_data_config(network)
    except Exception as error:  # whatever timm says: it does not load
        raise GlocalError(f"timm {timm.__version__} does not load what was written: {one_line(error)}") from error
    metadata = read_metadata(path / WEIGHTS)
    tolerance = TOLERANCE[metadata["precision"]]
    prepared = Preprocessing.from_timm(its, rgb=is_rgb(metadata))
    return [Loaded("timm", prepared, runner(network.eval()), ("features",), tolerance)]


def folder_metadata(path: Path) -> Mapping[str, str]:
    """What the header of the weights in a folder says."""
    return read_metadata(path / WEIGHTS)


def lines(subject: Subject) -> str:
    """Loads the folder, and makes timm's transform of it."""
    opened = (
        f"import timm\n\nnetwork = timm.create_model({quoted(f'local-dir:{subject.out}')}, pretrained=True).eval()\n"
    )
    if not subject.preprocessing.rgb:  # timm's transforms are of PIL images
        channels = len(subject.preprocessing.mean)
        return f"{opened}features = network(images)  # normalised, (B, {channels}, H, W) float32\n"
    return (
        f"{opened}"
        "transform = timm.data.create_transform(**timm.data.resolve_model_data_config(network))\n"
        "features = network(transform(image)[None])  # a PIL image\n"
    )


TARGET = Target(
    name="timm",
    summary="a folder for timm.create_model: config.json and model.safetensors",
    endings=(),
    contents=(CONFIG, WEIGHTS),
    write=write,
    load=load,
    metadata=folder_metadata,
    lines=lines,
)
