"""Weights for torchvision's ResNets and vision transformers, by torchvision's names."""

from __future__ import annotations

import json
import pickle
import zipfile
from collections import OrderedDict
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch
import torchvision
from safetensors.torch import load_file
from timm.models.resnet import ResNet
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn

from glocal.errors import GlocalError
from glocal.exports import timm
from glocal.exports.preprocessing import Preprocessing
from glocal.exports.safetensors import fill, read_metadata, runner, write_weights
from glocal.exports.subject import Subject, arguments, at_precision, stem_line
from glocal.exports.target import Loaded, Target, quoted
from glocal.models.architecture import Stem, known_stem, set_stem

TOLERANCE = {"fp32": 1e-5, "fp16": 2e-2}
"""Of the same layers in another package, which may group their products otherwise."""

_RESNETS = frozenset(
    {"resnet18", "resnet34", "resnet50", "resnet101", "resnet152", "wide_resnet50_2", "wide_resnet101_2"}
    | {"resnext50_32x4d", "resnext101_32x8d", "resnext101_64x4d"}
)

# timm's names in a vision transformer → torchvision's; those in blocks, and those before and after.
_IN_BLOCKS = {
    "norm1": "ln_1",
    "attn.qkv.weight": "self_attention.in_proj_weight",  # both stack queries, keys and values in this order
    "attn.qkv.bias": "self_attention.in_proj_bias",
    "attn.proj": "self_attention.out_proj",
    "norm2": "ln_2",
    "mlp.fc1": "mlp.0",
    "mlp.fc2": "mlp.3",
}
_OUTSIDE = {
    "cls_token": "class_token",
    "pos_embed": "encoder.pos_embedding",
    "patch_embed.proj": "conv_proj",
    "norm": "encoder.ln",
}
_HEADER = "glocal"  # in a .pth file: beside the versions of modules that a state dict carries


class Counterpart(NamedTuple):
    """A network of torchvision's.

    Attributes:
        name: its function or class in `torchvision.models`.
        arguments: what that is called with.
        stem: of a ResNet.
    """

    name: str
    arguments: dict[str, Any]
    stem: Stem = "standard"

    def build(self) -> nn.Module:
        """The network with random weights, without its classifier."""
        network: Any = getattr(torchvision.models, self.name)(**self.arguments)
        set_stem(network, self.stem)
        if hasattr(network, "heads"):
            network.heads = nn.Identity()
        else:
            network.fc = nn.Identity()
        return network.eval()  # type: ignore[no-any-return]


def counterpart(subject: Subject) -> Counterpart:
    """torchvision's network of the same layers.

    Raises:
        GlocalError: there is none.
    """
    network, known = subject.network, subject.architecture
    channels = len(subject.preprocessing.mean)
    if channels != 3:
        raise GlocalError(f"--to torchvision: its networks take 3 channels, not {channels}; {elsewhere(subject)}")
    if isinstance(network, ResNet) and known is not None and known.name in _RESNETS:
        return Counterpart(known.name, {}, known.stem)
    if isinstance(network, VisionTransformer):
        return _transformer(network, subject.backbone.size, elsewhere(subject))
    raise GlocalError(
        f"--to torchvision: it takes ResNets ({', '.join(sorted(_RESNETS))}) and plain vision transformers, not "
        f"{known.name if known else type(network).__name__}; {elsewhere(subject)}"
    )


def elsewhere(subject: Subject) -> str:
    """Which targets take a network that torchvision has not, for messages."""
    others = "onnx and hub-folder" if timm.why_not(subject.architecture) else "timm, onnx and hub-folder"
    return f"--to {others} take this network"


def _transformer(network: VisionTransformer, size: int, otherwise: str) -> Counterpart:
    height, width = network.patch_embed.img_size or (0, 0)
    patch = network.patch_embed.patch_size
    plain = {
        "a class token alone before its patches": network.has_class_token and network.num_prefix_tokens == 1,
        "the class token as its feature": network.global_pool == "token",
        "codes of position of the class token too": not network.no_embed_class,
        "square images and patches": height == width > 0 and patch[0] == patch[1],
        f"codes of position for the size of their images ({size}, not {height})": height == size,
        "no norm before its blocks": isinstance(network.norm_pre, nn.Identity),
        "a norm after them": isinstance(network.norm, nn.LayerNorm) and isinstance(network.fc_norm, nn.Identity),
    }
    missing = [what for what, holds in plain.items() if not holds]
    if missing:
        raise GlocalError(f"--to torchvision: its vision transformers have {missing[0]}; {otherwise}")
    block = network.blocks[0]
    sizes = {
        "image_size": height,
        "patch_size": patch[0],
        "num_layers": len(network.blocks),
        "num_heads": block.attn.num_heads,
        "hidden_dim": network.embed_dim,
        "mlp_dim": block.mlp.fc1.out_features,
    }
    return Counterpart("VisionTransformer", sizes)


def renamed(subject: Subject, theirs: Counterpart) -> dict[str, Tensor]:
    """The weights by torchvision's names: ResNets have the same ones, vision transformers others.

    Raises:
        GlocalError: torchvision's network has no such weight, or one of another shape.
    """
    weights: Mapping[str, Tensor] = subject.network.state_dict()
    found = weights if isinstance(subject.network, ResNet) else {_name_of(name): weights[name] for name in weights}
    with torch.device("meta"):
        places = theirs.build().state_dict()
    for name, value in found.items():
        if name not in places or places[name].shape != value.shape:
            there = tuple(places[name].shape) if name in places else "nothing"
            raise GlocalError(
                f"--to torchvision: {name} is {tuple(value.shape)}, and torchvision's {theirs.name} has {there} there; "
                f"{elsewhere(subject)}"
            )
    return dict(found)


def _name_of(name: str) -> str:
    start, names, rest = "", _OUTSIDE, name
    if name.startswith("blocks."):
        _, number, rest = name.split(".", 2)
        start, names = f"encoder.layers.encoder_layer_{number}.", _IN_BLOCKS
    for before, after in names.items():
        if rest == before or rest.startswith(f"{before}."):
            return start + after + rest.removeprefix(before)
    return name


def write(subject: Subject, place: Path) -> None:
    """Writes a .safetensors file, or a .pth file as torchvision's own weights are.

    Raises:
        GlocalError: torchvision has no such network.
    """
    theirs = counterpart(subject)
    weights = at_precision(renamed(subject, theirs), subject.precision)
    metadata = {
        **subject.metadata(),
        "torchvision": theirs.name,
        "torchvision_args": json.dumps(theirs.arguments),
    }
    if subject.out.suffix == ".safetensors":
        write_weights(weights, place, metadata)
        return
    state = OrderedDict(weights)
    state._metadata = OrderedDict({_HEADER: metadata})  # type: ignore[attr-defined]
    try:
        with place.open("wb") as file:  # to a path, torch would not say that the disk is full
            torch.save(state, file)
    except RuntimeError as error:  # where it is, closing the archive fails too, and hides why
        raise error.__context__ if isinstance(error.__context__, OSError) else error from None


def _read(path: Path) -> Mapping[str, Tensor]:
    if zipfile.is_zipfile(path):
        found: Mapping[str, Tensor] = torch.load(path, map_location="cpu", weights_only=True)
        return found
    return load_file(path)


def metadata_of(path: Path) -> Mapping[str, str]:
    """The header of either kind of file; empty where it is none."""
    if not zipfile.is_zipfile(path):
        return read_metadata(path)
    try:
        state = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    except (OSError, RuntimeError, pickle.UnpicklingError):
        return {}
    found: Mapping[str, str] = (getattr(state, "_metadata", None) or {}).get(_HEADER, {})
    return found


def load(path: Path) -> list[Loaded]:
    """Builds torchvision's network and gives it the weights."""
    metadata = metadata_of(path)
    stem = known_stem(metadata.get("stem", "standard"), str(path))
    theirs = Counterpart(metadata["torchvision"], json.loads(metadata["torchvision_args"]), stem)
    network = theirs.build()
    fill(network, _read(path), "--to torchvision")
    its = Preprocessing.from_metadata(metadata)
    return [Loaded("torchvision", its, runner(network), ("features",), TOLERANCE[metadata["precision"]])]


def lines(subject: Subject) -> str:
    """Loads the file into torchvision's network."""
    theirs = counterpart(subject)
    head = "heads" if theirs.name == "VisionTransformer" else "fc"
    left_out = f"{stem_line(theirs.stem, 64)}network.{head} = torch.nn.Identity()\n"
    safe = subject.out.suffix == ".safetensors"
    imported = "import torch, torchvision\n" + ("from safetensors.torch import load_file\n" if safe else "")
    read = f"{'load_file' if safe else 'torch.load'}({quoted(subject.out)})"
    return (
        f"{imported}\n"
        f"network = torchvision.models.{theirs.name}({arguments(theirs.arguments).removeprefix(', ')}).eval()\n"
        f"{left_out}"
        f"network.load_state_dict({read})\n"
        f"features = network(images)\n"
    )


TARGET = Target(
    name="torchvision",
    summary="weights for torchvision.models by torchvision's names: ResNets and plain vision transformers",
    endings=(".pth", ".pt", ".safetensors"),
    write=write,
    load=load,
    metadata=metadata_of,
    lines=lines,
)
