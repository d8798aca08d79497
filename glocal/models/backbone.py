"""Backbones: timm's models with a stem for small images, and the normalisation that they were trained with."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any, Literal

import timm
import torch
from pydantic import Field
from timm.models.resnet import ResNet
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn

from glocal.errors import GlocalError, did_you_mean
from glocal.models.alexnet import SmallAlexNet
from glocal.models.recompute import recomputing
from glocal.settings import IMAGENET_MEAN, IMAGENET_STD, Settings

_ALIASES = {f"vit_{size}": f"vit_{size}_patch16_224" for size in ("tiny", "small", "base")}
_SMALL_ALEXNET = "small_alexnet"
_SMALL_SIDE = 64  # up to this side, a stem that divides it by four at once loses too much


class ModelSettings(Settings):
    """The network to train.

    `options` go to the model's constructor in timm, e.g. `{patch_size: 8}` or `{channels: [16, 32, 64, 128]}`.
    """

    name: str = "resnet18"  # any timm model, or vit_tiny, vit_small, vit_base, small_alexnet
    stem: Literal["auto", "standard", "small"] = "auto"  # small: 3×3 stride 1, no pooling (ResNets; images ≤ 64)
    pretrained: bool = False
    options: dict[str, Any] = Field(default_factory=dict)

    def for_size(self, size: int) -> ModelSettings:
        """The same with the stem decided for images of `size` pixels."""
        if self.stem != "auto":
            return self
        small = size <= _SMALL_SIDE and self.name != _SMALL_ALEXNET and issubclass(_entry_family(self.name), ResNet)
        return self.model_copy(update={"stem": "small" if small else "standard"})


def _entry_family(name: str) -> type:
    """ResNet for names whose network is timm's ResNet; object otherwise, without building the network."""
    module = getattr(timm.models.model_entrypoint(_known(name)), "__module__", "")
    return ResNet if module == "timm.models.resnet" else object


def _known(name: str) -> str:
    name = _ALIASES.get(name, name)
    if not timm.is_model(name):
        hint = did_you_mean(name, [*timm.list_models(), *_ALIASES, _SMALL_ALEXNET]) if name else ""
        hint = hint if hint.startswith("did") else "`timm.list_models()` lists the names"
        raise GlocalError(f"model.name: timm has no model {name!r}; {hint}")
    return name


class Backbone(nn.Module):
    """A network that turns images into features, with the size and the normalisation of the images it knows.

    Args:
        network: a timm model without classifier.
        size: side in pixels of the images that it is trained on.
        mean, std: per channel, of RGB in [0, 1].
        label: a name for tables.

    Attributes:
        recompute: while it is trained, a vision transformer makes cheap activations again instead of keeping them
            (`glocal.models.recompute`).
    """

    mean: Tensor
    std: Tensor
    recompute = False

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

    def forward(self, images: Tensor) -> Tensor:
        """Pooled features (B, D) of normalised images (B, 3, S, S): what training calls."""
        if isinstance(self.network, VisionTransformer):
            self.grid(images.shape[-1])
        with self._memory():
            return self.network(images)  # type: ignore[no-any-return]

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
        self.grid(images.shape[-1])
        with self._memory():
            return self.network.forward_features(images)

    def forward_map(self, images: Tensor) -> Tensor:
        """The last feature map (B, C, h, w) of normalised images: the regions that region-level methods train.

        Its mean is what `forward` gives, unless the network pools in another way.

        Raises:
            GlocalError: timm's network has no such map, or its patches do not divide the images.
        """
        if isinstance(self.network, VisionTransformer):
            self.grid(images.shape[-1])
        if not hasattr(self.network, "forward_intermediates"):
            raise GlocalError(f"{type(self.network).__name__} has no feature map; choose a ResNet (model.name)")
        with self._memory():
            [last] = self.network.forward_intermediates(  # type: ignore[operator]
                images, indices=1, norm=True, output_fmt="NCHW", intermediates_only=True
            )
        return last  # type: ignore[no-any-return]

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

    def prepare(self, images: Tensor) -> Tensor:
        """Images as users have them → normalised images on the backbone's device.

        Args:
            images: (B, 3, S, S) uint8, or floating point in [0, 1].

        Raises:
            GlocalError: another shape or dtype.
        """
        if images.ndim != 4 or images.shape[1] != 3:
            raise GlocalError(f"images must have the shape (B, 3, height, width), not {tuple(images.shape)}")
        images = images.to(self.mean.device)
        if images.dtype == torch.uint8:
            images = images.float().div_(255)
        elif not images.is_floating_point():
            raise GlocalError(f"images must be uint8 or floating point in [0, 1], not {images.dtype}")
        return (images.to(self.mean) - self.mean) / self.std

    @torch.no_grad()
    def features(self, images: Tensor) -> Tensor:
        """Features (B, D) in float32, in evaluation mode and without gradient.

        Args:
            images: (B, 3, S, S) uint8, or floating point in [0, 1]; normalised here.
        """
        return self._in_eval_mode(self.network, images)

    @torch.no_grad()
    def tokens(self, images: Tensor) -> Tensor:
        """The class token and the patch tokens of a vision transformer, (B, 1 + N, D) in float32.

        Args:
            images: as for `features`.

        Raises:
            GlocalError: the network is no vision transformer.
        """
        return self._in_eval_mode(self.forward_tokens, images)

    @property
    def has_cls_token(self) -> bool:
        """The network is a vision transformer with a class token: `last_tokens` works."""
        return isinstance(self.network, VisionTransformer) and self.network.cls_token is not None

    @torch.no_grad()
    def last_tokens(self, images: Tensor, blocks: int) -> list[Tensor]:
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
            self.grid(prepared.shape[-1])
            found = network.get_intermediate_layers(prepared, n=blocks, norm=True, return_prefix_tokens=True)
            return torch.stack([torch.cat([prefix[:, :1], patches], dim=1) for patches, prefix in found])

        return list(self._in_eval_mode(tokens, images))

    @torch.no_grad()
    def feature_map(self, images: Tensor) -> Tensor:
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
        found = hashlib.sha256(f"{self.network!r} {self.size} {self.mean.tolist()} {self.std.tolist()}".encode())
        for name, module in self.network.named_modules():
            plain = {key: value for key, value in vars(module).items() if isinstance(value, int | float | str)}
            plain.pop("training", None)
            found.update(f"{name} {sorted(plain.items())}".encode())
        for name, value in self.network.state_dict().items():
            found.update(name.encode())
            if isinstance(value, Tensor):
                found.update(value.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().data)
        return found.hexdigest()

    def _in_eval_mode(self, function: Callable[[Tensor], Tensor], images: Tensor) -> Tensor:
        training = self.training
        self.eval()
        try:
            return function(self.prepare(images)).float()
        finally:
            self.train(training)


def build_backbone(
    settings: ModelSettings,
    *,
    size: int,
    mean: Sequence[float] = IMAGENET_MEAN,
    std: Sequence[float] = IMAGENET_STD,
) -> Backbone:
    """Builds the network of a recipe's `model` section, randomly initialised by torch's global generator.

    Residual branches of ResNets do not start at zero (torchvision's default, which the papers use) unless
    `options.zero_init_last` says so. Vision transformers take any image size that their patches divide.

    Raises:
        GlocalError: unknown name, an option that the model does not take, or a small stem on another family.
    """
    settings = settings.for_size(size)
    if settings.name == _SMALL_ALEXNET:
        if settings.options or settings.pretrained or settings.stem == "small":
            raise GlocalError(f"model: {_SMALL_ALEXNET} has no options, no pretrained weights and no small stem")
        return Backbone(SmallAlexNet(), size=size, mean=mean, std=std, label=settings.name)
    name = _known(settings.name)
    options = dict(settings.options)
    if _entry_family(name) is ResNet:
        options.setdefault("zero_init_last", False)
    elif name.startswith("vit_"):
        options = {"img_size": size, "dynamic_img_size": True, **options}
    try:
        network = timm.create_model(name, pretrained=settings.pretrained, num_classes=0, **options)
    except TypeError as error:
        raise GlocalError(f"model.options: {settings.name} does not take them: {error}") from error
    except OSError as error:
        raise GlocalError(f"model.pretrained: the weights of {settings.name} cannot be fetched: {error}") from error
    if settings.stem == "small":
        if not isinstance(network, ResNet) or not isinstance(network.conv1, nn.Conv2d):
            raise GlocalError(f"model.stem: the small stem is for ResNets, not for {settings.name}; use standard")
        network.conv1 = nn.Conv2d(3, network.conv1.out_channels, 3, stride=1, padding=1, bias=False)
        nn.init.kaiming_normal_(network.conv1.weight, mode="fan_out", nonlinearity="relu")
        network.maxpool = nn.Identity()
    return Backbone(network, size=size, mean=mean, std=std, label=settings.name)
