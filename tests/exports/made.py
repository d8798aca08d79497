"""Small backbones for tests of exports."""

import torch
from torch import nn

from glocal.models.architecture import ModelSettings
from glocal.models.backbone import Backbone
from glocal.models.building import build_backbone

NARROW = {"channels": [8, 16, 16, 32]}
VIT = {"patch_size": 8, "embed_dim": 32, "depth": 2, "num_heads": 2}


def backbone(name: str = "resnet18", size: int = 32, **settings: object) -> Backbone:
    """A backbone whose statistics of normalisation are not those that every network begins with."""
    torch.manual_seed(0)
    made = build_backbone(ModelSettings(name=name, **settings), size=size, mean=(0.4, 0.5, 0.6), std=(0.2, 0.3, 0.25))
    made.train()
    with torch.no_grad():
        made.network(torch.rand(16, 3, size, size))
        for parameter in made.parameters():
            if parameter.ndim == 1:  # biases and scales begin equal, so that none could be told from another
                nn.init.uniform_(parameter, 0.5, 1.5)
    return made.eval()


def vit(**options: object) -> Backbone:
    """A tiny vision transformer."""
    return backbone("vit_tiny", options={**VIT, **options})


def narrow() -> Backbone:
    """A ResNet-18 with few channels and the standard stem."""
    return backbone(stem="standard", options=NARROW)
