"""One range of grey values for a set of images beyond 8 bits, so that the same value is as bright in all of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from glocal.console import note
from glocal.data.decoding.rules import Decoding
from glocal.data.settings import DataSettings
from glocal.data.sources.base import MemorySource, Source, Subset
from glocal.data.sources.opening import Images, open_source
from glocal.data.statistics import settle_statistics
from glocal.errors import GlocalError
from glocal.settings import validated

_PROBES = 64
_BITS = (8, 10, 12, 14, 16)  # what cameras and scanners give
_OVERSHOOT = 0.05  # by which resampling takes images in [0, 1] beyond
_FEW = 1 / 8  # of the range
_OF_FILES = ("channels", "rgb", "channel_axis", "range", "max_pixels")  # settings that decide how files are read


class StoredValues(NamedTuple):
    """What a sample of a set's images holds.

    Attributes:
        low, high: smallest and largest value.
        deep: they are grey with more than 8 bits.
        real: some are floating point.
    """

    low: float
    high: float
    deep: bool
    real: bool


def decode_as(source: Source, decoding: Decoding) -> None:
    """Lets a source of image files, those that it joins, or the one of which it is a part, decode its images so."""
    while isinstance(source, Subset):
        source = source.source
    for part in getattr(source, "parts", ()):
        decode_as(part, decoding)
    if hasattr(source, "decoding"):
        source.decoding = decoding
    elif decoding.channels is not None or isinstance(source, MemorySource):
        _check_in_memory(source, decoding.channels)


def open_by(images: Images, section: Any, overrides: Mapping[str, Any], *, without: str | Path | None = None) -> Source:
    """Opens a source, decoded as an unchecked recipe says (`unchecked`).

    Args:
        images, without: as for `open_source`.
        section: the recipe's `data`.
        overrides: settings by dotted path.
    """
    data = unchecked(section, overrides)
    decoding = Decoding() if data is None else data.decoding
    source = open_source(images, without=without, values=decoding.channels is not None)
    decode_as(source, decoding)
    return source


def unchecked(section: Any, overrides: Mapping[str, Any]) -> DataSettings | None:
    """What an unchecked recipe says of how images are read, which is needed before the first header is.

    Args:
        section: the recipe's `data`.
        overrides: settings by dotted path.

    Returns:
        None where it is wrong in what does not concern channels, of which the recipe's check tells.

    Raises:
        GlocalError: a setting of channels is wrong.
    """
    given = dict(section) if isinstance(section, Mapping) else {}
    whole = overrides.get("data")
    given |= dict(whole) if isinstance(whole, Mapping) else {}
    given |= {path.removeprefix("data."): value for path, value in overrides.items() if path.startswith("data.")}
    try:
        return validated(DataSettings, {key: given[key] for key in _OF_FILES if key in given}, "data")
    except GlocalError as error:
        if given.keys() & {"channels", "rgb", "channel_axis"}:
            raise GlocalError(str(error).replace("data: ", "data.", 1)) from None
        return None


def _check_in_memory(source: Source, channels: int | None) -> None:
    """That images in memory, or of a data set that is RGB, have the channels that are asked for."""
    found = int(source.images().shape[1]) if hasattr(source, "images") else 3
    if found != (channels or 3):
        raise GlocalError(f"{source.name}: its images have {found} channels; set data.channels={found}")
    if not hasattr(source, "images"):
        raise GlocalError(f"{source.name}: its images are RGB, not data.channels={channels} (data.rgb=false)")


def settle_decoding(data: DataSettings, source: Source, *, progress: bool = True) -> DataSettings:
    """Lets a source be decoded as the settings say; `data.range` is measured where it is needed and not given.

    Args:
        data: settled but for `data.range`.
        source: the images.
        progress: say what was measured, and whether the images use little of it.

    Returns:
        The settings with the range; without one where no image of the sample has more than 8 bits. Of images whose
        values stay as they are stored, with mean and deviation of their channels instead.
    """
    decode_as(source, data.decoding)
    if data.stored_channels is not None:
        return settle_statistics(data, source, progress=progress)
    found = sample_values(source)
    if found is None:
        return data
    chosen = data.range or (suitable_range(found) if found.deep else None)
    if progress and data.range is None and chosen is not None:
        note(f"data.range is [{chosen[0]:g}, {chosen[1]:g}], which become black and white: measured on a sample")
    low, high = chosen or (0.0, 255.0)
    share = (min(found.high, high) - max(found.low, low)) / (high - low)
    if progress and share < _FEW:
        of = "data.range" if found.deep else "8 bits"
        note(
            f"the values of {source.name} lie in [{found.low:g}, {found.high:g}], {max(share, 0):.0%} of {of} "
            f"[{low:g}, {high:g}]: the network sees few levels"
        )
    decode_as(source, Decoding(chosen, data.max_pixels))
    return data.model_copy(update={"range": chosen})


def decode_alike(sources: Sequence[Source], decoding: Decoding | None) -> None:
    """Lets sources that are compared with one another be decoded with one range.

    Args:
        sources: the images.
        decoding: how the images of a backbone's training were decoded. Where it has no range, or is not known, the
            range is what a sample suggests of the first source that has values beyond 8 bits.
    """
    if decoding is None or (decoding.value_range is None and decoding.channels is None):
        most = None if decoding is None else decoding.max_pixels
        found = next((values for source in sources if (values := sample_values(source, deep=True)) is not None), None)
        decoding = Decoding(None if found is None else suitable_range(found), most)
    for source in sources:
        decode_as(source, decoding)


def channels_of(source: Source) -> int | None:
    """How many channels a source's images have whose values stay as they are stored; None: they are RGB."""
    while isinstance(source, Subset):
        source = source.source
    decoding: Decoding | None = getattr(source, "decoding", None)
    if decoding is None and isinstance(source, MemorySource) and source.images().is_floating_point():
        return int(source.images().shape[1])
    return None if decoding is None else decoding.channels


def range_of(source: Source) -> tuple[float, float] | None:
    """The range of grey values by which a source is decoded; None where it has none."""
    while isinstance(source, Subset):
        source = source.source
    decoding: Decoding | None = getattr(source, "decoding", None)
    return None if decoding is None else decoding.value_range


def sample_values(source: Source, *, deep: bool = False) -> StoredValues | None:
    """The extremes of up to 64 images spread evenly over a source; None where there are none, or none is a file.

    Where some are grey with more than 8 bits, only these count.

    Args:
        source: the images.
        deep: look at these alone.
    """
    places = np.linspace(0, len(source) - 1, min(_PROBES, len(source))).astype(int)
    while isinstance(source, Subset):
        places, source = source.indices.numpy()[places], source.source
    if not hasattr(source, "stored_values"):
        return None
    found = []  # mode and extremes of each: the values of all would take much memory
    for place in places:
        stored = source.stored_values(int(place), deep=deep)
        if stored is not None and stored[1].size:
            found.append((stored[0], float(stored[1].min()), float(stored[1].max())))
    beyond = [one for one in found if one[0] not in {"L", "RGB"}]
    counted = beyond or found
    if not counted:
        return None
    low, high = min(low for _, low, _ in counted), max(high for _, _, high in counted)
    return StoredValues(low, high, bool(beyond), any(mode == "F" for mode, _, _ in counted))


def suitable_range(found: StoredValues) -> tuple[float, float]:
    """The range that a sample suggests: a whole number of bits, [0, 1] or [0, 255] where it fits, else its extremes.

    >>> suitable_range(StoredValues(3, 4000, deep=True, real=False))
    (0.0, 4095.0)
    >>> suitable_range(StoredValues(0.0, 1.001, deep=True, real=True))
    (0.0, 1.0)
    """
    low, high = found.low, found.high
    if found.real and low >= -_OVERSHOOT and high <= 1 + _OVERSHOOT:
        return 0.0, 1.0
    if found.real and low >= 0 and 64 < high <= 255:
        return 0.0, 255.0
    if not found.real and low >= 0:
        tops = [2.0**bits - 1 for bits in _BITS if high <= 2**bits - 1]
        if tops:
            return 0.0, tops[0]
    return (low, high) if high > low else (low, low + 1)
