"""What has to be done to an image before a network sees it, in the words of every format."""

from __future__ import annotations

import json
from collections.abc import Mapping
from fractions import Fraction
from typing import Any

import numpy as np
import torch
from torch import Tensor

from glocal.data.lanes.central import central_share
from glocal.errors import GlocalError, counted
from glocal.evaluation.features.extraction import interpolation_of
from glocal.models.backbone import Backbone
from glocal.settings import Settings

_STORED = "stored"  # what a file's header says of `values` where they come in their own units


class Preprocessing(Settings):
    """How images come to a network; the same way in which `glocal evaluate` measures it.

    Attributes:
        size: side in pixels of the square that the network sees.
        crop: side of the central square that is cut out, as a share of the image's shorter side.
        mean, std: per channel of RGB in [0, 1]; the first is subtracted, then it is divided by the second.
        interpolation: how the square is resized, with antialiasing.
        rgb: images are RGB; else they have as many channels as `mean`, whose values come in their own units.
    """

    size: int
    crop: float
    mean: tuple[float, ...]
    std: tuple[float, ...]
    interpolation: str
    rgb: bool = True

    @classmethod
    def of(cls, backbone: Backbone) -> Preprocessing:
        """That of a backbone."""
        return cls(
            size=backbone.size,
            crop=central_share(backbone.size),
            mean=_shortest(backbone.mean),
            std=_shortest(backbone.std),
            interpolation=interpolation_of(backbone),
            rgb=backbone.channels is None,
        )

    @classmethod
    def from_timm(cls, config: Mapping[str, Any], *, rgb: bool = True) -> Preprocessing:
        """That of a model of timm, from what `timm.data.resolve_model_data_config` gives; it knows RGB alone."""
        return cls(
            size=config["input_size"][-1],
            crop=config["crop_pct"],
            mean=tuple(config["mean"]),
            std=tuple(config["std"]),
            interpolation=config["interpolation"],
            rgb=rgb,
        )

    @classmethod
    def from_metadata(cls, metadata: Mapping[str, str]) -> Preprocessing:
        """What `metadata` wrote.

        Raises:
            GlocalError: it is not there.
        """
        try:
            return cls.from_timm({key: json.loads(metadata[key]) for key in cls.timm_keys()}, rgb=is_rgb(metadata))
        except (KeyError, ValueError) as error:
            raise GlocalError(f"the file does not say how images are prepared: {error}") from error

    @staticmethod
    def timm_keys() -> tuple[str, ...]:
        """timm's names of these settings."""
        return ("input_size", "crop_pct", "mean", "std", "interpolation")

    def timm(self) -> dict[str, Any]:
        """The settings by timm's names."""
        values = (
            [len(self.mean), self.size, self.size],
            self.crop,
            list(self.mean),
            list(self.std),
            self.interpolation,
        )
        return dict(zip(self.timm_keys(), values, strict=True))

    def metadata(self) -> dict[str, str]:
        """The same for the header of a file, where every value is text: each one is JSON."""
        units = {} if self.rgb else {"values": json.dumps(_STORED)}
        return {key: json.dumps(value) for key, value in self.timm().items()} | units

    def normalise(self, images: Tensor) -> Tensor:
        """(B, 3, S, S) uint8, or values (B, C, S, S), → (B, C, S, S) float32, as a network takes it."""
        mean, std = (torch.tensor(values)[:, None, None] for values in (self.mean, self.std))
        return ((images.float() / 255 if self.rgb else images.float()) - mean) / std

    def sentence(self) -> str:
        """In words, for a model card."""
        share = Fraction(self.crop).limit_denominator(64)
        square = "the central square" if share == 1 else f"the central square of {share} of the shorter side"
        units = "RGB in [0, 1]" if self.rgb else f"{counted(len(self.mean), 'channel')} of values as they are stored"
        return (
            f"{units}; {square}, resized to {self.size} × {self.size} pixels ({self.interpolation}, with "
            f"antialiasing); minus {list(self.mean)}, divided by {list(self.std)}."
        )


def is_rgb(metadata: Mapping[str, str]) -> bool:
    """Whether a file's header is of a network for RGB, as `Preprocessing.metadata` says it."""
    return metadata.get("values") != json.dumps(_STORED)


def _shortest(values: Tensor) -> tuple[float, ...]:
    """float32 values in as few digits as name them."""
    return tuple(float(str(np.float32(value))) for value in values.flatten().tolist())
