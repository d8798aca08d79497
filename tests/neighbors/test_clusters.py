"""k-means and the selection of positives, against scikit-learn and plain loops."""

from typing import Literal

import pytest
import torch
from sklearn.cluster import KMeans
from sklearn.datasets import load_digits
from torch.nn.functional import normalize

from glocal import transfer
from glocal.errors import GlocalError
from glocal.neighbors import kmeans, nearest_neighbors, select_positives
from tests.wide import Wide


@pytest.fixture(scope="module")
def digits() -> torch.Tensor:
    return torch.tensor(load_digits().data, dtype=torch.float32)


@pytest.mark.parametrize("start", ["k-means++", "random"])
@pytest.mark.parametrize("clusters", [10, 64])
def test_inertia_is_that_of_scikit_learn(digits: torch.Tensor, start: str, clusters: int) -> None:
    ours = min(
        float(kmeans(digits, clusters, iterations=100, seed=seed, start=start)[2])  # type: ignore[arg-type]
        for seed in range(4)
    )
    init = start if start == "random" else "k-means++"
    theirs = KMeans(clusters, init=init, n_init=4, max_iter=100, random_state=0).fit(digits.numpy()).inertia_
    assert ours <= 1.01 * theirs


@pytest.mark.parametrize("start", ["k-means++", "random"])
def test_a_device_without_float64_is_enough(
    digits: torch.Tensor, start: Literal["k-means++", "random"], monkeypatch: pytest.MonkeyPatch
) -> None:
    centers, theirs, usual = kmeans(digits, 20, start=start)
    chosen = select_positives(digits, theirs, centers, 20, keep=4)
    monkeypatch.setattr(transfer, "_NO_FLOAT64", {"cpu"})
    with Wide("cpu") as wide:
        _, ours, inertia = kmeans(digits, 20, start=start)
        narrow = select_positives(digits, theirs, centers, 20, keep=4)
    assert wide.made == []
    assert float(inertia) == pytest.approx(float(usual), rel=1e-5)
    assert float((ours == theirs).double().mean()) == float((chosen == narrow).double().mean()) == 1.0


def test_the_result_is_consistent_and_repeatable(digits: torch.Tensor) -> None:
    centers, assignment, inertia = kmeans(digits, 20, seed=3)
    distance, nearest = nearest_neighbors(digits, centers, 1)
    assert torch.equal(nearest[:, 0], assignment)
    assert float(inertia) == pytest.approx(float(distance.double().square().sum()), rel=1e-4)
    again = kmeans(digits, 20, seed=3)
    assert torch.equal(again[1], assignment)
    assert not torch.equal(kmeans(digits, 20, seed=4)[1], assignment)


def test_on_the_sphere_centres_are_the_directions_of_their_points(digits: torch.Tensor) -> None:
    lengths = torch.linspace(0.1, 10, len(digits))[:, None]
    centers, assignment, inertia = kmeans(digits * lengths, 12, iterations=100, metric="cosine")
    unit = normalize(digits, dim=1)
    assert torch.equal(assignment, (unit @ centers.T).argmax(dim=1))
    for cluster, center in enumerate(centers):
        total = unit[assignment == cluster].sum(dim=0)
        assert torch.allclose(center, total / total.norm(), atol=1e-5)
    cosine = (unit * centers[assignment]).sum(dim=1).double()
    assert float(inertia) == pytest.approx(float((2 - 2 * cosine).sum()), rel=1e-4)


def test_empty_clusters_are_put_on_far_points() -> None:
    """Many duplicates: a random start puts several centres on one place."""
    points = torch.cat([torch.zeros(60, 2), torch.eye(2) * 10, -torch.eye(2) * 10])
    _, assignment, inertia = kmeans(points, 5, iterations=20, start="random")
    assert len(assignment.unique()) == 5
    assert float(inertia) == pytest.approx(0.0, abs=1e-3)


def test_more_clusters_than_points_are_refused() -> None:
    with pytest.raises(GlocalError, match="9 clusters of 4 points: choose from 1 to 4"):
        kmeans(torch.zeros(4, 2), 9)
    with pytest.raises(GlocalError, match="infinite or no numbers cannot be clustered"):
        kmeans(torch.tensor([[0.0], [torch.nan]]), 2)
    with pytest.raises(GlocalError, match="metric='cosin': choose l2 or cosine"):
        kmeans(torch.zeros(4, 2), 2, metric="cosin")  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def clustered() -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    features = normalize(torch.randn(300, 6, generator=torch.Generator().manual_seed(0)), dim=1)
    centers, assignment, _ = kmeans(features, 12)
    return features, assignment, centers


@pytest.mark.parametrize("rule", ["knn", "knn_kmeans", "center"])
def test_selection_is_its_plain_loop(rule: str, clustered: tuple[torch.Tensor, ...]) -> None:
    features, assignment, centers = clustered
    chosen = select_positives(features, assignment, centers, 40, rule=rule, keep=10)  # type: ignore[arg-type]
    assert chosen.shape == (300, 10)
    filled = 0
    for i in range(300):
        order = (features - features[i]).norm(dim=1).argsort().tolist()
        neighbors = [j for j in order if j != i][:40]
        mine = assignment[i]
        reach = (features[i] - centers[mine]).norm()
        admitted = [
            j
            for j in neighbors
            if rule == "knn"
            or (
                assignment[j] == mine and (rule == "knn_kmeans" or (features[j] - centers[mine]).norm() <= reach + 1e-6)
            )
        ]
        got = chosen[i].tolist()
        assert len(set(got)) == 10
        if len(admitted) >= 10:
            assert set(got) <= set(admitted)
        else:
            filled += 1
            rest = [j for j in neighbors if j not in admitted][: 10 - len(admitted)]
            assert set(got) == set(admitted) | set(rest)
    assert rule == "knn" or filled > 0


def test_the_other_rules_keep_what_they_say(clustered: tuple[torch.Tensor, ...]) -> None:
    features, assignment, centers = clustered
    own = torch.arange(300)[:, None]
    members = select_positives(features, assignment, centers, 40, rule="kmeans")
    assert (assignment[members] == assignment[:, None]).all()
    alone = torch.bincount(assignment)[assignment] == 1
    assert (members != own)[~alone].all()
    anyone = select_positives(features, assignment, centers, 40, rule="random")
    assert (anyone != own).all()
    assert len(anyone.unique()) > 250


def test_the_choice_follows_the_seed(clustered: tuple[torch.Tensor, ...]) -> None:
    first, same, other = (select_positives(*clustered, 40, seed=seed) for seed in (0, 0, 1))
    assert torch.equal(first, same)
    assert not torch.equal(first, other)


def test_duplicates_do_not_become_their_own_positives() -> None:
    features = torch.zeros(20, 3)
    chosen = select_positives(features, torch.zeros(20, dtype=torch.int64), torch.zeros(1, 3), 5, keep=5)
    assert (chosen != torch.arange(20)[:, None]).all()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"k": 300}, "k=300 neighbours: choose from 1 to 299"),
        ({"k": 5, "keep": 6}, "keep=6 positives: choose from 1 to k=5"),
        ({"rule": "centre"}, "rule='centre': choose from random, knn, kmeans, knn_kmeans, center"),
    ],
)
def test_what_cannot_be_selected_is_named(
    settings: dict[str, object], message: str, clustered: tuple[torch.Tensor, ...]
) -> None:
    with pytest.raises(GlocalError, match=message):
        select_positives(*clustered, **{"k": 40, **settings})  # type: ignore[arg-type]
