"""Colorization: telling the colours of an image by how light its pixels are.

Zhang, Isola and Efros, "Colorful Image Colorization", ECCV 2016 (section 2). Colours are classes, the bins of a grid
over the a and b of Lab, and rare ones count for more: so the network says what things can look like instead of the
mean of it, which is grey.
"""

from __future__ import annotations

import math
from typing import Any, Literal

import torch
from pydantic import Field
from torch import Tensor
from torch.nn.functional import interpolate

from glocal.distributed import all_mean
from glocal.errors import GlocalError
from glocal.losses.pretext import rarity_weights, rebalanced_cross_entropy
from glocal.methods.base import Method, MethodSettings
from glocal.models.backbone import Backbone
from glocal.models.decoder import Decoder
from glocal.models.lab import color_bins, grey_of_same_lightness, rgb_to_lab, soft_encoding
from glocal.schedules import Share
from glocal.settings import Amount
from glocal.views.batch import Views, by_size
from glocal.views.plan import View

_NEAREST, _SIGMA = 5, 5.0  # of the soft encoding, and σ of the prior's smoothing

_GREY = 3.0  # a and b that no pixel exceeds where there is no colour: what rounding leaves is below
_TELLING = 8  # images that are hardly all grey by chance


class ColorizationSettings(MethodSettings):
    """λ is the paper's; the decoder is ours.

    The paper counts the colours of all images beforehand. Here their distribution is a running one of the images that
    were trained on, which begins as an even one: so no pass over the images is needed. Weights begin near 1, between
    0.983 and 1.020, for smoothing raises bins amid others over those at the edge.
    """

    name: Literal["colorization"] = "colorization"
    uniform: Share = 0.5  # λ, the share of the even distribution in the prior; 1: all colours count alike
    prior_momentum: Share = 0.99  # of the running distribution of colours
    decoder_dim: Amount = 256
    doublings: int = Field(2, ge=0, le=5)  # of the last map's resolution before colours are told


class Colorization(Method):
    """Classification of each place's colour from a grey image of the same lightness in three channels.

    A place of the decoder's output is asked for the colour of the pixel at its centre, as the authors' code takes
    single pixels too: a mean of pixels would be greyer than each.
    """

    Settings = ColorizationSettings
    needs_color = True
    bins: Tensor
    smoothing: Tensor
    prior: Tensor

    def __init__(self, backbone: Backbone, settings: ColorizationSettings) -> None:
        super().__init__(backbone, settings)
        if len(backbone.mean) != 3 or backbone.channels is not None:
            raise GlocalError("method colorization needs images in colour (data.channels=3, data.rgb=null)")
        self.settings = settings
        bins = color_bins()
        near = torch.exp(-torch.cdist(bins, bins).square() / (2 * _SIGMA**2))
        self.register_buffer("bins", bins.to(torch.get_default_dtype()), persistent=False)  # (Q, 2)
        smoothing = (near / near.sum(dim=1, keepdim=True)).to(torch.get_default_dtype())
        self.register_buffer("smoothing", smoothing, persistent=False)  # (Q, Q), rows sum to 1
        self.register_buffer("prior", torch.full((len(bins),), 1 / len(bins)))  # (Q,)
        self.decoder = Decoder(backbone.dim, len(bins), width=settings.decoder_dim, stages=settings.doublings)
        self.seen: list[Tensor] = []  # distributions of colours since the last update

    @classmethod
    def view_plan(cls, size: int, settings: Any = None) -> list[View]:
        return [View(size=size, scale=(0.2, 1.0))]

    def _apart(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Normalised images → grey ones of their lightness (B, 3, S, S), normalised, and their a and b (B, 2, S, S)."""
        mean, std = self.backbone.mean, self.backbone.std
        with torch.autocast(images.device.type, enabled=False):
            pixels = (images.float() * std + mean).clamp(0, 1)
            return (grey_of_same_lightness(pixels) - mean) / std, rgb_to_lab(pixels)[:, 1:]

    def ask(self, images: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """What the network says of all places (N, Q), what is right (N, 2), and the images' embeddings."""
        grey, ab = self._apart(images)
        places = self.backbone.forward_map(grey)
        logits = self.decoder(places).float()
        right = interpolate(ab, logits.shape[-2:], mode="nearest-exact")
        flat = [one.permute(0, 2, 3, 1).flatten(0, 2) for one in (logits, right)]
        return flat[0], flat[1], places.detach().float().mean(dim=(2, 3))

    def loss(self, views: Views) -> Tensor:
        """Eq. 2: −Σ v(z)·z·log ẑ, averaged over places, images and views."""
        asked = [self.ask(images) for images in by_size(views.images)]
        self.embedding = asked[0][2][: len(views.index)]
        self.chance = math.log(len(self.bins))
        if self.now.step == 0 and len(views.index) >= _TELLING:
            _check_colored(torch.cat([right for _, right, _ in asked]))
        bins, shares = soft_encoding(
            torch.cat([right for _, right, _ in asked]), self.bins, nearest=_NEAREST, sigma=_SIGMA
        )
        self._see(bins, shares)
        smooth = (self.prior[:, None] * self.smoothing).sum(dim=0)  # autocast would round a product of matrices
        weights = rarity_weights(smooth, uniform=self.now.uniform)
        return rebalanced_cross_entropy(torch.cat([logits for logits, _, _ in asked]), bins, shares, weights)

    def _see(self, bins: Tensor, shares: Tensor) -> None:
        """Keeps the distribution of these colours for the prior."""
        found = torch.zeros_like(self.prior).index_add_(0, bins.flatten(), shares.flatten().to(self.prior))
        self.seen.append(found / len(bins))

    @torch.no_grad()
    def after_step(self) -> None:
        """The prior moves towards the colours of the step, those of all processes."""
        if self.seen:
            self.prior.lerp_(all_mean(torch.stack(self.seen).mean(dim=0)), 1 - self.now.prior_momentum)
        self.seen.clear()


def _check_colored(colors: Tensor) -> None:
    """Raises GlocalError where a and b (N, 2) are those of grey."""
    if colors.abs().max() < _GREY:
        raise GlocalError(
            "colorization sees no colour in the first images: it learns from images in colour, "
            "in views that are not all grey (views.N.grey below 1)"
        )
