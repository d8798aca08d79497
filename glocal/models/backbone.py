"""Backbones: timm's models with a stem for small images, and the normalisation that they were trained with."""

from __future__ import annotations

import hashlib
import textwrap
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any, Literal, NamedTuple, Self, get_args

import numpy as np
import timm
import torch
from PIL import Image, ImageOps
from pydantic import Field, model_validator
from timm.models.resnet import ResNet
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from glocal.data.lanes.central import central_share, central_square
from glocal.data.sources.channels import arrange
from glocal.data.sources.decoding import Decoding, rgb_pixels
from glocal.errors import GlocalError, did_you_mean, shown
from glocal.models.alexnet import SmallAlexNet
from glocal.models.hub import check_weights_at_hand
from glocal.models.recompute import recomputing
from glocal.settings import IMAGENET_MEAN, IMAGENET_STD, Settings
from glocal.views.crops import Interpolation

_ALIASES = {f"vit_{size}": f"vit_{size}_patch16_224" for size in ("tiny", "small", "base")}
_SMALL_ALEXNET = "small_alexnet"
_SMALL_SIDE = 64  # up to this side, a stem that divides it by four at once loses too much
_ROUNDING = 1e-4  # by which images in [0, 1] may lie outside

Stem = Literal["standard", "medium", "small"]
"""How a ResNet begins: its own first convolution and pooling, or 3×3 with stride 2 (medium) or 1 and no pooling."""
_STRIDES: dict[Stem, int] = {"medium": 2, "small": 1}

AnyImages = Tensor | np.ndarray | Image.Image | Sequence[Tensor | np.ndarray | Image.Image]
"""(B, 3, H, W) uint8 or floating point in [0, 1]; or PIL images and (H, W, 3) uint8 arrays, one or several.

Of a backbone that takes values in their own units, (B, C, H, W) and (H, W, C) of any type."""


_LARGEST = 2**20  # of whole numbers in options
_DEEPEST = 300  # layers or blocks; timm's deepest network has 269
_DEPTHS = ("depth", "layers", "block")  # in timm's names of how many there are

_FILES = {"checkpoint_path", "file", "custom_load"}  # what timm's constructors and their configurations call a file


class ModelSettings(Settings):
    """The network to train.

    `options` go to the model's constructor in timm, e.g. `{patch_size: 8}` or `{channels: [16, 32, 64, 128]}`.
    """

    name: str = "resnet18"  # any timm model, or vit_tiny, vit_small, vit_base, small_alexnet
    stem: Literal["auto"] | Stem = "auto"  # small: a ResNet begins with 3×3, stride 1, no pooling; medium: stride 2
    pretrained: bool = False
    init: str | None = None  # weights to begin with: timm:NAME, a run, a checkpoint, a .safetensors or .pth file
    keep_statistics: bool = False  # batch normalisation of the backbone keeps those of the weights it begins with
    options: dict[str, Any] = Field(default_factory=dict)

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.init and self.pretrained:
            raise ValueError("init and pretrained both name weights to begin with; leave one of them out")
        given = {
            "": self.options,
            **{f"{name}.": its for name, its in self.options.items() if isinstance(its, Mapping)},
        }
        for place, options in given.items():
            for name in _FILES & options.keys():
                # Others than these may be pickles, which can execute anything.
                if options[name] and not str(options[name]).endswith(".safetensors"):
                    raise ValueError(f"options.{place}{name} would read a file of weights; name it as model.init")
        for name, number in _whole_numbers("options", self.options):
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
        if self.name == _SMALL_ALEXNET or _entry_family(self.name) is not ResNet:
            return False
        try:
            with torch.device("meta"):
                network = timm.create_model(_known(self.name), num_classes=0, **self.options)
        except Exception:  # wrong options are told where the network is built
            return False
        return has_plain_stem(network)


def _whole_numbers(name: str, value: Any) -> Iterator[tuple[str, int]]:
    """The whole numbers in a tree, each by its dotted path; those of a list by the path of the list."""
    if isinstance(value, Mapping):
        for key, part in value.items():
            yield from _whole_numbers(f"{name}.{key}", part)
    elif isinstance(value, list | tuple):
        for part in value:
            yield from _whole_numbers(name, part)
    elif isinstance(value, int):
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
    if not settings.known_to_timm or settings.name == _SMALL_ALEXNET:
        return None
    return statistics_in_timm(settings)


def statistics_in_timm(settings: ModelSettings) -> ImageStatistics:
    """What timm's weights of the network that the settings name expect of images, whether they are taken or not.

    Raises:
        GlocalError: timm has no such model.
    """
    known = None if settings.name == _SMALL_ALEXNET else timm.models.get_pretrained_cfg(_known(settings.name))
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


def _entry_family(name: str) -> type:
    """ResNet for names whose network is timm's ResNet; object otherwise, without building the network."""
    module = getattr(timm.models.model_entrypoint(_known(name)), "__module__", "")
    return ResNet if module == "timm.models.resnet" else object


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


def _known(name: str) -> str:
    name = full_name(name)
    if not timm.is_model(name):
        hint = did_you_mean(name, [*timm.list_models(), *_ALIASES, _SMALL_ALEXNET]) if name else ""
        hint = hint if hint.startswith("did") else "`timm.list_models()` lists the names"
        raise GlocalError(f"model.name: timm has no model {shown(name)}; {hint}")
    return name


class Backbone(nn.Module):
    """A network that turns images into features, with the size and the normalisation of the images it knows.

    Args:
        network: a timm model without classifier.
        size: side in pixels of the images that it is trained on.
        mean, std: per channel, of RGB in [0, 1] or of values in their own units.
        label: a name for tables.

    Attributes:
        recompute: while it is trained, a vision transformer makes cheap activations again instead of keeping them
            (`glocal.models.recompute`).
        keep_statistics: batch normalisation is in evaluation mode even while the rest is trained.
        decoding: how the image files were decoded that it was trained on; None where that is not known.
        interpolation: how images are resized that its pretrained weights expect; None where nothing says it.
        learned_from: the names of the sources that a run has trained it on; empty where that is not known.
        architecture: what the network was built from; None where it was built elsewhere.
        checkpoint: the run's file that its weights came from; None where they came from elsewhere.
    """

    mean: Tensor
    std: Tensor
    recompute = False
    keep_statistics = False
    decoding: Decoding | None = None
    interpolation: Interpolation | None = None
    learned_from: tuple[str, ...] = ()
    architecture: Architecture | None = None
    checkpoint: Path | None = None

    def __init__(
        self,
        network: nn.Module,
        *,
        size: int,
        mean: Sequence[float] = IMAGENET_MEAN,
        std: Sequence[float] = IMAGENET_STD,
        label: str = "backbone",
    ) -> None:
        super().__init__()
        self.network = network
        self.size = size
        self.label = label
        # num_features is what timm's network gives before the last layers of its own, where it has such (MobileNetV3)
        self.dim: int = getattr(network, "head_hidden_size", None) or network.num_features  # type: ignore[assignment]
        self.register_buffer("mean", torch.tensor(mean)[:, None, None], persistent=False)
        self.register_buffer("std", torch.tensor(std)[:, None, None], persistent=False)

    def train(self, mode: bool = True) -> Self:
        """As of any module, but for statistics that are to be kept."""
        super().train(mode)
        if mode and self.keep_statistics:
            for module in self.modules():
                if isinstance(module, _BatchNorm):
                    module.eval()
        return self

    def forward(self, images: Tensor, stage: int | None = None) -> Tensor | tuple[Tensor, Tensor]:
        """Pooled features (B, D) of normalised images (B, 3, S, S): what training calls.

        With a stage, by its place in timm's `feature_info`: what `forward_unpooled` gives, and the map (B, C, h, w) of
        the stage on the way.
        """
        if isinstance(self.network, VisionTransformer):
            self._check_patches(images)
        with self._memory():
            if stage is None:
                return self.network(images)  # type: ignore[no-any-return]
            unpooled, [places] = self.network.forward_intermediates(  # type: ignore[operator]
                images, indices=[stage], norm=False, output_fmt="NCHW"
            )
        return unpooled, places

    def forward_tokens(self, images: Tensor) -> Tensor:
        """Class and patch tokens (B, 1 + N, D) of normalised images: what patch-wise methods train.

        Raises:
            GlocalError: the network is no vision transformer, or its patches do not divide the images.
        """
        if not isinstance(self.network, VisionTransformer):
            raise GlocalError(f"{type(self.network).__name__} has no tokens; use .features, or a vision transformer")
        if self.network.num_prefix_tokens != 1:
            raise GlocalError(
                f"model.options: one CLS token before the patches is expected, not {self.network.num_prefix_tokens} "
                "tokens (class_token, reg_tokens)"
            )
        return self.forward_unpooled(images)

    def forward_unpooled(self, images: Tensor) -> Tensor:
        """What the network makes of normalised images before it pools: a map or tokens, in timm's own layout.

        Raises:
            GlocalError: it has no such stage, or its patches do not divide the images.
        """
        if isinstance(self.network, VisionTransformer):
            self._check_patches(images)
        if not hasattr(self.network, "forward_features"):
            raise GlocalError(f"{type(self.network).__name__} has no feature map; choose a ResNet (model.name)")
        with self._memory():
            return self.network.forward_features(images)  # type: ignore[operator, no-any-return]

    def forward_map(self, images: Tensor) -> Tensor:
        """The last feature map (B, C, h, w) of normalised images.

        Its mean is what `forward` gives, unless the network pools in another way or has layers between.

        Raises:
            GlocalError: timm's network has no such map, or its patches do not divide the images.
        """
        [last] = self.forward_maps(images)
        return last

    def forward_maps(self, images: Tensor, count: int = 1) -> list[Tensor]:
        """Feature maps (B, C, h, w) of the last `count` stages, or of a vision transformer's last blocks.

        Raises:
            GlocalError: timm's network has no such maps, or its patches do not divide the images.
        """
        if isinstance(self.network, VisionTransformer):
            self._check_patches(images)
        if not hasattr(self.network, "forward_intermediates"):
            raise GlocalError(f"{type(self.network).__name__} has no feature map; choose a ResNet (model.name)")
        with self._memory():
            return self.network.forward_intermediates(  # type: ignore[no-any-return, operator]
                images, indices=count, norm=True, output_fmt="NCHW", intermediates_only=True
            )

    def map_widths(self, count: int = 1) -> list[int]:
        """Channels of the maps that `forward_maps` gives.

        Raises:
            GlocalError: timm's network has not so many.
        """
        found = [int(stage["num_chs"]) for stage in getattr(self.network, "feature_info", None) or []]
        if len(found) < count or not hasattr(self.network, "forward_intermediates"):
            raise GlocalError(
                f"{type(self.network).__name__} has {len(found)} stages with feature maps, not {count}; "
                "change method.levels, or choose a ResNet (model.name)"
            )
        return found[-count:]

    def _memory(self) -> AbstractContextManager[None]:
        """What decides which activations are kept for the backward pass."""
        wanted = self.recompute and self.training and torch.is_grad_enabled()
        # torch's compiler decides that by itself
        if wanted and isinstance(self.network, VisionTransformer) and not torch.compiler.is_compiling():
            return recomputing(self.network)
        return nullcontext()

    def grid(self, size: int) -> int:
        """Patches per side of an image of `size` pixels.

        Raises:
            GlocalError: the network has no patches, or they do not divide the image.
        """
        patch = getattr(getattr(self.network, "patch_embed", None), "patch_size", None)
        if patch is None:
            raise GlocalError(f"{type(self.network).__name__} has no patches; choose a vision transformer (model.name)")
        if size % patch[0]:
            raise GlocalError(
                f"views of {size} pixels cannot be cut into patches of {patch[0]}; change data.size or views.N.size"
            )
        return int(size // patch[0])

    def _check_patches(self, images: Tensor) -> None:
        """Raises GlocalError where patches do not divide height and width."""
        for side in sorted(set(images.shape[-2:])):
            self.grid(side)

    def prepare(self, images: Tensor) -> Tensor:
        """Images as users have them → normalised images on the backbone's device.

        Args:
            images: (B, 3, S, S) uint8, or floating point in [0, 1]. Where `channels` is a number, so many channels of
                values in their own units, of any type.

        Raises:
            GlocalError: another shape or dtype.
        """
        wanted = self.channels or 3
        if images.ndim != 4 or images.shape[1] != wanted:
            raise GlocalError(f"images must have the shape (B, {wanted}, height, width), not {tuple(images.shape)}")
        images = images.to(self.mean.device)
        if self.channels is not None:
            return (images.to(self.mean) - self.mean) / self.std
        if images.dtype == torch.uint8:
            images = images.float().div_(255)
        elif not images.is_floating_point():
            raise GlocalError(f"images must be uint8 or floating point in [0, 1], not {images.dtype}")
        return (images.to(self.mean) - self.mean) / self.std

    @torch.no_grad()
    def features(self, images: AnyImages) -> Tensor:
        """Features (B, D) in float32, in evaluation mode and without gradient.

        Args:
            images: (B, 3, H, W) uint8, or floating point in [0, 1]; or a PIL image, an array (H, W, 3) or (B, H, W, 3)
                uint8, or a list of such images of one size. They are normalised here, not resized: `squares` brings
                photographs to the size that the network expects. Where `channels` is a number, (B, C, H, W) tensors
                or arrays (H, W, C), (H, W) of values in their own units, as the files hold them.

        Raises:
            GlocalError: another shape, dtype or range, or a size that the network does not take.
        """
        return self._in_eval_mode(self.network, images)

    def squares(self, images: Image.Image | np.ndarray | Sequence[Tensor | np.ndarray | Image.Image]) -> Tensor:
        """Images of any sizes as `glocal.evaluate`, `embed` and `search` see them: (B, 3, S, S) uint8, S is `size`.

        Of each the central square is taken, 7/8 of its shorter side above 64 pixels, and resized as the weights expect.

        Args:
            images: a PIL image (turned as its EXIF says), an array (H, W, 3) or a tensor (3, H, W) uint8; or several.

        Raises:
            GlocalError: another shape or dtype.

        >>> backbone.features(backbone.squares([Image.open(path) for path in paths]))  # doctest: +SKIP
        """
        several = list(images) if isinstance(images, Sequence) else [images]
        if not several:
            raise GlocalError("images: the list is empty")
        upright = [ImageOps.exif_transpose(one) if isinstance(one, Image.Image) else one for one in several]
        found = [_pixels(image, self.decoding or Decoding()) for image in upright]
        if self.channels is not None:
            found = [image.float() for image in found]
        for image in found:
            if image.dtype != torch.uint8 and self.channels is None:
                raise GlocalError(f"tensors of images must be uint8 to be cut to squares, not {image.dtype}")
        share, interpolation = central_share(self.size), self.interpolation or "bilinear"
        return torch.stack([central_square(image, self.size, share, interpolation) for image in found])

    @torch.no_grad()
    def tokens(self, images: AnyImages) -> Tensor:
        """The class token and the patch tokens of a vision transformer, (B, 1 + N, D) in float32.

        Args:
            images: as for `features`.

        Raises:
            GlocalError: the network is no vision transformer.
        """
        return self._in_eval_mode(self.forward_tokens, images)

    @torch.no_grad()
    def features_and_patches(self, images: AnyImages) -> tuple[Tensor, Tensor]:
        """Features (B, D), as `features` gives them, and patch tokens (B, N, D) in float32, in one pass.

        Args:
            images: as for `features`.

        Raises:
            GlocalError: the network is no vision transformer.
        """
        network = self.network
        if not isinstance(network, VisionTransformer):
            raise GlocalError(f"{self.label} has no patch tokens; choose a vision transformer")

        def both(prepared: Tensor) -> Tensor:
            self._check_patches(prepared)
            tokens = network.forward_features(prepared)
            return torch.cat([network.forward_head(tokens)[:, None], tokens[:, network.num_prefix_tokens :]], dim=1)

        found = self._in_eval_mode(both, images)
        return found[:, 0], found[:, 1:]

    @property
    def channels(self) -> int | None:
        """How many channels its images have whose values come in their own units; None: they are RGB."""
        return None if self.decoding is None else self.decoding.channels

    @property
    def has_cls_token(self) -> bool:
        """The network is a vision transformer with a class token: `last_tokens` works."""
        return isinstance(self.network, VisionTransformer) and self.network.cls_token is not None

    @torch.no_grad()
    def last_tokens(self, images: AnyImages, blocks: int) -> list[Tensor]:
        """The tokens (B, 1 + N, D) after each of a vision transformer's last blocks, in float32.

        Each goes through the final normalisation, as DINO's probes have it.

        Args:
            images: as for `features`.
            blocks: how many; the last one comes last.

        Raises:
            GlocalError: the network is no vision transformer with a CLS token, or has fewer blocks.
        """
        network = self.network
        if not self.has_cls_token:
            raise GlocalError(f"{self.label} has no CLS token; choose a vision transformer that has one")
        assert isinstance(network, VisionTransformer)
        if not 1 <= blocks <= len(network.blocks):
            raise GlocalError(f"{self.label} has {len(network.blocks)} blocks, not {blocks}")

        def tokens(prepared: Tensor) -> Tensor:
            self._check_patches(prepared)
            found = network.get_intermediate_layers(prepared, n=blocks, norm=True, return_prefix_tokens=True)
            return torch.stack([torch.cat([prefix[:, :1], patches], dim=1) for patches, prefix in found])

        return list(self._in_eval_mode(tokens, images))

    @torch.no_grad()
    def feature_map(self, images: AnyImages) -> Tensor:
        """The last feature map (B, C, h, w) in float32: of a vision transformer, its patch tokens.

        Args:
            images: as for `features`; their sides may differ where the network allows it.

        Raises:
            GlocalError: the network has no such map.
        """
        return self._in_eval_mode(self.forward_map, images)

    def fingerprint(self) -> str:
        """A hash of all that decides the features: the network's modules with the plain values that they hold (heads of
        attention and kinds of pooling show in no weight), its weights, and the images that it expects.
        """
        units = "" if self.channels is None else " in their own units"
        about = f"{self.network!r} {self.size} {self.mean.tolist()} {self.std.tolist()}{units}"
        found = hashlib.sha256(about.encode())
        for name, module in self.network.named_modules():
            plain = {key: value for key, value in vars(module).items() if isinstance(value, int | float | str)}
            plain.pop("training", None)
            found.update(f"{name} {sorted(plain.items())}".encode())
        for name, value in self.network.state_dict().items():
            found.update(name.encode())
            if isinstance(value, Tensor):
                found.update(value.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().data)
        return found.hexdigest()

    def _in_eval_mode(self, function: Callable[[Tensor], Tensor], images: AnyImages) -> Tensor:
        checked = checked_images(images, self.decoding or Decoding(), self.size)
        height, width = checked.shape[-2:]
        training = self.training
        self.eval()
        try:
            if function is self.network and isinstance(self.network, VisionTransformer):
                self._check_patches(checked)
            return function(self.prepare(checked)).float()
        except torch.OutOfMemoryError:
            raise
        except (AssertionError, RuntimeError) as error:
            if (height, width) == (self.size, self.size):
                raise
            raise GlocalError(
                f"{self.label} takes no images of {height} × {width} pixels (it was made for {self.size} × "
                f"{self.size}): {one_line(error)}"
            ) from error
        finally:
            self.train(training)


def one_line(error: Exception) -> str:
    """What an error of another library says, in one line that is not too long; its name where it says nothing."""
    return textwrap.shorten(str(error), 160, placeholder="…") or type(error).__name__


def checked_images(images: AnyImages, decoding: Decoding, size: int) -> Tensor:
    """Images as users have them → (B, 3, H, W) uint8 or floating point in [0, 1]; (B, C, H, W) of any type of values.

    Raises:
        GlocalError: they are not.
    """
    if not isinstance(images, Tensor):
        images = _stacked(images, decoding, size)
    channels = decoding.channels or 3
    if images.ndim != 4 or images.shape[1] != channels or 0 in images.shape[2:]:
        raise GlocalError(f"images must have the shape (B, {channels}, height, width), not {tuple(images.shape)}")
    if decoding.channels is not None:
        if not bool(images.isfinite().all()):
            raise GlocalError("images hold values that are infinite or no numbers")
        return images
    if images.is_floating_point() and len(images) > 0:
        low, high = (float(value) for value in images.aminmax())
        if not (low >= -_ROUNDING and high <= 1 + _ROUNDING):  # also where one is no number
            raise GlocalError(
                f"images in floating point must lie in [0, 1], not in [{low:g}, {high:g}]; they are normalised "
                "here, so divide by 255 at most, or give uint8"
            )
    return images


def _stacked(
    images: np.ndarray | Image.Image | Sequence[Tensor | np.ndarray | Image.Image], decoding: Decoding, size: int
) -> Tensor:
    """PIL images and arrays (one, or several of one size) as one tensor (B, 3, H, W); an error names `size`."""
    if isinstance(images, np.ndarray) and images.ndim == 4:
        several: Sequence[Any] = list(images)
    elif isinstance(images, Sequence):
        several = images
    else:
        several = [images]
    if not several:
        raise GlocalError("images: the list is empty")
    found = [_pixels(image, decoding) for image in several]
    sizes = sorted({f"{image.shape[-2]} × {image.shape[-1]}" for image in found})
    if len(sizes) > 1:
        raise GlocalError(
            f"images of one call must have one size, not {' and '.join(sizes[:3])}; cut them to {size} × {size} first: "
            "features(backbone.squares(images))"
        )
    return torch.stack(found)


def _pixels(image: Tensor | np.ndarray | Image.Image, decoding: Decoding) -> Tensor:
    """One image as (3, H, W), or (C, H, W) of values."""
    channels = decoding.channels or 3
    if isinstance(image, Tensor):
        if image.ndim != 3 or image.shape[0] != channels:
            raise GlocalError(
                f"a tensor in a list of images must have the shape ({channels}, H, W), not {tuple(image.shape)}"
            )
        return image
    if isinstance(image, Image.Image) and decoding.channels is None:
        return rgb_pixels(image, decoding)
    if not isinstance(image, np.ndarray | Image.Image):
        raise GlocalError(f"images must be tensors, NumPy arrays or PIL images, not {type(image).__name__}")
    if decoding.channels is not None:
        return arrange(np.asarray(image), decoding.channels, decoding.channel_axis, "an image")
    assert isinstance(image, np.ndarray)
    if image.ndim != 3 or image.shape[2] != 3 or image.dtype != np.uint8:
        raise GlocalError(
            f"arrays of images must be (height, width, 3) uint8, not {tuple(image.shape)} {image.dtype}; give other "
            "values as a tensor (B, 3, height, width) in [0, 1]"
        )
    return torch.from_numpy(image.copy()).permute(2, 0, 1)  # torch warns of arrays that it could not write to


def _naming(settings: ModelSettings) -> str:
    return "model.pretrained" if settings.pretrained else f"model.init={settings.init}"


def build_backbone(
    settings: ModelSettings,
    *,
    size: int,
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
    channels: int | None = None,
) -> Backbone:
    """Builds the network of a recipe's `model` section, randomly initialised by torch's global generator.

    timm's own weights are put in where the section asks for them; those of a file are not
    (`glocal.models.weights.load_into`).

    Residual branches of ResNets do not start at zero (torchvision's default, which the papers use) unless
    `options.zero_init_last` says so. Vision transformers take any image size that their patches divide.

    Args:
        settings: the section.
        size: side of the images in pixels.
        mean, std: per channel; None takes what the pretrained weights expect, or ImageNet's where there are none.
        channels: of images whose values come in their own units; None: they are RGB. timm adapts its own weights.

    Raises:
        GlocalError: unknown name, an option that the model does not take, a small or medium stem on another family or
            on pretrained weights, or weights that cannot be had.
    """
    settings = settings.for_size(size)
    known = statistics_of_weights(settings)
    if channels is not None:
        mean, std = mean or (0.0,) * channels, std or (1.0,) * channels
    mean = mean or (known.mean if known else IMAGENET_MEAN)
    std = std or (known.std if known else IMAGENET_STD)
    inputs = channels or 3
    if settings.name == _SMALL_ALEXNET:
        if settings.options or settings.known_to_timm or settings.stem != "standard":
            raise GlocalError(f"model: {_SMALL_ALEXNET} has no options, no pretrained weights and no stem but its own")
        found = Backbone(SmallAlexNet(inputs), size=size, mean=mean, std=std, label=settings.name)
        found.architecture = Architecture(_SMALL_ALEXNET, {} if inputs == 3 else {"channels": inputs})
        found.decoding = None if channels is None else Decoding(channels=channels)
        return found
    name = _known(settings.name)
    options = dict(settings.options)
    if options.get("in_chans", inputs) != inputs:
        come = "as RGB, grey ones with three equal channels" if channels is None else f"with data.channels={channels}"
        raise GlocalError(
            f"model.options.in_chans={options['in_chans']}: all images come {come}; leave it out, it follows "
            "data.channels"
        )
    if inputs != 3:
        options["in_chans"] = inputs
    stem: Stem = "standard" if settings.stem == "auto" else settings.stem  # never auto, after for_size
    if stem != "standard" and settings.known_to_timm:
        raise GlocalError(
            f"model.stem={stem} does not go with {_naming(settings)}: a new first convolution has no pretrained "
            "weights; use model.stem=standard"
        )
    if _entry_family(name) is ResNet:
        options.setdefault("zero_init_last", False)
    elif name.startswith("vit_"):
        options = {"img_size": size, "dynamic_img_size": True, **options}
    if settings.known_to_timm:
        check_weights_at_hand(name, _naming(settings), options)
    try:
        network = timm.create_model(name, pretrained=settings.known_to_timm, num_classes=0, **options)
    except TypeError as error:
        raise GlocalError(f"model.options: {settings.name} does not take them: {error}") from error
    except Exception as error:  # every hub client fails in its own way; so do networks with options that do not fit
        if settings.known_to_timm:
            raise GlocalError(
                f"{_naming(settings)}: the weights of {settings.name} cannot be had: {one_line(error)}"
            ) from error
        given = f" with model.options={shown(settings.options)}" if settings.options else ""
        raise GlocalError(
            f"model.name={settings.name}{given} cannot be built for images of {size} pixels (data.size): "
            f"{one_line(error)}"
        ) from error
    if stem != "standard":
        if not has_plain_stem(network):
            raise GlocalError(
                f"model.stem: the {stem} stem is for ResNets whose stem is one convolution and a pooling, not for "
                f"{settings.name}; use standard"
            )
        set_stem(network, stem)
    found = Backbone(network, size=size, mean=mean, std=std, label=settings.name)
    found.architecture = Architecture(name, options, stem)
    found.decoding = None if channels is None else Decoding(channels=channels)
    return found
