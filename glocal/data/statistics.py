"""Mean and deviation of the channels of images whose values stay as they are stored."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from itertools import islice
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from glocal.console import note, progress_bar
from glocal.data.lanes.readings import PATIENCE
from glocal.data.lanes.threads import read_in_threads
from glocal.data.settings import DataSettings
from glocal.data.sources.base import Source
from glocal.errors import BrokenImageError, GlocalError, counted

_IMAGES = 2048  # that are measured, at most
_PIXELS = 1 << 29  # … and how many pixels they have together, but for the first few
_FEWEST = 64
_SHOWN = 4  # channels whose statistics a note shows


class _Moments(NamedTuple):
    """Of one image or several: pixels, and mean and sum of squared deviations of each channel, (C,) float64."""

    pixels: int
    mean: Tensor
    squares: Tensor


def settle_statistics(data: DataSettings, source: Source, *, progress: bool = True) -> DataSettings:
    """Measures what of `data.mean` and `data.std` is not given, on up to 2,048 images spread evenly over the source.

    A channel that has one value everywhere is divided by 1.

    Raises:
        GlocalError: none of these images can be read.
    """
    if data.mean and data.std:
        return data
    mean, std, images = measure_channels(source, patience=data.patience, progress=progress)
    still = [number for number, value in enumerate(std) if value == 0]
    if still:
        note(f"channel {', '.join(map(str, still))} has one value in all images: it tells nothing apart")
    found = {"mean": data.mean or mean, "std": data.std or tuple(value or 1.0 for value in std)}
    if progress:
        shown = ", ".join(f"{m:.6g} ± {s:.6g}" for m, s in list(zip(found["mean"], found["std"], strict=True))[:_SHOWN])
        more = f" and {len(mean) - _SHOWN} more" if len(mean) > _SHOWN else ""
        note(f"data.mean and data.std are {shown}{more}: measured on {counted(images, 'image')}")
    return data.model_copy(update=found)


def measure_channels(
    source: Source, *, patience: float = PATIENCE, progress: bool = True
) -> tuple[tuple[float, ...], tuple[float, ...], int]:
    """Mean and standard deviation of each channel over the pixels of a sample, and how many images that has.

    Args:
        source: the images.
        patience: seconds that reading one of them may take; 0: any number.
        progress: show it.

    Raises:
        GlocalError: none of them can be read, or one takes too long.
    """
    places = np.linspace(0, len(source) - 1, min(_IMAGES, len(source))).astype(int).tolist()
    whole: _Moments | None = None
    broken: list[BrokenImageError] = []
    used = 0
    with progress_bar("images", visible=progress) as bar:
        task = bar.add_task("mean and deviation of the channels", total=len(places))
        for some in _in_parts(places):
            for found in read_in_threads(
                partial(_moments, source), some, name=source.keys.__getitem__, patience=patience
            ):
                bar.advance(task)
                if isinstance(found, BrokenImageError):
                    broken.append(found)
                    continue
                used += 1
                whole = found if whole is None else _together(whole, found)
            if whole is not None and whole.pixels > _PIXELS and used >= _FEWEST:
                break
    if whole is None:
        raise GlocalError(
            f"{source.name}: none of {len(places)} images spread over it can be read; the first: {broken[0]}"
        )
    std = (whole.squares / whole.pixels).clamp(min=0).sqrt()
    return _written(whole.mean), _written(std), used


def _in_parts(places: Sequence[int]) -> list[list[int]]:
    """Every so-many-th place in one part, so that the first parts alone are spread over all."""
    steps = max(1, len(places) // _FEWEST)
    return [list(islice(places, first, None, steps)) for first in range(steps)]


def _moments(source: Source, index: int) -> _Moments | BrokenImageError:
    try:
        values = source[index].image.flatten(1).double()
    except BrokenImageError as error:
        return error
    mean = values.mean(dim=1)
    return _Moments(values.shape[1], mean, (values - mean[:, None]).square_().sum(dim=1))


def _together(one: _Moments, other: _Moments) -> _Moments:
    """Those of all pixels of both (Chan, Golub and LeVeque, 1983)."""
    count = one.pixels + other.pixels
    apart = other.mean - one.mean
    mean = one.mean + apart * (other.pixels / count)
    return _Moments(count, mean, one.squares + other.squares + apart.square() * (one.pixels * other.pixels / count))


def _written(values: Tensor) -> tuple[float, ...]:
    """As few digits as name float32 values, which a recipe shows."""
    return tuple(float(str(np.float32(value))) for value in values.to(torch.float64).tolist())
