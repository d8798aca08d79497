"""Images as an evaluation sees them: central squares, without augmentation."""

from __future__ import annotations

import os
from collections.abc import Generator, Iterator, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor
from torch.utils.data import Dataset

from glocal.data.lanes.readings import PATIENCE, reading
from glocal.data.lanes.thumbnails import thumbnail_of
from glocal.data.lanes.workers import batches_of
from glocal.data.sources.base import Source
from glocal.errors import BrokenImageError
from glocal.views.crops import Interpolation, central_geometry, render_batch, render_one
from glocal.views.geometry import ViewGeometry

CENTRAL_SHARE = 7 / 8
"""Of the shorter side of large images, what their central square has: 224 of 256."""


def default_workers() -> int:
    """Processes that decode images: one for each core that this process may use but one, at most 8."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, min(8, cores - 1))


def central_share(size: int) -> float:
    """The side of the central square as a share of the shorter side: 7/8 (224 of 256) above 64 pixels, else all."""
    return 1.0 if size <= 64 else CENTRAL_SHARE


def central_square(image: Tensor, size: int, share: float, interpolation: Interpolation) -> Tensor:
    """The central square of one image (C, H, W), resized: (C, size, size), in the image's type."""
    box = central_geometry(torch.tensor([image.shape[1:]]), share).box[0].int().tolist()
    return render_one(image, box, False, size, interpolation)


def central_images(
    images: Tensor,
    size: int,
    rows: slice,
    batch_size: int = 256,
    *,
    share: float | None = None,
    interpolation: Interpolation = "bilinear",
) -> Iterator[tuple[Tensor, Tensor]]:
    """Central squares of some images that lie in one tensor, resized to `size`, in order.

    Args:
        images: (N, 3, H, W) uint8, or (N, C, H, W) float32 values in their own units.
        size: side in pixels.
        rows: which of them.
        batch_size: images at a time.
        share, interpolation: as for `images_of`.

    Yields:
        index (B,) int64 and images (B, C, size, size) of the same type, on the images' device.
    """
    share = central_share(size) if share is None else share
    place = central_geometry(torch.tensor([images.shape[-2:]]), share)
    box, flipped = place.box.to(images.device, torch.float32), place.flipped.to(images.device)
    for first in range(rows.start, rows.stop, batch_size):
        batch = images[first : min(first + batch_size, rows.stop)]
        if batch.shape[-2:] != (size, size) or share < 1:
            geometry = ViewGeometry(box.expand(len(batch), 4), flipped.expand(len(batch)))
            shown = render_batch(batch.float(), geometry, size, interpolation)
            batch = shown if images.is_floating_point() else shown.round_().clamp_(0, 255).byte()
        yield torch.arange(first, first + len(batch)), batch


@dataclass(frozen=True)
class CentralBatch:
    """Some images of a source as an evaluation sees them, and what is known of them whole.

    Attributes:
        index: (B,) int64, their positions in the source, in order; unreadable images are left out.
        images: (B, 3, size, size) uint8, their central squares; of values (B, C, size, size) float32.
        sizes: (B, 2) int32, height and width of the whole images, as a person would see them.
        thumbnails: (B,) small JPEG files in memory; empty where they were not asked for.
        broken: the images that cannot be read.
    """

    index: Tensor
    images: Tensor
    sizes: Tensor
    thumbnails: list[bytes]
    broken: list[BrokenImageError]

    def pin_memory(self) -> CentralBatch:
        """The batch with its images in page-locked memory; what torch's loader calls."""
        return replace(self, images=self.images.pin_memory())


class _Central(Dataset[CentralBatch]):
    """Central crops for evaluation; runs in the workers."""

    def __init__(
        self, source: Source, size: int, share: float, interpolation: Interpolation, thumbnail: int | None
    ) -> None:
        self.source = source
        self.size = size
        self.share = share
        self.interpolation = interpolation
        self.thumbnail = thumbnail

    def __getitems__(self, numbers: Sequence[int]) -> CentralBatch:
        images, index, sizes, thumbnails, broken = [], [], [], [], []
        for number in numbers:
            reading(number)
            try:
                image = self.source[number].image
            except BrokenImageError as error:
                broken.append(error)
                continue
            images.append(central_square(image, self.size, self.share, self.interpolation))
            index.append(number)
            sizes.append(image.shape[1:])
            if self.thumbnail is not None:
                thumbnails.append(thumbnail_of(image, self.thumbnail))
        stacked = torch.stack(images) if images else torch.empty(0, 3, self.size, self.size, dtype=torch.uint8)
        places, sides = torch.tensor(index, dtype=torch.int64), torch.tensor(sizes, dtype=torch.int32).reshape(-1, 2)
        return CentralBatch(places, stacked, sides, thumbnails, broken)


def central_batches(
    source: Source,
    size: int,
    parts: Sequence[range],
    *,
    workers: int | None = None,
    share: float | None = None,
    interpolation: Interpolation = "bilinear",
    thumbnail: int | None = None,
    pinned: bool = False,
    patience: float = PATIENCE,
) -> Generator[CentralBatch]:
    """What `images_of` gives, with the sizes of the images and small pictures of them; each is decoded once.

    Args:
        source: the images.
        size: side of the central squares in pixels.
        parts: positions in the source, a batch each.
        workers, share, interpolation: as for `images_of`.
        thumbnail: the longer side of small pictures; None makes none.
        pinned: the batches lie in page-locked memory, from which a GPU copies while the host goes on.
        patience: seconds that reading one image may take; 0: any number.

    Yields:
        A batch for each part, in order; an empty one where no image of a part can be read.
    """
    if hasattr(source, "images"):
        images = source.images()
        for part in parts:
            rows = slice(part.start, part.stop)
            [(index, squares)] = central_images(images, size, rows, len(part), share=share, interpolation=interpolation)
            sides = torch.tensor(images.shape[-2:], dtype=torch.int32).expand(len(part), 2)
            thumbnails = [] if thumbnail is None else [thumbnail_of(image, thumbnail) for image in images[rows]]
            yield CentralBatch(index, squares, sides, thumbnails, [])
        return
    yield from batches_of(
        _Central(source, size, central_share(size) if share is None else share, interpolation, thumbnail),
        parts,
        workers=default_workers() if workers is None else workers,
        name=source.keys.__getitem__,
        patience=patience,
        pin_memory=pinned,
    )


def images_of(
    source: Source,
    size: int,
    *,
    batch_size: int = 256,
    workers: int | None = None,
    skipped: list[BrokenImageError] | None = None,
    share: float | None = None,
    interpolation: Interpolation = "bilinear",
    patience: float = PATIENCE,
) -> Iterator[tuple[Tensor, Tensor]]:
    """The images of a source as an evaluation sees them: central squares resized to `size`, in order.

    Args:
        source: the images.
        size: side in pixels.
        batch_size: images in a batch, at most.
        workers: processes that decode; None takes `default_workers()`, 0 this process.
        skipped: unreadable images are appended here; they are left out of the batches.
        share: the square's side, of the shorter side; None: above 64 pixels 7/8 (224 of 256), up to 64 all of it.
        interpolation: how they are resized.
        patience: seconds that reading one image may take; 0: any number.

    Yields:
        index (B,) int64 in the source and images (B, 3, size, size) uint8; (B, C, size, size) float32 of values.
    """
    parts = in_batches(range(len(source)), batch_size)
    made = central_batches(
        source, size, parts, workers=workers, share=share, interpolation=interpolation, patience=patience
    )
    for batch in made:
        if skipped is not None:
            skipped.extend(batch.broken)
        if len(batch.index) > 0:
            yield batch.index, batch.images


def in_batches(positions: range, batch_size: int) -> list[range]:
    """Consecutive positions in parts of `batch_size`; fewer in the last one.

    >>> in_batches(range(4, 9), 3)
    [range(4, 7), range(7, 9)]
    """
    return [positions[first : first + batch_size] for first in range(0, len(positions), batch_size)]
