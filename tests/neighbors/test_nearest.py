"""Nearest neighbours against brute force in float64."""

import pytest
import torch

from glocal.errors import GlocalError
from glocal.neighbors import nearest_neighbors


def data(rows: int, seed: int) -> torch.Tensor:
    return torch.randn(rows, 6, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@pytest.mark.parametrize("metric", ["l2", "cosine"])
@pytest.mark.parametrize("chunk", [None, 1, 7, 20, 100])
@pytest.mark.parametrize("k", [1, 5, 23])
def test_neighbours_equal_brute_force_for_any_chunk(metric: str, chunk: int | None, k: int) -> None:
    queries, bank = data(11, 0), data(23, 1)
    distance, index = nearest_neighbors(queries, bank, k, metric=metric, chunk=chunk)
    for query, found, places in zip(queries, distance, index, strict=True):
        if metric == "l2":
            expected = torch.stack([(query - row).square().sum().sqrt() for row in bank])
        else:
            expected = torch.stack([1 - query @ row / query.norm() / row.norm() for row in bank])
        values, order = expected.sort()
        assert torch.equal(places, order[:k])
        assert torch.allclose(found, values[:k], atol=1e-9)


def test_arguments_are_left_alone() -> None:
    queries, bank = data(4, 0), data(9, 1)
    before = queries.clone(), bank.clone()
    nearest_neighbors(queries, bank, 3)
    nearest_neighbors(queries, bank, 3, metric="cosine")
    assert torch.equal(queries, before[0])
    assert torch.equal(bank, before[1])


@pytest.mark.parametrize("k", [0, 10])
def test_a_k_outside_the_bank_is_refused(k: int) -> None:
    with pytest.raises(GlocalError, match=f"k={k} neighbours: choose from 1 to 9"):
        nearest_neighbors(data(2, 0), data(9, 1), k)


def test_no_queries_give_no_neighbours() -> None:
    distance, index = nearest_neighbors(data(0, 0), data(9, 1), 3)
    assert distance.shape == index.shape == (0, 3)
