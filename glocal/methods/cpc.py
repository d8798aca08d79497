"""CPC v2: contrastive predictive coding.

Hénaff, Srinivas, De Fauw, Razavi, Doersch, Eslami and van den Oord, "Data-Efficient Image Recognition with Contrastive
Predictive Coding", ICML 2020, section 2, and the pseudo-code of its appendix. An image is cut into patches that overlap
by half. Each passes the network by itself; from the patches above it, a masked convolution predicts which of all
patches of the batch lies some rows below, and likewise upwards, to the left and to the right.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Annotated, Any, Literal

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from glocal.console import note
from glocal.distributed import process_count
from glocal.errors import GlocalError
from glocal.losses.predictive import patch_info_nce
from glocal.methods.base import Method, MethodSettings
from glocal.models.backbone import Backbone
from glocal.settings import Amount
from glocal.transfer import to_device
from glocal.views.batch import Views, by_size
from glocal.views.plan import Probability, View
from glocal.views.random import uniform

Direction = Literal["down", "up", "right", "left"]
_MOST = 64  # patches a side


class CPCSettings(MethodSettings):
    """Defaults are those of the pseudo-code, with CPC v1's grid: 64 of 256 pixels, 7 × 7 patches."""

    name: Literal["cpc"] = "cpc"
    grid: int = Field(7, ge=2, le=_MOST)  # patches a side
    steps: tuple[Annotated[int, Field(ge=1, lt=_MOST)], ...] = Field((3,), min_length=1)  # rows ahead: range(2, 3) + 1
    directions: tuple[Direction, ...] = Field(("down", "up", "right", "left"), min_length=1)
    context_layers: int = Field(5, ge=1, le=100)
    context_dim: Amount = 256
    output_dim: Amount = 64
    scale: float = Field(0.1, gt=0)  # of the predictions
    color_drop: Probability = 0.5  # of a patch, to keep one channel alone; how often is not in the paper
    flip: Probability = 0.5  # of a patch


class CPC(Method):
    """Prediction of patches from the patches on one side of them.

    The network has layer normalisation (`model.options.norm_layer=groupnorm1`, one group of all channels and places):
    with batch normalisation patches could give one another away (section 2.1). Each direction has a context network and
    predictors of its own. The loss is the mean over directions and steps, which the paper adds up. Of the paper's
    changes to patches, dropping of colours and flips are here; warps and elastic deformations are not.
    """

    Settings = CPCSettings
    compares_batch = True

    def __init__(self, backbone: Backbone, settings: CPCSettings) -> None:
        super().__init__(backbone, settings)
        self.settings = settings
        if max(settings.steps) >= settings.grid:
            raise GlocalError(
                f"method.steps={list(settings.steps)}: of {settings.grid} rows none lies so far ahead; "
                f"{settings.grid - 1} is the most with method.grid={settings.grid}"
            )
        self.contexts = nn.ModuleList(
            ContextNetwork(backbone.dim, settings.context_dim, settings.context_layers) for _ in settings.directions
        )
        outputs = len(settings.steps) * settings.output_dim
        self.predictors = nn.ModuleList(nn.Linear(backbone.dim, outputs) for _ in settings.directions)
        self.target = nn.Linear(backbone.dim, settings.output_dim)

    @classmethod
    def default_model(cls, size: int) -> dict[str, Any]:
        return {"name": "resnet18", "options": {"norm_layer": "groupnorm1"}}

    @classmethod
    def view_plan(cls, size: int, settings: Any = None) -> list[View]:
        return [View(size=size, scale=(0.5, 1.0))]

    def check(self, views: Sequence[View], batch: int) -> None:
        """Notes batch normalisation, which the paper's network does not have."""
        if any(isinstance(module, _BatchNorm) for module in self.backbone.modules()):
            note(
                "cpc: through batch normalisation patches give one another away; "
                "model.options.norm_layer=groupnorm1 has none of it"
            )

    def loss(self, views: Views) -> Tensor:
        """Eq. 2 in every direction, for every step."""
        side, runs = self.settings.grid, by_size(views.images)
        if len(runs) > 1:
            raise GlocalError("cpc looks at views of one size; change `views`")
        [images], batch = runs, len(runs[0])
        patches = self._changed(cut(images, side), views)
        latents = self.backbone(patches).float().view(batch, side, side, -1)  # (B, H, W, D)
        self.embedding = latents.detach().mean(dim=(1, 2))[: len(views.index)]
        self.chance = math.log(process_count() * batch * side * side)
        targets = self.target(latents).float()
        losses = []
        for direction, context, predictor in zip(self.settings.directions, self.contexts, self.predictors, strict=True):
            predictions = predictor(context(turned(latents, direction))).float().chunk(len(self.settings.steps), dim=-1)
            losses += [
                patch_info_nce(prediction, turned(targets, direction), ahead=ahead, scale=self.now.scale)
                for prediction, ahead in zip(predictions, self.settings.steps, strict=True)
            ]
        return torch.stack(losses).mean()

    def _changed(self, patches: Tensor, views: Views) -> Tensor:
        """Patches (V·B·N, C, p, p), of which some keep one channel, the mean in place of the others, and some flip."""
        channels, number = patches.shape[1], torch.arange(len(views.images)).view(-1, 1, 1, 1)
        patch, draw = torch.arange(self.settings.grid**2)[:, None], torch.arange(3)
        draws = uniform(self.seed, "patches", self.now.step, views.index[:, None, None], number, patch, draw)
        drops, channel, flips = draws.flatten(0, 2).unbind(-1)  # (V·B·N,) each
        only = (channel * channels).long()[:, None] == torch.arange(channels)
        kept = only | (drops >= self.settings.color_drop)[:, None]
        patches = patches * to_device(kept, patches.device, patches.dtype)[:, :, None, None]
        flipped = to_device(flips < self.settings.flip, patches.device)[:, None, None, None]
        return torch.where(flipped, patches.flip(-1), patches)


class ContextNetwork(nn.Module):
    """Residual blocks of masked convolutions: a place sees what lies in its row and above it."""

    def __init__(self, dim: int, width: int, layers: int) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(
            nn.Sequential(
                nn.Conv2d(dim, width, 1),
                nn.ReLU(inplace=True),
                nn.Conv2d(width, width, (1, 3), padding=(0, 1)),
                nn.ZeroPad2d((0, 0, 1, 0)),
                nn.Conv2d(width, width, (2, 1)),
                nn.ReLU(inplace=True),
                nn.Conv2d(width, dim, 1),
            )
            for _ in range(layers)
        )

    def forward(self, latents: Tensor) -> Tensor:
        """(B, H, W, D) → (B, H, W, D)."""
        found = latents.permute(0, 3, 1, 2)
        for block in self.blocks:
            found = found + block(found)
        return found.relu().permute(0, 2, 3, 1)


def cut(images: Tensor, side: int) -> Tensor:
    """Patches that overlap by half, row by row: (B, C, S, S) → (B·side², C, p, p), p = 2 · S/(side + 1).

    Raises:
        GlocalError: S is no multiple of side + 1.

    >>> cut(torch.arange(16.0).view(1, 1, 4, 4), 3)[1].flatten().tolist()
    [1.0, 2.0, 5.0, 6.0]
    """
    size = images.shape[-1]
    stride, rest = divmod(size, side + 1)
    if rest or not stride:
        raise GlocalError(
            f"views of {size} pixels cannot be cut into {side} patches a side that overlap by half: change "
            f"method.grid, or views.0.size to a multiple of {side + 1}"
        )
    patches = images.unfold(2, 2 * stride, stride).unfold(3, 2 * stride, stride)  # (B, C, side, side, p, p)
    return patches.permute(0, 2, 3, 1, 4, 5).flatten(0, 2)


def turned(grid: Tensor, direction: Direction) -> Tensor:
    """(B, H, W, D) with rows ahead in a direction below one another."""
    if direction in ("right", "left"):
        grid = grid.transpose(1, 2)
    return grid.flip(1) if direction in ("up", "left") else grid
