"""The streaming lane: worker processes decode each image once and cut all its crops; the device does the rest."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor
from torch.utils.data import Dataset

from glocal.data.decoding.channels import StoredChannels
from glocal.data.decoding.stored import StoredImage
from glocal.data.lanes.central import images_of
from glocal.data.lanes.order import BatchOrder
from glocal.data.lanes.readings import PATIENCE, reading
from glocal.data.lanes.skipped import SkippedImages
from glocal.data.lanes.workers import batches_of
from glocal.data.sources.base import PartnerRule, Source, Subset
from glocal.errors import BrokenImageError, GlocalError
from glocal.transfer import to_device
from glocal.views.batch import Views
from glocal.views.color import Way, shown
from glocal.views.crops import Interpolation, render_one
from glocal.views.geometry import ViewGeometry
from glocal.views.plan import ViewPlan

Cut = Callable[[list[int], bool, int, Interpolation], Tensor]
"""(box, flipped, size, interpolation) → (3, size, size) uint8, or (C, size, size) float32."""

_TOGETHER = 16  # images that are opened before their crops are drawn: one drawing for all, little memory
_SUBSTITUTES = 100  # how many images after an unreadable one are tried in its place


@dataclass
class CroppedBatch:
    """What a worker sends: crops, photometry still to be done."""

    epoch: int
    index: Tensor  # (B,)
    crops: list[Tensor]  # for each view (B, 3, S, S) uint8, or (B, C, S, S) float32
    box: Tensor  # (B, V, 4)
    flipped: Tensor  # (B, V)
    broken: list[BrokenImageError]
    complete: bool  # False: an unreadable image found no substitute

    def pin_memory(self) -> CroppedBatch:
        """Page-locks the crops, so that their copy to the device overlaps with its work."""
        self.crops = [crop.pin_memory() for crop in self.crops]
        return self


class _Crops(Dataset[CroppedBatch]):
    """Turns a list of (epoch, index, partner) into a batch; runs in the workers."""

    def __init__(self, source: Source, plan: ViewPlan, seed: int, channels: int, dtype: torch.dtype) -> None:
        self.source = source
        self.plan = plan
        self.seed = seed
        self.channels = channels
        self.dtype = dtype

    def __getitems__(self, requests: list[tuple[int, int, int]]) -> CroppedBatch:
        epoch = requests[0][0]
        index, partner = torch.tensor([numbers for _, *numbers in requests]).unbind(1)
        named = self.plan.geometry_index(index)
        views = self.plan.views
        crops = [torch.empty(len(index), self.channels, view.size, view.size, dtype=self.dtype) for view in views]
        boxes, flips = torch.empty(len(index), len(views), 4), torch.empty(len(index), len(views)).bool()
        batch = CroppedBatch(epoch, index, crops, boxes, flips, broken=[], complete=True)
        for first in range(0, len(index), _TOGETHER):
            rows = slice(first, first + _TOGETHER)
            pictures = [
                [self._open(number, batch.broken) for number in numbers]
                for numbers in self._shown(index[rows], partner[rows])
            ]
            if any(picture is None for both in pictures for picture in both):
                batch.complete = False
                break
            # Drawn with the index that was asked for, whichever image stands in.
            boxes[rows], flips[rows] = self._draw(pictures, epoch, named[rows])  # type: ignore[arg-type]
            for row, both in enumerate(pictures, start=first):
                while not self._cut(batch, row, both):  # type: ignore[arg-type]
                    one = slice(row, row + 1)
                    both = [picture and self._next(picture, batch.broken) for picture in both]
                    if None in both:
                        batch.complete = False
                        return batch
                    boxes[one], flips[one] = self._draw([both], epoch, named[one])  # type: ignore[list-item]
        return batch

    def _shown(self, index: Tensor, partner: Tensor) -> list[list[int]]:
        """The images that each one's views show: itself, and its partner where a view shows that."""
        if self.plan.partners.any():
            return torch.stack([index, partner], dim=1).tolist()  # type: ignore[no-any-return]
        return index[:, None].tolist()  # type: ignore[no-any-return]

    def _draw(self, pictures: list[list[_Picture]], epoch: int, named: Tensor) -> tuple[Tensor, Tensor]:
        sizes = torch.tensor([[picture.size for picture in both] for both in pictures])  # (n, 1 or 2, 2)
        drawn = self.plan.draw_geometry(sizes[:, self.plan.partners.long()], self.seed, epoch, named)
        return drawn.box, drawn.flipped

    def _cut(self, batch: CroppedBatch, row: int, both: list[_Picture]) -> bool:
        """Decodes the images of a row and cuts all their crops; False where one has other pixels than its header
        promised, or none."""
        boxes, flips = batch.box[row].int().tolist(), batch.flipped[row].tolist()
        for of, picture in zip(("image", "partner"), both, strict=False):
            own = [number for number, view in enumerate(self.plan.views) if view.of == of]
            if not own:
                continue
            try:
                crop_of = picture.decode([boxes[n] for n in own], [self.plan.views[n].size for n in own])
            except BrokenImageError as error:
                batch.broken.append(error)
                picture.broken = True
                return False
            if crop_of is None:
                return False
            for number in own:
                view = self.plan.views[number]
                batch.crops[number][row] = crop_of(boxes[number], flips[number], view.size, view.interpolation)
        return True

    def _open(self, index: int, broken: list[BrokenImageError], tried: int = 0) -> _Picture | None:
        """The image, or the next one whose header at least is readable; `tried` of them were not."""
        for step in range(tried, min(_SUBSTITUTES, len(self.source))):
            try:
                return _Picture(self.source, index, step)
            except BrokenImageError as error:
                broken.append(error)
        return None

    def _next(self, picture: _Picture, broken: list[BrokenImageError]) -> _Picture | None:
        return self._open(picture.index, broken, picture.step + 1) if picture.broken else picture


class _Picture:
    """An image of the source, or the `step`-th after it in its place, of which the size is known.

    Only the file's header is read where the source can open without decoding.
    """

    def __init__(self, source: Source, index: int, step: int) -> None:
        number = (index + step) % len(source)
        reading(number)
        self.index, self.step, self.number, self.broken = index, step, number, False
        self._stored: StoredImage | StoredChannels | None = source.open(number) if hasattr(source, "open") else None
        self._pixels = None if self._stored else source[number].image
        self.size = tuple(self._pixels.shape[1:]) if self._pixels is not None else self._stored.size  # type: ignore[union-attr]

    def decode(self, boxes: list[list[int]], sides: list[int]) -> Cut | None:
        """What cuts the crops, from pixels decoded no larger than they ask for; None where the size was another."""
        if self._stored is None:
            assert self._pixels is not None
            return partial(render_one, self._pixels)
        reading(self.number)
        if isinstance(self._stored, StoredImage) and (factor := self._stored.reduction(boxes, sides)) > 1:
            return self._stored.read_reduced(factor).crop
        pixels = self._stored.read()
        if pixels.shape[1:] != self.size:  # turned by metadata behind its pixels
            self._stored, self._pixels, self.size = None, pixels, tuple(pixels.shape[1:])
            return None
        return partial(render_one, pixels)


class StreamingLane:
    """Views of images that are decoded as they are needed, once for all their views.

    Args:
        source: the images.
        plan: which views.
        order: which images in which step.
        device: where photometric operations run.
        mean, std: the normalisation.
        workers: processes that decode; 0 decodes in this one.
        skipped: takes down unreadable images.
        color: how colours are changed; "values" of images that have none.
        prefetch: batches that each process keeps ready.
        patience: seconds that reading one image may take; 0: any number.
    """

    def __init__(
        self,
        source: Source,
        plan: ViewPlan,
        order: BatchOrder,
        device: torch.device,
        mean: Sequence[float],
        std: Sequence[float],
        *,
        workers: int,
        skipped: SkippedImages,
        color: Way = "exact",
        prefetch: int = 2,
        patience: float = PATIENCE,
    ) -> None:
        dtype = torch.float32 if color == "values" else torch.uint8
        self.dataset = _Crops(source, plan, order.seed, len(mean), dtype)
        self.plan = plan
        self.order = order
        self.device = device
        self.mean, self.std = mean, std
        self.color = color
        self.workers = workers
        self.prefetch = prefetch
        self.patience = patience
        self.skipped = skipped
        self.partners: PartnerRule | None = None

    def batches(self, first_step: int, last_step: int) -> Iterator[Views]:
        """The views of each part of each step from `first_step` up to `last_step` (excluded).

        Raises:
            GlocalError: too many images are unreadable, one takes too long, or a process that decodes died.
        """
        requests = (self._request(epoch, index) for epoch, index in self.order.batches(first_step, last_step))
        made = batches_of(
            self.dataset,
            requests,
            workers=self.workers,
            name=self.dataset.source.keys.__getitem__,
            patience=self.patience,
            prefetch_factor=self.prefetch if self.workers else None,
            pin_memory=self.device.type == "cuda",
        )
        with closing(made):  # its processes end with an error, not when somebody forgets that
            for batch in made:
                self.skipped.record(batch.broken)
                if not batch.complete:
                    raise GlocalError(f"{_SUBSTITUTES} images in a row cannot be read; see data.broken_limit")
                yield self.finish(batch)

    def _request(self, epoch: int, index: Tensor) -> list[tuple[int, int, int]]:
        partner = self.partners(epoch, index) if self.partners else index
        return [(epoch, *numbers) for numbers in zip(index.tolist(), partner.tolist(), strict=True)]

    def plain(self, size: int, rows: slice) -> Iterator[tuple[Tensor, Tensor]]:
        """A range of the images as an evaluation sees them; unreadable ones are left out."""
        chosen = torch.arange(rows.start, rows.stop)
        if len(chosen) > 0:
            part = Subset(self.dataset.source, chosen)
            for index, images in images_of(part, size, workers=self.workers, patience=self.patience):
                yield chosen[index], images

    def finish(self, batch: CroppedBatch) -> Views:
        """The photometric operations of a batch of crops, on the device."""
        photometry = self.plan.draw_photometry(self.order.seed, batch.epoch, batch.index)
        geometry = ViewGeometry(batch.box, batch.flipped)
        crops = [to_device(crop, self.device) for crop in batch.crops]
        made = tuple(
            shown(crop, photometry.view(number), view, mean=self.mean, std=self.std, way=self.color)
            for number, (crop, view) in enumerate(zip(crops, self.plan.views, strict=True))
        )
        places = tuple(geometry.view(number) for number in range(len(self.plan)))
        return Views(made, places, batch.index)
