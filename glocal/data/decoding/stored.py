"""Images whose header is known and whose pixels are still to be decoded, whole or at a fraction of their size."""

from __future__ import annotations

import io
import warnings
from collections.abc import Callable, Sequence
from typing import TypeVar

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from glocal.data.decoding.faults import broken
from glocal.data.decoding.jpeg import MOST_SCANS, jpeg_pixels, scans_of
from glocal.data.decoding.orientation import (
    REVERSES_ACROSS,
    REVERSES_DOWN,
    exchanges_sides,
    orientation_of,
    stored_size,
    turned_upright,
)
from glocal.data.decoding.reading import open_picture
from glocal.data.decoding.rgb import to_rgb, upright_pixels
from glocal.data.decoding.rules import USUAL, Decoding
from glocal.errors import BrokenImageError
from glocal.views.crops import Interpolation

# Pixels that reduced decoding leaves for each pixel of a view; 1 gives 27 dB in the worst of 240 photographs.
_SPARE = 2
_FILTERS: dict[Interpolation, Image.Resampling] = {
    "bilinear": Image.Resampling.BILINEAR,
    "bicubic": Image.Resampling.BICUBIC,
}
T = TypeVar("T")


class StoredImage:
    """An image whose header is known and whose pixels are still to be decoded.

    Args:
        content: the file.
        key: the name that errors give.
        decoding: range of deep grey values, and how large images may be.

    Attributes:
        size: height and width of the upright image. A rotation that a PNG notes only behind its pixels, which no
            common encoder does, is not seen.
    """

    def __init__(self, content: bytes, key: str, decoding: Decoding = USUAL) -> None:
        self.content = content
        self.key = key
        self.decoding = decoding
        with open_picture(io.BytesIO(content)) as image:
            width, height = stored_size(image)
            self._check_pixels(width, height)
            self._orientation = orientation_of(image)
            # torchvision decodes these in three quarters of Pillow's time, to the same values
            self._plain_jpeg = image.format == "JPEG" and image.mode in {"L", "RGB"}
            scans = scans_of(image, lambda: content)
        if scans > MOST_SCANS:
            raise BrokenImageError(key, f"a JPEG file of {scans:,} scans, which would take minutes to decode")
        self.size = (width, height) if exchanges_sides(self._orientation) else (height, width)

    def read(self) -> Tensor:
        """The upright image, as `read_image` gives it.

        Raises:
            BrokenImageError: it cannot be decoded.
        """
        if self._plain_jpeg and self._orientation == 1:
            pixels = jpeg_pixels(self.content)
            if pixels is not None:
                return pixels
        return self._decoded(1, lambda image: upright_pixels(image, orientation_of(image), self.decoding.value_range))

    def reduction(self, boxes: Sequence[Sequence[int]], sides: Sequence[int]) -> int:
        """By how much the image may be decoded smaller: 8, 4, 2, or 1 where that is not possible.

        Every crop keeps at least twice as many pixels in each direction as its view has: the transform passes other
        frequencies than a resize, which shows in fine texture where the resize after it has little left to do.

        Args:
            boxes: left, top, right, bottom of the crops in pixels of the upright image.
            sides: of the views that they become.
        """
        if not self._plain_jpeg:
            return 1
        spare = min(
            min(right - left, bottom - top) // (_SPARE * side)
            for (left, top, right, bottom), side in zip(boxes, sides, strict=True)
        )
        return next((factor for factor in (8, 4, 2) if factor <= spare), 1)

    def read_reduced(self, factor: int) -> ReducedImage:
        """The upright image at 1/factor of its size, by a smaller inverse cosine transform (a power of two up to 8).

        Raises:
            BrokenImageError: it cannot be decoded.
        """
        image = self._decoded(factor, lambda image: to_rgb(turned_upright(image, orientation_of(image))))
        height, width = self.size
        # The last column and row are filled up; an axis that runs backwards begins with them.
        across = image.width - width / factor if self._orientation in REVERSES_ACROSS else 0.0
        down = image.height - height / factor if self._orientation in REVERSES_DOWN else 0.0
        return ReducedImage(image, factor, (across, down))

    def _decoded(self, factor: int, use: Callable[[Image.Image], T]) -> T:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            try:
                with open_picture(io.BytesIO(self.content)) as image:
                    if factor > 1:
                        width, height = image.size
                        image.draft("RGB", (width // factor, height // factor))
                    image.load()
                    self._check_pixels(*image.size)  # of an icon, the picture in it may be larger than it says
                    return use(image)
            except BrokenImageError:
                raise
            except Exception as error:  # Pillow's plugins raise anything on damaged bytes: RuntimeError, zlib.error, …
                raise broken(error, self.key, self.content) from None

    def _check_pixels(self, width: int, height: int) -> None:
        most = self.decoding.max_pixels
        if most is not None and width * height > most:
            raise BrokenImageError(self.key, f"{width} × {height} pixels, more than data.max_pixels={most}")


class ReducedImage:
    """An image that was decoded at a fraction of its size.

    Args:
        image: the upright image.
        factor: how many pixels of the whole one of its pixels stands for, in each direction.
        origin: where the whole image begins in it, in its pixels.
    """

    def __init__(self, image: Image.Image, factor: int, origin: tuple[float, float]) -> None:
        self.image = image
        self.factor = factor
        self.origin = origin

    def crop(self, box: Sequence[int], flipped: bool, size: int, interpolation: Interpolation) -> Tensor:
        """A crop whose box is in pixels of the whole image, resized to (3, size, size) uint8.

        The box falls between pixels here, which Pillow's resize can and torch's cannot.
        """
        width, height = self.image.size
        left, top, right, bottom = (x / self.factor + self.origin[n % 2] for n, x in enumerate(box))
        place = (max(left, 0.0), max(top, 0.0), min(right, width), min(bottom, height))
        pixels = np.asarray(self.image.resize((size, size), _FILTERS[interpolation], place))
        view = torch.from_numpy(pixels.copy()).permute(2, 0, 1)
        return view.flip(-1) if flipped else view
