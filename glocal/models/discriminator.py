"""A network that tells real images from made ones."""

from __future__ import annotations

from itertools import pairwise

from torch import Tensor, nn
from torch.func import functional_call


class Discriminator(nn.Module):
    """DCGAN's: convolutions of stride 2, each with twice the channels of the one before, and one logit.

    Radford, Metz and Chintala, "Unsupervised Representation Learning with Deep Convolutional Generative Adversarial
    Networks", ICLR 2016. The logit is that of the mean over the last map, so images may have any size.

    Args:
        channels: of the images.
        width: channels behind the first convolution.
        layers: how many convolutions.
    """

    def __init__(self, channels: int, *, width: int = 64, layers: int = 4) -> None:
        super().__init__()
        widths = [channels, *(width << number for number in range(layers))]
        blocks: list[nn.Module] = []
        for number, (before, after) in enumerate(pairwise(widths)):
            blocks.append(nn.Conv2d(before, after, 4, stride=2, padding=1, bias=number == 0))
            blocks += [nn.BatchNorm2d(after)] if number else []
            blocks.append(nn.LeakyReLU(0.2))
        self.convolutions = nn.Sequential(*blocks)
        self.last = nn.Linear(widths[-1], 1)

    def forward(self, images: Tensor) -> Tensor:
        """(B, C, S, S) → (B,): the logit of being real."""
        return self.last(self.convolutions(images).mean(dim=(2, 3)))[:, 0].float()  # type: ignore[no-any-return]

    def fixed(self, images: Tensor) -> Tensor:
        """The same as it stands: no gradient reaches it."""
        as_it_is = {name: parameter.detach() for name, parameter in self.named_parameters()}
        return functional_call(self, as_it_is, (images,))  # type: ignore[no-any-return]
