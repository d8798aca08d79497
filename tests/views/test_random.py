"""Counter-based randomness: pure, well distributed, the same however it is asked for."""

import pytest
import torch

from glocal import transfer
from glocal.views.random import permutation, permuted, random_bits, uniform


def test_a_draw_depends_on_its_counters_alone() -> None:
    whole = uniform(7, "crop", 3, torch.arange(100)[:, None], torch.arange(4))
    single = torch.stack([uniform(7, "crop", 3, 42, view) for view in range(4)])
    assert torch.equal(whole[42], single)


def test_a_known_value_never_changes() -> None:
    # SplitMix64 seeded with 0 starts with this number; a changed hash would change every run ever made.
    assert random_bits(0).item() == 0xE220A8397B1DCDAF - (1 << 64)


def test_every_counter_matters_and_order_too() -> None:
    draws = {
        uniform(seed, what, a, b).item() for seed in (0, 1) for what in ("x", "y") for a in (0, 1) for b in (0, 1, 2)
    }
    assert len(draws) == 24
    assert uniform(0, 1, 2) != uniform(0, 2, 1)


def test_draws_are_uniform_and_uncorrelated() -> None:
    draws = uniform(0, "u", torch.arange(200_000)[:, None], torch.arange(2))
    counts = torch.histc(draws[:, 0].float(), bins=20, min=0, max=1)
    assert ((counts - 10_000) ** 2 / 10_000).sum() < 50  # chi square with 19 degrees of freedom, far beyond 0.999
    assert torch.corrcoef(draws.T)[0, 1].abs() < 0.01
    assert torch.corrcoef(torch.stack([draws[:-1, 0], draws[1:, 0]]))[0, 1].abs() < 0.01
    assert draws.min() >= 0
    assert draws.max() < 1


def test_without_float64_a_draw_is_the_same_one_rounded_down(monkeypatch: pytest.MonkeyPatch) -> None:
    numbers = torch.arange(200_000)
    whole = uniform(0, "u", numbers)
    monkeypatch.setattr(transfer, "_NO_FLOAT64", {"cpu"})
    narrow = uniform(0, "u", numbers)
    assert narrow.dtype == torch.float32
    assert torch.equal(narrow.double(), (whole * 2**24).floor() / 2**24)  # rounded to the nearest, one could be 1


def test_permutation_is_one_and_changes_with_the_epoch() -> None:
    first, second = permutation(1000, 0, "shuffle", 0), permutation(1000, 0, "shuffle", 1)
    assert torch.equal(first.sort().values, torch.arange(1000))
    assert not torch.equal(first, second)


def test_an_order_that_is_computed_at_its_places_is_a_permutation_of_any_length() -> None:
    for length in [*range(1, 40), *range(63, 67), *range(1020, 1030), 99_991]:
        found = permuted(torch.arange(length), length, 3, "shuffle", torch.arange(2)[:, None])
        assert torch.equal(found.sort(dim=1).values, torch.arange(length).expand(2, -1)), length


def test_it_is_the_same_however_it_is_asked_for_and_another_for_each_seed_and_epoch() -> None:
    whole = permuted(torch.arange(1000), 1000, 0, "shuffle", 0)
    places = torch.tensor([[999, 0], [17, 17]])
    assert torch.equal(permuted(places, 1000, 0, "shuffle", 0), whole[places])
    for seed, epoch in ((1, 0), (0, 1)):
        assert int((permuted(torch.arange(1000), 1000, seed, "shuffle", epoch) == whole).sum()) < 10


@pytest.mark.parametrize("length", [20, 17])  # a full grid of 5 × 4, and one with three places too many
def test_every_image_is_as_often_at_every_place(length: int) -> None:
    epochs = 10_000
    found = permuted(torch.arange(length), length, 0, "shuffle", torch.arange(epochs)[:, None])  # (E, N)
    counts = torch.stack([found[:, place].bincount(minlength=length) for place in range(length)]).double()
    expected, free = epochs / length, (length - 1) ** 2
    chi_square = float(((counts - expected) ** 2 / expected).sum())
    assert abs(chi_square - free) < 4 * (2 * free) ** 0.5


def test_consecutive_places_of_a_long_order_have_nothing_to_do_with_each_other() -> None:
    length, bins = 10**9, 20
    for first in (0, length // 3, length - 100_000):
        found = permuted(torch.arange(first, first + 100_000), length, 0, "shuffle", 0)
        other = permuted(torch.arange(first, first + 100_000), length, 0, "shuffle", 1)
        assert found.unique().numel() == 100_000
        place = found * bins // length
        pairs = torch.bincount(place[:-1] * bins + place[1:], minlength=bins**2).double()
        for counts in (place.bincount(minlength=bins).double(), pairs):
            expected, free = float(counts.mean()), len(counts) - 1
            assert abs(float(((counts - expected) ** 2 / expected).sum()) - free) < 4 * (2 * free) ** 0.5
        for one, two in ((found[:-1], found[1:]), (found, torch.arange(len(found))), (found, other)):
            assert abs(float(torch.corrcoef(torch.stack([one, two]).double())[0, 1])) < 0.012  # 4 / √N
