"""What views a method looks at: settings for each view, and the drawing of their random parameters.

Parameters are drawn here for all views of all images at once, from counters alone (`glocal.views.random`), before any
pixel is touched. Both lanes of the loader execute these drawings, so they show the same views.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Annotated, Literal, Self

import torch
from pydantic import AfterValidator, Field, model_validator
from torch import Tensor

from glocal.settings import Settings, Side
from glocal.views.geometry import ViewGeometry
from glocal.views.random import random_bits, uniform

Probability = Annotated[float, Field(ge=0, le=1)]
Range = tuple[float, float]
MOST_VIEWS = 1000  # of an image


def _within_the_image(scale: Range) -> Range:
    if not 0 < scale[0] <= scale[1] <= 1:
        raise ValueError("must be a range within (0, 1]")
    return scale


Areas = Annotated[Range, AfterValidator(_within_the_image)]
"""Shares of an image's area, from the smallest to the largest."""

Color = Literal["exact", "fused"]  # how colours are changed: as torchvision does, or in one map of each pixel

_ATTEMPTS = 10  # torchvision's RandomResizedCrop also tries ten boxes before it takes the central one


class Jitter(Settings):
    """Colour jitter in random order. Factors are drawn from [max(0, 1 − x), 1 + x], hue from [−hue, hue]."""

    probability: Probability = 0.0
    brightness: float = Field(0.4, ge=0)
    contrast: float = Field(0.4, ge=0)
    saturation: float = Field(0.4, ge=0)
    hue: float = Field(0.1, ge=0, le=0.5)

    @classmethod
    def of_strength(cls, strength: float, probability: float = 0.8) -> Jitter:
        """SimCLR's distortion of strength s: 0.8·s for brightness, contrast and saturation, 0.2·s for hue."""
        factor = 0.8 * strength
        return cls(probability=probability, brightness=factor, contrast=factor, saturation=factor, hue=0.2 * strength)


class Blur(Settings):
    """Gaussian blur with σ in pixels drawn from `sigma`.

    `kernel_size` (odd) defaults to a tenth of the view's side, as SimCLR has it: 23 at 224, 3 at 32.
    """

    probability: Probability = 0.0
    sigma: Range = (0.1, 2.0)
    kernel_size: int | None = Field(None, ge=1, le=2**14)

    def kernel_size_at(self, size: int) -> int:
        """The odd side of the kernel for a view of `size` pixels: twice half a tenth, plus 1, at least 3.

        >>> Blur().kernel_size_at(224), Blur().kernel_size_at(32)
        (23, 3)
        """
        return self.kernel_size or max(3, 2 * (size // 20) + 1)

    @model_validator(mode="after")
    def _check(self) -> Self:
        if not 0 < self.sigma[0] <= self.sigma[1]:
            raise ValueError(f"sigma must be a range of positive numbers, not {list(self.sigma)}")
        if self.kernel_size is not None and self.kernel_size % 2 == 0:
            raise ValueError(f"kernel_size must be odd, not {self.kernel_size}")
        return self


class Solarize(Settings):
    """Inversion of the pixels at or above `threshold` (of 1)."""

    probability: Probability = 0.0
    threshold: float = Field(0.5, ge=0, le=1)


class Noise(Settings):
    """Gaussian noise in each value, independent, with σ drawn from `sigma`: in standard deviations of the channel."""

    probability: Probability = 0.0
    sigma: Range = (0.0, 0.1)

    @model_validator(mode="after")
    def _check(self) -> Self:
        if not 0 <= self.sigma[0] <= self.sigma[1]:
            raise ValueError(f"sigma must be a range of numbers from 0 on, not {list(self.sigma)}")
        return self


COLOR_OPERATIONS = (
    "auto_contrast",
    "equalize",
    "invert",
    "posterize",
    "solarize",
    "solarize_add",
    "color",
    "contrast",
    "brightness",
    "sharpness",
)
WARPS = ("rotate", "shear_x", "shear_y", "translate_x", "translate_y")
"""RandAugment's operations, in the order of their numbers: first the colours', then these."""


class RandAugment(Settings):
    """Operations chosen at random (`glocal.views.randaugment`), each with a level near `magnitude` (of 10).

    Warps move what a view shows, which its geometry does not tell: methods that match places of views refuse them.
    """

    operations: int = Field(0, ge=0, le=20)  # how many are chosen, with repetition; 0: none
    magnitude: float = Field(10.0, ge=0, le=10)
    deviation: float = Field(0.5, ge=0)  # of the level, which is normal and cut to 0 to 10
    probability: Probability = 0.5  # with which each that was chosen is done
    warps: bool = True


class View(Settings):
    """One kind of view: a random resized crop, a flip, and the photometric operations in this order."""

    name: str = "view"
    count: int = Field(1, ge=1, le=MOST_VIEWS)  # how many views of this kind
    of: Literal["image", "partner"] = "image"  # partner: of the image that the method pairs it with (CLIM)
    size: Side = 224  # side in pixels
    resolutions: tuple[Side, ...] = ()  # more sides at which the same crop is shown
    scale: Areas = (0.2, 1.0)  # share of the image's area
    ratio: Range = (3 / 4, 4 / 3)  # width / height
    flip: Probability = 0.5
    interpolation: Literal["bilinear", "bicubic"] = "bilinear"
    jitter: Jitter = Jitter()
    grey: Probability = 0.0
    blur: Blur = Blur()
    solarize: Solarize = Solarize()
    randaugment: RandAugment = RandAugment()
    noise: Noise = Noise()
    channel_drop: Probability = 0.0  # of each channel, to be blank; one at least is left

    def colors(self) -> dict[str, float]:
        """What of the view changes colours, which only RGB has: settings by their path, those that are not 0."""
        jitter = self.jitter if self.jitter.probability > 0 else Jitter(saturation=0, hue=0)
        found = {
            "jitter.saturation": jitter.saturation,
            "jitter.hue": jitter.hue,
            "grey": self.grey,
            "solarize.probability": self.solarize.probability,
            "randaugment.operations": float(self.randaugment.operations),
        }
        return {path: value for path, value in found.items() if value > 0}

    def says(self, path: str) -> bool:
        """Whether a setting was given, and is not the default of an operation that was."""
        first, _, second = path.partition(".")
        return first in self.model_fields_set and (not second or second in getattr(self, first).model_fields_set)

    def without_colors(self) -> View:
        """The same view for images that are not RGB."""
        jitter = self.jitter.model_copy(update={"saturation": 0.0, "hue": 0.0})
        plain = {"randaugment": RandAugment()}
        return self.model_copy(update={"jitter": jitter, "grey": 0.0, "solarize": Solarize(), **plain})

    @model_validator(mode="after")
    def _check(self) -> Self:
        if not 0 < self.ratio[0] <= self.ratio[1]:
            raise ValueError(f"ratio must be a range of positive numbers, not {list(self.ratio)}")
        return self


def asymmetric_pair(
    size: int, scale: Range = (0.08, 1.0), interpolation: Literal["bilinear", "bicubic"] = "bicubic"
) -> list[View]:
    """BYOL's two views, which many took over: one always blurred, one rarely and sometimes solarised.

    Grill et al., "Bootstrap Your Own Latent", NeurIPS 2020, appendix B, Table 6. Small images (up to 64 pixels) are not
    blurred, as in SimCLR's and SimSiam's experiments on CIFAR.
    """
    jitter = Jitter(probability=0.8, brightness=0.4, contrast=0.4, saturation=0.2, hue=0.1)
    shared = View(size=size, scale=scale, interpolation=interpolation, jitter=jitter, grey=0.2)
    blurs = (1.0, 0.1) if size > 64 else (0.0, 0.0)
    return [
        shared.model_copy(update={"name": "first", "blur": Blur(probability=blurs[0])}),
        shared.model_copy(
            update={"name": "second", "blur": Blur(probability=blurs[1]), "solarize": Solarize(probability=0.2)}
        ),
    ]


@dataclass(frozen=True)
class Photometry:
    """Drawn photometric parameters, each (B,) or, for several views, (B, V).

    An operation that does not apply to an image has its neutral value (factor 1, shift 0) or False.
    """

    order: Tensor  # (…, 4) int64: operations in order (0 brightness, 1 contrast, 2 saturation, 3 hue)
    brightness: Tensor
    contrast: Tensor
    saturation: Tensor
    hue: Tensor  # shift in turns
    grey: Tensor  # bool
    blur: Tensor  # bool
    sigma: Tensor  # pixels
    solarize: Tensor  # bool
    augment: Tensor | None = None  # (…, n) int64: RandAugment's operations in order, −1 none; None where no view has it
    level: Tensor | None = None  # (…, n): their strengths, from −10 to 10
    noise: Tensor | None = None  # in deviations of the channels; 0: none
    key: Tensor | None = None  # int64, names the draws of single values and channels; None where no view has such

    def view(self, number: int) -> Photometry:
        """The parameters of one view out of several."""
        return self._at((slice(None), number))

    def rows(self, rows: slice | Tensor) -> Photometry:
        """The parameters of some images of a batch."""
        return self._at(rows)

    def _at(self, place: slice | Tensor | tuple[slice, int]) -> Photometry:
        drawn = {field.name: getattr(self, field.name) for field in fields(self)}
        return Photometry(**{name: value[place] for name, value in drawn.items() if value is not None})


class ViewPlan:
    """The views of each image, in order: the kinds of `views`, each repeated `count` times and in all its resolutions.

    Args:
        views: the kinds.
        shared_geometry: give all images of a batch the crop and the flip of its first one, as the authors of patch-wise
            DINO had to; for comparison.
    """

    def __init__(self, views: Sequence[View], *, shared_geometry: bool = False) -> None:
        self.shared_geometry = shared_geometry
        drawn = [view for view in views for _ in range(view.count)]
        self.views = [
            view.model_copy(update={"size": size}) for view in drawn for size in (view.size, *view.resolutions)
        ]
        # Views that differ in their resolution alone share the draws of one number.
        self._number = torch.tensor([n for n, view in enumerate(drawn) for _ in (view.size, *view.resolutions)])
        self.partners = torch.tensor([view.of == "partner" for view in self.views])
        self._scale = torch.tensor([view.scale for view in self.views], dtype=torch.float64)  # (V, 2)
        self._log_ratio = torch.tensor([view.ratio for view in self.views], dtype=torch.float64).log()
        self._flip = self._column([view.flip for view in self.views])

    def __len__(self) -> int:
        return len(self.views)

    @staticmethod
    def _column(values: Sequence[float]) -> Tensor:
        return torch.tensor(values, dtype=torch.float64)

    def geometry_index(self, index: Tensor) -> Tensor:
        """The indices (B,) that name a batch's draws of geometry: its own, or the first one's for all."""
        return index[:1].expand_as(index) if self.shared_geometry else index

    def draw_geometry(self, sizes: Tensor, seed: int, epoch: int, index: Tensor) -> ViewGeometry:
        """Draws a random resized crop and a flip for each view of each image.

        The distribution is that of torchvision's RandomResizedCrop: area and log-ratio uniform, ten attempts, then
        the largest central box with an allowed ratio; whole pixels.

        Args:
            sizes: (B, 2) height and width of the source images, (B, V, 2) where they differ between the views of an
                image and its partner, or (2,) when all are alike.
            seed: the run's seed.
            epoch: counts from 0.
            index: (B,) int64, each sample's index in its source.

        Returns:
            Geometry with box (B, V, 4) and flipped (B, V), on the CPU.
        """
        sizes = sizes if sizes.ndim == 3 else sizes[..., None, :]
        height, width = sizes.double()[..., None, :].unbind(-1)  # broadcast with (B, V, attempts)
        numbers = torch.arange(2 * _ATTEMPTS + 3)
        views = self._number[:, None]
        draws = uniform(seed, "geometry", epoch, index[:, None, None], views, numbers)  # (B, V, 2·attempts + 3)
        share, log_ratio = draws[..., :_ATTEMPTS], draws[..., _ATTEMPTS : 2 * _ATTEMPTS]
        u_top, u_left, u_flip = draws[..., -3:].unbind(-1)

        (smallest, largest), (narrowest, widest) = (x[:, :, None].unbind(1) for x in (self._scale, self._log_ratio))
        area = torch.lerp(smallest, largest, share) * height * width
        ratio = torch.lerp(narrowest, widest, log_ratio).exp()
        widths, heights = (area * ratio).sqrt().round(), (area / ratio).sqrt().round()
        fits = (widths > 0) & (widths <= width) & (heights > 0) & (heights <= height)
        first = fits.byte().argmax(dim=-1, keepdim=True)  # the first attempt that fits
        found = fits.any(dim=-1)
        height, width = height[..., 0], width[..., 0]  # (B, 1) or (1,)
        bounded = (width / height).clamp(*self._log_ratio.exp().unbind(1))
        central_width = torch.minimum(width, (height * bounded).round())
        central_height = torch.minimum(height, (width / bounded).round())
        crop_width = torch.where(found, widths.gather(-1, first)[..., 0], central_width)  # (B, V)
        crop_height = torch.where(found, heights.gather(-1, first)[..., 0], central_height)
        top = torch.where(found, u_top * (height - crop_height + 1), (height - crop_height) / 2).floor()
        left = torch.where(found, u_left * (width - crop_width + 1), (width - crop_width) / 2).floor()
        box = torch.stack([left, top, left + crop_width, top + crop_height], dim=-1)
        return ViewGeometry(box, u_flip < self._flip)

    def draw_photometry(self, seed: int, epoch: int, index: Tensor) -> Photometry:
        """Draws the photometric parameters of each view of each image.

        Args:
            seed, epoch, index: as for `draw_geometry`.

        Returns:
            Parameters of shape (B, V), on the CPU.
        """
        views = self._number[:, None]
        draws = uniform(seed, "photometry", epoch, index[:, None, None], views, torch.arange(13))  # (B, V, 13)
        u = draws.unbind(-1)
        jitters = [view.jitter for view in self.views]
        jittered = u[0] < self._column([jitter.probability for jitter in jitters])

        def factor(draw: Tensor, strengths: list[float]) -> Tensor:
            strength = self._column(strengths)
            drawn = torch.lerp((1 - strength).clamp(min=0), 1 + strength, draw)
            return torch.where(jittered, drawn, 1.0)

        hue = (2 * u[4] - 1) * self._column([jitter.hue for jitter in jitters])
        low, high = self._column([x for view in self.views for x in view.blur.sigma]).view(-1, 2).unbind(1)
        return Photometry(
            order=draws[..., 5:9].argsort(dim=-1),
            brightness=factor(u[1], [jitter.brightness for jitter in jitters]),
            contrast=factor(u[2], [jitter.contrast for jitter in jitters]),
            saturation=factor(u[3], [jitter.saturation for jitter in jitters]),
            hue=torch.where(jittered, hue, 0.0),
            grey=u[9] < self._column([view.grey for view in self.views]),
            blur=u[10] < self._column([view.blur.probability for view in self.views]),
            sigma=torch.lerp(low, high, u[11]),
            solarize=u[12] < self._column([view.solarize.probability for view in self.views]),
            **self._draw_augment(seed, epoch, index[:, None, None], views),
            **self._draw_disturbances(seed, epoch, index[:, None], self._number),
        )

    def _draw_augment(self, seed: int, epoch: int, index: Tensor, views: Tensor) -> dict[str, Tensor]:
        """RandAugment's operations and levels, (B, V, n) for the most that a view has; nothing where none has any."""
        wanted = [view.randaugment for view in self.views]
        most = max((one.operations for one in wanted), default=0)
        if most == 0:
            return {}
        number = torch.arange(most)
        u = [uniform(seed, f"randaugment {draw}", epoch, index, views, number) for draw in range(5)]  # (B, V, n) each
        choices, magnitude, deviation, probability = (
            self._column(values)[:, None]
            for values in (
                [len(COLOR_OPERATIONS) + (len(WARPS) if one.warps else 0) for one in wanted],
                [one.magnitude for one in wanted],
                [one.deviation for one in wanted],
                [one.probability for one in wanted],
            )
        )
        done = (u[1] < probability) & (number < torch.tensor([one.operations for one in wanted])[:, None])
        normal = (-2 * torch.log1p(-u[2])).sqrt() * (2 * torch.pi * u[3]).cos()  # Box and Muller, 1958
        level = (magnitude + deviation * normal).clamp_(0, 10)
        return {
            "augment": (u[0] * choices).long().where(done, -1),
            "level": torch.where(u[4] < 0.5, -level, level),
        }

    def _draw_disturbances(self, seed: int, epoch: int, index: Tensor, views: Tensor) -> dict[str, Tensor]:
        """The deviations of noise, and what names the draws of single values; nothing where no view asks for it."""
        if not any(view.noise.probability > 0 or view.channel_drop > 0 for view in self.views):
            return {}
        low, high = self._column([x for view in self.views for x in view.noise.sigma]).view(-1, 2).unbind(1)
        wanted, strength = (uniform(seed, "noise", epoch, index, views, number) for number in (0, 1))
        on = wanted < self._column([view.noise.probability for view in self.views])
        noise = torch.where(on, torch.lerp(low, high, strength), 0.0)
        return {"noise": noise, "key": random_bits(seed, "disturbance", epoch, index, views)}
