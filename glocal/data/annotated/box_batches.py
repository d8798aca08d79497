"""What a detector is trained on: batches of images of mixed sizes, resized and flipped with their boxes and masks."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import interpolate
from torch.utils.data import Dataset

from glocal.data.annotated.boxes import DetectionImages
from glocal.data.annotated.outlines import Outline, filled
from glocal.data.lanes.readings import reading
from glocal.data.lanes.workers import batches_of
from glocal.errors import BrokenImageError, GlocalError
from glocal.views.random import permutation, random_bits, uniform

_THINNEST = 0.01  # boxes below this side in pixels vanish in float32


class Example(NamedTuple):
    """An image as the detector sees it.

    Attributes:
        image: (3, H, W) uint8.
        boxes: (K, 4) float32: left, top, right, bottom.
        labels: (K,) int64, classes from 0.
        masks: (K, H, W) uint8; None where they are not asked for.
    """

    image: Tensor
    boxes: Tensor
    labels: Tensor
    masks: Tensor | None


class Request(NamedTuple):
    """Which image, for the how many-th time: what its random draws are named by."""

    epoch: int
    image: int
    copy: int


class ExampleBatch(NamedTuple):
    """Examples and the images that could not be read."""

    examples: list[Example]
    broken: list[BrokenImageError]


def resized(height: int, width: int, short: int, longest: int) -> tuple[int, int]:
    """The size whose shorter side is `short`, unless the longer would exceed `longest`; the shape is kept.

    >>> resized(480, 640, 800, 1333), resized(100, 400, 800, 1333)
    ((800, 1067), (333, 1333))
    """
    scale = min(short / min(height, width), longest / max(height, width))
    return max(1, int(height * scale + 0.5)), max(1, int(width * scale + 0.5))


def transformed(
    image: Tensor,
    boxes: Tensor,
    outlines: Sequence[Outline] | None,
    *,
    short: int,
    longest: int,
    flipped: bool,
) -> tuple[Tensor, Tensor, Tensor | None]:
    """An image, its boxes and masks, resized (`resized`) and mirrored left to right.

    The image is resized bilinearly without smoothing, as torchvision's detection models do it when they are used.

    Args:
        image: (3, H, W) uint8.
        boxes: (K, 4); cut off at the image's border.
        outlines: K outlines; None makes no masks.
        short: the shorter side to come.
        longest: bound of the longer side.
        flipped: mirror.

    Returns:
        image (3, H', W') uint8, boxes (K, 4) float32, masks (K, H', W') uint8 or None.
    """
    height, width = image.shape[1:]
    new_height, new_width = resized(height, width, short, longest)
    if (new_height, new_width) != (height, width):
        image = interpolate(image[None], size=(new_height, new_width), mode="bilinear", align_corners=False)[0]
    scale = boxes.new_tensor([new_width / width, new_height / height] * 2)
    limit = boxes.new_tensor([new_width, new_height] * 2)
    boxes = torch.minimum((boxes * scale).clamp(min=0), limit)
    masks = None
    if outlines is not None:
        sizes = (height, width), (new_height, new_width)
        drawn = [filled(outline, *sizes) for outline in outlines]
        masks = torch.stack(drawn) if drawn else torch.zeros(0, new_height, new_width, dtype=torch.uint8)
    if flipped:
        image = image.flip(-1)
        left, top, right, bottom = boxes.unbind(1)
        boxes = torch.stack([new_width - right, top, new_width - left, bottom], dim=1)
        masks = None if masks is None else masks.flip(-1)
    return image, boxes.float(), masks


def repeat_factors(images: DetectionImages, threshold: float) -> Tensor:
    """How often each image is shown per epoch on average, (N,) float64, so that rare classes are seen more often.

    max over the image's classes c of max(1, √(t / f_c)), f_c being the share of images with that class: Gupta, Dollár
    and Girshick, "LVIS", CVPR 2019, appendix B.2.

    Args:
        images: N images.
        threshold: t; 0 repeats none.
    """
    image, label = images.image_of[~images.ignored], images.labels[~images.ignored]
    pairs = torch.unique(torch.stack([image, label], dim=1), dim=0)  # (image, class), each once
    share = torch.bincount(pairs[:, 1], minlength=len(images.classes)).double() / len(images)
    of_class = (threshold / share).sqrt().clamp(min=1)
    factors = torch.ones(len(images), dtype=torch.float64)
    return factors.scatter_reduce(0, pairs[:, 0], of_class[pairs[:, 1]], "amax")


def training_order(
    images: DetectionImages, usable: Tensor, batch_size: int, *, seed: int, repeats: Tensor | None = None
) -> Iterator[list[Request]]:
    """Batches without end: epoch by epoch in random order, wide images with wide ones and tall ones with tall ones.

    Args:
        images: the images.
        usable: (U,) int64, those of them that are shown.
        batch_size: images in a batch.
        seed: of the order.
        repeats: (N,) how often an image is shown per epoch; what is behind the point is a probability.
    """
    waiting: dict[bool, list[Request]] = {True: [], False: []}
    wide = (images.sizes[:, 1] >= images.sizes[:, 0]).tolist()
    epoch = 0
    while True:
        times = torch.ones(len(usable), dtype=torch.int64)
        if repeats is not None:
            factor = repeats[usable]
            times = factor.floor().long() + (uniform(seed, "repeat", epoch, usable) < factor.frac()).long()
        shown = torch.repeat_interleave(usable, times)
        first = torch.repeat_interleave(times.cumsum(0) - times, times)
        copy = torch.arange(len(shown)) - first
        order = permutation(len(shown), seed, "detection order", epoch)
        for image, number in zip(shown[order].tolist(), copy[order].tolist(), strict=True):
            group = waiting[wide[image]]
            group.append(Request(epoch, image, number))
            if len(group) == batch_size:
                yield group
                waiting[wide[image]] = []
        epoch += 1


class ExampleReader(Dataset[ExampleBatch]):
    """Reads and transforms the images of a batch; runs in the workers.

    Args:
        images: the images.
        short: sides, of which one is drawn for each image.
        longest: bound of the longer side.
        masks: give masks.
        difficult: show ignored objects like all others (VOC's difficult ones), rather than leave them out (crowds).
        seed: of the draws.
    """

    def __init__(
        self,
        images: DetectionImages,
        *,
        short: Sequence[int],
        longest: int,
        masks: bool,
        difficult: bool,
        seed: int,
    ) -> None:
        self.images = images
        self.short = tuple(short)
        self.longest = longest
        self.masks = masks
        self.difficult = difficult
        self.seed = seed

    def usable(self) -> Tensor:
        """The images that have an object to learn from, (U,) int64.

        Raises:
            GlocalError: there is none.
        """
        shown = self._shown()
        found = torch.unique(self.images.image_of[shown])
        if len(found) == 0:
            what = "an outline" if self.masks and len(self.images.boxes) else "an object"
            raise GlocalError(f"{self.images.name}: no image has {what} to learn from")
        return found

    def __getitems__(self, requests: list[Request]) -> ExampleBatch:
        examples, broken = [], []
        for request in requests:
            reading(request.image)
            try:
                examples.append(self.example(request))
            except BrokenImageError as error:
                broken.append(error)
        return ExampleBatch(examples, broken)

    def example(self, request: Request) -> Example:
        """One image with its objects.

        Raises:
            BrokenImageError: it cannot be read, or has not the size that its annotation gives.
        """
        image = read_annotated(self.images, request.image)
        rows = self.images.rows(request.image)
        kept = torch.arange(rows.start, rows.stop)[self._shown(rows)]
        found = (self.images.outlines[row] for row in kept.tolist())
        outlines = [outline for outline in found if outline is not None] if self.masks else None
        draws = request.epoch, request.image, request.copy
        number = random_bits(self.seed, "short side", *draws).bitwise_and(0x7FFFFFFF).item() % len(self.short)
        image, boxes, masks = transformed(
            image,
            self.images.boxes[kept],
            outlines,
            short=self.short[int(number)],
            longest=self.longest,
            flipped=float(uniform(self.seed, "detection flip", *draws)) < 0.5,
        )
        solid = (boxes[:, 2:] - boxes[:, :2] > _THINNEST).all(dim=1)  # some of COCO's are lines
        return Example(image, boxes[solid], self.images.labels[kept][solid], None if masks is None else masks[solid])

    def _shown(self, rows: slice = slice(None)) -> Tensor:
        """Which objects are learned from."""
        shown = torch.ones_like(self.images.ignored[rows]) if self.difficult else ~self.images.ignored[rows]
        if self.masks:
            shown &= torch.tensor([outline is not None for outline in self.images.outlines[rows]], dtype=torch.bool)
        return shown


class _Plain(Dataset[tuple[int, Tensor | BrokenImageError]]):
    """Images as they are."""

    def __init__(self, images: DetectionImages) -> None:
        self.images = images

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> tuple[int, Tensor | BrokenImageError]:
        reading(index)
        try:
            return index, read_annotated(self.images, index).contiguous()
        except BrokenImageError as error:
            return index, error


def read_annotated(images: DetectionImages, index: int) -> Tensor:
    """An image (3, H, W) uint8.

    Raises:
        BrokenImageError: it cannot be read, or has not the size that its annotation gives.
    """
    key = images.keys[index]
    image = images.files[index].image
    told = tuple(images.sizes[index].tolist())
    if tuple(image.shape[1:]) != told:
        raise BrokenImageError(key, "it is {}×{} pixels, its annotation says {}×{}".format(*image.shape[1:], *told))
    return image


def plain_images(images: DetectionImages, workers: int) -> Iterator[tuple[int, Tensor | BrokenImageError]]:
    """All images in order, one at a time, (3, H, W) uint8; an error in the place of one that cannot be read."""
    for [one] in batches_of(
        _Plain(images), ([index] for index in range(len(images))), workers=workers, name=images.keys.__getitem__
    ):
        yield one


def example_batches(reader: ExampleReader, requests: Iterator[list[Request]], workers: int) -> Iterator[ExampleBatch]:
    """The batches that are asked for, read by `workers` processes."""
    yield from batches_of(reader, requests, workers=workers, name=reader.images.keys.__getitem__)
