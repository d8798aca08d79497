"""One range of grey values for a set of images beyond 8 bits, so that the same value is as bright in all of them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from glocal.console import note
from glocal.data.settings import DataSettings
from glocal.data.sources.base import Source, Subset
from glocal.data.sources.decoding import Decoding

_PROBES = 64
_BITS = (8, 10, 12, 14, 16)  # what cameras and scanners give
_OVERSHOOT = 0.05  # by which resampling takes images in [0, 1] beyond
_FEW = 1 / 8  # of the range


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


def settle_decoding(data: DataSettings, source: Source, *, progress: bool = True) -> DataSettings:
    """Lets a source be decoded as the settings say; `data.range` is measured where it is needed and not given.

    Args:
        data: settled but for `data.range`.
        source: the images.
        progress: say what was measured, and whether the images use little of it.

    Returns:
        The settings with the range; without one where no image of the sample has more than 8 bits.
    """
    decode_as(source, Decoding(data.range, data.max_pixels))
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
    if decoding is None or decoding.value_range is None:
        most = None if decoding is None else decoding.max_pixels
        found = next((values for source in sources if (values := sample_values(source, deep=True)) is not None), None)
        decoding = Decoding(None if found is None else suitable_range(found), most)
    for source in sources:
        decode_as(source, decoding)


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
    found = [values for place in places if (values := source.stored_values(int(place), deep=deep)) is not None]
    found = [(mode, values) for mode, values in found if values.size]
    beyond = [(mode, values) for mode, values in found if mode not in {"L", "RGB"}]
    counted = beyond or found
    if not counted:
        return None
    low, high = min(float(values.min()) for _, values in counted), max(float(values.max()) for _, values in counted)
    return StoredValues(low, high, bool(beyond), any(mode == "F" for mode, _ in counted))


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
