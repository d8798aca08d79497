"""What is common to the images of a set, and says how they are decoded."""

from __future__ import annotations

from dataclasses import dataclass

from glocal.data.decoding.channels import ChannelAxis
from glocal.data.decoding.reading import PIXELS


@dataclass(frozen=True)
class Decoding:
    """What all images of a set have in common.

    Attributes:
        value_range: the values of grey images beyond 8 bits that become black and white; None guesses for each image.
        max_pixels: images with more count as unreadable; None leaves it to Pillow (179 million).
        channels: how many the images have whose values stay as they are stored; None: they are RGB in 8 bits.
        channel_axis: where channels lie in arrays whose shape leaves it open.
    """

    value_range: tuple[float, float] | None = None
    max_pixels: int | None = None
    channels: int | None = None
    channel_axis: ChannelAxis | None = None

    @property
    def most_pixels(self) -> int:
        """The limit of pixels: that which was set, or Pillow's; a third of it for nine channels, and so on."""
        return self.max_pixels or PIXELS * 3 // max(3, self.channels or 3)


USUAL = Decoding()
"""Images of colours, each with its own range of grey values, as large as Pillow allows."""
