"""Pairs of 64-bit hashes that differ in few bits, without looking at all pairs.

Multi-index hashing (Norouzi, Punjani, Fleet: Fast search in Hamming space with multi-index hashing, CVPR 2012): hashes
that differ in at most seven bits differ in at most one bit of at least one of their four 16-bit bands. So each band is
a table in which 17 places are looked up for each hash.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

from glocal.errors import GlocalError

RADIUS = 7  # the most bits that the bands find with certainty
_BANDS, _WIDTH = 4, 16
_PROBES = (0, *(1 << bit for bit in range(_WIDTH)))
_CANDIDATES = 1 << 21  # looked at together: 80 MB


class TooManyPairsError(GlocalError):
    """More pairs of hashes are near one another than were allowed."""


class NearHashes(NamedTuple):
    """Pairs of hashes: their places `first` and `second`, (P,) int64, and in how many bits they differ, (P,) uint8."""

    first: np.ndarray
    second: np.ndarray
    distance: np.ndarray


def hash_distance(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """In how many bits 64-bit hashes differ: uint64 arrays whose shapes fit → uint8.

    >>> hash_distance(np.array([0, 7], np.uint64), np.array([1, 1], np.uint64)).tolist()
    [1, 2]
    """
    return _bits_set(np.asarray(first ^ second, dtype=np.uint64))


def _bits_set(bits: np.ndarray) -> np.ndarray:
    # Counting within ever larger fields (Hacker's Delight, 5-1); numpy counts bits by itself only since 2.0.
    bits = bits - ((bits >> np.uint64(1)) & np.uint64(0x5555555555555555))
    bits = (bits & np.uint64(0x3333333333333333)) + ((bits >> np.uint64(2)) & np.uint64(0x3333333333333333))
    bits = (bits + (bits >> np.uint64(4))) & np.uint64(0x0F0F0F0F0F0F0F0F)
    with np.errstate(over="ignore"):  # the product's upper bits are not wanted
        return ((bits * np.uint64(0x0101010101010101)) >> np.uint64(56)).astype(np.uint8)


def near_hashes(
    queries: np.ndarray, bank: np.ndarray, radius: int, *, limit: int | None = None, ordered: bool = False
) -> NearHashes:
    """All pairs of a query and a hash of the bank that differ in at most `radius` bits, each once.

    Memory grows with the numbers of hashes and of the pairs that are found.

    Args:
        queries: (Q,) uint64.
        bank: (N,) uint64.
        radius: bits, at most 7.
        limit: how many pairs may be found.
        ordered: of hashes with themselves: only pairs whose first place is below the second.

    Raises:
        GlocalError: a radius that the search does not reach.
        TooManyPairsError: there are more pairs than `limit`.

    >>> hashes = np.array([0b1111, 0b0111, 1 << 60], np.uint64)
    >>> [part.tolist() for part in near_hashes(hashes, hashes, 3, ordered=True)]
    [[0], [1], [1]]
    """
    if not 0 <= radius <= RADIUS:
        raise GlocalError(f"hashes within {radius} bits: from 0 to {RADIUS} can be searched")
    found: list[NearHashes] = []
    count = 0
    for band in range(_BANDS):
        for first, second in _candidates(_band(queries, band), _band(bank, band)):
            if ordered:
                kept = first < second
                first, second = first[kept], second[kept]
            difference = queries[first] ^ bank[second]
            distance = _bits_set(difference)
            near = (distance <= radius).nonzero()[0]
            near = near[~_found_before(difference[near], band)]
            found.append(NearHashes(first[near], second[near], distance[near]))
            count += len(near)
            if limit is not None and count > limit:
                raise TooManyPairsError(f"more than {limit:,} pairs of hashes are within {radius} bits of one another")
    if not found:
        nothing = np.empty(0, np.int64)
        return NearHashes(nothing, nothing, np.empty(0, np.uint8))
    return NearHashes(*(np.concatenate(parts) for parts in zip(*found, strict=True)))


def _band(hashes: np.ndarray, band: int) -> np.ndarray:
    return ((hashes >> np.uint64(_WIDTH * band)) & np.uint64((1 << _WIDTH) - 1)).astype(np.int64)


def _found_before(difference: np.ndarray, band: int) -> np.ndarray:
    """Whether an earlier band has found a pair that differs in these bits."""
    found = np.zeros(len(difference), bool)
    for earlier in range(band):
        found |= _bits_set(_band(difference, earlier).astype(np.uint64)) <= 1
    return found


def _candidates(queries: np.ndarray, bank: np.ndarray) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Pairs of places of 16-bit values that differ in one bit at most."""
    order = np.argsort(bank, kind="stable")
    ends = np.concatenate([[0], np.cumsum(np.bincount(bank, minlength=1 << _WIDTH))])
    for flip in _PROBES:
        wanted = queries ^ flip
        counts = ends[wanted + 1] - ends[wanted]
        total = np.cumsum(counts)
        start = 0
        while start < len(queries):  # as many queries as have few candidates together, one at least
            before = total[start - 1] if start else 0
            stop = max(start + 1, int(np.searchsorted(total, before + _CANDIDATES, side="right")))
            some = counts[start:stop]
            first = np.repeat(np.arange(start, stop), some)
            within = np.arange(len(first)) - np.repeat(np.cumsum(some) - some, some)
            yield first, order[ends[wanted[first]] + within]
            start = stop
