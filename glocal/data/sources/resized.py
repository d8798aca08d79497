"""Images that are brought to one size before anything else."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from glocal.data.sources.base import Sample, Source
from glocal.views.crops import render_one


class Resized:
    """A source whose images are squares of one side, whatever their shape was.

    Args:
        source: the images.
        side: of the squares, in pixels.
    """

    def __init__(self, source: Source, side: int) -> None:
        self.source = source
        self.side = side
        self.name = source.name
        self.classes = source.classes
        self.labels: Tensor | None = source.labels
        self.keys: Sequence[str] = source.keys

    def __len__(self) -> int:
        return len(self.source)

    def sizes_of(self, indices: Sequence[int]) -> list[tuple[int, int]]:
        """Height and width of some images, which are all the same."""
        return [(self.side, self.side)] * len(indices)

    def __getitem__(self, index: int) -> Sample:
        """The image by bilinear interpolation with antialiasing, as torchvision's `Resize((side, side))`.

        Raises:
            BrokenImageError: it cannot be read.
        """
        sample = self.source[index]
        height, width = sample.image.shape[1:]
        return sample._replace(image=render_one(sample.image, (0, 0, width, height), False, self.side))


def resized(source: Source, side: int | None) -> Source:
    """The source with its images brought to `data.resize` pixels; as it is where that is null."""
    return source if side is None else Resized(source, side)
