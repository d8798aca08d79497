"""`shapes`: an embedded data set of drawn shapes, for demonstrations and tests without any file.

Eight classes at 32×32 pixels in colour. Position, size, rotation, colours, the texture of the shape, the background's
gradient and texture, clutter and noise vary from image to image and say nothing about the class, so that nearest
neighbours among raw pixels fail while a network that has learned what stays the same under changes of view does not.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from glocal.data.sources.base import Sample
from glocal.errors import GlocalError, did_you_mean
from glocal.views.random import uniform

SIDE = 32
_SEED = 20111
_COUNTS = {"train": 8000, "test": 2000}
_CHUNK = 1024  # images drawn at once
_MARKS = 3  # small distracting marks in an image

Shape = Callable[[Tensor, Tensor], Tensor]


def _length(x: Tensor, y: Tensor) -> Tensor:
    return (x * x + y * y).sqrt()


def _box(x: Tensor, y: Tensor, width: float, height: float) -> Tensor:
    return torch.maximum(x.abs() - width, y.abs() - height)


def _triangle(x: Tensor, y: Tensor) -> Tensor:
    return torch.maximum(-y, x.abs() * (math.sqrt(3) / 2) + y / 2) - 0.6


def _star(x: Tensor, y: Tensor) -> Tensor:
    angle = torch.atan2(x, y).remainder(2 * math.pi / 5) - math.pi / 5  # one of five equal sectors, mirrored
    radius = _length(x, y)
    x, y = radius * angle.abs().sin(), radius * angle.cos()
    # The edge from an inner corner (0, 0.42) to an outer one at 36 degrees and radius 1.05.
    outer_x, outer_y = 1.05 * math.sin(math.pi / 5), 1.05 * math.cos(math.pi / 5)
    across, along = outer_y - 0.42, outer_x
    return ((y - 0.42) * along - x * across) / math.hypot(across, along)


def _crescent(x: Tensor, y: Tensor) -> Tensor:
    return torch.maximum(_length(x, y) - 1.0, 0.85 - _length(x - 0.55, y))


_SHAPES: dict[str, Shape] = {  # signed distances from the outline, negative inside, of shapes of radius about 1
    "disc": lambda x, y: _length(x, y) - 0.9,
    "ring": lambda x, y: (_length(x, y) - 0.72).abs() - 0.22,
    "square": lambda x, y: _box(x, y, 0.78, 0.78),
    "triangle": _triangle,
    "star": _star,
    "cross": lambda x, y: torch.minimum(_box(x, y, 1.0, 0.3), _box(x, y, 0.3, 1.0)),
    "crescent": _crescent,
    "bars": lambda x, y: torch.minimum(_box(x, y - 0.55, 0.95, 0.27), _box(x, y + 0.55, 0.95, 0.27)),
}


class Shapes:
    """The drawn data set as a source; the class of image i is i mod 8.

    Every image is a function of its split and its index, so that a smaller set is the beginning of a larger one.

    Args:
        split: train or test.
        count: how many images; by default 8,000 for train and 2,000 for test.

    Raises:
        GlocalError: another split, or a count below 1.

    >>> Shapes("train", 16)[3].label
    3
    """

    def __init__(self, split: str = "train", count: int | None = None) -> None:
        if split not in _COUNTS:
            raise GlocalError(f"shapes:{split}: {did_you_mean(split, _COUNTS)}")
        self.count = _COUNTS[split] if count is None else count
        if self.count < 1:
            raise GlocalError(f"shapes:{split}:{count}: the number of images must be at least 1")
        self.split = split
        self.name = f"shapes:{split}" if count is None else f"shapes:{split}:{count}"
        self.classes: list[str] | None = list(_SHAPES)
        self.labels: Tensor | None = torch.arange(self.count) % len(_SHAPES)
        self.keys: Sequence[str] = [f"{split}/{index:06d}" for index in range(self.count)]
        self._images: Tensor | None = None

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> Sample:
        return Sample(self.images()[index], index % len(_SHAPES), self.keys[index])

    def images(self) -> Tensor:
        """All images, (N, 3, 32, 32) uint8; drawn at the first call."""
        if self._images is None:
            parts = torch.arange(self.count).split(_CHUNK)
            self._images = torch.cat([draw(self.split, part) for part in parts])
        return self._images

    def __getstate__(self) -> dict[str, object]:
        return {**self.__dict__, "_images": None}  # pixels are drawn again where they are needed


def draw(split: str, index: Tensor) -> Tensor:
    """Draws the images of a split at `index` (B,): (B, 3, 32, 32) uint8."""
    between = _draws(split, index)
    x, y = _pixel_centres()

    def waves(what: str, low: float, high: float) -> Tensor:
        """Parallel waves of a random direction, with a period of `low` … `high` pixels, in [−1, 1]."""
        turn = between(0, 2 * math.pi, f"{what} turn")[:, None, None]
        period = between(low, high, f"{what} period")[:, None, None]
        phase = between(0, 2 * math.pi, f"{what} phase")[:, None, None]
        return ((turn.cos() * x + turn.sin() * y) * (2 * math.pi / period) + phase).sin()

    ground, figure, wave_tint, texture_tint = _colours(between)
    slope = between(-0.2, 0.2, "gradient", 2)[:, :, None, None]
    light = slope[:, 0] * (x / SIDE - 0.5) + slope[:, 1] * (y / SIDE - 0.5)
    light = light + between(0, 0.08, "ground texture")[:, None, None] * waves("ground", 5, 16)
    tinted = wave_tint[:, :, None, None] * waves("tint", 8, 30)[:, None]
    picture = ground[:, :, None, None] + light[:, None] + tinted

    for mark in range(_MARKS):  # short rods, some of them dots
        mark_x, mark_y, radius = _placed(between, f"mark {mark}", 1.2, 2.6, 1.0)
        cover = (0.5 - _box(mark_x, mark_y, 1.0, 0.45) * radius).clamp(0, 1)[:, None]
        picture = picture.lerp(between(0, 1, f"mark {mark} colour", 3)[:, :, None, None], cover * 0.8)

    cover = _cover(between, index)[:, None]
    kind = between(0, 4, "texture kind").long()[:, None, None]  # plain, stripes, checks, speckle
    stripes = waves("stripes", 3, 7).sign()
    checks = stripes * waves("checks", 3, 7).sign()
    speckle = between(-1, 1, "speckle", SIDE, SIDE)
    texture = torch.where(kind == 1, stripes, torch.where(kind == 2, checks, speckle))
    texture = torch.where(kind == 0, 0.0, texture) * between(0.3, 1, "texture strength")[:, None, None]
    texture = texture[:, None] * (texture_tint[:, :, None, None] + 0.08)
    picture = picture.lerp(figure[:, :, None, None] + texture, cover)
    picture = picture + between(-0.05, 0.05, "noise", 3, SIDE, SIDE)
    return (picture.clamp(0, 1) * 255).round().byte()


def draw_masks(split: str, index: Tensor) -> Tensor:
    """What the pixels of the images of a split at `index` (B,) show: (B, 32, 32) uint8.

    0 is the ground, to which the marks count; 1 + the class where the shape covers more than half of the pixel.
    """
    shape = (index % len(_SHAPES) + 1).to(torch.uint8)[:, None, None]
    return torch.where(_cover(_draws(split, index), index) > 0.5, shape, 0).to(torch.uint8)


def _draws(split: str, index: Tensor) -> Callable[..., Tensor]:
    """`between(low, high, what, *shape)`: draws (B, *shape) for the images at `index` (B,)."""

    def between(low: float, high: float, what: str, *shape: int) -> Tensor:
        numbers = torch.arange(max(1, math.prod(shape))).view(shape)
        drawn = uniform(_SEED, split, what, index.view(-1, *[1] * len(shape)), numbers)
        return (low + (high - low) * drawn).float()

    return between


def _pixel_centres() -> tuple[Tensor, Tensor]:
    axis = torch.arange(SIDE) + 0.5
    return axis[None, :], axis[:, None]  # x, y


def _placed(
    between: Callable[..., Tensor], what: str, low: float, high: float, margin: float, most: float = SIDE / 2
) -> tuple[Tensor, Tensor, Tensor]:
    """Coordinates turned and scaled to a shape of radius `low` … `high` pixels, and the radius (B, 1, 1)."""
    radius = between(low, high, f"{what} radius")[:, None, None]
    reach = (SIDE / 2 - margin * radius).clamp(0, most)
    left, top = (between(-1, 1, f"{what} {way}")[:, None, None] * reach + SIDE / 2 for way in ("x", "y"))
    turn = between(0, 2 * math.pi, f"{what} turn")[:, None, None]
    x, y = _pixel_centres()
    dx, dy = (x - left) / radius, (y - top) / radius
    return turn.cos() * dx + turn.sin() * dy, turn.cos() * dy - turn.sin() * dx, radius


def _cover(between: Callable[..., Tensor], index: Tensor) -> Tensor:
    """The share of each pixel that the shape covers, (B, 32, 32)."""
    x, y, radius = _placed(between, "shape", 8.0, 12.0, 0.95, most=4.5)
    distance = torch.empty(len(index), SIDE, SIDE)
    for number, shape in enumerate(_SHAPES.values()):
        rows = (index % len(_SHAPES) == number).nonzero()[:, 0]
        distance[rows] = shape(x[rows], y[rows])
    return (0.5 - distance * radius).clamp(0, 1)


def _colours(between: Callable[..., Tensor]) -> list[Tensor]:
    """Colours (B, 3) of ground and shape, one of the two 0.3 to 0.4 lighter, and tints of ground waves and texture.

    Tints add up to no luminance: to an eye that sees grey, shape and ground are each of one lightness.
    """
    weights = torch.tensor([0.299, 0.587, 0.114])
    gap = between(0.3, 0.4, "contrast")
    gap = torch.where(between(0, 1, "polarity") < 0.5, -gap, gap)[:, None]
    tints = between(-0.6, 0.6, "tints", 4, 3)
    tints = tints - (tints * weights).sum(dim=2, keepdim=True)
    ground, figure, waves, texture = tints.unbind(1)
    return [
        (0.5 - gap / 2 + ground).clamp(0, 1),
        (0.5 + gap / 2 + figure).clamp(0, 1),
        waves * 0.7,
        texture * 0.7,
    ]
