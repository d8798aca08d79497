"""The streaming lane: worker processes decode each image once and cut all its crops; the device does the rest."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from glocal.data.order import BatchOrder
from glocal.data.plain import as_it_is, images_of
from glocal.data.skipped import SkippedImages
from glocal.data.sources import PartnerRule, Source, Subset
from glocal.errors import BrokenImageError, GlocalError
from glocal.views.batch import Views
from glocal.views.crops import render_one
from glocal.views.geometry import ViewGeometry
from glocal.views.photometric import apply_photometry
from glocal.views.plan import ViewPlan

_TOGETHER = 16  # images that are decoded before their crops are drawn: one drawing for all, little memory
_SUBSTITUTES = 100  # how many images after an unreadable one are tried in its place


@dataclass
class CroppedBatch:
    """What a worker sends: uint8 crops, photometry still to be done."""

    epoch: int
    index: Tensor  # (B,)
    crops: list[Tensor]  # for each view (B, 3, S, S) uint8
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

    def __init__(self, source: Source, plan: ViewPlan, seed: int) -> None:
        self.source = source
        self.plan = plan
        self.seed = seed

    def __getitems__(self, requests: list[tuple[int, int, int]]) -> CroppedBatch:
        epoch = requests[0][0]
        index, partner = torch.tensor([numbers for _, *numbers in requests]).unbind(1)
        named = self.plan.geometry_index(index)
        views = self.plan.views
        crops = [torch.empty(len(index), 3, view.size, view.size, dtype=torch.uint8) for view in views]
        boxes, flips = torch.empty(len(index), len(views), 4), torch.empty(len(index), len(views)).bool()
        batch = CroppedBatch(epoch, index, crops, boxes, flips, broken=[], complete=True)
        for first in range(0, len(index), _TOGETHER):
            rows = slice(first, first + _TOGETHER)
            images = [self._read(number, batch.broken) for number in index[rows].tolist()]
            mates = images
            if self.plan.partners.any():
                mates = [self._read(number, batch.broken) for number in partner[rows].tolist()]
            if any(image is None for image in (*images, *mates)):
                batch.complete = False
                break
            # Drawn with the index that was asked for, whichever image stands in.
            sizes = torch.tensor([[i.shape[1:], m.shape[1:]] for i, m in zip(images, mates, strict=True)])  # type: ignore[union-attr]
            drawn = self.plan.draw_geometry(sizes[:, self.plan.partners.long()], self.seed, epoch, named[rows])
            boxes[rows], flips[rows] = drawn.box, drawn.flipped
            places = zip(images, mates, drawn.box.int().tolist(), drawn.flipped.tolist(), strict=True)
            for row, (image, mate, own_boxes, own_flips) in enumerate(places, start=first):
                for box, flipped, view, crop in zip(own_boxes, own_flips, views, crops, strict=True):
                    shown = image if view.of == "image" else mate
                    crop[row] = render_one(shown, box, flipped, view.size, view.interpolation)  # type: ignore[arg-type]
        return batch

    def _read(self, index: int, broken: list[BrokenImageError]) -> Tensor | None:
        """The image, or the next readable one."""
        for step in range(min(_SUBSTITUTES, len(self.source))):
            try:
                return self.source[(index + step) % len(self.source)].image
            except BrokenImageError as error:
                broken.append(error)
        return None


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
    ) -> None:
        self.dataset = _Crops(source, plan, order.seed)
        self.plan = plan
        self.order = order
        self.device = device
        self.mean, self.std = mean, std
        self.workers = workers
        self.skipped = skipped
        self.partners: PartnerRule | None = None

    def batches(self, first_step: int, last_step: int) -> Iterator[Views]:
        """The views of each part of each step from `first_step` up to `last_step` (excluded).

        Raises:
            GlocalError: too many images are unreadable, or a worker process died.
        """
        requests = (self._request(epoch, index) for epoch, index in self.order.batches(first_step, last_step))
        loader = DataLoader(
            self.dataset,
            batch_sampler=requests,  # type: ignore[arg-type]  # any iterable of lists; it is passed over once
            collate_fn=as_it_is,
            num_workers=self.workers,
            pin_memory=self.device.type == "cuda",
        )
        try:
            for batch in loader:
                self.skipped.record(batch.broken)
                if not batch.complete:
                    raise GlocalError(f"{_SUBSTITUTES} images in a row cannot be read; see data.broken_limit")
                yield self._finish(batch)
        except RuntimeError as error:
            if "DataLoader worker" not in str(error):
                raise
            raise GlocalError(
                "a process that decodes images died, often for want of memory or of /dev/shm; try a smaller "
                "train.batch_size or data.workers (0 decodes in the main process)"
            ) from error

    def _request(self, epoch: int, index: Tensor) -> list[tuple[int, int, int]]:
        partner = self.partners(epoch, index) if self.partners else index
        return [(epoch, *numbers) for numbers in zip(index.tolist(), partner.tolist(), strict=True)]

    def plain(self, size: int, rows: slice) -> Iterator[tuple[Tensor, Tensor]]:
        """A range of the images as an evaluation sees them; unreadable ones are left out."""
        chosen = torch.arange(rows.start, rows.stop)
        if len(chosen) > 0:
            for index, images in images_of(Subset(self.dataset.source, chosen), size, workers=self.workers):
                yield chosen[index], images

    def _finish(self, batch: CroppedBatch) -> Views:
        photometry = self.plan.draw_photometry(self.order.seed, batch.epoch, batch.index)
        geometry = ViewGeometry(batch.box, batch.flipped)
        shown = tuple(
            apply_photometry(
                crop.to(self.device, non_blocking=True).float().div_(255),
                photometry.view(number),
                view,
                mean=self.mean,
                std=self.std,
            )
            for number, (crop, view) in enumerate(zip(batch.crops, self.plan.views, strict=True))
        )
        places = tuple(geometry.view(number) for number in range(len(self.plan)))
        return Views(shown, places, batch.index)
