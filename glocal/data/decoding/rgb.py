"""The pixels of a decoded image of any of Pillow's modes as RGB in 8 bits, the way a person would see them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from glocal.data.decoding.orientation import as_stored, exchanges_sides

_STRIP = 1 << 20  # pixels that are converted at a time: beside what Pillow has decoded there is the result alone


def upright_pixels(image: Image.Image, orientation: int, value_range: tuple[float, float] | None) -> Tensor:
    """A decoded image of that EXIF orientation as (3, H, W) uint8, made strip by strip of it."""
    width, height = image.size
    sides = (width, height) if exchanges_sides(orientation) else (height, width)
    upright = np.empty((*sides, 3), np.uint8)
    pixels = as_stored(upright, orientation)
    strip = max(1, _STRIP // width)
    places = [(top, min(top + strip, height)) for top in range(0, height, strip)]

    def strips() -> Iterator[Image.Image]:
        for top, bottom in places:
            yield image if len(places) == 1 else image.crop((0, top, width, bottom))

    found = _extremes(strips()) if is_deep(image) else (0.0, 0.0)
    for (top, bottom), part in zip(places, strips(), strict=True):
        if is_deep(image):
            pixels[top:bottom] = _to_eight_bits(part, found, value_range)[:, :, None]
        else:
            pixels[top:bottom] = np.asarray(to_rgb(part))
    return torch.from_numpy(upright).permute(2, 0, 1)


def to_rgb(image: Image.Image) -> Image.Image:
    if image.mode == "RGB" and "transparency" not in image.info:
        return image
    if image.mode in {"LA", "La", "PA", "RGBA", "RGBa"} or "transparency" in image.info:
        image = image.convert("RGBA")
        white = Image.new("RGBA", image.size, (255, 255, 255, 255))
        return Image.alpha_composite(white, image).convert("RGB")
    return image.convert("RGB")


def is_deep(image: Image.Image) -> bool:
    """Whether an image is grey with more than 8 bits."""
    return image.mode in {"I", "F"} or image.mode.startswith("I;16")


def _extremes(parts: Iterable[Image.Image]) -> tuple[float, float]:
    """The smallest and the largest finite value in parts of an image; zeros where there is none."""
    finite = (values[np.isfinite(values)] for values in map(np.asarray, parts))
    found = [(float(values.min()), float(values.max())) for values in finite if values.size]
    return (min(low for low, _ in found), max(high for _, high in found)) if found else (0.0, 0.0)


def _to_eight_bits(
    part: Image.Image, extremes: tuple[float, float], value_range: tuple[float, float] | None
) -> np.ndarray:
    """Grey values of a part of a deep image as uint8: the range becomes 0 to 255, what lies outside black or white.

    Without a range, integers are taken as 16 bits, or as 8 where none is above 255; floating point as [0, 1] where it
    lies there, or as [0, 255] where it lies there. What lies outside is taken from its smallest to its largest finite
    value, which are the extremes of the whole image.
    """
    low, high = extremes
    values = np.nan_to_num(np.asarray(part, dtype=np.float64), nan=low, posinf=high, neginf=low)
    if value_range is not None:
        low, high = value_range
        values = values.clip(low, high)
    elif part.mode.startswith("I;16"):
        low, high = 0, 65535
    else:
        ranges = (1, 255) if part.mode == "F" else (255, 65535)
        low, high = next(((0, top) for top in ranges if low >= 0 and high <= top), (low, high))
    scale = 255 / (high - low) if high > low else 0.0
    return np.rint((values - low) * scale).astype(np.uint8)
