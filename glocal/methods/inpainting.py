"""Context encoders: painting the part of an image that is hidden.

Pathak, Krähenbühl, Donahue, Darrell and Efros, "Context Encoders: Feature Learning by Inpainting", CVPR 2016 (section
3). What is around a hidden part says what may be in it to a network that knows what things look like. A discriminator,
where there is one, makes what is painted sharp: the mean of all possibilities is blurred.
"""

from __future__ import annotations

from typing import Any, Literal

import torch
from torch import Tensor
from torch.nn.functional import interpolate, softplus

from glocal.losses.pretext import masked_l2
from glocal.methods.base import Method, MethodSettings, ParameterGroup
from glocal.models.backbone import Backbone
from glocal.models.decoder import Decoder, stages_to
from glocal.models.discriminator import Discriminator
from glocal.models.masks import central_square, random_blocks
from glocal.schedules import Share
from glocal.settings import Amount
from glocal.transfer import to_device
from glocal.views.batch import Views
from glocal.views.plan import View


class InpaintingSettings(MethodSettings):
    """The paper has both regions, and finds random ones better for features (section 3.3); λ is that of its eq. 3.

    Its features are learned without the discriminator too (section 5.2), so that is left out unless it is asked for.
    """

    name: Literal["inpainting"] = "inpainting"
    region: Literal["blocks", "central"] = "blocks"  # what is hidden: random squares, or the middle
    adversarial: bool = False  # a discriminator learns in an update of its own, before the network's
    reconstruction_weight: Share = 0.999  # λ, beside the discriminator, which has the rest
    decoder_dim: Amount = 512  # channels of the decoder on the last map; each doubling halves them
    discriminator_dim: Amount = 64  # channels of the discriminator's first convolution


class Inpainting(Method):
    """The first view with a part of it set to the mean colour is painted whole; only the hidden part counts.

    A decoder by doublings and convolutions stands in place of the paper's channel-wise connected layer and transposed
    convolutions: the last map of a ResNet already sees the whole image. The discriminator sees the image with its
    hidden part painted, not the part alone, so that both kinds of region are judged alike.
    """

    Settings = InpaintingSettings

    def __init__(self, backbone: Backbone, settings: InpaintingSettings) -> None:
        super().__init__(backbone, settings)
        self.settings = settings
        channels = len(backbone.mean)
        stages = stages_to(backbone, backbone.size)
        self.decoder = Decoder(backbone.dim, channels, width=settings.decoder_dim, stages=stages)
        if settings.adversarial:
            self.phases = ("discrimination", "loss")
            self.discriminator = Discriminator(channels, width=settings.discriminator_dim)

    @classmethod
    def view_plan(cls, size: int, settings: Any = None) -> list[View]:
        return [View(size=size, scale=(0.35, 1.0))]

    def hide(self, views: Views) -> tuple[Tensor, Tensor, Tensor]:
        """The images, where they are hidden, and the weights of errors: (B, C, S, S), (B, 1, S, S) each."""
        images = views.images[0]
        size = images.shape[-1]
        if self.settings.region == "central":
            hidden, weight = central_square(size)
        else:
            hidden = weight = random_blocks(size, seed=self.seed, step=self.now.step, index=views.index)
        hidden, weight = (
            to_device(one, images.device, images.dtype).expand(len(images), -1, -1, -1) for one in (hidden, weight)
        )
        return images, hidden, weight

    def paint(self, images: Tensor, hidden: Tensor) -> Tensor:
        """What the network makes of images that are hidden in part: (B, C, S, S)."""
        places = self.backbone.forward_map(images * (1 - hidden))  # 0 is the mean of each channel
        self.embedding = places.detach().float().mean(dim=(2, 3))
        painted = self.decoder(places).float()
        size = images.shape[-2:]
        return painted if painted.shape[-2:] == size else interpolate(painted, size, mode="bilinear")

    def discrimination(self, views: Views) -> Tensor:
        """Eq. 2: −log D(x) − log(1 − D(painted)), averaged over images."""
        images, hidden, _ = self.hide(views)
        with torch.no_grad():
            filled = torch.lerp(images, self.paint(images, hidden).to(images), hidden)
        return (softplus(-self.discriminator(images)) + softplus(self.discriminator(filled))).mean()

    def loss(self, views: Views) -> Tensor:
        """Eq. 1, and with a discriminator eq. 3; of the latter's term −log D, whose gradient does not vanish."""
        images, hidden, weight = self.hide(views)
        painted = self.paint(images, hidden)
        reconstruction = masked_l2(painted, images.to(painted), weight.to(painted))
        if not self.settings.adversarial:
            return reconstruction
        filled = torch.lerp(images.to(painted), painted, hidden.to(painted))
        deceit = softplus(-self.discriminator.fixed(filled)).mean()
        return torch.lerp(deceit, reconstruction, self.now.reconstruction_weight)

    def parameter_groups(self) -> list[ParameterGroup]:
        groups = [ParameterGroup(self.backbone), ParameterGroup(self.decoder)]
        return [*groups, ParameterGroup(self.discriminator, "discrimination")] if self.settings.adversarial else groups
