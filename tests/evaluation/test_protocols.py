"""The protocols against plain loops and scikit-learn."""

import math

import pytest
import torch
from sklearn.linear_model import LogisticRegression

from glocal.errors import GlocalError
from glocal.evaluation.protocols.knn import knn
from glocal.evaluation.protocols.linear import SGDProbe, _fit, linear_sgd
from glocal.evaluation.protocols.logistic import LBFGSProbe, linear_lbfgs


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


@pytest.mark.parametrize("k", [0, 61, (5, 61)])
def test_knn_refuses_a_k_outside_the_training_set(k: int | tuple[int, ...]) -> None:
    with pytest.raises(GlocalError, match="between 1 and 60, the training images"):
        knn(*blobs(60, 0), *blobs(4, 1), k=k)


def test_sgd_probe_comes_near_the_exact_solution() -> None:
    train, test = blobs(600, 0), blobs(400, 1)
    exact = LogisticRegression(C=1e3, max_iter=1000).fit(train[0].numpy(), train[1].numpy())
    found = linear_sgd(*train, *test, settings=SGDProbe(epochs=30), progress=False)
    assert found["top1"] == pytest.approx(100 * exact.score(test[0].numpy(), test[1].numpy()), abs=2.0)
    assert found["top5"] > found["top1"]


def test_learning_rates_trained_together_do_not_disturb_one_another() -> None:
    features, labels = blobs(200, 0)
    settings, advance = SGDProbe(epochs=3, batch_size=32), lambda: None
    together = _fit(features, labels, 7, (0.01, 0.3), settings, advance)
    for row, rate in enumerate((0.01, 0.3)):
        alone = _fit(features, labels, 7, (rate,), settings, advance)
        for found, expected in zip(together, alone, strict=True):
            assert torch.allclose(found[row], expected[0], atol=1e-5)
    assert not torch.allclose(together[0][0], together[0][1])


def test_probes_choose_without_the_test_set() -> None:
    train, test = blobs(300, 0), blobs(100, 1)
    wrong = (test[0], (test[1] + 1) % 7)
    for probe, key, settings in (
        (linear_sgd, "learning_rate", SGDProbe(epochs=3)),
        (linear_lbfgs, "penalty", LBFGSProbe()),
    ):
        chosen = [probe(*train, *each, settings=settings, progress=False)[key] for each in (test, wrong)]
        assert chosen[0] == chosen[1]


def test_lbfgs_probe_equals_scikit_learn_on_standardised_features() -> None:
    train, test = blobs(300, 0), blobs(200, 1)
    found = linear_lbfgs(*train, *test, settings=LBFGSProbe(penalties=(0.1,)), progress=False)
    mean, deviation = train[0].mean(0), train[0].std(0, unbiased=False)
    model = LogisticRegression(C=0.1, max_iter=1000).fit(((train[0] - mean) / deviation).numpy(), train[1].numpy())
    expected = 100 * model.score(((test[0] - mean) / deviation).numpy(), test[1].numpy())
    assert found["top1"] == pytest.approx(expected, abs=1e-4)
    assert found["penalty"] == 0.1
