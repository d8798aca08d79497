"""From a source to batches: which lane suits the data, and plain images for evaluation."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from glocal.config import DataSettings
from glocal.console import note
from glocal.data.order import BatchOrder
from glocal.data.resident import MixedSizesError, ResidentLane, read_all
from glocal.data.skipped import SkippedImages
from glocal.data.sources import Source
from glocal.data.streaming import StreamingLane, as_it_is
from glocal.errors import BrokenImageError, GlocalError
from glocal.views.crops import central_geometry, render_batch, render_one
from glocal.views.plan import ViewPlan

Lane = ResidentLane | StreamingLane

_PROBES = 64
_LARGEST_SMALL_SIDE = 96  # images up to here are used at their own size
_STANDARD_SIDE = 224


def default_workers() -> int:
    """Processes that decode images: one for each core that this process may use but one, at most 8."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, min(8, cores - 1))


def probe_sizes(source: Source) -> Tensor:
    """Heights and widths (P, 2) of up to 64 images spread over the source, unreadable ones left out."""
    if hasattr(source, "images"):
        return torch.tensor([source.images().shape[-2:]])
    spread = torch.linspace(0, len(source) - 1, min(_PROBES, len(source))).long().tolist()
    sizes: list[tuple[int, int]] = []
    if hasattr(source, "sizes_of"):
        sizes = source.sizes_of(spread)
    else:
        for index in spread:
            try:
                height, width = source[index].image.shape[1:]
            except BrokenImageError:
                continue
            sizes.append((height, width))
    if not sizes:
        raise GlocalError(f"{source.name}: none of {len(spread)} images spread over it can be read")
    return torch.tensor(sizes)


def natural_size(source: Source) -> int:
    """The side of the views that suits a source: that of its images if they are small (≤ 96 pixels), else 224."""
    side = int(probe_sizes(source).amin(dim=1).median())
    return max(8, side) if side <= _LARGEST_SMALL_SIDE else _STANDARD_SIDE


def open_lane(
    source: Source,
    settings: DataSettings,
    plan: ViewPlan,
    order: BatchOrder,
    device: torch.device,
    *,
    skipped_file: Path | None = None,
    progress: bool = True,
) -> Lane:
    """The lane that `data.lane` names; `auto` is resident where images have one size and fit `data.resident_megabytes`.

    Raises:
        GlocalError: too many unreadable images, or a resident lane for images of several sizes.
    """
    skipped = SkippedImages(len(source), settings.broken_limit, skipped_file)
    sizes = probe_sizes(source)
    height, width = sizes[0].tolist()
    fits = len(source) * 3 * height * width <= settings.resident_megabytes << 20
    resident = settings.lane == "resident" or (settings.lane == "auto" and fits and bool((sizes == sizes[0]).all()))
    if resident:
        try:
            images = read_all(source, skipped, progress=progress)
            return ResidentLane(images, plan, order, device, settings.mean, settings.std)
        except MixedSizesError:
            if settings.lane == "resident":
                raise
            note("the images do not all have the same size; they are decoded as they are needed")
    workers = default_workers() if settings.workers is None else settings.workers
    return StreamingLane(source, plan, order, device, settings.mean, settings.std, workers=workers, skipped=skipped)


class _Central(Dataset[tuple[Tensor, Tensor, list[BrokenImageError]]]):
    """Central crops for evaluation; runs in the workers."""

    def __init__(self, source: Source, size: int, share: float) -> None:
        self.source = source
        self.size = size
        self.share = share

    def __getitems__(self, numbers: list[int]) -> tuple[Tensor, Tensor, list[BrokenImageError]]:
        images, index, broken = [], [], []
        for number in numbers:
            try:
                image = self.source[number].image
            except BrokenImageError as error:
                broken.append(error)
                continue
            box = central_geometry(torch.tensor([image.shape[1:]]), self.share).box[0].int().tolist()
            images.append(render_one(image, box, False, self.size))
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
) -> Iterator[tuple[Tensor, Tensor]]:
    """The images of a source as an evaluation sees them: central squares resized to `size`, in order.

    Above 64 pixels the square's side is 7/8 of the shorter side (224 of 256), up to 64 all of it.

    Args:
        source: the images.
        size: side in pixels.
        batch_size: images in a batch, at most.
        workers: processes that decode; None takes `default_workers()`, 0 this process.
        skipped: unreadable images are appended here; they are left out of the batches.

    Yields:
        index (B,) int64 in the source and images (B, 3, size, size) uint8.
    """
    share = 1.0 if size <= 64 else 7 / 8
    if hasattr(source, "images"):
        images = source.images()
        geometry = central_geometry(torch.tensor([images.shape[-2:]]), share)
        for first in range(0, len(images), batch_size):
            batch = images[first : first + batch_size]
            if batch.shape[-2:] != (size, size) or share < 1:
                place = type(geometry)(geometry.box.expand(len(batch), 4), geometry.flipped.expand(len(batch)))
                batch = render_batch(batch.float(), place, size).round_().clamp_(0, 255).byte()
            yield torch.arange(first, first + len(batch)), batch
        return
    requests = [list(range(first, min(first + batch_size, len(source)))) for first in range(0, len(source), batch_size)]
    loader = DataLoader(
        _Central(source, size, share),
        batch_sampler=requests,
        collate_fn=as_it_is,
        num_workers=default_workers() if workers is None else workers,
    )
    for index, batch, broken in loader:
        if skipped is not None:
            skipped.extend(broken)
        if len(index) > 0:
            yield index, batch
