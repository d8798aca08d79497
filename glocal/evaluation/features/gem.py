"""Features for copies of an image: the class token beside a generalised mean of the patches."""

from __future__ import annotations

from typing import Any

import torch
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor

from glocal.errors import GlocalError
from glocal.evaluation.features.extraction import POOLED, Extractor, Readout, blank_image


def gem(features: Tensor, power: float = 4.0) -> Tensor:
    """Generalised mean over places: (mean of x^p)^(1/p), values below 1e-6 counting as that.

    Radenović, Tolias and Chum, "Fine-tuning CNN Image Retrieval with No Human Annotation", PAMI 2019, equation 2;
    p = 4 as in Berman et al., "MultiGrain", 2019, and DINO.

    Args:
        features: (B, N, D).
        power: p; 1 is the mean, large values the maximum.

    Returns:
        (B, D).
    """
    return features.clamp(min=1e-6).pow(power).mean(dim=1).pow(1 / power)


def gem_readout(backbone: Extractor, power: float = 4.0) -> tuple[Readout, str]:
    """The features in which copies are found, and what they are, in a few words.

    - of a vision transformer the class token and the generalised mean of its patch tokens, 2·D values (DINO)
    - of other networks, and of transformers without a class token, the generalised mean of the last feature map
    - what the backbone gives for an image, where there is no such map
    """
    network = getattr(backbone, "network", None)
    token = isinstance(network, VisionTransformer) and network.cls_token is not None

    def compute(backbone: Any, images: Tensor) -> Tensor:
        if token:
            [tokens] = backbone.last_tokens(images, 1)
            return torch.cat([tokens[:, 0], gem(tokens[:, 1:], power)], dim=1)
        return gem(backbone.feature_map(images).flatten(2).mT, power)

    try:
        compute(backbone, blank_image(backbone))
    except (GlocalError, AttributeError):
        return POOLED, "pooled features"
    kind = "CLS + GeM of patches" if token else "GeM of the last map"
    return Readout(f"{kind}, p={power:g}", compute), kind
