"""From a source to batches: which lane suits the data."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor

from glocal.config import DataSettings
from glocal.console import note
from glocal.data.order import BatchOrder
from glocal.data.plain import default_workers
from glocal.data.resident import MixedSizesError, ResidentLane, read_all
from glocal.data.skipped import SkippedImages
from glocal.data.sources import Source
from glocal.data.streaming import StreamingLane
from glocal.errors import BrokenImageError, GlocalError
from glocal.views.plan import ViewPlan

Lane = ResidentLane | StreamingLane

_PROBES = 64
_LARGEST_SMALL_SIDE = 96  # images up to here are used at their own size
_STANDARD_SIDE = 224


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
