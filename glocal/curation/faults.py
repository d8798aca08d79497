"""Faults of single images, and of the classes of a set: rules, and the values from which they count."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence

import numpy as np

from glocal.curation.findings import BLANK, CheckedSet, Finding, about
from glocal.data.sources.base import Source
from glocal.data.sources.passed_over import is_output

DARK = 64.0
"""Brightness of the bright parts, of 255, below which an image is dark."""
BRIGHT = 192.0
"""Brightness of the dark parts above which it is overexposed."""
BLURRED = 0.3
"""Sharpness (`glocal.curation.measures.sharpness`) below which it is blurred."""
GREY = 8.0
"""Chroma up to which it is grey; JPEG's rounding gives grey images a little."""
LONG = 3.0
"""Longer over shorter side from which its shape is odd."""
FAR = 16.0
"""Its pixels over the median, or the median over its pixels, from which its size is."""
UNEQUAL = 10.0

_LEAST_FOR_BLUR = 32  # pixels of the shorter side
_LARGEST_SMALL_SIDE, _USUAL_SIDE = 96, 224  # as `data.size` is proposed


def faults_of(one: CheckedSet) -> Iterator[Finding]:
    """All that is found in one set of images by its measures, copies aside."""
    for look in (_unreadable, _sizes, _tones, _kinds, _classes):
        yield from look(one)


def _unreadable(one: CheckedSet) -> Iterator[Finding]:
    reasons = one.column("reason")
    yield from about(
        one,
        "unreadable",
        "bad",
        ~one.readable,
        "Mend or remove them. Training stops above 1 % of them (data.broken_limit); evaluation leaves them out.",
        lambda row: str(reasons[row]),
    )


def _sizes(one: CheckedSet) -> Iterator[Finding]:
    if not one.readable.any():
        return
    short, long = one.sides.min(axis=1), one.sides.max(axis=1)
    middle = float(np.nanmedian(short))
    size = middle if middle <= _LARGEST_SMALL_SIDE else _USUAL_SIDE
    pixels = one.sides.prod(axis=1)
    usual = float(np.nanmedian(pixels))
    small = short < size / 2

    def sides(row: int) -> str:
        return f"{one.sides[row, 0]:.0f} by {one.sides[row, 1]:.0f}"

    yield from about(
        one,
        "small",
        "odd",
        small,
        f"Shorter side below half of {size:.0f} pixels, the size that views have by default: their views are enlarged.",
        sides,
    )
    yield from about(
        one,
        "long",
        "odd",
        long >= LONG * short,
        f"One side at least {LONG:.0f} times the other: crops and an evaluation's square show a small part of them.",
        sides,
    )
    far = ~small & ((pixels > FAR * usual) | (pixels * FAR < usual))
    yield from about(
        one,
        "odd size",
        "note",
        far,
        f"{FAR:.0f} times more or fewer pixels than usual: another camera, or a picture of another kind?",
        sides,
    )


def _tones(one: CheckedSet) -> Iterator[Finding]:
    light, shade, chroma, sharp = (one.numbers(name) for name in ("light", "shade", "chroma", "sharpness"))
    seen = one.readable & ~one.blank
    yield from about(
        one,
        "blank",
        "odd",
        one.blank,
        f"All pixels within {BLANK:.0f} of 255 grey levels: nothing can be learned from them, and all are alike.",
        lambda row: f"brightness {light[row]:.0f}",
    )
    dark = seen & (light < DARK)
    yield from about(
        one,
        "dark",
        "odd",
        dark,
        f"99 of 100 pixels are darker than {DARK:.0f} of 255: lens cap, failed flash, or a range of values not used?",
        lambda row: f"brightness {light[row]:.0f}",
    )
    yield from about(
        one,
        "overexposed",
        "odd",
        seen & (shade > BRIGHT),
        f"99 of 100 pixels are brighter than {BRIGHT:.0f} of 255 in every channel.",
        lambda row: f"brightness {shade[row]:.0f}",
    )
    yield from about(
        one,
        "blurred",
        "odd",
        seen & (sharp < BLURRED) & (one.sides.min(axis=1) >= _LEAST_FOR_BLUR),
        f"No edge is sharp at 256 pixels (below {BLURRED}; photographs have 0.9): out of focus, shaken or enlarged.",
        lambda row: f"sharpness {sharp[row]:.2f}",
    )
    grey = seen & (chroma <= GREY)
    count, others = int(grey.sum()), int(seen.sum() - grey.sum())
    if 0 < count <= others:
        yield from about(
            one,
            "grey",
            "note",
            grey,
            "Grey among colour: a training can tell them by that alone; views that are grey at random make up for it.",
            lambda row: f"chroma {chroma[row]:.0f}",
        )
    elif 0 < others < count:
        yield from about(
            one,
            "colour",
            "note",
            seen & ~grey,
            "Colour among grey: a training can tell them by that alone; views that are grey at random make up for it.",
            lambda row: f"chroma {chroma[row]:.0f}",
        )


def _kinds(one: CheckedSet) -> Iterator[Finding]:
    orientation, mode = one.column("orientation"), one.column("mode")
    yield from about(
        one,
        "turned",
        "note",
        orientation > 1,
        "EXIF says that they lie on a side or mirrored. glocal turns them upright; programs that do not will differ.",
        lambda row: f"orientation {orientation[row]}",
    )
    deep = np.isin(mode, ("I", "F")) | np.char.startswith(mode.astype(str), "I;16")
    yield from about(
        one,
        "deep",
        "note",
        deep,
        "Grey beyond 8 bits: glocal measures one range for all and scales it to 8 bits (data.range).",
        lambda row: f"mode {mode[row]}",
    )
    yield from about(
        one,
        "CMYK",
        "note",
        mode == "CMYK",
        "Colours for print, converted without a profile: they may look odd; save them as RGB.",
        lambda row: f"mode {mode[row]}",
    )
    yield from about(
        one,
        "transparent",
        "note",
        one.column("transparent").astype(bool),
        "Transparent pixels become white.",
        lambda row: f"mode {mode[row]}",
    )
    yield from about(
        one,
        "animated",
        "note",
        one.column("animated").astype(bool),
        "Only the first frame is used.",
        lambda _: "animated",
    )


def _classes(one: CheckedSet) -> Iterator[Finding]:
    labels, classes = one.source.labels, one.source.classes
    if labels is None or classes is None:
        return
    counts = np.bincount(labels[labels >= 0].numpy(), minlength=len(classes))
    low, high = int(counts.argmin()), int(counts.argmax())
    if counts[high] >= UNEQUAL * counts[low]:
        yield Finding(
            "unequal classes",
            "note",
            f"{counts[low]:,} to {counts[high]:,} images",
            "A labelled training and accuracy over all images favour the large ones.",
            examples=[f"{classes[place]}: {counts[place]:,}" for place in (low, high)],
        )
    empty = _empty_folders(one.source, classes)
    if empty:
        yield Finding(
            "empty folders",
            "odd",
            f"{len(empty):,}",
            "Folders beside those of the classes without an image: a class that is missing?",
            examples=empty,
        )


def _empty_folders(source: Source, classes: Sequence[str]) -> list[str]:
    folder = getattr(source, "folder", None)
    if folder is None or not hasattr(source, "passed_over"):
        return []
    with os.scandir(folder) as entries:
        others = [entry for entry in entries if entry.is_dir() and not entry.name.startswith(".")]
    return sorted(one.name for one in others if one.name not in classes and not is_output(os.listdir(one.path)))


def labels_of_test(sets: Sequence[CheckedSet]) -> Iterator[Finding]:
    if len(sets) < 2 or not sets[0].source.classes or not sets[1].source.classes:
        return
    unknown = sorted(set(sets[1].source.classes) - set(sets[0].source.classes))
    if unknown:
        yield Finding(
            "unknown classes",
            "bad",
            f"{len(unknown):,}",
            "Classes of the test images that the others lack: nothing can be right about them.",
            examples=unknown,
        )
