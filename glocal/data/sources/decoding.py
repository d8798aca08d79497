"""Reading image files of any mode and format that Pillow knows, as RGB the way a person would see them."""

from __future__ import annotations

import errno
import io
import logging
import os
import textwrap
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import BinaryIO, TypeVar

import numpy as np
import torch
from PIL import Image, TiffImagePlugin, UnidentifiedImageError
from torch import Tensor

from glocal.data.sources.channels import ChannelAxis, StoredChannels, how_to_read
from glocal.data.sources.reading import PIXELS, allow_pixels, is_program, open_file, open_picture, read_file
from glocal.errors import BrokenImageError
from glocal.views.crops import Interpolation

_ORIENTATION = 0x0112  # EXIF tag
_UPRIGHT = {  # what turns an image of that orientation upright
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
_EXCHANGES_SIDES = {5, 6, 7, 8}
# Pixels that reduced decoding leaves for each pixel of a view; 1 gives 27 dB in the worst of 240 photographs.
_SPARE = 2
_CHEAP = 1 << 20  # pixels of colour images that a sample decodes
_STRIP = 1 << 20  # pixels that are converted at a time: beside what Pillow has decoded there is the result alone
_SCANS = 250  # of a progressive JPEG file; usual ones have about ten, and each is a pass over all pixels
_NO_IMAGE = "no image in a format that Pillow reads"
_REVERSES_ACROSS, _REVERSES_DOWN = (
    {2, 3, 6, 7},
    {3, 4, 7, 8},
)  # axes of the upright image that run backwards in the file
_FILTERS: dict[Interpolation, Image.Resampling] = {
    "bilinear": Image.Resampling.BILINEAR,
    "bicubic": Image.Resampling.BICUBIC,
}

S = TypeVar("S")
T = TypeVar("T")

# Without a handler, Python prints Pillow's log of odd metadata to the terminal, once per image.
logging.getLogger("PIL").addHandler(logging.NullHandler())


@dataclass(frozen=True)
class Decoding:
    """What all images of a set have in common.

    Attributes:
        value_range: the values of grey images beyond 8 bits that become black and white; None guesses for each image.
        max_pixels: images with more count as unreadable; None leaves it to Pillow (179 million).
        channels: how many the images have whose values stay as they are stored; None: they are RGB in 8 bits.
        channel_axis: where channels lie in arrays whose shape leaves it open.
    """

    value_range: tuple[float, float] | None = None
    max_pixels: int | None = None
    channels: int | None = None
    channel_axis: ChannelAxis | None = None

    @property
    def most_pixels(self) -> int:
        """The limit of pixels: that which was set, or Pillow's; a third of it for nine channels, and so on."""
        return self.max_pixels or PIXELS * 3 // max(3, self.channels or 3)


_USUAL = Decoding()


def read_image(file: str | Path | BinaryIO, key: str, decoding: Decoding = _USUAL) -> Tensor:
    """Reads an image.

    EXIF rotation is applied, transparency shows white, 16-bit and floating-point values are scaled to 8 bits (not
    cut off), of an animation the first frame is taken.

    Args:
        file: a path or an open binary file.
        key: the name that errors give.
        decoding: range of deep grey values, and how large images may be.

    Returns:
        (3, H, W) uint8; the memory is that of rows of RGB pixels (channels last). With `decoding.channels`
        (channels, H, W) float32, the values as they are stored.

    Raises:
        BrokenImageError: the file cannot be read or decoded.
    """
    return open_stored(file, key, decoding).read()


def rgb_pixels(image: Image.Image, decoding: Decoding = _USUAL) -> Tensor:
    """An opened image as (3, H, W) uint8, with the same rules as `read_image` but for the rotation, which stays."""
    return _upright_pixels(image, 1, decoding.value_range)


def open_stored(file: str | Path | BinaryIO, key: str, decoding: Decoding = _USUAL) -> StoredImage | StoredChannels:
    """Reads a file whole and its header, so that the size is known before a pixel is decoded.

    Raises:
        BrokenImageError: the file cannot be read, its header not be understood, or it has other channels.
    """
    if decoding.channels is None:
        return open_image(file, key, decoding)
    return _opened(
        file,
        key,
        decoding,
        lambda content: StoredChannels(
            content, key, decoding.channels or 0, decoding.channel_axis, decoding.most_pixels
        ),
    )


def open_image(file: str | Path | BinaryIO, key: str, decoding: Decoding = _USUAL) -> StoredImage:
    """`open_stored` of an image that is RGB.

    Raises:
        BrokenImageError: the file cannot be read, or its header not be understood.
    """
    return _opened(file, key, decoding, lambda content: StoredImage(content, key, decoding))


def _opened(file: str | Path | BinaryIO, key: str, decoding: Decoding, opened: Callable[[bytes], S]) -> S:
    allow_pixels(decoding.max_pixels)
    content = b""
    try:
        if isinstance(file, str | Path):
            content = read_file(file, decoding.most_pixels, decoding.channels or 1)
        else:
            content = file.read()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # odd metadata is no news to the user; a bomb is an error below
            return opened(content)
    except BrokenImageError:
        raise
    except Exception as error:
        unknown = isinstance(error, UnidentifiedImageError)
        if unknown and decoding.channels is None and (mend := how_to_read(content)):
            raise BrokenImageError(key, mend) from None
        if isinstance(error, OSError) and isinstance(file, str | Path) and (gone := _gone(error, Path(file))):
            raise BrokenImageError(key, _reason(error), gone) from None
        raise _broken(error, key, content) from None


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

    def __init__(self, content: bytes, key: str, decoding: Decoding = _USUAL) -> None:
        self.content = content
        self.key = key
        self.decoding = decoding
        with open_picture(io.BytesIO(content)) as image:
            width, height = _stored_size(image)
            self._check_pixels(width, height)
            self._orientation = orientation_of(image)
            # torchvision decodes these in three quarters of Pillow's time, to the same values
            self._plain_jpeg = image.format == "JPEG" and image.mode in {"L", "RGB"}
            scans = _scans(image, lambda: content)
        if scans > _SCANS:
            raise BrokenImageError(key, f"a JPEG file of {scans:,} scans, which would take minutes to decode")
        self.size = (width, height) if self._orientation in _EXCHANGES_SIDES else (height, width)

    def read(self) -> Tensor:
        """The upright image, as `read_image` gives it.

        Raises:
            BrokenImageError: it cannot be decoded.
        """
        if self._plain_jpeg and self._orientation not in _UPRIGHT:
            pixels = _decode_jpeg(self.content)
            if pixels is not None:
                return pixels
        return self._decoded(1, lambda image: _upright_pixels(image, orientation_of(image), self.decoding.value_range))

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
        image = self._decoded(factor, lambda image: _to_rgb(turned_upright(image, orientation_of(image))))
        height, width = self.size
        # The last column and row are filled up; an axis that runs backwards begins with them.
        across = image.width - width / factor if self._orientation in _REVERSES_ACROSS else 0.0
        down = image.height - height / factor if self._orientation in _REVERSES_DOWN else 0.0
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
                raise _broken(error, self.key, self.content) from None

    def _check_pixels(self, width: int, height: int) -> None:
        most = self.decoding.max_pixels
        if most is not None and width * height > most:
            raise BrokenImageError(self.key, f"{width} × {height} pixels, more than data.max_pixels={most}")


def _scans(image: Image.Image, content: Callable[[], bytes]) -> int:
    """How many scans there are of an opened progressive JPEG file; 0 for other images, whose content is not read."""
    return content().count(b"\xff\xda") if "progressive" in image.info else 0


def _decode_jpeg(content: bytes) -> Tensor | None:
    """A JPEG file's pixels by torchvision; None where it cannot: Pillow knows more kinds and says what is wrong."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # newer versions announce that the decoder will move to another package
        try:
            from torchvision.io import ImageReadMode, decode_jpeg

            stored = torch.frombuffer(bytearray(content), dtype=torch.uint8)
            with _without_libjpegs_remarks():
                pixels: Tensor = decode_jpeg(stored, mode=ImageReadMode.RGB)
            return pixels
        except (ImportError, RuntimeError):
            return None


@contextmanager
def _without_libjpegs_remarks() -> Iterator[None]:
    """libjpeg writes remarks on damaged files to the terminal past Python, once each time that the file is read.

    Only a process of a loader can turn its error output off for a moment: in the main one other threads write to it.
    """
    if torch.utils.data.get_worker_info() is None:
        yield
        return
    terminal, nowhere = _error_outputs()
    os.dup2(nowhere, 2)
    try:
        yield
    finally:
        os.dup2(terminal, 2)


@cache
def _error_outputs() -> tuple[int, int]:
    """This process' error output and one that leads nowhere, as file descriptors."""
    return os.dup(2), os.open(os.devnull, os.O_WRONLY)


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


def _broken(error: Exception, key: str, content: bytes) -> BrokenImageError:
    if isinstance(error, UnidentifiedImageError):
        if is_program(content):
            return BrokenImageError(key, "PostScript, a program, which is not executed; save it as PNG")
        return BrokenImageError(key, _NO_IMAGE if content else "empty file")
    if isinstance(error, Image.DecompressionBombError):
        many = f"more than the {2 * (Image.MAX_IMAGE_PIXELS or 0):,} pixels that Pillow thinks safe"
        return BrokenImageError(key, f"{many} (decompression bomb); data.max_pixels allows more")
    return BrokenImageError(key, _reason(error))


def _gone(error: OSError, file: Path) -> str:
    """The folder for want of which a file could not be read: the highest that is not there, or whose server is gone.

    Empty where the file alone is at fault.
    """
    if error.errno in (errno.ESTALE, errno.ENOTCONN):
        return str(file.absolute().parent)
    if not isinstance(error, FileNotFoundError):
        return ""
    missing = [folder for folder in file.absolute().parents if not folder.exists()]
    return str(missing[-1]) if missing else ""


def read_bytes(file: str | Path | BinaryIO, key: str) -> bytes:
    """A file whole.

    Raises:
        BrokenImageError: it cannot be read.
    """
    try:
        return read_file(file) if isinstance(file, str | Path) else file.read()
    except OSError as error:
        gone = _gone(error, Path(file)) if isinstance(file, str | Path) else ""
        raise BrokenImageError(key, _reason(error), gone) from None


def image_size(file: str | Path | BinaryIO, decoding: Decoding = _USUAL) -> tuple[int, int]:
    """Height and width of the upright image, from the file's header alone.

    A rotation that a PNG notes only behind its pixels, which no common encoder does, is not seen.

    Args:
        file: its path, or an open binary file.
        decoding: how large images may be.

    Raises:
        BrokenImageError: the header cannot be read.
    """

    def upright(image: Image.Image) -> tuple[int, int]:
        width, height = _stored_size(image)
        return (width, height) if exchanges_sides(orientation_of(image)) else (height, width)

    return _of_header(file, decoding, upright)


def image_orientation(file: str | Path) -> int:
    """EXIF orientation of an image file, 1 (upright) to 8.

    Raises:
        BrokenImageError: the header cannot be read.
    """
    return _of_header(file, _USUAL, orientation_of)


def _of_header(file: str | Path | BinaryIO, decoding: Decoding, use: Callable[[Image.Image], T]) -> T:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            with open_file(file, decoding.most_pixels) as opened, open_picture(opened) as image:
                return use(image)
        except UnidentifiedImageError:
            raise BrokenImageError(str(file), _NO_IMAGE) from None
        except Exception as error:
            raise BrokenImageError(str(file), _reason(error)) from None


def turned_upright(image: Image.Image, orientation: int) -> Image.Image:
    """An image of that EXIF orientation as a person would see it."""
    turn = _UPRIGHT.get(orientation)
    return image if turn is None else image.transpose(turn)


def exchanges_sides(orientation: int) -> bool:
    """Whether turning an image of that EXIF orientation upright makes its width its height."""
    return orientation in _EXCHANGES_SIDES


def _stored_size(image: Image.Image) -> tuple[int, int]:
    """Width and height before rotation; of TIFF files, newer versions of Pillow give those after it as the size."""
    if isinstance(image, TiffImagePlugin.TiffImageFile):
        return int(image.tag_v2[TiffImagePlugin.IMAGEWIDTH]), int(image.tag_v2[TiffImagePlugin.IMAGELENGTH])
    return image.size


def orientation_of(image: Image.Image) -> int:
    """EXIF orientation, 1 (upright) where there is none or the metadata are damaged."""
    try:
        # the base class's method: that of PNG files decodes the pixels in search of more metadata
        found = int(Image.Image.getexif(image).get(_ORIENTATION, 1))
        return found if found in range(1, 9) else 1  # others mean nothing
    except Exception:  # pixels are worth having without their metadata
        return 1


def _reason(error: Exception) -> str:
    text = getattr(error, "strerror", None) or str(error) or type(error).__name__
    return textwrap.shorten(text, 120, placeholder="…")


def _upright_pixels(image: Image.Image, orientation: int, value_range: tuple[float, float] | None) -> Tensor:
    """A decoded image of that EXIF orientation as (3, H, W) uint8, made strip by strip of it."""
    width, height = image.size
    sides = (width, height) if exchanges_sides(orientation) else (height, width)
    upright = np.empty((*sides, 3), np.uint8)
    pixels = _as_stored(upright, orientation)
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
            pixels[top:bottom] = np.asarray(_to_rgb(part))
    return torch.from_numpy(upright).permute(2, 0, 1)


def _as_stored(upright: np.ndarray, orientation: int) -> np.ndarray:
    """A view of an upright image (H, W, 3) in which its rows and columns lie as in a file of that orientation."""
    down = slice(None, None, -1 if orientation in _REVERSES_DOWN else 1)
    across = slice(None, None, -1 if orientation in _REVERSES_ACROSS else 1)
    turned = upright[down, across]
    return turned.transpose(1, 0, 2) if exchanges_sides(orientation) else turned


def _to_rgb(image: Image.Image) -> Image.Image:
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


def stored_values(
    file: str | Path | BinaryIO, decoding: Decoding = _USUAL, *, deep: bool = False
) -> tuple[str, np.ndarray] | None:
    """Pillow's mode and the finite values of an image as they are stored; None for broken files.

    Of colours, RGB in 8 bits: of JPEG files at an eighth of the size, of others where they are no larger than a
    megapixel, else None.

    Args:
        file: its path, or an open binary file.
        decoding: how large images may be.
        deep: only grey images beyond 8 bits are asked for, None for all others.
    """
    allow_pixels(decoding.max_pixels)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            with open_file(file, decoding.most_pixels) as opened, open_picture(opened) as image:
                if deep and not is_deep(image):
                    return None
                if _scans(image, lambda: _whole(opened)) > _SCANS:
                    return None
                if image.mode == "L" or is_deep(image):
                    values = np.asarray(image)
                    return image.mode, values[np.isfinite(values)]
                image.draft("RGB", (image.width // 8, image.height // 8))
                return ("RGB", np.asarray(image.convert("RGB"))) if image.width * image.height <= _CHEAP else None
        except Exception:  # the lanes say what is wrong with it
            return None


def _whole(file: BinaryIO) -> bytes:
    file.seek(0)
    return file.read()


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
