"""The small AlexNet of the STL-10 experiments."""

from __future__ import annotations

from itertools import pairwise

from torch import Tensor, nn


class SmallAlexNet(nn.Module):
    """AlexNet with batch normalisation for images of about 64 pixels, without its last layer.

    Wang and Isola, "Understanding Contrastive Representation Learning through Alignment and Uniformity on the
    Hypersphere", ICML 2020, appendix B; LoGo uses it on STL-10. Five convolutions of 3 × 3, three poolings, two fully
    connected layers of 4,096. Maps are brought to 7 × 7 before these, which at 64 pixels changes nothing.

    Args:
        channels: of the images.
    """

    num_features = 4096

    def __init__(self, channels: int = 3) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for number, (before, after) in enumerate(pairwise([channels, 96, 192, 384, 384, 192])):
            layers += [nn.Conv2d(before, after, 3, padding=1, bias=False), nn.BatchNorm2d(after), nn.ReLU(inplace=True)]
            if number in (0, 1, 4):
                layers.append(nn.MaxPool2d(3, 2))
        self.convolutions = nn.Sequential(*layers, nn.AdaptiveAvgPool2d(7), nn.Flatten())
        width = self.num_features
        self.connected = nn.Sequential(
            *(nn.Linear(192 * 7 * 7, width, bias=False), nn.BatchNorm1d(width), nn.ReLU(inplace=True)),
            *(nn.Linear(width, width), nn.BatchNorm1d(width), nn.ReLU(inplace=True)),
        )

    def forward(self, images: Tensor) -> Tensor:
        """(B, channels, S, S) → (B, 4096)."""
        return self.connected(self.convolutions(images))  # type: ignore[no-any-return]
