"""Training images of a probe whose backbone sees augmented images."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal, NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import pad

from glocal.data.lanes.central import images_of
from glocal.data.lanes.choice import open_lane
from glocal.data.lanes.order import BatchOrder
from glocal.data.ranges import channels_of
from glocal.data.settings import DataSettings
from glocal.data.sources.base import Source
from glocal.views.crops import Interpolation
from glocal.views.plan import View, ViewPlan
from glocal.views.random import uniform

Augmentation = Literal["crop", "pad"]

_ON_DEVICE = 2 << 30  # bytes of images up to which they are kept on the device


class Batch(NamedTuple):
    """Some augmented images.

    Attributes:
        epoch: counts from 0.
        places: (B,) int64, in the source.
        images: (B, 3, S, S) uint8 on the device; values in their own units (B, C, S, S) float32.
    """

    epoch: int
    places: Tensor
    images: Tensor


def resized_crops(
    source: Source,
    size: int,
    order: BatchOrder,
    epochs: int,
    *,
    scale: tuple[float, float] = (0.08, 1.0),
    device: torch.device | str = "cpu",
    workers: int | None = None,
    progress: bool = True,
) -> Iterator[Batch]:
    """Random resized crops, half of them mirrored, by the lanes of the training loader.

    Args:
        source: images that can be read: a broken one would come as its neighbour.
        size: side of the crops.
        order: which images in which step; its seed draws the crops.
        epochs: how many.
        scale: share of the image's area that a crop has.
        device: where the crops shall be.
        workers: processes that decode; None chooses.
        progress: show a bar while images are read into memory.
    """
    values = channels_of(source)
    channels = values or 3
    settings = DataSettings(
        workers=workers,
        channels=channels,
        rgb=None if values is None else False,
        mean=(0.0,) * channels,
        std=(1.0,) * channels,
    )
    plan = ViewPlan([View(size=size, scale=scale)])
    lane = open_lane(source, settings, plan, order, torch.device(device), progress=progress)
    return (
        Batch(number // order.steps_per_epoch, views.index, _as_in_a_file(views.images[0], values))
        for number, views in enumerate(lane.batches(0, epochs * order.steps_per_epoch))
    )


def _as_in_a_file(images: Tensor, values: int | None) -> Tensor:
    """Whole grey levels, which every backbone of RGB takes; values in their own units as they are."""
    return images.mul(255).round_().byte() if values is None else images


def padded_crops(
    source: Source,
    size: int,
    order: BatchOrder,
    epochs: int,
    *,
    padding: int = 4,
    share: float | None = None,
    interpolation: Interpolation = "bilinear",
    device: torch.device | str = "cpu",
    workers: int | None = None,
) -> Iterator[Batch]:
    """Images with a black border, cut to their own size at a random place, half of them mirrored.

    All images are kept in memory, so this is for small ones.

    Args:
        source, size, order, epochs, device, workers: as for `resized_crops`.
        padding: pixels of the border on each side; with none, images are mirrored and nothing else.
        share, interpolation: of the central squares that images are brought to before (`images_of`).
    """
    squares = images_of(source, size, workers=workers, share=share, interpolation=interpolation)
    images = torch.cat([images for _, images in squares])
    if images.numel() <= _ON_DEVICE:
        images = images.to(device)

    def batch(epoch: int, index: Tensor) -> Batch:
        chosen = images[index.to(images.device)].to(device)
        return Batch(epoch, index, crop_padded(chosen, *draw_padded(index, epoch, order.seed, padding), padding))

    return (batch(epoch, index) for epoch, index in order.batches(0, epochs * order.steps_per_epoch))


def draw_padded(index: Tensor, epoch: int, seed: int, padding: int) -> tuple[Tensor, Tensor, Tensor]:
    """The places and flips of padded crops of the images `index` (B,): top and left from 0 to 2·padding, and bool."""
    drawn = uniform(seed, "padded crop", epoch, index[:, None], torch.arange(3))  # (B, 3)
    top, left = (drawn[:, :2] * (2 * padding + 1)).long().unbind(1)
    return top, left, drawn[:, 2] < 0.5


def crop_padded(images: Tensor, top: Tensor, left: Tensor, flipped: Tensor, padding: int) -> Tensor:
    """Cuts each image (B, 3, S, S) with a black border at its own place and mirrors it where it is `flipped`."""
    side = torch.arange(images.shape[-1])
    rows = top[:, None] + side  # (B, S)
    columns = left[:, None] + torch.where(flipped[:, None], side.flip(0), side)
    bordered = pad(images, (padding,) * 4)
    image, channel = torch.arange(len(images)), torch.arange(images.shape[1])
    places = image[:, None, None, None], channel[:, None, None], rows[:, None, :, None], columns[:, None, None, :]
    return bordered[tuple(place.to(images.device) for place in places)]
