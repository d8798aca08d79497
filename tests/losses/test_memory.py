"""The losses against a memory bank, beside plain loops in float64."""

import math

import pytest
import torch
from torch import Tensor
from torch.nn.functional import normalize

from glocal.errors import GlocalError
from glocal.losses.memory import instance_nce, instance_softmax, local_aggregation, log_partition

GENERATOR = torch.Generator().manual_seed(0)
QUERY = normalize(torch.randn(5, 6, dtype=torch.float64, generator=GENERATOR), dim=1)
BANK = normalize(torch.randn(40, 6, dtype=torch.float64, generator=GENERATOR), dim=1)
INDEX = torch.tensor([3, 0, 17, 39, 8])
CLUSTERS = torch.randint(4, (2, 40), generator=GENERATOR, dtype=torch.int32)


def likeness(query: Tensor, row: Tensor, temperature: float) -> float:
    return math.exp(float(query @ row) / temperature)


def test_the_softmax_is_over_all_images() -> None:
    expected = 0.0
    for query, index in zip(QUERY, INDEX.tolist(), strict=True):
        everything = sum(likeness(query, row, 0.1) for row in BANK)
        expected -= math.log(likeness(query, BANK[index], 0.1) / everything) / 5
    assert instance_softmax(QUERY, BANK, INDEX, temperature=0.1).item() == pytest.approx(expected)


def test_nce_tells_the_own_row_from_noise() -> None:
    noise, normaliser = BANK[[1, 1, 20, 33]], 77.0
    expected = 0.0
    for query, index in zip(QUERY, INDEX.tolist(), strict=True):
        own = likeness(query, BANK[index], 0.1) / normaliser
        expected -= math.log(own / (own + 4 / 40)) / 5
        for row in noise:
            other = likeness(query, row, 0.1) / normaliser
            expected -= math.log(1 - other / (other + 4 / 40)) / 5
    log_z = torch.tensor(normaliser, dtype=torch.float64).log()
    loss = instance_nce(QUERY, BANK[INDEX], noise, temperature=0.1, log_normaliser=log_z, images=40)
    assert loss.item() == pytest.approx(expected)


def test_the_partition_is_that_of_the_whole_bank_if_all_of_it_is_the_noise() -> None:
    whole = sum(likeness(query, row, 0.1) for query in QUERY for row in BANK) / 5
    assert log_partition(QUERY, BANK, temperature=0.1, images=40).item() == pytest.approx(math.log(whole))
    part = sum(likeness(query, row, 0.1) for query in QUERY for row in BANK[:10]) / 5 * 4
    assert log_partition(QUERY, BANK[:10], temperature=0.1, images=40).item() == pytest.approx(math.log(part))


@pytest.mark.parametrize("background", [1, 7, 40])
def test_close_neighbours_are_aggregated_among_background_neighbours(background: int) -> None:
    expected = 0.0
    for query, index in zip(QUERY, INDEX.tolist(), strict=True):
        nearest = sorted(range(40), key=lambda row: -float(query @ BANK[row]))[:background]
        close = [row for row in nearest if any(each[row] == each[index] for each in CLUSTERS)]
        near = sum(likeness(query, BANK[row], 0.2) for row in close)
        everything = sum(likeness(query, BANK[row], 0.2) for row in nearest)
        expected -= math.log(near / everything + 1e-7) / 5
    loss = local_aggregation(QUERY, BANK, CLUSTERS, INDEX, background=background, temperature=0.2)
    assert loss.item() == pytest.approx(expected)


def test_where_nothing_is_close_the_gradient_is_zero() -> None:
    apart = torch.arange(40)[None]
    query = -BANK[INDEX].clone().requires_grad_()  # far from its own row
    query.retain_grad()
    loss = local_aggregation(query, BANK, apart, INDEX, background=3, temperature=0.01)
    loss.backward()
    assert loss.item() == pytest.approx(-math.log(1e-7))
    assert query.grad is not None
    assert torch.equal(query.grad, torch.zeros_like(query))


def test_a_background_larger_than_the_bank_is_an_error() -> None:
    with pytest.raises(GlocalError, match="background=41 neighbours: choose from 1 to 40"):
        local_aggregation(QUERY, BANK, CLUSTERS, INDEX, background=41, temperature=0.2)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_dtype_is_kept(dtype: torch.dtype) -> None:
    query, bank = QUERY.to(dtype), BANK.to(dtype)
    log_z = log_partition(query, bank, temperature=0.1, images=40)
    losses = [
        log_z,
        instance_softmax(query, bank, INDEX, temperature=0.1),
        instance_nce(query, bank[INDEX], bank, temperature=0.1, log_normaliser=log_z, images=40),
        local_aggregation(query, bank, CLUSTERS, INDEX, background=9, temperature=0.1),
    ]
    assert {loss.dtype for loss in losses} == {dtype}
