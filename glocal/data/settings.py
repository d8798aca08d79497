"""Settings of the images: where they come from and how they are read."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal, Self

from pydantic import Field, field_validator, model_validator

from glocal.data.decoding.channels import ChannelAxis
from glocal.data.decoding.rules import Decoding
from glocal.settings import IMAGENET_MEAN, IMAGENET_STD, Settings, TrainedSide
from glocal.views.plan import Color

_Statistic = Annotated[float, Field(ge=-1e30, le=1e30)]  # of values in float32, with room for what is made of them


class DataSettings(Settings):
    """Where the images come from and how they are read."""

    source: str | list[str] | None = None  # a folder, a list or a data set, or several; --data overrides it
    test: str | None = None  # labelled images for the k-NN monitor; without, a part of `source` is set aside for it
    size: TrainedSide | None = None  # side of the views; null: from the images, at most 224
    resize: TrainedSide | None = None  # first makes squares of this side of the images (patch-wise DINO's authors)
    lane: Literal["auto", "resident", "streaming"] = "auto"
    resident_megabytes: int = Field(2048, ge=0)  # `auto` keeps images of one size in memory up to here
    workers: int | None = Field(None, ge=0, le=1024)  # processes that decode images; null: from the number of cores
    patience: float = Field(300, ge=0)  # seconds that reading one image may take; 0: any number
    color: Color = "fused"  # colours in one pass, one clamp, the hue about grey; exact: as torchvision, half as fast
    shared_geometry: bool = False  # one crop and flip for all images of a batch (patch-wise DINO's authors); to compare
    broken_limit: float = Field(0.01, ge=0, le=1)  # share of unreadable images above which the run stops
    range: tuple[float, float] | None = None  # grey values beyond 8 bits that become black and white; null: measured
    max_pixels: int | None = Field(None, ge=1)  # larger ones are unreadable; null: Pillow's 179 million, 1.4 GB to read
    channels: int = Field(3, ge=1, le=1024)  # of each image; other than 3, values stay as they are stored
    rgb: bool | None = (
        None  # whether 3 channels are colours in 8 bits; null: they are; false: values as they are stored
    )
    channel_axis: ChannelAxis | None = None  # of arrays with 3 axes; null: the first or last, where only one fits
    mean: tuple[_Statistic, ...] = IMAGENET_MEAN  # per channel; of values as they are stored null: measured
    std: tuple[_Statistic, ...] = IMAGENET_STD

    @property
    def stored_channels(self) -> int | None:
        """The number of channels whose values stay as they are stored; None: images are RGB in 8 bits."""
        return self.channels if keeps_values(self.channels, self.rgb) else None

    @property
    def decoding(self) -> Decoding:
        """How image files are read."""
        return Decoding(self.range, self.max_pixels, self.stored_channels, self.channel_axis)

    @model_validator(mode="before")
    @classmethod
    def _measures_what_is_not_given(cls, raw: Any) -> Any:
        """Without a mean or deviation of their own, values have an empty one until theirs is measured."""
        if isinstance(raw, Mapping) and keeps_values(raw.get("channels", 3), raw.get("rgb")):
            return {**raw, "mean": raw.get("mean") or (), "std": raw.get("std") or ()}
        return raw

    @model_validator(mode="after")
    def _goes_with_channels(self) -> Self:
        if self.rgb and self.channels != 3:
            raise ValueError(f"rgb=true needs channels=3, not {self.channels}")
        kept = self.stored_channels is not None
        for name, values in (("mean", self.mean), ("std", self.std)):
            if len(values) != self.channels and not (kept and not values):
                measured = f", or {name}=null, which measures them" if kept else ""
                said = f"{name} has {len(values)} numbers for channels={self.channels}; give one for each{measured}"
                raise ValueError(said)
        if any(not value > 0 for value in self.std):
            raise ValueError("std must be positive")
        if kept and self.range is not None:
            raise ValueError("range is of grey images that become 8 bits, which those of data.channels do not")
        return self

    @field_validator("range")
    @classmethod
    def _is_a_range(cls, value: tuple[float, float] | None) -> tuple[float, float] | None:
        if value is not None and not value[0] < value[1]:
            raise ValueError("the first number must be smaller than the second, as in [0, 4095]")
        return value


def keeps_values(channels: Any, rgb: Any) -> bool:
    """Whether values stay as they are stored, by `DataSettings.channels` and `rgb`, which may be unchecked."""
    return channels != 3 or rgb is False
