"""Nearest neighbours against brute force in float64."""

import pytest
import torch

from glocal.errors import GlocalError
from glocal.neighbors import nearest_neighbors
from glocal.neighbors.nearest import _search_by_shortlist
from glocal.neighbors.products import largest, products


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


def mixture(rows: int, dim: int, offset: float, scale: float, seed: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    centres = torch.randn(40, dim, generator=torch.Generator().manual_seed(9))
    chosen = torch.randint(0, 40, (rows,), generator=generator)
    return offset + scale * (centres[chosen] + torch.randn(rows, dim, generator=generator))


@pytest.mark.parametrize("metric", ["l2", "cosine"])
@pytest.mark.parametrize(("dim", "offset", "scale"), [(64, 0.0, 1.0), (64, 4.0, 1.0), (300, 0.0, 30.0), (16, 9.0, 0.1)])
@pytest.mark.parametrize("chunk", [None, 700])
def test_a_bf16_shortlist_gives_what_float64_gives(
    metric: str, dim: int, offset: float, scale: float, chunk: int | None
) -> None:
    bank, queries = mixture(5003, dim, offset, scale, 0), mixture(101, dim, offset, scale, 1)
    k = 37
    distance, index = nearest_neighbors(queries, bank, k, metric=metric, shortlist=True, chunk=chunk)
    exact, order = nearest_neighbors(queries.double(), bank.double(), k, metric=metric)
    noise = 2e-6 * max(1.0, float(bank.double().square().sum(dim=1).max()) if metric == "l2" else 1.0)
    true = exact.new_tensor(
        [
            [float(nearest_neighbors(q[None].double(), bank[i][None].double(), 1, metric=metric)[0]) for i in row[-1:]]
            for q, row in zip(queries, index, strict=True)
        ]
    )
    power = 2 if metric == "l2" else 1
    # Where fp32 cannot tell two rows apart, either may come first; the farthest that was kept is as near as the k-th.
    assert (true[:, 0] ** power - exact[:, -1] ** power).abs().max() < noise
    assert (distance.double() ** power - exact**power).abs().max() < noise
    assert (index == order).float().mean() > (0.97 if offset < 9 else 0.3)


def test_the_bound_of_the_shortlist_fails_where_bf16_cannot_tell() -> None:
    """Half of the bank lies within the rounding of bf16: nothing is proven, and the answer is right all the same."""
    generator = torch.Generator().manual_seed(0)
    bank = torch.cat(
        [1 + 1e-4 * torch.randn(3000, 24, generator=generator), torch.randn(3000, 24, generator=generator)]
    )
    queries = bank[:50] + 1e-5
    *_, proven = _search_by_shortlist(queries, bank, 5, "l2", 1 << 16, None)
    assert not proven.any()
    found = nearest_neighbors(queries, bank, 5, shortlist=True)
    expected = nearest_neighbors(queries, bank, 5, shortlist=False)
    assert torch.equal(found[1], expected[1])


@pytest.mark.parametrize("k", [1, 3, 20])
@pytest.mark.parametrize("columns", [40, 96, 1000, 1007])
def test_largest_is_topk(columns: int, k: int) -> None:
    scores = torch.randn(50, columns, generator=torch.Generator().manual_seed(columns))
    values, index = largest(scores, k)
    assert torch.equal(values, scores.topk(k, dim=1).values)
    assert torch.equal(scores.gather(1, index), values)


def test_products_are_those_of_float64() -> None:
    generator = torch.Generator().manual_seed(0)
    left, right = torch.randn(70, 33, generator=generator), torch.randn(50, 33, generator=generator)
    less = torch.randn(50, generator=generator)
    exact = left.double() @ right.double().T - less
    for dtype, tolerance in ((torch.float32, 1e-5), (torch.float64, 1e-6)):
        found = products(left.to(dtype), right.to(dtype), less.to(dtype))
        assert found.dtype == dtype
        assert (found - exact).abs().max() < tolerance


@pytest.mark.slow
def test_a_bf16_shortlist_takes_banks_whose_rows_float32_cannot_count() -> None:
    bank = torch.zeros((1 << 24) + 4, 1)  # its last row is a number that float32 rounds up
    bank[-1] = 1
    distance, index = nearest_neighbors(bank[-1:], bank, 1, shortlist=True)
    assert (int(index), float(distance)) == (len(bank) - 1, 0)
