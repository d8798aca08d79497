"""Regions of images: the places of a network's last feature map, each with the features of a small image."""

from __future__ import annotations

import math

import torch
from timm.layers.format import Format
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor
from torch.nn.functional import avg_pool2d

from glocal.errors import GlocalError
from glocal.models.backbone import Backbone


def view_and_regions(backbone: Backbone, images: Tensor) -> Tensor:
    """`regions_of` normalised images (B, 3, S, S)."""
    return regions_of(backbone, backbone.forward_unpooled(images))


def regions_of(backbone: Backbone, unpooled: Tensor) -> Tensor:
    """The features of each view and of its regions, (B, 1 + N, D): what region-level methods train.

    The view has the features that `backbone(images)` gives. A region is a place of the last feature map, or a patch of
    a transformer. What a network has behind its pooling (MobileNetV3 a convolution, ConvNeXt a normalisation) is done
    to each place as if it were a whole map, so that regions lie in the space of the features.

    Args:
        backbone: the network.
        unpooled: what `backbone.forward_unpooled` gives.

    Raises:
        GlocalError: the network has no such map, or its patches do not divide the images.
    """
    network = backbone.network
    of_view = network.forward_head(unpooled)  # type: ignore[operator]
    if unpooled.ndim == 3:  # tokens (B, T, D)
        regions = unpooled[:, getattr(network, "num_prefix_tokens", 0) :]
        if isinstance(network, VisionTransformer):
            regions = network.fc_norm(regions)
    else:
        last = getattr(network, "output_fmt", Format.NCHW) == Format.NHWC
        places = unpooled.flatten(1, 2) if last else unpooled.flatten(2).mT  # (B, N, C)
        alone = places.flatten(0, 1)[:, None, None] if last else places.flatten(0, 1)[:, :, None, None]
        regions = network.forward_head(alone).unflatten(0, places.shape[:2])  # type: ignore[operator]
    if regions.shape[-1] != of_view.shape[-1]:
        raise GlocalError(
            f"{type(network).__name__} has regions of {regions.shape[-1]} features and images of {of_view.shape[-1]}; "
            "choose a ResNet (model.name)"
        )
    return torch.cat([of_view[:, None], regions], dim=1)


def pooled_regions(regions: Tensor, side: int) -> Tensor:
    """The regions of square maps (B, N, D), neighbours averaged until there are at most `side` a side.

    >>> pooled_regions(torch.arange(16.0).view(1, 16, 1), 2).flatten().tolist()
    [2.5, 4.5, 10.5, 12.5]
    """
    own = math.isqrt(regions.shape[1])
    if own <= side:
        return regions
    maps = regions.mT.unflatten(2, (own, own))
    return avg_pool2d(maps, math.ceil(own / side), ceil_mode=True).flatten(2).mT
