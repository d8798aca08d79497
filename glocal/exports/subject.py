"""What is exported: a backbone with all that a file says of it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import timm
import torch
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn

import glocal
from glocal.errors import GlocalError, one_line
from glocal.exports.origin import Origin
from glocal.exports.preprocessing import Preprocessing
from glocal.models.alexnet import SmallAlexNet
from glocal.models.architecture import Architecture, Stem, found_stem, known_stem, set_stem
from glocal.models.backbone import Backbone

Precision = Literal["fp32", "fp16"]

# Constructor arguments that say where weights come from or how they begin, not what the network is.
_NOT_THE_NETWORK = frozenset({"pretrained_cfg", "pretrained_cfg_overlay", "cache_dir", "zero_init_last", "num_classes"})
OWN_NETWORKS = {"small_alexnet": SmallAlexNet}
"""Networks that timm does not have."""


@dataclass(frozen=True)
class Subject:
    """A backbone on its way into a file.

    Attributes:
        backbone: on the CPU, in float32 and evaluation mode.
        architecture: what builds its network again; None where that is not known.
        preprocessing: of its images.
        precision: of the weights in the file.
        out: where the file will be in the end.
        license: of the weights, an identifier of the Hugging Face Hub; None: not stated.
        origin: where it comes from.
    """

    backbone: Backbone
    architecture: Architecture | None
    preprocessing: Preprocessing
    precision: Precision
    out: Path
    license: str | None = None
    origin: Origin = field(default_factory=Origin, repr=False)

    @property
    def network(self) -> nn.Module:
        """The network, without classifier."""
        return self.backbone.network

    @property
    def has_tokens(self) -> bool:
        """The network is a vision transformer, whose tokens can be had beside its features."""
        return isinstance(self.network, VisionTransformer)

    @torch.no_grad()
    def outputs(self, images: Tensor) -> dict[str, Tensor]:
        """What the backbone gives for images (B, C, S, S): features (B, D), and tokens (B, T, D) where it has them."""
        found = {"features": self.backbone.features(images)}
        if isinstance(self.network, VisionTransformer):
            found["tokens"] = self.network.forward_features(self.backbone.prepare(images))
        return found

    def weights(self) -> dict[str, Tensor]:
        """The network's weights by timm's names, in the file's precision; counters stay whole numbers.

        Raises:
            GlocalError: a weight is too large for float16.
        """
        return at_precision(self.network.state_dict(), self.precision)

    def metadata(self) -> dict[str, str]:
        """What every file says of itself: text by name, as safetensors and ONNX take it."""
        found = {
            "glocal": glocal.__version__,
            "label": self.backbone.label,
            "fingerprint": self.backbone.fingerprint(),
            "precision": self.precision,
            "num_features": str(self.backbone.dim),
            **self.preprocessing.metadata(),
        }
        if self.architecture is not None:
            found["architecture"] = self.architecture.name
            found["model_args"] = json.dumps(self.architecture.options)
            found["stem"] = self.architecture.stem
        if self.license is not None:
            found["license"] = self.license
        return found


def at_precision(weights: Mapping[str, Tensor], precision: Precision) -> dict[str, Tensor]:
    """Weights in a file's precision, contiguous; whole numbers stay as they are.

    Raises:
        GlocalError: one is too large for float16.
    """
    if precision == "fp32":
        return {name: value.contiguous() for name, value in weights.items()}
    found = {name: value.half() if value.is_floating_point() else value for name, value in weights.items()}
    for name, value in found.items():
        if not value.isfinite().all() and weights[name].isfinite().all():
            raise GlocalError(f"{name} has values beyond 65,504, which float16 does not hold; export it in fp32")
    return {name: value.contiguous() for name, value in found.items()}


def architecture_of(backbone: Backbone) -> Architecture | None:
    """What builds a backbone's network again, without what only says how its weights begin."""
    network, known = backbone.network, backbone.architecture
    if known is None:  # built by hand: what timm has noted of it
        config = getattr(network, "pretrained_cfg", None) or {}
        if "architecture" not in config:
            return None
        known = Architecture(config["architecture"], dict(getattr(network, "_model_args", {})), found_stem(network))
    options = {key: value for key, value in known.options.items() if key not in _NOT_THE_NETWORK}
    if options.get("in_chans") == 3:  # RGB is what all are built for
        del options["in_chans"]
    if isinstance(network, VisionTransformer):  # else it depends on the tag of weights, which files do not have
        height, width = network.patch_embed.img_size or (backbone.size, backbone.size)
        options.setdefault("img_size", height if height == width else [height, width])
    try:
        json.dumps(options)
    except TypeError:
        return None
    return known._replace(options=options)


def build(architecture: Architecture) -> nn.Module:
    """A network with random weights, as an architecture says: by timm, with its stem set in.

    Raises:
        GlocalError: timm does not build it.
    """
    if architecture.name in OWN_NETWORKS:
        return OWN_NETWORKS[architecture.name](**architecture.options).eval()
    try:
        network: nn.Module = timm.create_model(architecture.name, num_classes=0, **architecture.options)
    except Exception as error:  # networks fail in their own ways with options that do not fit
        raise GlocalError(f"timm cannot build {architecture.name} again: {one_line(error)}") from error
    set_stem(network, architecture.stem)
    return network.eval()


def architecture_from(metadata: Mapping[str, str]) -> Architecture:
    """What `Subject.metadata` says of the network.

    Raises:
        GlocalError: it says nothing, or names a stem that there is not.
    """
    if "architecture" not in metadata:
        raise GlocalError("the file does not say which network its weights are of")
    options: dict[str, Any] = json.loads(metadata["model_args"])
    return Architecture(metadata["architecture"], options, known_stem(metadata["stem"], "the file's header"))


def arguments(options: Mapping[str, Any]) -> str:
    """Options as one writes them behind other arguments of a call.

    >>> arguments({"img_size": 32, "class_token": False})
    ', img_size=32, class_token=False'
    """
    return "".join(f", {key}={value!r}" for key, value in options.items())


def stem_line(stem: Stem, width: int, channels: int = 3) -> str:
    """The line of code that gives a `network` its stem of so many features; "" where it has it already.

    >>> stem_line("medium", 64).partition(", torch.nn.Identity()")[0]
    'network.conv1, network.maxpool = torch.nn.Conv2d(3, 64, 3, stride=2, padding=1, bias=False)'
    """
    if stem == "standard":
        return ""
    stride = "stride=2, " if stem == "medium" else ""
    convolution = f"torch.nn.Conv2d({channels}, {width}, 3, {stride}padding=1, bias=False)"
    return f"network.conv1, network.maxpool = {convolution}, torch.nn.Identity()\n"
