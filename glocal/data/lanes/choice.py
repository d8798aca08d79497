"""From a source to batches: which lane suits the data."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import torch
from torch import Tensor

from glocal.console import note
from glocal.data.lanes.central import default_workers
from glocal.data.lanes.order import BatchOrder
from glocal.data.lanes.resident import MixedSizesError, ResidentLane, read_all
from glocal.data.lanes.skipped import SkippedImages
from glocal.data.lanes.streaming import StreamingLane
from glocal.data.settings import DataSettings
from glocal.data.sources.base import Source
from glocal.data.sources.resized import resized
from glocal.distributed import process_count
from glocal.errors import BrokenImageError, GlocalError
from glocal.views.color import Way
from glocal.views.plan import ViewPlan

Lane = ResidentLane | StreamingLane

_PROBES = 64
_LARGEST_SMALL_SIDE = 96  # images up to here are used at their own size
_STANDARD_SIDE = 224
_MIXED = "they do not all have the same size"


def probe_sizes(source: Source) -> Tensor:
    """Heights and widths (P, 2) of up to 64 images spread over the source, unreadable ones left out."""
    if hasattr(source, "images"):
        return torch.tensor([source.images().shape[-2:]])
    spaced = torch.linspace(0, len(source) - 1, min(_PROBES, len(source))).long()
    spread = spaced.clamp_(max=len(source) - 1).tolist()  # float32 rounds above 2²⁴
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
        raise GlocalError(f"{source.name}: none of {len(spread)} images spread over it can be read{_first(source)}")
    return torch.tensor(sizes)


def _first(source: Source) -> str:
    """What is wrong with the first image, as the end of a message."""
    try:
        _ = source[0]
    except BrokenImageError as error:
        return f"; the first: {error}"
    return ""


def own_side(source: Source) -> int:
    """The shorter side of a source's images, the median of some of them."""
    return int(probe_sizes(source).amin(dim=1).median())


def natural_size(source: Source) -> int:
    """The side of the views that suits a source: that of its images if they are small (≤ 96 pixels), else 224."""
    side = own_side(source)
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
    held: Tensor | None = None,
) -> Lane:
    """The lane that `data.lane` names; `auto` is resident where images have one size and fit `data.resident_megabytes`
    and half of the device's memory, and says what it chose. A resident lane that was open before
    hands its images on (`held`).

    Raises:
        GlocalError: too many unreadable images, or a resident lane for images of several sizes.
    """
    source = resized(source, settings.resize)
    skipped = SkippedImages(source, settings.broken_limit, skipped_file)
    reason = _against_memory(source, settings, device) if settings.lane == "auto" else ""
    lane: Lane | None = None
    color: Way = settings.color if settings.stored_channels is None else "values"
    if settings.lane == "resident" or (settings.lane == "auto" and not reason):
        try:
            images = held
            if images is None:
                images = read_all(source, skipped, patience=settings.patience, progress=progress)
            lane = ResidentLane(images, plan, order, device, settings.mean, settings.std, color=color)
        except MixedSizesError:
            if settings.lane == "resident":
                raise
            reason = _MIXED
    if lane is None:
        workers, prefetch = _processes(settings, plan, order)
        skipped.shared = process_count() > 1
        lane = StreamingLane(
            source,
            plan,
            order,
            device,
            settings.mean,
            settings.std,
            workers=workers,
            skipped=skipped,
            color=color,
            prefetch=prefetch,
            patience=settings.patience,
        )
    if settings.lane == "auto" and progress:
        note(_choice(lane, reason, device))
    return lane


def _against_memory(source: Source, settings: DataSettings, device: torch.device) -> str:
    """Why the images of a source should not all be held on the device; empty if they may."""
    sizes = probe_sizes(source)
    if not bool((sizes == sizes[0]).all()):
        return _MIXED
    needed = len(source) * _value_bytes(settings) * int(sizes[0].prod()) >> 20
    if needed > settings.resident_megabytes:
        return f"they take {needed:,} MB, more than data.resident_megabytes={settings.resident_megabytes}"
    whole = _megabytes_of(device)
    if whole is not None and needed > whole // 2:  # the other half is for the training
        return f"they take {needed:,} MB, more than half of the {whole:,} MB of {device}"
    return ""


def _value_bytes(settings: DataSettings) -> int:
    """Bytes of a pixel: of RGB one for each colour, of values that stay as they are four for each channel."""
    return 3 if settings.stored_channels is None else 4 * settings.channels


def _megabytes_of(device: torch.device) -> int | None:
    """Memory of the device that is to hold the images; None where that is not known.

    All of it, not what is free now: a run that is resumed has to choose the same lane.
    """
    if device.type == "cuda":
        return int(torch.cuda.get_device_properties(device).total_memory) >> 20
    try:
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") >> 20
    except (AttributeError, OSError, ValueError):
        return None


def _processes(settings: DataSettings, plan: ViewPlan, order: BatchOrder) -> tuple[int, int]:
    """Processes that decode and batches that each keeps ready, so that all fit half of the shared memory.

    None at all where not even one batch at a time does: this process decodes. The processes of a training are taken to
    share one machine and its memory.
    """
    workers = default_workers() if settings.workers is None else settings.workers
    batch = order.share * sum(_value_bytes(settings) * view.size**2 for view in plan.views)
    try:
        room = shutil.disk_usage("/dev/shm").free // 2 // batch // order.processes
    except OSError:  # a system that shares memory by other means
        return workers, 2
    if settings.workers is not None or workers * 2 <= room:  # what the user asks for is done
        return workers, 2
    return min(workers, room), 1


def _choice(lane: Lane, reason: str, device: torch.device) -> str:
    if isinstance(lane, ResidentLane):
        megabytes = lane.images.nbytes >> 20
        return f"data.lane: resident; all images have one size and lie in the memory of {device} ({megabytes:,} MB)"
    where = "this process decodes"
    if lane.workers:
        where = "1 process decodes" if lane.workers == 1 else f"{lane.workers} processes decode"
    return f"data.lane: streaming; {where} the images as they are needed, for {reason}"
