"""k-NN against plain loops."""

import math

import numpy as np
import pytest
import torch
from sklearn.neighbors import KNeighborsClassifier

from glocal.data.sources.base import MemorySource
from glocal.errors import GlocalError
from glocal.evaluation import evaluate
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


def five_by_loop(train, labels, test, truth, k: int, tau: float) -> float:  # type: ignore[no-untyped-def]
    """Top-5 accuracy in percent: the five classes with most votes, of those that have any; lower numbers first."""
    right = 0
    for query, target in zip(test, truth, strict=True):
        similarity = torch.nn.functional.cosine_similarity(query[None].double(), train.double(), dim=1)
        votes: dict[int, float] = {}
        for place in similarity.argsort(descending=True)[:k].tolist():
            c = int(labels[place])
            votes[c] = votes.get(c, 0.0) + math.exp(float(similarity[place]) / tau)
        right += int(target) in sorted(votes, key=lambda c: (-votes[c], c))[:5]
    return 100 * right / len(test)


class Given:
    """A backbone whose features are written in the images' first pixels."""

    size, dim, label = 8, 5, "given"

    def features(self, images: torch.Tensor) -> torch.Tensor:
        return images[:, 0, 0, :5].float() - 128


def labelled_images(features: torch.Tensor, labels: torch.Tensor, classes: int) -> MemorySource:
    images = torch.zeros(len(features), 3, 8, 8, dtype=torch.uint8)
    images[:, 0, 0, :5] = features.byte()
    return MemorySource("given", images, labels, [str(c) for c in range(classes)])


@pytest.mark.parametrize("classes", [5, 6, 9])
def test_top5_equals_a_plain_loop_and_is_left_out_with_five_classes(classes: int) -> None:
    parts = [blobs(rows, seed, classes, spread=3.0) for rows, seed in ((80, 0), (50, 1))]
    parts = [((10 * features + 128).clamp(0, 255).byte(), labels) for features, labels in parts]
    train, test = (labelled_images(*part, classes) for part in parts)
    found = evaluate(
        Given(),
        train=train,
        test=test,
        protocols="knn",
        settings={"knn.k": [1, 3, 20], "knn.votes": ["weighted"]},
        cache=False,
        progress=False,
    )
    measured = {entry["setting"]: entry["metrics"] for entry in found["protocols"]["knn"]["results"]}
    if classes == 5:
        assert all(set(metrics) == {"top1"} for metrics in measured.values())
        return
    (bank, labels), (queries, truth) = ((features.float() - 128, labels) for features, labels in parts)
    for k in (1, 3, 20):
        expected = five_by_loop(bank, labels, queries, truth, k, 0.07)
        assert measured[f"k={k}"]["top5"] == pytest.approx(expected, abs=1e-4)
    assert measured["k=1"]["top5"] == measured["k=1"]["top1"]  # a class without a vote is no answer
    assert measured["k=20"]["top1"] < measured["k=20"]["top5"] < 100


@pytest.mark.parametrize("k", [0, 61, (5, 61)])
def test_knn_refuses_a_k_outside_the_training_set(k: int | tuple[int, ...]) -> None:
    with pytest.raises(GlocalError, match="between 1 and 60, the training images"):
        knn(*blobs(60, 0), *blobs(4, 1), k=k)
