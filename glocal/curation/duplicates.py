"""Groups of near-copies among embedded images. Nothing is ever deleted: what is found is told and written down."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch

from glocal.curation.bits import RADIUS, NearHashes, TooManyPairsError, near_hashes
from glocal.curation.chance import (
    NEIGHBORS,
    Evidence,
    Threshold,
    chance_threshold,
    measure_evidence,
    shown,
    usual_neighbors,
)
from glocal.curation.grouping import groups_of_pairs
from glocal.curation.hashes import Hashes, check_imagehash, hash_images
from glocal.embeddings.folder import Embeddings
from glocal.embeddings.nearest import neighbors_of_all
from glocal.errors import GlocalError

_ROWS = 1 << 16  # at a time, where each has some neighbours
_PAIRS_EACH = 50  # pairs of near hashes for each image from which they say nothing


class Member(NamedTuple):
    """An image of a group.

    Attributes:
        row: of the embeddings.
        similarity: to the group's largest image, the cosine.
        hash_distance: to the hash of the largest, the nearer one of it and its mirror image, in bits; None without.
        same_bytes: its file holds the same bytes as the largest one's.
        largest: it is the one with most pixels, of equal ones that with most bytes, of those the first.
    """

    row: int
    similarity: float
    hash_distance: int | None
    same_bytes: bool
    largest: bool


@dataclass(frozen=True)
class Groups:
    """Groups of near-copies, in the order of their first images; in each the largest image first.

    Attributes:
        embeddings: that they were found in.
        group: (M,) int64, of each image that is in one, ascending.
        row: (M,) int64, of the embeddings.
        similarity: (M,) float32, to the group's largest image.
        hash_distance: (M,) int64, bits to the largest image's hash; −1 where one has none.
        same_bytes: (M,) bool, as the largest image's file.
        bytes: (M,) int64, size of the file; 0 where there is none or it was not looked at.
        threshold: of the similarity.
        words: what decided, in sentences.
    """

    embeddings: Embeddings
    group: np.ndarray
    row: np.ndarray
    similarity: np.ndarray
    hash_distance: np.ndarray
    same_bytes: np.ndarray
    bytes: np.ndarray
    threshold: Threshold
    words: list[str]

    def __len__(self) -> int:
        return int(self.group[-1]) + 1 if len(self.group) else 0

    def __iter__(self) -> Iterator[list[Member]]:
        ends = [*np.flatnonzero(np.diff(self.group, prepend=-1)).tolist(), len(self.group)]
        for start, stop in pairwise(ends):
            yield [
                Member(
                    int(self.row[place]),
                    float(self.similarity[place]),
                    int(self.hash_distance[place]) if self.hash_distance[place] >= 0 else None,
                    bool(self.same_bytes[place]),
                    place == start,
                )
                for place in range(start, stop)
            ]


class _Pairs(NamedTuple):
    """Pairs of rows with the lower one first, each pair once or several times."""

    first: np.ndarray
    second: np.ndarray
    similarity: np.ndarray

    def at(self, kept: np.ndarray) -> _Pairs:
        return _Pairs(self.first[kept], self.second[kept], self.similarity[kept])


def find_duplicates(
    embeddings: Embeddings | str | Path,
    *,
    threshold: float | None = None,
    hashes: bool = True,
    device: str = "auto",
    workers: int | None = None,
    progress: bool = True,
) -> Groups:
    """Groups of near-copies: the same image resized, cropped, compressed again, mirrored, recoloured, framed.

    Two images are a pair if their files hold the same bytes; if they are among one another's nearest neighbours and at
    least as similar as the threshold; if their perceptual hashes are nearer than chance allows; or if both are so near
    together. `glocal.curation.chance` says what chance is, `glocal.curation.grouping` how pairs become groups. Memory
    grows with the number of images, not with that of pairs of them. No file is changed or deleted.

    Args:
        embeddings: opened, or their folder.
        threshold: of the cosine similarity of embeddings; None takes it from the set itself.
        hashes: use perceptual hashes (`imagehash`), which are computed once and kept beside the embeddings.
        device: where neighbours are searched: auto, cpu, cuda, mps.
        workers: processes that decode images; None chooses.
        progress: show progress bars.

    Raises:
        GlocalError: a threshold beyond −1 to 1, embeddings that cannot be read, a single image, no `imagehash`.
    """
    if threshold is not None and not -1 <= threshold <= 1:
        raise GlocalError(f"threshold={threshold}: a cosine similarity lies from -1 to 1, for example 0.95")
    if hashes:
        check_imagehash()  # before minutes of other work
    if not isinstance(embeddings, Embeddings):
        embeddings = Embeddings(embeddings)
    if len(embeddings) < 2:
        raise GlocalError(f"{embeddings.folder} holds one image: copies need two")
    known = hash_images(embeddings, workers=workers, progress=progress) if hashes else None
    count = len(embeddings)
    similarity, index = neighbors_of_all(embeddings, min(NEIGHBORS, count - 1), device=device, progress=progress)
    usual = similarity[:, : usual_neighbors(count)]
    least = chance_threshold(usual) if threshold is None else Threshold(threshold, "as it was given")
    evidence = measure_evidence(embeddings, known)
    found = [_near_embeddings(similarity.numpy(), index.numpy(), least.similarity)]
    if known is not None:
        found.append(_near_in_both(similarity.numpy(), index.numpy(), known, evidence))
        found += _near_by_hash(embeddings, known, evidence)
    pairs = _once(_Pairs(*(np.concatenate(parts) for parts in zip(*found, strict=True))), len(embeddings))
    weight = np.clip(pairs.similarity, 0.001, 0.999)
    group = groups_of_pairs(pairs.first, pairs.second, len(embeddings), weight)
    words = [f"threshold {shown(least.similarity)}: {least.words}", *_words_of_hashes(known, evidence)]
    return _described(embeddings, known, group, least, words)


def _near_embeddings(similarity: np.ndarray, index: np.ndarray, least: float) -> _Pairs:
    """Pairs at least so similar that are among one another's neighbours."""
    row, place = (similarity >= least).nonzero()
    pairs = _ordered(row, index[row, place], similarity[row, place])
    key = pairs.first * len(index) + pairs.second
    _, where, times = np.unique(key, return_index=True, return_counts=True)
    return pairs.at(where[times == 2])


def _near_in_both(similarity: np.ndarray, index: np.ndarray, hashes: Hashes, evidence: Evidence) -> _Pairs:
    """Neighbours whose hashes are so near that both together are no chance."""
    found = []
    for start in range(0, len(index), _ROWS):
        stop = min(start + _ROWS, len(index))
        row = np.repeat(np.arange(start, stop), index.shape[1])
        other, alike = index[start:stop].ravel(), similarity[start:stop].ravel()
        usable = hashes.usable[row] & hashes.usable[other]
        row, other, alike = row[usable], other[usable], alike[usable]
        if len(row):
            kept = evidence.by_both(hashes.distance(row, other), alike) <= evidence.allowed
            found.append(_ordered(row[kept], other[kept], alike[kept]))
    return _joined(found)


def _near_by_hash(embeddings: Embeddings, hashes: Hashes, evidence: Evidence) -> list[_Pairs]:
    """Pairs of the same bytes, and of near hashes however their embeddings lie."""
    files = (hashes.bytes > 0).nonzero()[0]
    same = _equal(np.stack([hashes.content[files], hashes.bytes[files].astype(np.uint64)], axis=1), files)
    found = [_Pairs(*same, _similarities(embeddings, *same))]
    radius = min(RADIUS, max(evidence.alone, evidence.reach))
    rows = hashes.usable.nonzero()[0]
    if radius < 0 or len(rows) < 2:
        return found
    equal = _equal(hashes.straight[rows][:, None], rows)
    _, where = np.unique(hashes.straight[rows], return_index=True)
    rows = rows[where]
    near = _search(hashes.straight[rows], hashes.mirrored[rows], radius)
    first, second = np.concatenate([equal[0], rows[near.first]]), np.concatenate([equal[1], rows[near.second]])
    pairs = _ordered(first, second, _similarities(embeddings, first, second))
    distance = hashes.distance(pairs.first, pairs.second)
    alone = evidence.by_hash(distance) <= evidence.allowed
    found.append(pairs.at(alone | (evidence.by_both(distance, pairs.similarity) <= evidence.allowed)))
    return found


def _search(straight: np.ndarray, mirrored: np.ndarray, radius: int) -> NearHashes:
    """Near hashes within a radius, or within a smaller one where hashes are so alike that they say little."""
    limit = _PAIRS_EACH * len(straight)
    while True:
        try:
            same = near_hashes(straight, straight, radius, limit=limit, ordered=True)
            other = near_hashes(straight, mirrored, radius, limit=limit)
            break
        except TooManyPairsError:
            if radius == 0:  # mirrored ones alone can be so many: the hashes themselves are different
                same = other = near_hashes(straight[:0], straight, 0)
                break
            radius -= 1
    apart = other.first != other.second
    return NearHashes(*(np.concatenate([one, two[apart]]) for one, two in zip(same, other, strict=True)))


def _equal(values: np.ndarray, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Pairs of the first row of each value (N, …) with the others of the same value."""
    _, where, place = np.unique(values, axis=0, return_index=True, return_inverse=True)
    first = rows[where[place.ravel()]]
    others = first != rows
    return first[others], rows[others]


def _similarities(embeddings: Embeddings, first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Cosines of pairs of rows, (P,) float32."""
    found = np.empty(len(first), np.float32)
    size = max(1, (64 << 20) // (8 * embeddings.dim))
    for start in range(0, len(first), size):
        part = slice(start, start + size)
        one, other = (embeddings.take(torch.from_numpy(rows[part])) for rows in (first, second))
        found[part] = torch.cosine_similarity(one, other).numpy()
    return found


def _ordered(first: np.ndarray, second: np.ndarray, similarity: np.ndarray) -> _Pairs:
    return _Pairs(np.minimum(first, second), np.maximum(first, second), similarity)


def _joined(parts: list[_Pairs]) -> _Pairs:
    nothing = np.empty(0, np.int64)
    return _Pairs(*map(np.concatenate, zip(_Pairs(nothing, nothing, np.empty(0, np.float32)), *parts, strict=True)))


def _once(pairs: _Pairs, rows: int) -> _Pairs:
    return pairs.at(np.unique(pairs.first * rows + pairs.second, return_index=True)[1])


def _described(
    embeddings: Embeddings, hashes: Hashes | None, group: np.ndarray, threshold: Threshold, words: list[str]
) -> Groups:
    """The groups with the largest image of each in front, and how near the others are to it."""
    rows = (group >= 0).nonzero()[0]
    pixels = embeddings.sizes[rows].astype(np.int64).prod(axis=1)
    size = np.zeros(len(rows), np.int64) if hashes is None else hashes.bytes[rows]
    order = np.lexsort((rows, -size, -pixels, group[rows]))
    rows, size = rows[order], size[order]
    number = group[rows]
    first = np.concatenate([[0], np.flatnonzero(np.diff(number)) + 1]).astype(np.int64)
    largest = rows[first[number]] if len(rows) else rows
    similarity = _similarities(embeddings, largest, rows)
    distance = np.full(len(rows), -1, np.int64)
    same = np.zeros(len(rows), bool)
    if hashes is not None:
        usable = hashes.usable[rows] & hashes.usable[largest]
        distance[usable] = hashes.distance(rows[usable], largest[usable])
        same = hashes.same_bytes(rows, largest) & (rows != largest)
    after = np.lexsort((-similarity, rows != largest, number))
    return Groups(
        embeddings,
        number[after],
        rows[after],
        similarity[after],
        distance[after],
        same[after],
        size[after],
        threshold,
        words,
    )


def _words_of_hashes(hashes: Hashes | None, evidence: Evidence) -> list[str]:
    if hashes is None:
        return ["perceptual hashes were not used"]
    if evidence.mean is None:
        return ["there are no perceptual hashes: no image is a readable file or has a thumbnail"]
    unrelated = f"unrelated images' hashes differ in {evidence.mean:.0f} of 64 bits, give or take {evidence.spread:.0f}"
    alone = (
        f"those within {evidence.alone} are copies by that alone"
        if evidence.alone >= 0
        else "so many images are here that equal hashes alone say nothing"
    )
    both = f"those within {evidence.reach} are if their embeddings are near too" if evidence.reach >= 0 else ""
    return [f"hashes: {unrelated}; {'; '.join(filter(None, (alone, both)))}"]
