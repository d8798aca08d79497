"""k-NN against plain loops."""

import math

import numpy as np
import pytest
import torch
from sklearn.neighbors import KNeighborsClassifier

from glocal.errors import GlocalError
from glocal.evaluation.protocols.knn import _search, knn


def blobs(rows: int, seed: int, classes: int = 7, spread: float = 1.6) -> tuple[torch.Tensor, torch.Tensor]:
    centres = 2 * torch.randn(classes, 5, generator=torch.Generator().manual_seed(99))
    generator = torch.Generator().manual_seed(seed)
    labels = torch.randint(0, classes, (rows,), generator=generator)
    return centres[labels] + spread * torch.randn(rows, 5, generator=generator) + 3, labels


def vote_by_loop(train, labels, test, truth, k: int, tau: float, weighted: bool) -> float:  # type: ignore[no-untyped-def]
    right = 0
    for query, target in zip(test, truth, strict=True):
        near = sorted(
            ((float(query @ row / query.norm() / row.norm()), int(c)) for row, c in zip(train, labels, strict=True)),
            reverse=True,
        )
        votes = [0.0] * 7
        for similarity, label in near[:k]:
            votes[label] += math.exp(similarity / tau) if weighted else 1
        right += votes.index(max(votes)) == int(target)
    return 100 * right / len(test)


@pytest.mark.parametrize("weighted", [True, False])
def test_knn_equals_a_plain_loop_for_several_k_at_once(weighted: bool) -> None:
    train, test = blobs(60, 0), blobs(40, 1)
    found = knn(*train, *test, k=(20, 1, 7), weighted=weighted)
    assert list(found) == [1, 7, 20]
    for k, accuracy in found.items():
        assert accuracy == pytest.approx(vote_by_loop(*train, *test, k, 0.07, weighted), abs=1e-4)
        assert knn(*train, *test, k=k, weighted=weighted) == {k: accuracy}


def test_queries_may_be_shared_out_to_devices() -> None:
    train, test = blobs(60, 0), blobs(41, 1)
    alone = _search(*train, test[0], [7], ["cpu"])
    for one, other in zip(alone, _search(*train, test[0], [7], ["cpu", "cpu", "cpu"]), strict=True):
        assert torch.equal(one, other)


def test_knn_agrees_with_scikit_learn_to_the_last_sample() -> None:
    train, test = blobs(300, 0), blobs(200, 1)
    unit = [torch.nn.functional.normalize(each, dim=1).numpy() for each in (train[0], test[0])]
    model = KNeighborsClassifier(15, metric="cosine", weights=lambda distance: np.exp((1 - distance) / 0.07))
    expected = 100 * model.fit(unit[0], train[1].numpy()).score(unit[1], test[1].numpy())
    assert knn(*train, *test, k=15)[15] == pytest.approx(expected, abs=1e-4)


@pytest.mark.parametrize("k", [0, 61, (5, 61)])
def test_knn_refuses_a_k_outside_the_training_set(k: int | tuple[int, ...]) -> None:
    with pytest.raises(GlocalError, match="between 1 and 60, the training images"):
        knn(*blobs(60, 0), *blobs(4, 1), k=k)
