"""Copies within a set of images and between two: of the same bytes, and near ones."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import numpy as np
import pyarrow as pa

from glocal.curation.bits import TooManyPairsError, near_hashes
from glocal.curation.findings import CheckedSet, Finding, Flagged
from glocal.curation.grouping import groups_of_pairs
from glocal.curation.measuring import GRID
from glocal.errors import counted

BITS = 6
"""Bits of 64 in which the perceptual hashes of near copies differ at most."""
ALIKE = 0.9
"""Correlation, at least, of their grey values at 16 × 16 pixels. Of CIFAR-10's test images and those to learn from, a
sample of pairs down to here was looked at, and all are copies."""

_PAIRS_EACH = 50  # near pairs of hashes for each image above which they say nothing
_AT_ONCE = 1 << 16  # pairs


def copies(sets: Sequence[CheckedSet], near: bool, notes: list[str]) -> Iterator[Finding]:
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
        exact += grouped(one, group, lambda _: "the same bytes")
        yield from _of_two_labels(one, group)
    if exact:
        advice = "Keep one of each: the others weigh twice in a training and are one another's nearest neighbours."
        yield Finding("copies", "odd", amount_of(exact), advice, exact)
    pairs = _near_pairs(sets, code, notes) if near else None
    if pairs is not None:
        first, second, _ = pairs
        for number, one in enumerate(sets):
            inside = (where[first] == number) & (where[second] == number)
            begin = ends[number]
            group = groups_of_pairs(first[inside] - begin, second[inside] - begin, len(one))
            alike += grouped(one, group, lambda _: "nearly the same")
        if alike:
            advice = (
                "Resized, compressed again, mirrored, or neighbouring frames: look at them (--out FILE.html), keep one."
            )
            yield Finding("near copies", "odd", amount_of(alike), advice, alike)
    if len(sets) == 2:
        yield from _leaks(sets, code, pairs)


def grouped(one: CheckedSet, group: np.ndarray, detail: Callable[[int], str]) -> list[Flagged]:
    """The images of groups, group by group; −1 stands for none."""
    rows = np.flatnonzero(group >= 0)
    rows = rows[np.argsort(group[rows], kind="stable")]
    return one.flagged(rows, detail, group[rows])


def amount_of(images: Sequence[Flagged]) -> str:
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


def _of_two_labels(one: CheckedSet, group: np.ndarray) -> Iterator[Finding]:
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
    images = grouped(one, torn, lambda row: classes[label[row]])
    if images:
        advice = "The same file in two classes: one of the labels is wrong."
        yield Finding("copies of two classes", "bad", amount_of(images), advice, images)


def _near_pairs(
    sets: Sequence[CheckedSet], code: np.ndarray, notes: list[str]
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
    sets: Sequence[CheckedSet], code: np.ndarray, pairs: tuple[np.ndarray, np.ndarray, np.ndarray] | None
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


def _beside(
    test: CheckedSet, rows: np.ndarray, data: CheckedSet, twins: np.ndarray, said: Sequence[str]
) -> list[Flagged]:
    return [
        Flagged(test.part, test.keys[row], test.paths[row], f"{words} {data.keys[twin]}", twin=data.paths[twin])
        for row, twin, words in zip(rows.tolist(), twins.tolist(), said, strict=True)
    ]
