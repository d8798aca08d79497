"""One file of weights by timm's names; its header says which network they are of and how images are prepared."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from glocal.errors import GlocalError
from glocal.exports.preprocessing import Preprocessing
from glocal.exports.subject import OWN_NETWORKS, Subject, architecture_from, arguments, build, stem_line
from glocal.exports.target import Loaded, Target, quoted

TOLERANCE = {"fp32": 1e-6, "fp16": 2e-2}
"""Of weights that are read back into the same network: the same computation, or one with weights of 11 bits, which
differs by 0.009 in trained EfficientNets and by less than 0.001 in ResNets and vision transformers."""


def write(subject: Subject, place: Path) -> None:
    """Writes the weights of a subject.

    Raises:
        GlocalError: it is not known what builds the network.
    """
    if subject.architecture is None:
        raise GlocalError(
            f"--to safetensors: it is not known how {type(subject.network).__name__} is built again; --to onnx needs "
            "not know it"
        )
    write_weights(subject.weights(), place, subject.metadata())


def write_weights(weights: Mapping[str, Tensor], place: Path, metadata: Mapping[str, str]) -> None:
    """Writes tensors with a header of text.

    Raises:
        OSError: the file cannot be written.
    """
    own = {name: value.clone() for name, value in weights.items()}  # weights that two layers share are written twice
    try:
        save_file(own, place, metadata={"format": "pt", **metadata})
    except SafetensorError as error:
        raise OSError(str(error)) from error


def read_metadata(path: Path) -> Mapping[str, str]:
    """The header of a file; empty where it is no safetensors file."""
    try:
        with safe_open(path, framework="pt") as file:
            return dict(file.metadata() or {})
    except (SafetensorError, OSError):
        return {}


def load(path: Path) -> list[Loaded]:
    """Builds the network that the header names and gives it the weights."""
    metadata = read_metadata(path)
    network = build(architecture_from(metadata))
    fill(network, load_file(path), "safetensors")
    return [
        Loaded(
            "safetensors",
            Preprocessing.from_metadata(metadata),
            runner(network),
            ("features",),
            TOLERANCE[metadata["precision"]],
        )
    ]


def fill(network: nn.Module, weights: Mapping[str, Tensor], target: str) -> None:
    """Strict `load_state_dict`, whose error is one line.

    Raises:
        GlocalError: names or shapes differ.
    """
    try:
        network.load_state_dict(dict(weights))
    except RuntimeError as error:
        line = next((line.strip() for line in str(error).splitlines()[1:] if line.strip()), str(error))
        raise GlocalError(f"{target}: {type(network).__name__} does not take these weights: {line[:200]}") from error


def runner(network: nn.Module) -> Callable[[Tensor], Mapping[str, Tensor]]:
    """What runs a network on normalised images."""

    @torch.no_grad()
    def run(images: Tensor) -> Mapping[str, Tensor]:
        return {"features": network(images)}

    return run


def lines(subject: Subject) -> str:
    """Loads the file with timm."""
    known = subject.architecture
    assert known is not None
    if known.name in OWN_NETWORKS:
        given = arguments(known.options).removeprefix(", ")
        return (
            "from glocal.models.alexnet import SmallAlexNet\nfrom safetensors.torch import load_file\n\n"
            f"network = SmallAlexNet({given}).eval()  # no other package has it; --to onnx needs none\n"
            f"network.load_state_dict(load_file({quoted(subject.out)}))\n"
            "features = network(images)\n"
        )
    network: Any = subject.network
    width = network.conv1.out_channels if known.stem != "standard" else 0
    return (
        f"import timm, torch\nfrom safetensors.torch import load_file\n\n"
        f'network = timm.create_model("{known.name}", num_classes=0{arguments(known.options)}).eval()\n'
        f"{stem_line(known.stem, width, len(subject.preprocessing.mean))}"
        f"network.load_state_dict(load_file({quoted(subject.out)}))\n"
        f"features = network(images)\n"
    )


TARGET = Target(
    name="safetensors",
    summary="one file of weights by timm's names, with network and preprocessing in its header",
    endings=(".safetensors",),
    write=write,
    load=load,
    metadata=read_metadata,
    lines=lines,
)
