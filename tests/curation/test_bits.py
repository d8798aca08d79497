"""Pairs of near hashes: all of them, and no others, as a plain comparison of all pairs finds them."""

import numpy as np
import pytest

from glocal.curation import bits
from glocal.curation.bits import TooManyPairsError, hash_distance, near_hashes
from glocal.errors import GlocalError


def some_hashes(count: int = 1200) -> np.ndarray:
    """Random hashes, and copies of a third of them with up to nine bits flipped."""
    rng = np.random.default_rng(0)
    hashes = rng.integers(0, 1 << 64, count, dtype=np.uint64)
    copies = hashes[: count // 3].copy()
    for _ in range(9):
        flips = rng.random(len(copies)) < 0.6
        copies ^= np.where(flips, np.uint64(1) << rng.integers(0, 64, len(copies), dtype=np.uint64), np.uint64(0))
    return np.concatenate([hashes, copies])


def plainly(one: np.ndarray, other: np.ndarray) -> np.ndarray:
    return np.array([[(int(a) ^ int(b)).bit_count() for b in other] for a in one], np.uint8)


def test_distances_count_the_bits_that_differ() -> None:
    hashes = some_hashes(60)
    assert np.array_equal(hash_distance(hashes[:, None], hashes), plainly(hashes, hashes))
    ends = np.array([0, 2**64 - 1], np.uint64)
    assert hash_distance(ends, ends[::-1]).tolist() == [64, 64]


@pytest.mark.parametrize("radius", [0, 3, 7])
@pytest.mark.parametrize("candidates", [50, 1 << 21])
def test_every_near_pair_is_found_once(radius: int, candidates: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bits, "_CANDIDATES", candidates)
    hashes = some_hashes(300)
    expected = np.triu(plainly(hashes, hashes) <= radius, 1)
    found = near_hashes(hashes, hashes, radius, ordered=True)
    assert sorted(zip(found.first, found.second, strict=True)) == list(zip(*expected.nonzero(), strict=True))
    assert np.array_equal(found.distance, hash_distance(hashes[found.first], hashes[found.second]))


def test_queries_may_be_others_than_the_bank() -> None:
    hashes = some_hashes(300)
    queries = hashes[:50] ^ np.uint64(0b1011)
    found = near_hashes(queries, hashes, 5)
    expected = plainly(queries, hashes) <= 5
    assert sorted(zip(found.first, found.second, strict=True)) == list(zip(*expected.nonzero(), strict=True))
    assert len(near_hashes(queries[:0], hashes, 5).first) == 0


def test_too_many_pairs_and_too_wide_a_radius_are_refused() -> None:
    alike = np.zeros(100, np.uint64)
    with pytest.raises(TooManyPairsError, match="more than 1,000 pairs of hashes are within 2 bits"):
        near_hashes(alike, alike, 2, limit=1000, ordered=True)
    with pytest.raises(GlocalError, match="hashes within 8 bits: from 0 to 7 can be searched"):
        near_hashes(alike, alike, 8)
