"""How a file's weights go into a network, in whatever layout and under whatever prefix; what fitted is told."""

from __future__ import annotations

import re
import sys
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import timm
import torch
from timm.models import adapt_input_conv
from torch import Tensor, nn

from glocal.errors import GlocalError
from glocal.models.weights import Weights, under

ENOUGH = 0.9  # of a network's tensors: with fewer, the file is of another network

# Of several networks in a file that fit alike, the one that is used afterwards: DINO's and I-JEPA's averages, the
# encoders of MoCo and BYOL that were trained, not those that followed them.
_PREFERRED = (
    *("state_dict_ema", "model_ema", "ema", "teacher", "target_encoder", "encoder_q", "base_encoder", "online"),
    *("online_network", "online_encoder", "backbone", "student"),
)
# torchvision's names of a vision transformer, and timm's.
_TORCHVISION_VIT = (
    (r"class_token$", "cls_token"),
    (r"conv_proj\.", "patch_embed.proj."),
    (r"encoder\.pos_embedding$", "pos_embed"),
    (r"encoder\.ln\.", "norm."),
    (r"encoder\.layers\.encoder_layer_(\d+)\.ln_([12])\.", r"blocks.\2.norm\3."),
    (r"encoder\.layers\.encoder_layer_(\d+)\.self_attention\.in_proj_", r"blocks.\2.attn.qkv."),
    (r"encoder\.layers\.encoder_layer_(\d+)\.self_attention\.out_proj\.", r"blocks.\2.attn.proj."),
    (r"encoder\.layers\.encoder_layer_(\d+)\.mlp\.(?:linear_1|0)\.", r"blocks.\2.mlp.fc1."),
    (r"encoder\.layers\.encoder_layer_(\d+)\.mlp\.(?:linear_2|3)\.", r"blocks.\2.mlp.fc2."),
)
# Networks that are often met, by what stands in the names of their tensors.
_USUAL = {
    "layer1.": (
        *("resnet18", "resnet34", "resnet50", "resnet101", "resnet152"),
        *("resnext50_32x4d", "wide_resnet50_2"),
    ),
    "attn.qkv.": (
        *("vit_tiny_patch16_224", "vit_small_patch16_224", "vit_base_patch16_224", "vit_large_patch16_224"),
        *("vit_small_patch8_224", "vit_base_patch8_224", "vit_small_patch14_dinov2", "vit_base_patch14_dinov2"),
        "swin_tiny_patch4_window7_224",
    ),
    "self_attention.in_proj": ("vit_base_patch16_224", "vit_base_patch32_224", "vit_large_patch16_224"),
    "conv_stem.": ("efficientnet_b0", "efficientnet_lite0", "mobilenetv3_large_100", "mobilenetv2_100"),
    "conv_dw.": ("convnext_tiny", "convnext_small", "convnext_base"),
    "dwconv.": ("convnext_tiny", "convnext_small", "convnext_base"),
    "denselayer1.": ("densenet121",),
    "b1.conv1.": ("regnety_016",),
}


@dataclass(frozen=True)
class Fit:
    """How a file's tensors go into a network.

    Attributes:
        tensors: those that fit, by the network's names.
        total: how many the network has, counters of batches aside.
        missing: the network's names that the file has not.
        shapes: the network's names that the file has with another shape; in words.
        left_over: the file's names that the network has not; of a conversion, also its names that the network has not.
        prefix: what all names began with in the file.
        resampled: the network's names that the file has for another grid or size of patches.
        adapted: the network's name of the first convolution where the file's is of RGB and its own of other channels.
    """

    tensors: Mapping[str, Tensor]
    total: int
    missing: tuple[str, ...]
    shapes: Mapping[str, str]
    left_over: tuple[str, ...]
    prefix: str = ""
    resampled: tuple[str, ...] = ()
    adapted: str = ""

    @property
    def count(self) -> int:
        """How many fit, counters of batches aside."""
        return self.total - len(self.missing) - len(self.shapes)

    def line(self, weights: Weights, label: str) -> str:
        """What fitted, what was missing and what was left over."""
        prefix = f", whose names begin with {self.prefix}" if self.prefix else ""
        parts = [f"{self.count} of {self.total} tensors of {label} come from {weights.file}{prefix}"]
        parts += [f"missing: {_some(self.missing)}"] if self.missing else []
        parts += [f"of another shape: {_some(tuple(self.shapes))}"] if self.shapes else []
        parts += [f"resampled: {_some(self.resampled)}"] if self.resampled else []
        parts += [f"made for other channels than RGB: {self.adapted}"] if self.adapted else []
        parts += [f"left over: {_some(self.left_over)}"] if self.left_over else []
        return "; ".join(parts)


def _some(names: tuple[str, ...]) -> str:
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")


def load_into(network: nn.Module, weights: Weights, *, label: str) -> str:
    """Puts a file's weights into a network, by whatever prefix and in whichever of the known layouts they are.

    Layouts are timm's, those that timm converts, torchvision's of ResNets and vision transformers, and this package's.
    Codes of positions are resampled to the network's grid of patches. A first convolution of RGB is made for the
    channels of the network as timm does it with its own weights.

    Args:
        network: gets the weights; a timm model without classifier.
        weights: out of the file.
        label: the network's name.

    Returns:
        One line that says what fitted, what was missing and what was left over.

    Raises:
        GlocalError: fewer than 90 % of the network's tensors fit, its first convolution does not, or a tensor holds
            what is no number.
    """
    fit = fit_weights(network, weights, label=label)
    for name, tensor in fit.tensors.items():
        if tensor.is_floating_point() and not bool(tensor.isfinite().all()):
            raise GlocalError(f"{weights.file}: {name} holds infinite values or no numbers")
    network.load_state_dict({**network.state_dict(), **fit.tensors})
    return fit.line(weights, label)


def fit_weights(network: nn.Module, weights: Weights, *, label: str) -> Fit:
    """How a file's tensors go into a network, which may be on the meta device and is not changed.

    Raises:
        GlocalError: as `load_into`, values aside.
    """
    fit = best_fit(network, weights.tensors)
    wrong = [f"{name} is missing" for name in fit.missing] + [f"{name} {how}" for name, how in fit.shapes.items()]
    first = next((name for name, tensor in network.state_dict().items() if tensor.ndim == 4), None)
    if fit.count < ENOUGH * fit.total:
        likely = f"; it has the tensors of {' or '.join(found)}" if (found := likely_networks(weights)) else ""
        raise GlocalError(
            f"{weights.file}: only {fit.count} of the {fit.total} tensors of {label} fit: {wrong[0]}{likely}"
        )
    if first is not None and first not in fit.tensors:
        how = fit.shapes.get(first, "is missing")
        raise GlocalError(
            f"{weights.file}: {first}, the first convolution of {label}, {how}; without it the others are of no use; "
            "is it a network with another stem (model.stem)?"
        )
    return fit


def best_fit(network: nn.Module, tensors: Mapping[str, Tensor]) -> Fit:
    """The way of reading the names by which most of a network's tensors fit."""
    own = network.state_dict()
    renamed = _renamed(tensors, _TORCHVISION_VIT)
    found: list[Fit] = []
    for one in (tensors, renamed) if renamed.keys() != tensors.keys() else (tensors,):
        for prefix in _prefixes(one, own):
            inside = under(one, prefix)
            found.append(_fit(own, inside, one, prefix))
            found += _converted(network, inside, own, one, prefix)
    if (
        max(fit.count for fit in found) < ENOUGH * found[0].total
    ):  # names that are the network's after a conversion only
        for prefix in _shared_prefixes(tensors):
            found += _converted(network, under(tensors, prefix), own, tensors, prefix)
    return max(found, key=lambda fit: fit.count)  # the first of those that are equal


def _converted(
    network: nn.Module,
    inside: Mapping[str, Tensor],
    own: Mapping[str, Tensor],
    whole: Mapping[str, Tensor],
    prefix: str,
) -> list[Fit]:
    """As timm's own conversion of the network's family reads them; nothing where it does not know them."""
    convert: Callable[..., Any] | None = getattr(sys.modules[type(network).__module__], "checkpoint_filter_fn", None)
    if convert is None:
        return []
    try:
        converted = dict(convert(dict(inside), network))
    except Exception:  # it looks for names and shapes of files that it knows
        return []
    fit = _fit(own, converted, whole, prefix)
    resampled = tuple(
        name for name in fit.tensors if name in inside and inside[name].numel() != fit.tensors[name].numel()
    )
    outside = [name for name in converted if name not in own]
    outside += [name for name in whole if not name.startswith(prefix)]
    left = tuple(name for name in outside if not _is_counter(name))
    return [replace(fit, left_over=left, resampled=resampled)]


def _fit(own: Mapping[str, Tensor], inside: Mapping[str, Tensor], whole: Mapping[str, Tensor], prefix: str) -> Fit:
    counted_names = [name for name in own if not _is_counter(name)]
    inside, adapted = _for_its_channels(own, inside)
    fitting = {name: inside[name] for name in own if name in inside and inside[name].shape == own[name].shape}
    shapes = {
        name: f"has shape {tuple(inside[name].shape)}, not {tuple(own[name].shape)}"
        for name in counted_names
        if name in inside and name not in fitting
    }
    missing = tuple(name for name in counted_names if name not in inside)
    used = {prefix + name for name in own if name in inside}
    left = tuple(name for name in whole if name not in used and not _is_counter(name))
    return Fit(fitting, len(counted_names), missing, shapes, left, prefix, adapted=adapted)


def _for_its_channels(own: Mapping[str, Tensor], inside: Mapping[str, Tensor]) -> tuple[Mapping[str, Tensor], str]:
    """The tensors with a first convolution of RGB made for other channels, and its name where that was needed."""
    first = next((name for name, tensor in own.items() if tensor.ndim == 4), "")
    if first not in inside or inside[first].ndim != 4:
        return inside, ""
    wanted, given = own[first].shape, inside[first].shape
    if given[1] != 3 or wanted[1] == 3 or (given[0], given[2:]) != (wanted[0], wanted[2:]):
        return inside, ""
    return {**inside, first: adapt_input_conv(wanted[1], inside[first])}, first


def _is_counter(name: str) -> bool:
    return name.endswith("num_batches_tracked")


def _renamed(tensors: Mapping[str, Tensor], rules: tuple[tuple[str, str], ...]) -> dict[str, Tensor]:
    """The same tensors by other names; what the names begin with stays."""
    found = {}
    for name, tensor in tensors.items():
        for pattern, replacement in rules:
            name = re.sub(rf"^((?:[^.]+\.)*?){pattern}", rf"\g<1>{replacement}", name)
        found[name] = tensor
    return found


def _prefixes(tensors: Mapping[str, Tensor], own: Mapping[str, Tensor]) -> list[str]:
    """What the network's names may begin with in the file, the best first; at least the empty prefix."""
    counts: Counter[str] = Counter()
    for name in (name for name in tensors if not _is_counter(name)):
        starts = [0, *(at + 1 for at, letter in enumerate(name) if letter == ".")]
        counts.update(name[:start] for start in starts if name[start:] in own)
    most = max(counts.values(), default=0)
    likely = [prefix for prefix, count in counts.items() if count >= most / 2]
    return sorted(likely, key=lambda prefix: (-counts[prefix], _preference(prefix), len(prefix))) or [""]


def _shared_prefixes(tensors: Mapping[str, Tensor]) -> list[str]:
    """The empty prefix, and those that most of a file's names begin with, or of one of its two or three networks."""
    counts = Counter(name[: at + 1] for name in tensors for at, letter in enumerate(name) if letter == ".")
    shared = [prefix for prefix, count in counts.items() if count >= len(tensors) / 4]
    return ["", *sorted(shared, key=lambda prefix: (_preference(prefix), len(prefix)))]


def _preference(prefix: str) -> int:
    words = prefix.split(".")
    return next((number for number, word in enumerate(_PREFERRED) if word in words), len(_PREFERRED))


def likely_networks(weights: Weights) -> list[str]:
    """The usual networks, and the one that the file is named after, into which the weights go; the best three."""
    named = re.split(r"[-.]", weights.file.name)[0]
    names = [named] if timm.is_model(named) else []
    for clue, networks in _USUAL.items():
        if any(clue in name for name in weights.tensors):
            names += networks
    found = []
    for name in dict.fromkeys(names):
        try:
            with torch.device("meta"):
                network = timm.create_model(name, num_classes=0)
        except Exception:  # some cannot be built without memory
            continue
        fit = best_fit(network, weights.tensors)
        if fit.count >= ENOUGH * fit.total:
            found.append((len(fit.resampled), -fit.count, fit.total - fit.count, name))
    # What is resampled fits networks with patches of any size. Parts of a deeper network fit as well, so those that
    # take more of the file come first.
    return [name for resampled, *_, name in sorted(found) if resampled == min(found)[0]][:3]
