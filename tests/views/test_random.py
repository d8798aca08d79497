"""Counter-based randomness: pure, well distributed, the same however it is asked for."""

import torch

from glocal.views.random import permutation, random_bits, uniform


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


def test_permutation_is_one_and_changes_with_the_epoch() -> None:
    first, second = permutation(1000, 0, "shuffle", 0), permutation(1000, 0, "shuffle", 1)
    assert torch.equal(first.sort().values, torch.arange(1000))
    assert not torch.equal(first, second)
