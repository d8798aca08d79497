"""Images as an evaluation sees them: central squares, without augmentation."""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import TypeVar

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from glocal.data.lanes.workers import batches_of, outlive_signals
from glocal.data.sources.base import Source
from glocal.errors import BrokenImageError
from glocal.views.crops import Interpolation, central_geometry, render_batch, render_one
from glocal.views.geometry import ViewGeometry

T = TypeVar("T")

CENTRAL_SHARE = 7 / 8
"""Of the shorter side of large images, what their central square has: 224 of 256."""


def default_workers() -> int:
    """Processes that decode images: one for each core that this process may use but one, at most 8."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, min(8, cores - 1))


def as_it_is(batch: T) -> T:
    """The collation of batches that a dataset has put together itself."""
    return batch


def central_share(size: int) -> float:
    """The side of the central square as a share of the shorter side: 7/8 (224 of 256) above 64 pixels, else all."""
    return 1.0 if size <= 64 else CENTRAL_SHARE


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
        images: (N, 3, H, W) uint8.
        size: side in pixels.
        rows: which of them.
        batch_size: images at a time.
        share, interpolation: as for `images_of`.

    Yields:
        index (B,) int64 and images (B, 3, size, size) uint8, on the images' device.
    """
    share = central_share(size) if share is None else share
    place = central_geometry(torch.tensor([images.shape[-2:]]), share)
    box, flipped = place.box.to(images.device, torch.float32), place.flipped.to(images.device)
    for first in range(rows.start, rows.stop, batch_size):
        batch = images[first : min(first + batch_size, rows.stop)]
        if batch.shape[-2:] != (size, size) or share < 1:
            geometry = ViewGeometry(box.expand(len(batch), 4), flipped.expand(len(batch)))
            batch = render_batch(batch.float(), geometry, size, interpolation).round_().clamp_(0, 255).byte()
        yield torch.arange(first, first + len(batch)), batch


class _Central(Dataset[tuple[Tensor, Tensor, list[BrokenImageError]]]):
    """Central crops for evaluation; runs in the workers."""

    def __init__(self, source: Source, size: int, share: float, interpolation: Interpolation) -> None:
        self.source = source
        self.size = size
        self.share = share
        self.interpolation = interpolation

    def __getitems__(self, numbers: list[int]) -> tuple[Tensor, Tensor, list[BrokenImageError]]:
        images, index, broken = [], [], []
        for number in numbers:
            try:
                image = self.source[number].image
            except BrokenImageError as error:
                broken.append(error)
                continue
            box = central_geometry(torch.tensor([image.shape[1:]]), self.share).box[0].int().tolist()
            images.append(render_one(image, box, False, self.size, self.interpolation))
            index.append(number)
        stacked = torch.stack(images) if images else torch.empty(0, 3, self.size, self.size, dtype=torch.uint8)
        return torch.tensor(index, dtype=torch.int64), stacked, broken


def images_of(
    source: Source,
    size: int,
    *,
    batch_size: int = 256,
    workers: int | None = None,
    skipped: list[BrokenImageError] | None = None,
    share: float | None = None,
    interpolation: Interpolation = "bilinear",
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

    Yields:
        index (B,) int64 in the source and images (B, 3, size, size) uint8.
    """
    if hasattr(source, "images"):
        whole = slice(0, len(source))
        yield from central_images(source.images(), size, whole, batch_size, share=share, interpolation=interpolation)
        return
    requests = [list(range(first, min(first + batch_size, len(source)))) for first in range(0, len(source), batch_size)]
    loader = DataLoader(
        _Central(source, size, central_share(size) if share is None else share, interpolation),
        batch_sampler=requests,
        collate_fn=as_it_is,
        num_workers=default_workers() if workers is None else workers,
        worker_init_fn=outlive_signals,
    )
    for index, batch, broken in batches_of(loader):
        if skipped is not None:
            skipped.extend(broken)
        if len(index) > 0:
            yield index, batch
