"""The resident lane: all images lie on the training device as one tensor, and views are made there in batches."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import closing
from functools import partial

import torch
from torch import Tensor

from glocal.console import progress_bar
from glocal.data.lanes.central import central_images
from glocal.data.lanes.order import BatchOrder
from glocal.data.lanes.readings import PATIENCE
from glocal.data.lanes.skipped import SkippedImages
from glocal.data.lanes.threads import read_in_threads
from glocal.data.sources.base import PartnerRule, Source
from glocal.errors import BrokenImageError, GlocalError
from glocal.transfer import to_device
from glocal.views.batch import Views
from glocal.views.color import Way, shown
from glocal.views.crops import render_batch
from glocal.views.geometry import ViewGeometry
from glocal.views.plan import Photometry, ViewPlan

_CPU_IMAGES = 256  # whose views are made together, so that they meet in the cache


class MixedSizesError(GlocalError):
    """The images do not have one size, so they cannot be one tensor."""


def read_all(source: Source, skipped: SkippedImages, *, patience: float = PATIENCE, progress: bool = True) -> Tensor:
    """All images of a source as one tensor.

    In place of an unreadable image stands the next readable one, as in the streaming lane, so that indices keep
    their meaning.

    Args:
        source: the images.
        skipped: takes down unreadable ones.
        patience: seconds that reading one image may take; 0: any number.
        progress: show it.

    Returns:
        (N, 3, H, W) uint8 on the CPU; float32 where values stay as they are stored.

    Raises:
        MixedSizesError: two images differ in size.
        GlocalError: more images are unreadable than `skipped` allows, or one takes too long.
    """
    if hasattr(source, "images"):
        return source.images()  # type: ignore[no-any-return]
    images: Tensor | None = None
    broken: list[int] = []
    results = read_in_threads(
        partial(_try_read, source), range(len(source)), name=source.keys.__getitem__, patience=patience
    )
    with closing(results), progress_bar("images", visible=progress) as bar:
        task = bar.add_task("reading", total=len(source))
        for index, result in enumerate(results):
            bar.advance(task)
            if isinstance(result, BrokenImageError):
                skipped.record([result])
                broken.append(index)
                continue
            if images is None:
                images = torch.empty((len(source), *result.shape), dtype=result.dtype)
            if result.shape != images.shape[1:]:
                height, width = result.shape[1:]
                raise MixedSizesError(
                    f"data.lane=resident needs images of one size; {source.keys[index]} is {width}x{height}, "
                    f"others are {images.shape[3]}x{images.shape[2]}; use data.lane=streaming"
                )
            images[index] = result
    if images is None:
        raise GlocalError(f"{source.name}: none of the {len(source)} images can be read")
    for index in reversed(broken):
        images[index] = images[(index + 1) % len(source)]
    return images


def _try_read(source: Source, index: int) -> Tensor | BrokenImageError:
    try:
        return source[index].image
    except BrokenImageError as error:
        return error


class ResidentLane:
    """Views of images that lie on the training device.

    Args:
        images: (N, 3, H, W) uint8, or (N, C, H, W) values in their own units.
        plan: which views.
        order: which images in which step.
        device: where images are kept and views are made.
        mean, std: the normalisation.
        color: how colours are changed; "values" of images that have none.
    """

    def __init__(
        self,
        images: Tensor,
        plan: ViewPlan,
        order: BatchOrder,
        device: torch.device,
        mean: Sequence[float],
        std: Sequence[float],
        *,
        color: Way = "exact",
    ) -> None:
        self.images = (images.float() if color == "values" else images).to(device)
        self.plan = plan
        self.order = order
        self.mean, self.std = mean, std
        self.color = color
        self.partners: PartnerRule | None = None
        self._size = torch.tensor(images.shape[-2:])

    def batches(self, first_step: int, last_step: int) -> Iterator[Views]:
        """The views of each part of each step from `first_step` up to `last_step` (excluded)."""
        for epoch, index in self.order.batches(first_step, last_step):
            yield self.views(epoch, index)

    def views(self, epoch: int, index: Tensor) -> Views:
        """The views of the images `index` (B,) in an epoch."""
        device = self.images.device
        drawn = self.plan.draw_geometry(self._size, self.order.seed, epoch, self.plan.geometry_index(index))
        photometry = self.plan.draw_photometry(self.order.seed, epoch, index)
        places = ViewGeometry(to_device(drawn.box, device, torch.float32), to_device(drawn.flipped, device))
        which = {"image": to_device(index, device)}
        if self.plan.partners.any():
            mates = self.partners(epoch, index) if self.partners else index
            which["partner"] = to_device(mates, device)
        together = _CPU_IMAGES if device.type == "cpu" else len(index)
        if len(index) <= together:
            made = self._show(which, places, photometry)
        else:
            size = [(len(index), len(self.mean), view.size, view.size) for view in self.plan.views]
            made = tuple(torch.empty(shape, device=device) for shape in size)
            for first in range(0, len(index), together):
                rows = slice(first, first + together)
                few = {kind: numbers[rows] for kind, numbers in which.items()}
                box, flipped = places.box[rows], places.flipped[rows]
                for whole, part in zip(
                    made, self._show(few, ViewGeometry(box, flipped), photometry.rows(rows)), strict=True
                ):
                    whole[rows] = part
        return Views(made, tuple(drawn.view(number) for number in range(len(self.plan))), index)

    def _show(self, which: dict[str, Tensor], places: ViewGeometry, photometry: Photometry) -> tuple[Tensor, ...]:
        images = {kind: self.images[numbers] for kind, numbers in which.items()}
        bound = (lambda crops: crops) if self.color == "values" else (lambda crops: crops.clamp_(0, 1))
        return tuple(
            shown(
                bound(render_batch(images[view.of], places.view(number), view.size, view.interpolation)),
                photometry.view(number),
                view,
                mean=self.mean,
                std=self.std,
                way=self.color,
            )
            for number, view in enumerate(self.plan.views)
        )

    def plain(self, size: int, rows: slice) -> Iterator[tuple[Tensor, Tensor]]:
        """A range of the images as an evaluation sees them (`central_images`)."""
        yield from central_images(self.images, size, rows)
