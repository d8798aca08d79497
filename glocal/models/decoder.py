"""From the last feature map back to places in the image: what colorization and inpainting predict with."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn.functional import interpolate

from glocal.models.backbone import Backbone


def stages_to(backbone: Backbone, side: int) -> int:
    """How often the last map of an image of the backbone's size must be doubled to have `side` places a side."""
    training, size = backbone.training, backbone.size
    backbone.eval()
    with torch.no_grad():
        own = backbone.forward_map(torch.zeros(1, len(backbone.mean), size, size)).shape[-1]
    backbone.train(training)
    return max(0, math.ceil(math.log2(side / own)))


class Decoder(nn.Module):
    """Doubles a map's resolution some times, each time with a 3 × 3 convolution, and ends in a 1 × 1 convolution.

    Args:
        dim: channels of the map.
        output: channels of what comes out.
        width: channels behind the first convolution, which runs on the map as it is; each doubling halves them, down
            to 16.
        stages: how often the resolution is doubled.
    """

    def __init__(self, dim: int, output: int, *, width: int, stages: int) -> None:
        super().__init__()
        widths = [max(width >> stage, min(width, 16)) for stage in range(stages + 1)]
        self.blocks = nn.ModuleList(
            nn.Sequential(nn.Conv2d(before, after, 3, padding=1, bias=False), nn.BatchNorm2d(after), nn.ReLU())
            for before, after in zip([dim, *widths], widths, strict=False)
        )
        self.last = nn.Conv2d(widths[-1], output, 1)

    def forward(self, places: Tensor) -> Tensor:
        """(B, dim, h, w) → (B, output, h·2^stages, w·2^stages)."""
        for number, block in enumerate(self.blocks):
            if number:
                places = interpolate(places, scale_factor=2.0)  # a transposed convolution leaves a checkerboard
            places = block(places)
        return self.last(places)  # type: ignore[no-any-return]
