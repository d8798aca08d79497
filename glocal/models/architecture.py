"""What a network is built from: the recipe's `model` section, timm's names, stems, what weights expect of images."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import Any, Literal, NamedTuple, Self, get_args

import timm
import torch
from pydantic import Field, model_validator
from timm.models.resnet import ResNet
from torch import nn

from glocal.errors import GlocalError, did_you_mean, shown
from glocal.settings import IMAGENET_MEAN, IMAGENET_STD, Settings
from glocal.views.crops import Interpolation

SMALL_ALEXNET = "small_alexnet"
# timm's modules of them.
_TRANSFORMERS = (
    *("vision_transformer", "vision_transformer_hybrid", "vision_transformer_relpos", "vision_transformer_sam"),
    *("beit", "cait", "coat", "convit", "crossvit", "davit", "deepseek_vit", "deit", "efficientformer", "eva", "gcvit"),
    *(
        "gemma4_vit",
        "hiera",
        "hieradet_sam2",
        "levit",
        "maxxvit",
        "mobilevit",
        "mvitv2",
        "naflexvit",
        "nest",
        "nextvit",
    ),
    *("pit", "pvt_v2", "qwen3_vit", "swin_transformer", "swin_transformer_v2", "swin_transformer_v2_cr", "tiny_vit"),
    *("tnt", "twins", "visformer", "vitamin", "volo", "xcit"),
)
_ALIASES = {f"vit_{size}": f"vit_{size}_patch16_224" for size in ("tiny", "small", "base")}
_SMALL_SIDE = 64  # up to this side, a stem that divides it by four at once loses too much
_LARGEST = 2**20  # of whole numbers in options
_DEEPEST = 300  # layers or blocks; timm's deepest network has 269
_DEPTHS = ("depth", "layers", "block")  # in timm's names of how many there are
_FILES = {"checkpoint_path", "file", "custom_load"}  # what timm's constructors and their configurations call a file

Stem = Literal["standard", "medium", "small"]
"""How a ResNet begins: its own first convolution and pooling, or 3×3 with stride 2 (medium) or 1 and no pooling."""
_STRIDES: dict[Stem, int] = {"medium": 2, "small": 1}


class ModelSettings(Settings):
    """The network to train.

    `options` go to the model's constructor in timm, e.g. `{patch_size: 8}` or `{channels: [16, 32, 64, 128]}`.
    """

    name: str = "resnet18"  # any timm model, or vit_tiny, vit_small, vit_base, small_alexnet
    stem: Literal["auto", Stem] = "auto"  # small: a ResNet begins with 3×3, stride 1, no pooling; medium: stride 2
    pretrained: bool = False
    init: str | None = None  # weights to begin with: timm:NAME, a run, a checkpoint, a .safetensors or .pth file
    keep_statistics: bool = False  # batch normalisation of the backbone keeps those of the weights it begins with
    options: dict[str, Any] = Field(default_factory=dict)

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.init and self.pretrained:
            raise ValueError("init and pretrained both name weights to begin with; leave one of them out")
        for name, value in self.options.items():
            if value is None and ":" in name:
                raise ValueError(f"options: {name!r} is one word; in YAML a space follows the colon")
        given = {
            "": self.options,
            **{f"{name}.": its for name, its in self.options.items() if isinstance(its, Mapping)},
        }
        for place, options in given.items():
            for name in _FILES & options.keys():
                # Others than these may be pickles, which can execute anything.
                if options[name] and not str(options[name]).endswith(".safetensors"):
                    raise ValueError(f"options.{place}{name} would read a file of weights; name it as model.init")
        for name, number in _numbers("options", self.options):
            if not math.isfinite(number):
                raise ValueError(f"{name} must be finite, not {number}")
            if name.endswith("patch_size") and number < 1:
                raise ValueError(f"{name} must be at least 1, not {number}")
            if isinstance(number, float):
                continue
            most = _DEEPEST if any(word in name.rpartition(".")[2] for word in _DEPTHS) else _LARGEST
            if abs(number) > most:  # timm would build what nobody waits for
                raise ValueError(f"{name} must be at most {most:,}, not {shown(number)}")
        return self

    @property
    def from_weights(self) -> bool:
        """Whether the training begins with weights that were trained before."""
        return self.pretrained or self.init is not None

    @property
    def known_to_timm(self) -> bool:
        """Whether these are the weights that timm has for the network."""
        return self.pretrained or (self.init or "").startswith("timm:")

    def untrained(self) -> ModelSettings:
        """The same network with random weights."""
        return self.model_copy(update={"pretrained": False, "init": None})

    def for_size(self, size: int) -> ModelSettings:
        """The same with the stem decided for images of `size` pixels."""
        if self.stem != "auto":
            return self
        small = size <= _SMALL_SIDE and not self.from_weights and self._takes_other_stems()
        return self.model_copy(update={"stem": "small" if small else "standard"})

    def _takes_other_stems(self) -> bool:
        """Whether the network begins with one convolution and a pooling, as timm's plain ResNets do."""
        if self.name == SMALL_ALEXNET or entry_family(self.name) is not ResNet:
            return False
        try:
            with torch.device("meta"):
                network = timm.create_model(known_name(self.name), num_classes=0, **self.options)
        except Exception:  # wrong options are told where the network is built
            return False
        return has_plain_stem(network)


def _numbers(name: str, value: Any) -> Iterator[tuple[str, int | float]]:
    """The numbers in a tree, each by its dotted path; those of a list by the path of the list."""
    if isinstance(value, Mapping):
        for key, part in value.items():
            yield from _numbers(f"{name}.{key}", part)
    elif isinstance(value, list | tuple):
        for part in value:
            yield from _numbers(name, part)
    elif isinstance(value, int | float):
        yield name, value


class ImageStatistics(NamedTuple):
    """What pretrained weights expect of images: mean and deviation of RGB in [0, 1], and how they were resized.

    Weights of a run for values in their own units say mean and deviation of these.
    """

    mean: tuple[float, ...]
    std: tuple[float, ...]
    interpolation: str


class Architecture(NamedTuple):
    """What timm builds a network from: all that its weights do not say.

    Attributes:
        name: of a timm model, without the tag of its weights; or small_alexnet.
        options: of its constructor.
        stem: of a ResNet; others have the standard one.
    """

    name: str
    options: dict[str, Any]
    stem: Stem = "standard"


def statistics_of_weights(settings: ModelSettings) -> ImageStatistics | None:
    """What the pretrained weights that the settings name expect of images; None where there are no such weights.

    timm notes it beside the weights (`pretrained_cfg`); `options.pretrained_cfg_overlay` goes before that.

    Raises:
        GlocalError: timm has no such model.
    """
    if not settings.known_to_timm or settings.name == SMALL_ALEXNET:
        return None
    return statistics_in_timm(settings)


def statistics_in_timm(settings: ModelSettings) -> ImageStatistics:
    """What timm's weights of the network that the settings name expect of images, whether they are taken or not.

    Raises:
        GlocalError: timm has no such model.
    """
    known = None if settings.name == SMALL_ALEXNET else timm.models.get_pretrained_cfg(known_name(settings.name))
    found: dict[str, Any] = {} if known is None else known.to_dict()
    for name in ("pretrained_cfg", "pretrained_cfg_overlay"):
        given = settings.options.get(name)
        found |= given if isinstance(given, Mapping) else {}
    mean, std = found.get("mean", IMAGENET_MEAN), found.get("std", IMAGENET_STD)
    return ImageStatistics(tuple(mean), tuple(std), str(found.get("interpolation", "bilinear")))


def known_interpolation(name: str) -> Interpolation | None:
    """timm's name of an interpolation where it is one that images are resized by here; None of others ("lanczos")."""
    return next((known for known in get_args(Interpolation) if known == name), None)


def has_plain_stem(network: nn.Module) -> bool:
    """Whether the network begins with one convolution and a pooling, as timm's plain ResNets do."""
    return isinstance(network, ResNet) and isinstance(network.conv1, nn.Conv2d) and hasattr(network, "maxpool")


def set_stem(network: nn.Module, stem: Stem) -> None:
    """Gives a ResNet with a plain stem another one, with random weights; the standard one leaves it as it is.

    A small stem keeps the side S of images, a medium one gives S/2, the standard one S/4.
    """
    if stem == "standard":
        return
    width: int = network.conv1.out_channels  # type: ignore[assignment, union-attr]
    channels: int = network.conv1.in_channels  # type: ignore[assignment, union-attr]
    first = nn.Conv2d(channels, width, 3, stride=_STRIDES[stem], padding=1, bias=False)
    nn.init.kaiming_normal_(first.weight, mode="fan_out", nonlinearity="relu")
    network.conv1, network.maxpool = first, nn.Identity()


def found_stem(network: nn.Module) -> Stem:
    """The stem that a network has."""
    if not has_plain_stem(network) or not isinstance(network.maxpool, nn.Identity):
        return "standard"
    return "small" if network.conv1.stride == (1, 1) else "medium"  # type: ignore[union-attr]


def known_stem(name: Any, what: str) -> Stem:
    """A stem by the name that a file has for it.

    Args:
        name: the file's word.
        what: the file, for the message.

    Raises:
        GlocalError: there is no such stem.
    """
    if name in get_args(Stem):
        return name  # type: ignore[no-any-return]
    raise GlocalError(f"{what}: stem is {name!r}; {', '.join(get_args(Stem))} are known")


def entry_family(name: str) -> type:
    """ResNet for names whose network is timm's ResNet; object otherwise, without building the network."""
    module = getattr(timm.models.model_entrypoint(known_name(name)), "__module__", "")
    return ResNet if module == "timm.models.resnet" else object


def is_transformer(name: str) -> bool:
    """Whether timm's network of that name is a transformer, without building it; False for names it does not know.

    >>> is_transformer("vit_small"), is_transformer("swin_tiny_patch4_window7_224"), is_transformer("resnet18")
    (True, True, False)
    """
    name = network_name(name)
    return timm.is_model(name) and timm.models.model_entrypoint(name).__module__.split(".")[-1] in _TRANSFORMERS


def full_name(name: str) -> str:
    """timm's name of a network that has a shorter one here; others as they are.

    >>> full_name("vit_small")
    'vit_small_patch16_224'
    """
    return _ALIASES.get(name, name)


def network_name(name: str) -> str:
    """timm's name of a network, without the tag of its weights.

    >>> network_name("vit_tiny"), network_name("resnet18.a1_in1k")
    ('vit_tiny_patch16_224', 'resnet18')
    """
    return full_name(name).split(".")[0]


def known_name(name: str) -> str:
    """timm's name of a network.

    Raises:
        GlocalError: timm has no such model.
    """
    name = full_name(name)
    if not timm.is_model(name):
        hint = did_you_mean(name, [*timm.list_models(), *_ALIASES, SMALL_ALEXNET]) if name else ""
        hint = hint if hint.startswith("did") else "`timm.list_models()` lists the names"
        raise GlocalError(f"model.name: timm has no model {shown(name)}; {hint}")
    return name
