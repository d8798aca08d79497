"""Neighbours by cluster against brute force in float64, whatever the clusters are."""

import math

import pytest
import torch
from torch.nn.functional import normalize

from glocal.neighbors import clustered, kmeans, nearest_neighbors
from glocal.neighbors.clustered import measure_bounds, nearest_among_clusters
from glocal.neighbors.kmeans import _spread_out
from glocal.neighbors.products import packed, products
from glocal.views.random import uniform


def features(rows: int, spread: float, dtype: torch.dtype, dim: int = 16, groups: int = 40) -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    places = normalize(torch.randn(groups, dim, generator=generator, dtype=torch.float64), dim=1)
    around = torch.randn(rows, dim, generator=generator, dtype=torch.float64) * spread / dim**0.5
    return normalize(places[torch.randint(0, groups, (rows,), generator=generator)] + around, dim=1).to(dtype)


def by_loop(rows: torch.Tensor, k: int) -> torch.Tensor:
    rows = rows.double()
    return torch.stack([(rows - row).square().sum(dim=1).sort(stable=True).indices[:k] for row in rows])


@pytest.mark.parametrize("spread", [0.3, 1.0])
@pytest.mark.parametrize("clusters", ["found", "random", "one place", "one cluster"])
@pytest.mark.parametrize("k", [1, 12, 300])
def test_neighbours_are_those_of_a_plain_loop_for_any_clusters(
    spread: float, clusters: str, k: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = features(300, spread, torch.float64)
    if clusters == "found":
        centers, assignment, _ = kmeans(rows, 20)
    else:
        generator = torch.Generator().manual_seed(1)
        assignment = torch.randint(0, 9, (300,), generator=generator) * 2  # every other cluster is empty
        centers = torch.randn(20, 16, generator=generator, dtype=torch.float64)
        if clusters == "one place":
            centers = centers[:1].expand(20, -1).clone()
        if clusters == "one cluster":
            assignment = torch.full((300,), 7)
    monkeypatch.setattr(clustered, "_SHARE", 1)  # never by brute force
    monkeypatch.setattr(clustered, "_ROWS", 13)
    expected = by_loop(rows, k)
    bounds = measure_bounds(rows, assignment, centers)
    assert torch.equal(bounds.search(k, slice(0, 300)), expected)
    assert torch.equal(bounds.search(k, slice(100, 170)), expected[100:170])
    assert bounds.search(k, slice(300, 300)).shape == (0, k)


def test_points_at_one_place_are_all_looked_at() -> None:
    bounds = measure_bounds(torch.zeros(50, 3), torch.arange(50) % 5, torch.zeros(5, 3))
    assert len(bounds.candidates(0, bounds.members[0], 20)) == 50


def test_clusters_apart_are_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    rows = features(5000, 0.3, torch.float32, groups=20)
    centers, assignment, _ = kmeans(rows, 20)
    expected = by_loop(rows, 21)
    monkeypatch.setattr(clustered, "brute_force", None)
    found = nearest_among_clusters(rows, assignment, centers, 21)
    assert (found == expected).float().mean() > 0.999  # in fp32 two rows may change places
    far = (rows.double()[:, None] - rows.double()[found[:, -1:]]).square().sum(dim=2).amax(dim=1)
    true = (rows.double()[:, None] - rows.double()[expected[:, -1:]]).square().sum(dim=2).amax(dim=1)
    assert torch.allclose(far, true, atol=1e-6)


def test_features_without_clusters_are_searched_by_brute_force(monkeypatch: pytest.MonkeyPatch) -> None:
    rows = features(5000, 30.0, torch.float32, dim=64)
    centers, assignment, _ = kmeans(rows, 20, iterations=3)
    monkeypatch.setattr(clustered.Bounds, "search", None)
    assert (nearest_among_clusters(rows, assignment, centers, 11) == by_loop(rows, 11)).float().mean() > 0.999


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_packed_rows_give_the_same_products(dtype: torch.dtype) -> None:
    left, right, less = features(9, 1.0, dtype), features(501, 1.0, dtype), torch.arange(501, dtype=dtype)
    expected = left.double() @ right.double().T - less.double()
    assert torch.allclose(products(left, packed(right, 9), less).double(), expected, atol=1e-4)


def test_greedy_kmeans_plus_plus_is_its_plain_loop() -> None:
    rows, clusters = features(400, 1.0, torch.float32), 30
    trials = 2 + int(math.log(clusters))
    draws = uniform(5, "k-means++", torch.arange(clusters)[:, None], torch.arange(trials)).tolist()
    chosen = [int(draws[0][0] * 400)]
    exact = rows.double()
    nearest = (exact - exact[chosen[0]]).square().sum(dim=1)
    for few in draws[1:]:
        ends = nearest.cumsum(dim=0)
        tried = [int((ends <= draw * ends[-1]).sum()) for draw in few]
        left = [torch.minimum(nearest, (exact - exact[i]).square().sum(dim=1)) for i in tried]
        best = min(range(trials), key=lambda trial: float(left[trial].sum()))
        chosen.append(tried[best])
        nearest = left[best]
    assert torch.equal(_spread_out(rows, clusters, 5), rows[chosen])


def test_features_that_are_no_numbers_are_left_to_brute_force(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("glocal.neighbors.clustered._WORTH", 1)
    rows = torch.randn(40, 4, generator=torch.Generator().manual_seed(0))
    rows[3] = torch.nan
    found = nearest_among_clusters(rows, torch.arange(40) % 4, torch.zeros(4, 4), 3)
    assert torch.equal(found, nearest_neighbors(rows, rows, 3)[1])
