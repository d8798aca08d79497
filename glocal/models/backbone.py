"""Backbones: timm's models, with the normalisation that they were trained with."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Self

import numpy as np
import torch
from PIL import Image, ImageOps
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from glocal.data.decoding.rules import Decoding
from glocal.data.lanes.central import central_share, central_square
from glocal.errors import GlocalError, one_line
from glocal.models.architecture import Architecture
from glocal.models.given import AnyImages, checked_images, pixels
from glocal.models.recompute import recomputing
from glocal.settings import IMAGENET_MEAN, IMAGENET_STD
from glocal.views.crops import Interpolation


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
        stages = getattr(self.network, "feature_info", None) if hasattr(self.network, "forward_intermediates") else None
        found = [int(stage["num_chs"]) for stage in stages or []]
        if len(found) < count:
            raise GlocalError(
                f"{type(self.network).__name__} has {len(found)} stages with feature maps, not {count}; "
                + (f"set method.levels to {len(found)} or less" if found else "choose a ResNet (model.name)")
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
        found = [pixels(image, self.decoding or Decoding()) for image in upright]
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
        modes = [(module, module.training) for module in self.modules()]  # a frozen layer's is its own
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
            for module, training in modes:
                module.training = training
