"""The threshold: above what unrelated images reach, below copies, however many of these there are."""

import numpy as np
import pytest
import torch

from glocal.curation.chance import FEW, USUAL_THRESHOLD, _rare, chance_threshold, usual_neighbors
from glocal.neighbors.nearest import nearest_neighbors


def nearest(points: torch.Tensor) -> torch.Tensor:
    """Similarities to the usual number of nearest others."""
    distance, _ = nearest_neighbors(points, points, usual_neighbors(len(points)) + 1, metric="cosine")
    return 1 - distance[:, 1:]


def a_set(seed: int, count: int, dim: int, clusters: int = 1) -> torch.Tensor:
    """Points in clusters on a plane of `dim` dimensions in a space of 64."""
    made = torch.Generator().manual_seed(seed)
    inner = torch.randn(count, dim, generator=made) @ torch.randn(dim, 64, generator=made) / dim**0.5
    centres = 2 * torch.randn(clusters, 64, generator=made)
    return inner + (centres[torch.arange(count) % clusters] if clusters > 1 else 0)


@pytest.mark.parametrize("dim", [4, 12, 40])
@pytest.mark.parametrize("clusters", [1, 10])
def test_few_sets_without_copies_reach_the_threshold(dim: int, clusters: int) -> None:
    reached = 0
    for seed in range(10):
        similarity = nearest(a_set(seed, 500, dim, clusters))
        reached += int((similarity[:, 0] >= chance_threshold(similarity).similarity).any())
    assert reached <= 3


@pytest.mark.parametrize("copied", [25, 500])
def test_copies_are_above_it_be_they_few_or_one_of_each(copied: int) -> None:
    points = a_set(0, 500, 12)
    noise = 0.1 * torch.randn(copied, 64, generator=torch.Generator().manual_seed(1))
    similarity = nearest(torch.cat([points, points[:copied] + noise]))
    least = chance_threshold(similarity).similarity
    of_copies = torch.cosine_similarity(points[:copied], points[:copied] + noise)
    assert (of_copies >= least).float().mean() > 0.98
    without = chance_threshold(nearest(points)).similarity
    assert (1 - least) == pytest.approx(1 - without, rel=0.3)


@pytest.mark.parametrize("copies", [5, 100])
def test_a_large_group_of_copies_does_not_raise_it_to_one(copies: int) -> None:
    points = a_set(0, 500, 12)
    without = chance_threshold(nearest(points)).similarity
    similarity = nearest(torch.cat([points, points[:1].repeat(copies, 1)]))
    assert 1 - chance_threshold(similarity).similarity == pytest.approx(1 - without, rel=0.3)


def test_small_sets_take_the_usual_one_and_all_say_why() -> None:
    few = chance_threshold(nearest(a_set(0, FEW - 1, 12)))
    assert few.similarity == USUAL_THRESHOLD
    assert few.words == "the usual one: 31 images are too few to tell how alike they are by chance"
    similarity = nearest(a_set(0, 500, 12))
    usual = np.median(similarity[:, 0].numpy())
    words = chance_threshold(similarity).words
    assert words.startswith("by chance one in 20 sets of 500 images would hold a pair as near, going by")
    assert f"The nearest other image of an image has similarity {usual:.2f} here" in words


@pytest.mark.parametrize(
    ("images", "words"),
    [
        (5_000, "by chance one in 20 sets of 5,000 images would hold a pair as near"),
        (10_000, "by chance one in 10 sets of 10,000 images would hold a pair as near"),
        (50_000, "by chance one in 2 sets of 50,000 images would hold a pair as near"),
        (100_000, "by chance 1 pair of 100,000 images would be as near"),
        (1_000_000, "by chance 10 pairs of 1,000,000 images would be as near"),
    ],
)
def test_what_is_said_of_chance_is_what_is_allowed(images: int, words: str) -> None:
    assert _rare(images) == words


def test_embeddings_that_are_all_the_same_give_a_threshold_that_only_they_reach() -> None:
    assert chance_threshold(torch.ones(100, 8)).similarity == pytest.approx(1, abs=1e-4)
