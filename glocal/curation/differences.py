"""What one file of a group of near-copies has done to the other, in words.

Both are looked at in small. The smaller file is laid upon the larger one at several scales, straight and mirrored, and
stays where the normalised correlation of their grey levels is highest (J. P. Lewis: Fast normalized
cross-correlation, 1995). What lies upon one another is then compared in brightness, contrast and colour.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image, ImageOps
from scipy.signal import fftconvolve

from glocal.data.decoding.images import open_image
from glocal.data.decoding.rules import Decoding
from glocal.data.decoding.stored import StoredImage
from glocal.errors import BrokenImageError
from glocal.report.sheets import jpeg

_SIDE = 128  # pixels of the larger file's longer side in which both are compared
_SCALES = np.arange(0.4, 1.001, 0.05)  # of the smaller file's width to the larger one's
_FINE = np.array([-0.03, -0.02, -0.01, 0.01, 0.02, 0.03])  # around the best of them
_LEAST = 16  # pixels of a side that are laid upon others
_ANGLES = (-10, -8, -6, -5, -4, -3, -2, 2, 3, 4, 5, 6, 8, 10)  # degrees
_GOOD, _POOR = 0.95, 0.6  # of the correlation: nothing else is tried; nothing is said of the place
_WHOLE = 0.96  # of a side, from which nothing is cut off
_BRIGHTER, _CONTRAST = 6.0, 1.2  # grey levels; ratio of deviations
_GREY = 3.0  # levels between the channels, on average
_ALIKE = 0.02  # of ratios of sides


class Stored(NamedTuple):
    """Where an image is: a file, or a thumbnail in memory."""

    path: str | None
    thumbnail: bytes | None = None
    decoding: Decoding = Decoding()

    def open(self) -> StoredImage:
        """Raises BrokenImageError where there is nothing, or nothing that can be read."""
        if self.path is not None:
            return open_image(self.path, self.path, self.decoding)
        if self.thumbnail is None:
            raise BrokenImageError("thumbnail", "there is none")
        return StoredImage(self.thumbnail, "thumbnail")


class Compared(NamedTuple):
    """A file beside the largest one of its group.

    Attributes:
        words: what differs, each a few words; empty for the largest file itself.
        picture: a small JPEG of it; None where it cannot be read, or none is wanted.
    """

    words: list[str]
    picture: bytes | None


@dataclass(frozen=True)
class Comparison:
    """What is to be compared: a file with the largest one of its group.

    Attributes:
        largest: None where the file is that one itself.
        other: the file.
        largest_bytes, other_bytes: sizes of the files; 0 where they are not known.
        same: both hold the same bytes.
        pictured: a picture is wanted.
    """

    largest: Stored | None
    other: Stored
    largest_bytes: int = 0
    other_bytes: int = 0
    same: bool = False
    pictured: bool = True


class _Place(NamedTuple):
    """Where the smaller image lies upon the larger one.

    Attributes:
        score: the normalised correlation.
        mirrored: it does so as its mirror image.
        left, top, width, height: the place as shares of the larger image's sides.
        angle: degrees by which it was rotated, counter-clockwise.
        region, upon: both there, (h, w, 3) float32.
        around: it is the larger one that lies upon the smaller one, which has something around it.
    """

    score: float
    mirrored: bool
    left: float
    top: float
    width: float
    height: float
    angle: int
    region: np.ndarray
    upon: np.ndarray
    around: bool = False


def compare(comparison: Comparison) -> Compared:
    """Says in words what differs between a file and the largest one of its group, and makes a small picture of it if
    one is wanted."""
    try:
        other, size = _read(comparison.other)
    except BrokenImageError as error:
        return Compared([f"cannot be read: {error.reason}"], None)
    picture = jpeg(other) if comparison.pictured else None
    if comparison.largest is None:
        return Compared([], picture)
    if comparison.same:
        return Compared(["same bytes"], picture)
    try:
        largest, largest_size = _read(comparison.largest)
    except BrokenImageError:
        return Compared(["the largest file cannot be read"], picture)
    words = difference(largest, other, largest_size, size)
    before, after = comparison.largest_bytes, comparison.other_bytes
    if size == largest_size and before and after and not any("crop" in word for word in words):
        if after < 0.9 * before:
            words.append(f"compressed more: {after / before:.0%} of the bytes")
        elif before < 0.9 * after:
            words.append(f"compressed less: {after / before:.1f} times the bytes")
    return Compared(words or ["other bytes, no difference to be seen in small"], picture)


def _read(stored: Stored) -> tuple[Image.Image, tuple[int, int]]:
    """An image, small where that costs less, and its width and height."""
    image = stored.open()
    height, width = image.size
    factor = image.reduction([(0, 0, width, height)], [_SIDE])
    if factor > 1:
        return image.read_reduced(factor).image, (width, height)
    return Image.fromarray(image.read().permute(1, 2, 0).numpy()), (width, height)


def difference(
    largest: Image.Image, other: Image.Image, largest_size: tuple[int, int], size: tuple[int, int]
) -> list[str]:
    """What differs between two pictures of one thing.

    Args:
        largest: RGB, the one that the words start from.
        other: RGB.
        largest_size, size: width and height of both as they are stored.
    """
    place = _best_place(_small(largest, largest_size), other, size)
    if place is None or place.score < _GOOD:
        place = _better(place, _framed(_small(other, size), largest, largest_size), 0.03)
    words = []
    if place is None or place.score < _POOR:
        words.append(_sizes(largest_size, size))
        return [*filter(None, words), "doubtful: no place found where one lies upon the other"]
    cut = min(place.width, place.height) < _WHOLE
    shown = (size[0] * place.width, size[1] * place.height) if place.around else size
    whole = largest_size if place.around else (largest_size[0] * place.width, largest_size[1] * place.height)
    scale = (shown[0] / whole[0] + shown[1] / whole[1]) / 2
    if not cut:
        words.append(_sizes(largest_size, size))
    elif abs(scale - 1) > 0.1:
        words.append(f"resized to {scale:.0%}")
    if place.mirrored:
        words.append("mirrored")
    if cut and place.around:
        words.append(
            f"with a border or bar: the image is {_percent(place.width)} × {_percent(place.height)} of it, from "
            f"{_percent(place.left)} left and {_percent(place.top)} top"
        )
    elif cut:
        words.append(
            f"cropped to {_percent(place.width)} × {_percent(place.height)}, from {_percent(place.left)} left and "
            f"{_percent(place.top)} top"
        )
    if place.angle:
        words.append(f"rotated by about {abs(place.angle)}° {'counter-clockwise' if place.angle > 0 else 'clockwise'}")
    return [*filter(None, words), *_colours(place.region, place.upon)]


def _small(image: Image.Image, size: tuple[int, int]) -> Image.Image:
    """An image of that width and height at the size in which images are compared."""
    share = _SIDE / max(size)
    return image.resize((max(8, round(size[0] * share)), max(8, round(size[1] * share))))


def _framed(ground: Image.Image, largest: Image.Image, largest_size: tuple[int, int]) -> _Place | None:
    """The larger image upon the smaller one, which has a bar or a border around it."""
    found: _Place | None = None
    for mirrored in (False, True):
        shown = ImageOps.mirror(largest) if mirrored else largest
        place = _part(ground, shown, largest_size[1] / largest_size[0], mirrored)
        if place is not None:
            found = _better(found, place._replace(around=True, region=place.upon, upon=place.region))
    return found


def _percent(share: float) -> str:
    return f"{min(share, 1):.0%}"


def _sizes(before: tuple[int, int], after: tuple[int, int]) -> str:
    return "" if before == after else f"{after[0]}×{after[1]} instead of {before[0]}×{before[1]} pixels"


def _best_place(ground: Image.Image, other: Image.Image, size: tuple[int, int]) -> _Place | None:
    """Whole upon whole first, then parts, then slight rotations."""
    ratio = size[1] / size[0]
    whole = abs(ratio * ground.width / ground.height - 1) <= _ALIKE
    best: _Place | None = None
    for mirrored in (False, True):
        shown = ImageOps.mirror(other) if mirrored else other
        if whole:
            best = _better(best, _match(ground, shown.resize(ground.size), mirrored))
    if best is not None and best.score >= _GOOD:
        return best
    if whole:
        best = _better(best, _rotated(ground, other.resize(ground.size)), 0.03)
        if best is not None and best.score >= _GOOD:
            return best
    for mirrored in (False, True):
        shown = ImageOps.mirror(other) if mirrored else other
        best = _better(best, _part(ground, shown, ratio, mirrored), 0.03)
    return best


def _better(best: _Place | None, other: _Place | None, margin: float = 0.0) -> _Place | None:
    """The other one if its correlation is clearly higher: what is simpler is tried first."""
    if best is None or other is None:
        return best or other
    return other if other.score > best.score + margin else best


def _part(ground: Image.Image, other: Image.Image, ratio: float, mirrored: bool) -> _Place | None:
    """The best place of all scales, first coarse and then fine."""

    def places(scales: np.ndarray) -> list[_Place]:
        widths = {round(float(scale) * ground.width) for scale in scales}
        sizes = [(width, round(width * ratio)) for width in sorted(widths)]
        fit = [(w, h) for w, h in sizes if w <= ground.width and h <= ground.height and min(w, h) >= _LEAST]
        return [_match(ground, other.resize(size), mirrored) for size in fit]

    found = places(_SCALES)
    if not found:
        return None
    best = max(found, key=lambda place: place.score)
    found = [best, *places(best.width + _FINE)]
    return max(found, key=lambda place: place.score)


def _rotated(ground: Image.Image, other: Image.Image) -> _Place:
    """The middle of the other image upon the ground, which is turned by some degrees."""
    width, height = ground.size
    box = (round(0.2 * width), round(0.2 * height), round(0.8 * width), round(0.8 * height))
    inner = other.crop(box)
    turned = (
        _match(ground.rotate(angle, Image.Resampling.BILINEAR), inner, False)._replace(
            angle=angle, left=0.0, top=0.0, width=1.0, height=1.0
        )
        for angle in _ANGLES
    )
    return max(turned, key=lambda place: place.score)


def _match(ground: Image.Image, upon: Image.Image, mirrored: bool) -> _Place:
    """Where a picture lies best upon a larger or equal one, without scaling."""
    left, top, score = _correlate(np.asarray(ground.convert("L"), float), np.asarray(upon.convert("L"), float))
    region = ground.crop((left, top, left + upon.width, top + upon.height))
    return _Place(
        score,
        mirrored,
        left / ground.width,
        top / ground.height,
        upon.width / ground.width,
        upon.height / ground.height,
        0,
        np.asarray(region, np.float32),
        np.asarray(upon, np.float32),
    )


def _correlate(ground: np.ndarray, upon: np.ndarray) -> tuple[int, int, float]:
    """Left and top of the highest normalised correlation of two grey pictures, and what it is."""
    upon = upon - upon.mean()
    norm = np.sqrt((upon**2).sum())
    product = fftconvolve(ground, upon[::-1, ::-1], mode="valid")
    sums, squares = (_window_sums(values, upon.shape) for values in (ground, ground**2))
    variation = np.sqrt(np.maximum(squares - sums**2 / upon.size, 0))
    score = product / np.maximum(variation * norm, 1e-6 * upon.size)
    top, left = np.unravel_index(int(score.argmax()), score.shape)
    return int(left), int(top), float(np.clip(score[top, left], -1, 1))


def _window_sums(values: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    total = np.pad(values, ((1, 0), (1, 0))).cumsum(axis=0).cumsum(axis=1)
    height, width = shape
    return total[height:, width:] - total[:-height, width:] - total[height:, :-width] + total[:-height, :-width]


def _colours(before: np.ndarray, after: np.ndarray) -> list[str]:
    """Differences of two aligned pictures (h, w, 3) in colour, brightness and contrast."""
    words = []
    colour = [float(np.abs(picture - picture.mean(axis=2, keepdims=True)).mean()) for picture in (before, after)]
    if colour[1] < _GREY / 3 and colour[0] >= _GREY:
        words.append("grey")
    elif colour[0] < _GREY / 3 and colour[1] >= _GREY:
        words.append("in colour")
    light = [picture @ np.array([0.299, 0.587, 0.114], np.float32) for picture in (before, after)]
    brighter = float(light[1].mean() - light[0].mean())
    if abs(brighter) >= _BRIGHTER:
        words.append("brighter" if brighter > 0 else "darker")
    contrast = float(light[1].std() / max(1.0, light[0].std()))
    if max(contrast, 1 / max(contrast, 1e-3)) >= _CONTRAST:
        words.append("more contrast" if contrast > 1 else "less contrast")
    return words


def exists(path: str | None) -> bool:
    """Whether there is a file of that name."""
    try:
        return path is not None and Path(path).is_file()
    except ValueError:  # a name that no file can have
        return False
