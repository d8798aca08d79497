"""Whole images, their proportions kept, for evaluations that must see all of an image."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import interpolate
from torch.utils.data import Dataset

from glocal.data.lanes.central import default_workers
from glocal.data.lanes.readings import reading
from glocal.data.lanes.workers import batches_of
from glocal.data.sources.base import Source
from glocal.errors import BrokenImageError

Box = tuple[float, float, float, float]
"""Left, top, right and bottom in pixels of the image."""

_Group = tuple[Tensor, Tensor]  # index (B,) int64 and images (B, 3, H, W) uint8


@dataclass(frozen=True)
class Fit:
    """The size to which an image is brought.

    Attributes:
        size: the longer side in pixels, or the side of the square.
        step: the sides are multiples of it.
        square: whole images become squares; otherwise they keep their proportions, and none is enlarged.
        least: the smallest side that the network takes; shorter ones are enlarged to it.
    """

    size: int
    step: int = 1
    square: bool = False
    least: int = 1

    def sides(self, height: int, width: int, longest: int) -> tuple[int, int]:
        """Height and width of what was `height` × `width` in an image whose longer side was `longest`.

        >>> Fit(1024).sides(768, 512, 1536)  # a part shrinks as the whole does
        (512, 341)
        """
        if self.square:
            return self.rounded(self.size, self.size)
        share = min(1.0, self.size / longest)
        return self.rounded(height * share, width * share)

    def rounded(self, height: float, width: float) -> tuple[int, int]:
        """The nearest sides that are multiples of the step and that the network takes."""
        fewest = -(-self.least // self.step)
        return max(fewest, round(height / self.step)) * self.step, max(fewest, round(width / self.step)) * self.step


class _Whole(Dataset[tuple[list[_Group], list[BrokenImageError]]]):
    """Reads, cuts and resizes; runs in the workers."""

    def __init__(self, source: Source, fit: Fit, boxes: Sequence[Box] | None) -> None:
        self.source = source
        self.fit = fit
        self.boxes = boxes

    def __getitems__(self, numbers: list[int]) -> tuple[list[_Group], list[BrokenImageError]]:
        groups: dict[tuple[int, int], list[tuple[int, Tensor]]] = {}
        broken = []
        for number in numbers:
            reading(number)
            try:
                image = self.source[number].image
            except BrokenImageError as error:
                broken.append(error)
                continue
            longest = max(image.shape[1:])
            if self.boxes is not None:
                image = cut(image, self.boxes[number])
            sides = self.fit.sides(image.shape[1], image.shape[2], longest)
            if image.shape[1:] != sides:
                image = interpolate(image[None], sides, mode="bicubic", antialias=True)[0]
            groups.setdefault(sides, []).append((number, image))
        return [
            (torch.tensor([number for number, _ in group]), torch.stack([image for _, image in group]))
            for group in groups.values()
        ], broken


def cut(image: Tensor, box: Box) -> Tensor:
    """The part of an image (C, H, W) in a box, rounded to whole pixels; one pixel at least."""
    left, top, right, bottom = (round(side) for side in box)
    height, width = image.shape[1:]
    left, top = min(max(left, 0), width - 1), min(max(top, 0), height - 1)
    return image[:, top : max(top + 1, bottom), left : max(left + 1, right)]


def whole_images(
    source: Source,
    fit: Fit,
    *,
    boxes: Sequence[Box] | None = None,
    batch_size: int = 16,
    workers: int | None = None,
    skipped: list[BrokenImageError] | None = None,
) -> Iterator[_Group]:
    """The images of a source, or a part of each, resized; those of one size come together.

    Args:
        source: the images.
        fit: their sizes.
        boxes: for each image the part that is cut out before; None takes all of it.
        batch_size: images read at a time.
        workers: processes that decode; None takes `default_workers()`, 0 this process.
        skipped: unreadable images are appended here; they are left out.

    Yields:
        index (B,) int64 in the source and images (B, 3, H, W) uint8. The indices ascend within a batch only.
    """
    made = batches_of(
        _Whole(source, fit, boxes),
        [range(first, min(first + batch_size, len(source))) for first in range(0, len(source), batch_size)],
        workers=default_workers() if workers is None else workers,
        name=source.keys.__getitem__,
    )
    for groups, broken in made:
        if skipped is not None:
            skipped.extend(broken)
        yield from groups
