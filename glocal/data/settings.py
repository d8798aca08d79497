"""Settings of the images: where they come from and how they are read."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, field_validator

from glocal.settings import IMAGENET_MEAN, IMAGENET_STD, Settings
from glocal.views.plan import Color

Triple = tuple[float, float, float]


class DataSettings(Settings):
    """Where the images come from and how they are read."""

    source: str | list[str] | None = None  # a folder, a list or a data set, or several; --data overrides it
    test: str | None = None  # labelled images for the k-NN monitor; without, a part of `source` is set aside for it
    size: int | None = Field(None, ge=8)  # side of the views; null: from the images, at most 224
    resize: int | None = Field(None, ge=8)  # first makes squares of this side of the images (patch-wise DINO's authors)
    lane: Literal["auto", "resident", "streaming"] = "auto"
    resident_megabytes: int = Field(2048, ge=0)  # `auto` keeps images of one size in memory up to here
    workers: int | None = Field(None, ge=0)  # processes that decode images; null: from the number of cores
    color: Color = "fused"  # colours in one pass, one clamp, the hue about grey; exact: as torchvision, half as fast
    shared_geometry: bool = False  # one crop and flip for all images of a batch (patch-wise DINO's authors); to compare
    broken_limit: float = Field(0.01, ge=0, le=1)  # share of unreadable images above which the run stops
    range: tuple[float, float] | None = None  # grey values beyond 8 bits that become black and white; null: measured
    max_pixels: int | None = Field(None, ge=1)  # larger images count as unreadable; null: Pillow's limit, 179 million
    mean: Triple = IMAGENET_MEAN
    std: Triple = IMAGENET_STD

    @field_validator("range")
    @classmethod
    def _is_a_range(cls, value: tuple[float, float] | None) -> tuple[float, float] | None:
        if value is not None and not value[0] < value[1]:
            raise ValueError("the first number must be smaller than the second, as in [0, 4095]")
        return value
