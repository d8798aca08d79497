"""Images of any number of channels, whose values stay as they are stored: arrays, TIFF, DICOM, what Pillow opens."""

from __future__ import annotations

import io
import logging
import os
from collections.abc import Callable
from importlib.util import find_spec
from threading import Lock
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
from PIL import Image, ImageMode
from torch import Tensor

from glocal.data.decoding.orientation import exchanges_sides, orientation_of, stored_size, turned_upright
from glocal.data.decoding.reading import PIXELS, open_picture
from glocal.errors import BrokenImageError, GlocalError, counted

ChannelAxis = Literal["first", "last"]

ENDINGS = frozenset({".npy", ".dcm", ".dicom"})
"""Of files that hold values and that Pillow does not open."""

_NPY, _DICOM, _PNG = b"\x93NUMPY", b"DICM", b"\x89PNG\r\n\x1a\n"
_TIFF = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
_SAMPLES = 277  # TIFF's tag of samples per pixel
_DEFLATED = b"1.2.840.10008.1.2.1.99"  # DICOM that is compressed as a whole, and how large it becomes nothing says
_NUMBERS = "biuf"  # kinds of NumPy's types that are values
_PLAIN = {"1": "L", "P": "RGB", "PA": "RGB"}  # what images are that are no values by themselves

# NumPy parses headers as Python, whose 3.11 fails now and then where threads do so at once (gh-106905). Nobody forks
# while it is held, or it would stay so in the new process.
_PARSING = Lock()
if hasattr(os, "register_at_fork"):
    os.register_at_fork(before=_PARSING.acquire, after_in_parent=_PARSING.release, after_in_child=_PARSING.release)

for _name in ("tifffile", "pydicom"):  # without a handler, Python prints their remarks to the terminal, once per image
    logging.getLogger(_name).addHandler(logging.NullHandler())


class _Stored(NamedTuple):
    """What a file's header says.

    Attributes:
        shape: of the stored array.
        axes: a letter for each axis: Y and X, C for channels, ? for one that the format does not name.
        dtype: of the values.
        values: reads them.
    """

    shape: tuple[int, ...]
    axes: str
    dtype: np.dtype[Any]
    values: Callable[[], np.ndarray]


class StoredChannels:
    """An image whose header is known and whose values are still to be read.

    Args:
        content: the file.
        key: the name that errors give.
        channels: how many it must have.
        axis: where channels lie in arrays whose shape leaves it open.
        max_pixels: images with more are refused before anything is decoded.

    Attributes:
        size: height and width.

    Raises:
        BrokenImageError: another number of channels, too many pixels, or values that are no real numbers.
    """

    def __init__(
        self, content: bytes, key: str, channels: int, axis: ChannelAxis | None = None, max_pixels: int = PIXELS
    ) -> None:
        self.content = content
        self.key = key
        try:
            self._stored = _header(content)
            self._order = _arranged(self._stored.shape, self._stored.axes, channels, axis)
        except BrokenImageError:
            raise
        except GlocalError as error:
            raise BrokenImageError(key, str(error)) from None
        height, width = (self._stored.shape[place] for place in self._order[-2:])
        if not 0 < height * width <= max_pixels:
            many = f"{width} × {height} pixels, more than data.max_pixels={max_pixels}"
            raise BrokenImageError(key, many if height * width else "no pixels")
        self.size = (height, width)

    def read(self) -> Tensor:
        """The values in their own units, (C, H, W) float32.

        Raises:
            BrokenImageError: they cannot be decoded, or some are infinite or no numbers.
        """
        try:
            values = self._stored.values()
        except Exception as error:  # decoders fail in their own ways on damaged bytes
            raise BrokenImageError(self.key, " ".join(str(error).split())[:120] or type(error).__name__) from None
        return as_values(values[None] if len(self._order) == 2 else values.transpose(self._order), self.key)


def as_values(values: np.ndarray, key: str) -> Tensor:
    """An array as float32, in its own units.

    Raises:
        BrokenImageError: some values are infinite or no numbers, or too large for float32.
    """
    with np.errstate(over="ignore"):
        found = np.array(values, dtype=np.float32, order="C")  # a copy, for torch wants to be able to write
    bad = int(found.size - np.isfinite(found).sum())
    if bad:
        raise BrokenImageError(key, f"{bad:,} of its {found.size:,} values are infinite or no numbers")
    return torch.from_numpy(found)


def arrange(image: np.ndarray, channels: int, axis: ChannelAxis | None, key: str) -> Tensor:
    """An array (H, W), (H, W, C) or (C, H, W) in memory as (C, H, W) float32.

    Raises:
        BrokenImageError: another number of channels, or values that are no real finite numbers.
    """
    try:
        _check_type(image.dtype)
        order = _arranged(image.shape, "YX" if image.ndim == 2 else "?" * image.ndim, channels, axis)
    except GlocalError as error:
        raise BrokenImageError(key, str(error)) from None
    return as_values(image[None] if image.ndim == 2 else image.transpose(order), key)


def how_to_read(content: bytes) -> str:
    """Of a file that is no RGB image, what it holds and which setting reads it; "" where it is not known."""
    if not content.startswith((_NPY, *_TIFF)) and content[128:132] != _DICOM:
        return ""
    try:
        stored = _header(content)
    except Exception as error:  # damaged, or a package is missing that would say it
        return " ".join(str(error).split())[:120] if isinstance(error, GlocalError) else ""
    found = _likely_channels(stored)
    setting = "data.rgb=false" if found == 3 else f"data.channels={found}"
    return f"{counted(found, 'channel')} of {stored.dtype}, no RGB image; set {setting} to learn from its values"


def _likely_channels(stored: _Stored) -> int:
    if len(stored.shape) < 3:
        return 1
    if "?" in stored.axes:
        return min(stored.shape[0], stored.shape[-1])
    return stored.shape[stored.axes.index("C")] if "C" in stored.axes else 1


def _arranged(shape: tuple[int, ...], axes: str, channels: int, axis: ChannelAxis | None) -> tuple[int, ...]:
    """The order of axes that makes an array (C, H, W); of one with two axes, these two.

    Raises:
        GlocalError: it has another number of channels, or it is open which axis they lie along.
    """
    shown = " × ".join(map(str, shape))
    if len(shape) == 2:
        if channels != 1:
            raise GlocalError(f"1 channel ({shown}), not data.channels={channels}")
        return 0, 1
    if len(shape) != 3:
        raise GlocalError(f"an array of the shape ({shown}), not (H, W), (H, W, C) or (C, H, W)")
    if "C" in axes:
        place = axes.index("C")
    elif axis is not None:
        place = 0 if axis == "first" else 2
    else:
        fitting = [place for place in (0, 2) if shape[place] == channels]
        if len(fitting) == 2:
            raise GlocalError(
                f"an array of {shown}, whose channels may lie along its first or its last axis; set data.channel_axis"
            )
        place = fitting[0] if fitting else (0 if shape[0] < shape[2] else 2)
    if shape[place] != channels:
        raise GlocalError(f"{counted(shape[place], 'channel')} ({shown}), not data.channels={channels}")
    return (place, *(other for other in range(3) if other != place))


def _check_type(dtype: np.dtype[Any]) -> None:
    if dtype.hasobject:
        raise GlocalError("an array of Python objects, which is not read: it could execute anything")
    if dtype.kind not in _NUMBERS:
        raise GlocalError(f"values of type {dtype}, not real numbers")


def _header(content: bytes) -> _Stored:
    """What a file of any of the formats says of its array, without decoding it.

    Raises:
        GlocalError: its values are no real numbers, or a package is missing.
    """
    if content.startswith(_NPY):
        found = _of_array(content)
    elif content[128:132] == _DICOM:
        found = _of_dicom(content)
    else:
        found = _of_picture(content)
    _check_type(found.dtype)
    return found


def _of_array(content: bytes) -> _Stored:
    """NumPy's format; nothing in it is unpickled, and no memory is taken that the file does not fill."""
    file = io.BytesIO(content)
    version = np.lib.format.read_magic(file)
    read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
    with _PARSING:
        shape, backwards, dtype = read(file)
    _check_type(dtype)
    start = file.tell()

    def values() -> np.ndarray:
        count = int(np.prod(shape, dtype=object))
        if len(content) - start < count * dtype.itemsize:
            raise GlocalError(f"the file ends before its {count:,} values")
        flat = np.frombuffer(content, dtype, count, start)
        return flat.reshape(shape, order="F" if backwards else "C")

    return _Stored(shape, "YX" if len(shape) == 2 else "?" * len(shape), dtype, values)


def _of_picture(content: bytes) -> _Stored:
    """TIFF, PNG and what else Pillow opens; TIFF that is more than one grey picture goes to tifffile."""
    if content.startswith(_PNG) and len(content) > 25 and content[24] == 16 and content[25] not in (0, 3):
        raise GlocalError("a PNG of 16-bit colours, of which Pillow reads 8 bits; save it as TIFF or .npy")
    tiff = content.startswith(_TIFF)
    try:
        image = open_picture(io.BytesIO(content))
    except Exception:
        if tiff:
            return _of_tiff(content)
        raise
    if tiff and not _is_one_grey_picture(image):
        return _of_tiff(content)
    mode = _PLAIN.get(image.mode, image.mode)
    channels = len(ImageMode.getmode(mode).bands)
    width, height = stored_size(image)
    if exchanges_sides(orientation_of(image)):
        width, height = height, width
    shape = (height, width) if channels == 1 else (height, width, channels)

    def values() -> np.ndarray:
        image.load()  # which turns TIFF files upright in newer versions of Pillow
        upright = turned_upright(image, orientation_of(image))
        return np.asarray(upright if upright.mode == mode else upright.convert(mode))

    return _Stored(shape, "YXC"[: len(shape)], np.dtype(ImageMode.getmode(mode).typestr), values)


def _is_one_grey_picture(image: Image.Image) -> bool:
    """Whether a TIFF file is one; of several planes of grey, Pillow would take the first for the whole."""
    samples = getattr(image, "tag_v2", {}).get(_SAMPLES, 1)
    grey = image.mode in ("L", "I", "F") or image.mode.startswith("I;16")
    return grey and samples == 1 and _is_last(image)


def _is_last(image: Image.Image) -> bool:
    """Whether no other page follows; to count them, Pillow would walk through what may be millions."""
    try:
        image.seek(1)
    except EOFError:
        return True
    return False


def _of_tiff(content: bytes) -> _Stored:
    if find_spec("tifffile") is None:
        raise GlocalError("TIFF of several channels or pages needs tifffile: pip install 'glocal[channels]'")
    import tifffile

    with tifffile.TiffFile(io.BytesIO(content)) as file:
        series = file.series[0]
        shape, axes, dtype = tuple(series.shape), str(series.axes), np.dtype(series.dtype)

    def values() -> np.ndarray:
        with tifffile.TiffFile(io.BytesIO(content)) as file:
            return np.asarray(file.series[0].asarray()).reshape(kept)

    # Y and X are known by name; an axis that tifffile calls Q has none, and Y and X beside it are guesses.
    wanted = [place for place, letter in enumerate(axes) if letter in "YX" or shape[place] > 1]
    kept = tuple(shape[place] for place in wanted)
    named = "".join(axes[place] if axes[place] in "YX" else "C" for place in wanted)
    return _Stored(kept, "?" * len(kept) if "Q" in axes else named, dtype, values)


def _of_dicom(content: bytes) -> _Stored:
    """DICOM: values after the modality's rescaling (Hounsfield units of CT); more is brighter in all of them."""
    if find_spec("pydicom") is None:
        raise GlocalError("DICOM needs pydicom: pip install 'glocal[dicom]'")
    if _DEFLATED in content:
        raise GlocalError("DICOM of the deflated transfer syntax, which is not read; save it uncompressed")
    import pydicom

    header = pydicom.dcmread(io.BytesIO(content), stop_before_pixels=True)
    rows, columns = int(header.Rows), int(header.Columns)
    frames, samples = int(header.get("NumberOfFrames", 1) or 1), int(header.get("SamplesPerPixel", 1))
    if frames > 1 and samples > 1:
        raise GlocalError(f"{frames} frames of {samples} samples; one or the other are channels")
    shape, axes = (rows, columns), "YX"
    if frames > 1:
        shape, axes = (frames, rows, columns), "CYX"  # type: ignore[assignment]
    elif samples > 1:
        shape, axes = (rows, columns, samples), "YXC"  # type: ignore[assignment]

    def values() -> np.ndarray:
        from pydicom.pixels.processing import apply_modality_lut

        file = pydicom.dcmread(io.BytesIO(content))
        stored = file.pixel_array.reshape(shape)
        if file.get("PhotometricInterpretation") == "MONOCHROME1":  # more is darker there
            signed = int(file.get("PixelRepresentation", 0))
            stored = -1 - stored.astype(np.int64) if signed else 2 ** int(file.BitsStored) - 1 - stored.astype(np.int64)
        return np.asarray(apply_modality_lut(stored, file))

    return _Stored(shape, axes, np.dtype(np.float32), values)
