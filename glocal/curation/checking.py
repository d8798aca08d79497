"""What is wrong with a set of images, found before a training finds it or, worse, does not."""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from rich.table import Table
from rich.text import Text

from glocal.curation.bits import TooManyPairsError, near_hashes
from glocal.curation.grouping import groups_of_pairs
from glocal.curation.measuring import GRID, measure_all
from glocal.data.ranges import range_of, settle_decoding
from glocal.data.settings import DataSettings
from glocal.data.sources.base import Source
from glocal.data.sources.decoding import Decoding
from glocal.data.sources.opening import Images, open_source
from glocal.data.sources.passed_over import is_output
from glocal.embeddings.pictures import picture_of_file
from glocal.errors import GlocalError, counted
from glocal.evaluation.features.cache import default_cache
from glocal.files import printable, write_csv
from glocal.report.sheets import Section, Tile, write_sheet

BLANK = 10.0
"""Range of every channel, of 255, below which an image is blank."""
DARK = 64.0
"""Brightness of the bright parts, of 255, below which an image is dark."""
BRIGHT = 192.0
"""Brightness of the dark parts above which it is overexposed."""
BLURRED = 0.3
"""Sharpness (`glocal.curation.measures.sharpness`) below which it is blurred."""
GREY = 8.0
"""Chroma up to which it is grey; JPEG's rounding gives grey images a little."""
BITS = 6
"""Bits of 64 in which the perceptual hashes of near copies differ at most."""
ALIKE = 0.9
"""Correlation, at least, of their grey values at 16 × 16 pixels. Of CIFAR-10's test images and those to learn from, a
sample of pairs down to here was looked at, and all are copies."""
LONG = 3.0
"""Longer over shorter side from which its shape is odd."""
FAR = 16.0
"""Its pixels over the median, or the median over its pixels, from which its size is."""
UNEQUAL = 10.0
"""Images of the largest class over those of the smallest from which classes are unequal."""

_LEAST_FOR_BLUR = 32  # pixels of the shorter side
_PAIRS_EACH = 50  # near pairs of hashes for each image above which they say nothing
_AT_ONCE = 1 << 16  # pairs
_EXAMPLES, _SHOWN = 2, 24
_LARGEST_SMALL_SIDE, _USUAL_SIDE = 96, 224  # as `data.size` is proposed

Severity = Literal["bad", "odd", "note"]
Part = Literal["data", "test"]


class Flagged(NamedTuple):
    """An image that something was found about.

    Attributes:
        part: of `data` or of `test`.
        key: its name there.
        path: of its file; None where it has none.
        detail: what was found, in a few words.
        group: images of one number belong together; None where they stand alone.
        twin: path of the image in the other set that it is a copy of; None where there is none.
    """

    part: Part
    key: str
    path: str | None
    detail: str
    group: int | None = None
    twin: str | None = None


@dataclass(frozen=True)
class Finding:
    """Something that was found.

    Attributes:
        name: one word or two, the same in every report.
        severity: `bad` makes results wrong, `odd` is worth a look, `note` is to be known.
        amount: how many, in words.
        advice: what to do, or what glocal does.
        images: which, all of them; none where it is not about images.
        examples: a few, in words.
    """

    name: str
    severity: Severity
    amount: str
    advice: str
    images: Sequence[Flagged] = ()
    examples: Sequence[str] = ()


@dataclass(frozen=True)
class Report:
    """What `check` found.

    Attributes:
        summary: of each set of images, a line.
        findings: the worst first.
        notes: what could not be looked at, and why.
        decoding: how the images of each part are decoded.
    """

    summary: Sequence[str]
    findings: Sequence[Finding]
    notes: Sequence[str] = field(default_factory=tuple)
    decoding: Mapping[Part, Decoding] = field(default_factory=dict)

    @property
    def clean(self) -> bool:
        """Nothing was found that is more than a note."""
        return all(finding.severity == "note" for finding in self.findings)

    def __getitem__(self, name: str) -> Finding:
        """The finding of that name; raises KeyError where there is none."""
        for finding in self.findings:
            if finding.name == name:
                return finding
        raise KeyError(name)

    def __contains__(self, name: str) -> bool:
        return any(finding.name == name for finding in self.findings)


class _Set:
    """A set of images and its measures, by column."""

    def __init__(self, part: Part, source: Source, measures: pa.Table) -> None:
        self.part = part
        self.source = source
        self.measures = measures
        self.keys = source.keys
        self.paths: Sequence[str | None] = source.files() if hasattr(source, "files") else [None] * len(source)
        self.readable = ~self.has("reason")

    def __len__(self) -> int:
        return len(self.keys)

    def has(self, name: str) -> np.ndarray:
        """Whether a measure is known, (N,) bool."""
        return np.asarray(pc.is_valid(self.measures.column(name)))

    def column(self, name: str) -> np.ndarray:
        """A measure of all images, 0 where there is none."""
        column = self.measures.column(name)
        empty: Any = "" if pa.types.is_string(column.type) else pa.scalar(0).cast(column.type)
        return np.asarray(pc.fill_null(column, empty))

    def numbers(self, name: str) -> np.ndarray:
        """A measure as float64, NaN where there is none."""
        return np.asarray(self.measures.column(name).cast(pa.float64()).fill_null(np.nan), np.float64)

    @cached_property
    def sides(self) -> np.ndarray:
        """Width and height, (N, 2) float64, NaN of unreadable images."""
        return np.stack([self.numbers("width"), self.numbers("height")], axis=1)

    @cached_property
    def blank(self) -> np.ndarray:
        """Which images are of one tone, (N,) bool."""
        return self.numbers("range") < BLANK

    def flagged(
        self, rows: np.ndarray, detail: Callable[[int], str], groups: np.ndarray | None = None
    ) -> list[Flagged]:
        return [
            Flagged(
                self.part, self.keys[row], self.paths[row], detail(row), None if groups is None else int(groups[place])
            )
            for place, row in enumerate(rows.tolist())
        ]


def check(
    data: Images,
    test: Images | None = None,
    *,
    near: bool = True,
    cache: bool | Path = True,
    workers: int | None = None,
    progress: bool = True,
) -> Report:
    """Looks for what is wrong with a set of images before a training.

    Unreadable files, exact and near copies, odd sizes, blank, dark, overexposed and blurred images, grey ones among
    colour, EXIF rotations, unusual kinds of pixels, unequal and empty classes; with `test`, test images that are also
    among those to learn from. Every file is read and decoded once, and again only when it has changed.

    Args:
        data: images to learn from: a source or its name, or several.
        test: images to measure on.
        near: look for near copies by perceptual hashes, which needs `imagehash`; without it, exact copies alone.
        cache: keep what is measured: in $GLOCAL_CACHE or ~/.cache/glocal/features, or in the folder given.
        workers: processes that read and decode; None chooses.
        progress: show how far it is.

    Raises:
        GlocalError: no such images.
        Stopped: after a signal that means stop; the same call goes on.
    """
    notes = []
    if near and importlib.util.find_spec("imagehash") is None:
        near = False
        notes.append("near copies were not looked for, which needs imagehash: pip install 'glocal[duplicates]'")
    parts: list[tuple[Part, Images]] = [("data", data)]
    if test is not None:
        parts.append(("test", test))
    sources = [(part, open_source(images)) for part, images in parts]
    folder = None if cache is False else default_cache() / "checks" if cache is True else Path(cache)
    sets = []
    for part, source in sources:
        settle_decoding(DataSettings(), source, progress=False)
        measures = measure_all(source, hashed=near, cache=folder, workers=workers, progress=progress)
        sets.append(_Set(part, source, measures))
    if not any(bool(one.readable.any()) for one in sets):
        raise GlocalError(f"{sets[0].source.name}: none of its {len(sets[0])} images can be read")
    findings: list[Finding] = []
    for one in sets:
        findings += [*_unreadable(one), *_sizes(one), *_tones(one), *_kinds(one), *_classes(one)]
    findings = [*_copies(sets, near, notes), *_labels_of_test(sets), *_merged(findings)]
    order = {"bad": 0, "odd": 1, "note": 2}
    findings.sort(key=lambda finding: order[finding.severity])
    decoding = {one.part: Decoding(range_of(one.source)) for one in sets}
    return Report([_summary(one) for one in sets], findings, notes, decoding)


def _summary(one: _Set) -> str:
    classes = f", {len(one.source.classes):,} classes" if one.source.classes else ""
    if not one.readable.any():
        return f"{one.source.name}: {counted(len(one), 'image')}{classes}"
    width, height = np.nanmedian(one.sides, axis=0)
    return f"{one.source.name}: {len(one):,} images{classes}, median {width:.0f} × {height:.0f} pixels"


def _merged(findings: Sequence[Finding]) -> Iterator[Finding]:
    """Findings of the same name in both sets as one."""
    by_name: dict[str, list[Finding]] = {}
    for finding in findings:
        by_name.setdefault(finding.name, []).append(finding)
    for name, same in by_name.items():
        amount = "; ".join(dict.fromkeys(one.amount for one in same))
        images = [image for one in same for image in one.images]
        examples = [example for one in same for example in one.examples]
        if len(same) > 1 and images:
            amount = f"{len(images):,}"
        yield Finding(name, same[0].severity, amount, same[0].advice, images, examples)


def _about(
    one: _Set, name: str, severity: Severity, which: np.ndarray, advice: str, detail: Callable[[int], str]
) -> Iterator[Finding]:
    """A finding about the images for which `which` is true, if there are any."""
    rows = np.flatnonzero(which)
    if len(rows):
        yield Finding(name, severity, f"{len(rows):,}", advice, one.flagged(rows, detail))


def _unreadable(one: _Set) -> Iterator[Finding]:
    reasons = one.column("reason")
    yield from _about(
        one,
        "unreadable",
        "bad",
        ~one.readable,
        "Mend or remove them. Training stops above 1 % of them (data.broken_limit); evaluation leaves them out.",
        lambda row: str(reasons[row]),
    )


def _sizes(one: _Set) -> Iterator[Finding]:
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

    yield from _about(
        one,
        "small",
        "odd",
        small,
        f"Shorter side below half of {size:.0f} pixels, the size that views have by default: their views are enlarged.",
        sides,
    )
    yield from _about(
        one,
        "long",
        "odd",
        long >= LONG * short,
        f"One side at least {LONG:.0f} times the other: crops and an evaluation's square show a small part of them.",
        sides,
    )
    far = ~small & ((pixels > FAR * usual) | (pixels * FAR < usual))
    yield from _about(
        one,
        "odd size",
        "note",
        far,
        f"{FAR:.0f} times more or fewer pixels than usual: another camera, or a picture of another kind?",
        sides,
    )


def _tones(one: _Set) -> Iterator[Finding]:
    light, shade, chroma, sharp = (one.numbers(name) for name in ("light", "shade", "chroma", "sharpness"))
    seen = one.readable & ~one.blank
    yield from _about(
        one,
        "blank",
        "odd",
        one.blank,
        f"All pixels within {BLANK:.0f} of 255 grey levels: nothing can be learned from them, and all are alike.",
        lambda row: f"brightness {light[row]:.0f}",
    )
    dark = seen & (light < DARK)
    yield from _about(
        one,
        "dark",
        "odd",
        dark,
        f"99 of 100 pixels are darker than {DARK:.0f} of 255: lens cap, failed flash, or a range of values not used?",
        lambda row: f"brightness {light[row]:.0f}",
    )
    yield from _about(
        one,
        "overexposed",
        "odd",
        seen & (shade > BRIGHT),
        f"99 of 100 pixels are brighter than {BRIGHT:.0f} of 255 in every channel.",
        lambda row: f"brightness {shade[row]:.0f}",
    )
    yield from _about(
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
        yield from _about(
            one,
            "grey",
            "note",
            grey,
            "Grey among colour: a training can tell them by that alone; views that are grey at random make up for it.",
            lambda row: f"chroma {chroma[row]:.0f}",
        )
    elif 0 < others < count:
        yield from _about(
            one,
            "colour",
            "note",
            seen & ~grey,
            "Colour among grey: a training can tell them by that alone; views that are grey at random make up for it.",
            lambda row: f"chroma {chroma[row]:.0f}",
        )


def _kinds(one: _Set) -> Iterator[Finding]:
    orientation, mode = one.column("orientation"), one.column("mode")
    yield from _about(
        one,
        "turned",
        "note",
        orientation > 1,
        "EXIF says that they lie on a side or mirrored. glocal turns them upright; programs that do not will differ.",
        lambda row: f"orientation {orientation[row]}",
    )
    deep = np.isin(mode, ("I", "F")) | np.char.startswith(mode.astype(str), "I;16")
    yield from _about(
        one,
        "deep",
        "note",
        deep,
        "Grey beyond 8 bits: glocal measures one range for all and scales it to 8 bits (data.range).",
        lambda row: f"mode {mode[row]}",
    )
    yield from _about(
        one,
        "CMYK",
        "note",
        mode == "CMYK",
        "Colours for print, converted without a profile: they may look odd; save them as RGB.",
        lambda row: f"mode {mode[row]}",
    )
    yield from _about(
        one,
        "transparent",
        "note",
        one.column("transparent").astype(bool),
        "Transparent pixels become white.",
        lambda row: f"mode {mode[row]}",
    )
    yield from _about(
        one,
        "animated",
        "note",
        one.column("animated").astype(bool),
        "Only the first frame is used.",
        lambda _: "animated",
    )


def _classes(one: _Set) -> Iterator[Finding]:
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


def _labels_of_test(sets: Sequence[_Set]) -> Iterator[Finding]:
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


def _copies(sets: Sequence[_Set], near: bool, notes: list[str]) -> Iterator[Finding]:
    """Copies within each set, copies with different labels, and test images that are in the other set."""
    ends = np.cumsum([0, *(len(one) for one in sets)])
    digest = np.concatenate([np.asarray(one.measures.column("digest").to_pylist(), dtype=object) for one in sets])
    readable = np.concatenate([one.readable for one in sets])
    code = np.full(len(digest), -1)
    code[readable] = np.unique(digest[readable].astype("S32"), return_inverse=True)[1].reshape(-1)
    where = np.concatenate([np.full(len(one), number) for number, one in enumerate(sets)])
    exact, alike = [], []
    for number, one in enumerate(sets):
        group = _numbered(code[ends[number] : ends[number + 1]])
        exact += _grouped(one, group, lambda _: "the same bytes")
        yield from _of_two_labels(one, group)
    if exact:
        advice = "Keep one of each: the others weigh twice in a training and are one another's nearest neighbours."
        yield Finding("copies", "odd", _amount(exact), advice, exact)
    pairs = _near_pairs(sets, code, notes) if near else None
    if pairs is not None:
        first, second, _ = pairs
        for number, one in enumerate(sets):
            inside = (where[first] == number) & (where[second] == number)
            begin = ends[number]
            group = groups_of_pairs(first[inside] - begin, second[inside] - begin, len(one))
            alike += _grouped(one, group, lambda _: "nearly the same")
        if alike:
            advice = (
                "Resized, compressed again, mirrored, or neighbouring frames: look at them (--out FILE.html), keep one."
            )
            yield Finding("near copies", "odd", _amount(alike), advice, alike)
    if len(sets) == 2:
        yield from _leaks(sets, code, pairs)


def _grouped(one: _Set, group: np.ndarray, detail: Callable[[int], str]) -> list[Flagged]:
    """The images of groups, group by group; −1 stands for none."""
    rows = np.flatnonzero(group >= 0)
    rows = rows[np.argsort(group[rows], kind="stable")]
    return one.flagged(rows, detail, group[rows])


def _amount(images: Sequence[Flagged]) -> str:
    groups = len({(image.part, image.group) for image in images})
    return f"{len(images):,} in {groups:,} {'group' if groups == 1 else 'groups'}"


def _numbered(code: np.ndarray) -> np.ndarray:
    """For each row the number of its group of equal codes, in the order of their first rows; −1 for rows that stand
    alone and for the code −1."""
    codes, first, place, counts = np.unique(code, return_index=True, return_inverse=True, return_counts=True)
    several = np.flatnonzero((counts > 1) & (codes >= 0))
    number = np.full(len(codes), -1)
    number[several[np.argsort(first[several])]] = np.arange(len(several))
    return number[place.reshape(-1)]


def _of_two_labels(one: _Set, group: np.ndarray) -> Iterator[Finding]:
    if one.source.labels is None or one.source.classes is None:
        return
    label, classes = one.source.labels.numpy(), one.source.classes
    rows = np.flatnonzero((group >= 0) & (label >= 0))
    if not len(rows):
        return
    count = int(group.max()) + 1
    low, high = np.full(count, np.iinfo(np.int64).max), np.full(count, -1)
    np.minimum.at(low, group[rows], label[rows])
    np.maximum.at(high, group[rows], label[rows])
    torn = np.where((group >= 0) & (low[group] < high[group]), group, -1)
    images = _grouped(one, torn, lambda row: classes[label[row]])
    if images:
        advice = "The same file in two classes: one of the labels is wrong."
        yield Finding("copies of two classes", "bad", _amount(images), advice, images)


def _near_pairs(
    sets: Sequence[_Set], code: np.ndarray, notes: list[str]
) -> tuple[np.ndarray, np.ndarray, np.ndarray] | None:
    """Pairs of rows of all sets that show nearly the same, mirrored or not, and how far their hashes are, in bits.

    Perceptual hashes propose them, and the images at 16 × 16 pixels have to agree: in a large set hashes are as near
    by chance. Of files with the same bytes within a set, the first stands for all. Blank images take no part.
    """
    usable = np.concatenate([one.readable & ~one.blank & one.has("hash") for one in sets])
    number = np.concatenate([np.full(len(one), place) for place, one in enumerate(sets)])
    rows = np.flatnonzero(usable)
    _, kept = np.unique(np.stack([code[rows], number[rows]]), axis=1, return_index=True)
    rows = rows[np.sort(kept)]
    straight, mirrored = (
        np.concatenate([one.column(name).astype(np.uint64) for one in sets])[rows] for name in ("hash", "mirrored")
    )
    grid = pa.chunked_array([part for one in sets for part in one.measures.column("grid").chunks]).take(pa.array(rows))
    pixels = np.frombuffer(b"".join(grid.to_pylist()), np.uint8).reshape(len(rows), GRID, GRID)
    try:
        limit = _PAIRS_EACH * len(rows)
        same = near_hashes(straight, straight, BITS, limit=limit, ordered=True)
        turned = near_hashes(straight, mirrored, BITS, limit=limit)
    except TooManyPairsError as error:
        notes.append(f"near copies are not told: {error}; `glocal duplicates` tells them by embeddings")
        return None
    lower = turned.first < turned.second
    first = np.concatenate([same.first, turned.first[lower]])
    second = np.concatenate([same.second, turned.second[lower]])
    distance = np.concatenate([same.distance, turned.distance[lower]])
    mirror = np.arange(len(first)) >= len(same.first)
    alike = _correlation(pixels, first, second, mirror) >= ALIKE
    alike &= code[rows[first]] != code[rows[second]]
    first, second, distance = rows[first[alike]], rows[second[alike]], distance[alike]
    order = np.lexsort((distance, second, first))
    pairs, kept = np.unique(np.stack([first, second])[:, order], axis=1, return_index=True)
    return pairs[0], pairs[1], distance[order][kept]


def _correlation(pixels: np.ndarray, first: np.ndarray, second: np.ndarray, mirror: np.ndarray) -> np.ndarray:
    """Of the grey values of pairs of small images (N, S, S) uint8, the second one mirrored where `mirror` says so."""
    found = np.empty(len(first))
    for start in range(0, len(first), _AT_ONCE):
        part = slice(start, start + _AT_ONCE)
        one, other = (pixels[at[part]].astype(np.float32) for at in (first, second))
        other = np.where(mirror[part, None, None], other[:, :, ::-1], other)
        one, other = (each - each.mean(axis=(1, 2), keepdims=True) for each in (one, other))
        squares = (one**2).sum(axis=(1, 2)) * (other**2).sum(axis=(1, 2))
        found[part] = (one * other).sum(axis=(1, 2)) / np.sqrt(np.maximum(squares, 1e-12))
    return found


def _leaks(
    sets: Sequence[_Set], code: np.ndarray, pairs: tuple[np.ndarray, np.ndarray, np.ndarray] | None
) -> Iterator[Finding]:
    data, test = sets
    begin = len(data)
    own, other = code[:begin], code[begin:]
    codes, first_row = np.unique(own, return_index=True)
    leaked = np.flatnonzero((other >= 0) & np.isin(other, own))
    if len(leaked):
        twins = first_row[np.searchsorted(codes, other[leaked])]
        advice = "Test images that are also learned from: remove them from one of the two, or every number is too good."
        images = _beside(test, leaked, data, twins, ["the same bytes as"] * len(leaked))
        yield Finding("leaked", "bad", f"{len(leaked):,}", advice, images)
    if pairs is None:
        return
    first, second, distance = pairs
    across = (first < begin) & (second >= begin)
    order = np.lexsort((distance[across], second[across]))
    twins, rows, bits = first[across][order], second[across][order] - begin, distance[across][order]
    rows, nearest = np.unique(rows, return_index=True)
    new = ~np.isin(rows, leaked)
    if new.any():
        said = [f"{counted(count, 'bit')} of 64 from" for count in bits[nearest][new].tolist()]
        images = _beside(test, rows[new], data, twins[nearest][new], said)
        advice = "Test images with a near copy among those to learn from: look at them (--out FILE.html), remove one."
        yield Finding("nearly leaked", "bad", f"{len(images):,}", advice, images)


def _beside(test: _Set, rows: np.ndarray, data: _Set, twins: np.ndarray, said: Sequence[str]) -> list[Flagged]:
    return [
        Flagged(test.part, test.keys[row], test.paths[row], f"{words} {data.keys[twin]}", twin=data.paths[twin])
        for row, twin, words in zip(rows.tolist(), twins.tolist(), said, strict=True)
    ]


def table(report: Report) -> Table:
    """The findings, for the eye."""
    made = Table(title=Text(printable("\n".join(report.summary))), title_justify="left", show_lines=True)
    for column in ("what", "how many", "for example", "advice"):
        made.add_column(column, overflow="fold")
    for finding in report.findings:
        cells = finding.name, finding.amount, "\n".join(_examples(finding)), finding.advice
        made.add_row(*(Text(printable(cell)) for cell in cells))
    return made


def _examples(finding: Finding) -> list[str]:
    shown = list(finding.examples) or [f"{image.key} ({image.detail})" for image in finding.images]
    more = len(shown) - _EXAMPLES
    return [*shown[:_EXAMPLES], *(["…"] if more > 0 else [])]


def _group(image: Flagged) -> int | None:
    """The number of an image's group, from 1."""
    return None if image.group is None else image.group + 1


def write_table(report: Report, path: Path) -> None:
    """Writes a line for each finding and image as CSV; findings that are not about images have no key."""
    rows: list[tuple[Any, ...]] = []
    for finding in report.findings:
        rows += [
            (finding.name, finding.severity, image.part, image.key, _group(image), image.detail, image.path)
            for image in finding.images
        ] or [(finding.name, finding.severity, "", "", None, f"{finding.amount}: {', '.join(finding.examples)}", None)]
    write_csv(path, ("finding", "severity", "part", "key", "group", "detail", "path"), rows)


def write_page(report: Report, path: Path) -> None:
    """Writes up to 24 images of each finding as a sheet; leaked ones, framed, before what they are copies of."""
    sections = [
        Section(f"{finding.name}: {finding.amount}", _tiles(finding, report.decoding), [finding.advice])
        for finding in report.findings
        if any(image.path for image in finding.images)
    ]
    write_sheet(path, "What was found", sections, report.summary)


def _tiles(finding: Finding, decoding: Mapping[Part, Decoding]) -> list[Tile]:
    tiles = []
    for image in finding.images[:_SHOWN]:
        group = [] if image.group is None else [f"group {_group(image)}"]
        picture = None if image.path is None else picture_of_file(image.path, decoding[image.part])
        tiles.append(Tile(picture, [image.key, image.detail, *group], image.path, image.twin is not None))
        if image.twin is not None:
            tiles.append(Tile(picture_of_file(image.twin, decoding["data"]), ["learned from"], image.twin))
    return tiles
