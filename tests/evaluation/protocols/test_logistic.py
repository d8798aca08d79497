"""Logistic regression against scikit-learn's."""

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression

from glocal.data.sources.base import MemorySource, Source, Subset
from glocal.data.sources.opening import open_source
from glocal.errors import GlocalError
from glocal.evaluation import evaluate
from glocal.evaluation.probes import logistic as regression
from glocal.evaluation.probes.logistic import choose_penalty, fit_logistic
from glocal.evaluation.protocols.logistic import LogisticSettings, logistic_regression
from glocal.settings import validated


def activations(rows: int, seed: int, classes: int = 6, dim: int = 20) -> tuple[torch.Tensor, torch.Tensor]:
    """Features that are not negative, as after a ReLU."""
    centres = torch.randn(classes, dim, generator=torch.Generator().manual_seed(99))
    generator = torch.Generator().manual_seed(seed)
    labels = torch.randint(0, classes, (rows,), generator=generator)
    return (centres[labels] + 1.5 * torch.randn(rows, dim, generator=generator) + 1).relu(), labels


@pytest.mark.parametrize("classes", [2, 6])
@pytest.mark.parametrize("c", [1e-3, 0.1, 10.0])
def test_coefficients_and_probabilities_are_scikit_learns(classes: int, c: float) -> None:
    (features, labels), (test, _) = activations(300, 0, classes), activations(200, 1, classes)
    model = LogisticRegression(C=c, tol=1e-8, max_iter=10_000).fit(features.double().numpy(), labels.numpy())
    fit = fit_logistic(features, labels, classes=classes, c=[c], tolerance=1e-8)
    assert fit.converged
    weight, bias = fit.weight.mT, fit.bias
    if classes == 2:  # scikit-learn has one row of coefficients then
        weight, bias = weight[1:] - weight[:1], bias[1:] - bias[:1]
    np.testing.assert_allclose(weight.numpy(), model.coef_, atol=1e-3)
    np.testing.assert_allclose(bias - bias.mean(), model.intercept_ - model.intercept_.mean(), atol=1e-3)
    expected = model.predict_proba(test.double().numpy())
    np.testing.assert_allclose(fit.scores(test).softmax(dim=1).numpy(), expected, atol=1e-3)
    assert torch.equal(fit.scores(test).argmax(dim=1), torch.from_numpy(expected.argmax(axis=1)))


def test_chunks_and_a_path_of_penalties_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    features, labels = activations(300, 0)
    whole = fit_logistic(features, labels, classes=6, c=[1.0], tolerance=1e-8)
    seen: list[float] = []
    path = fit_logistic(
        features, labels, classes=6, c=[0.01, 0.1, 1.0], tolerance=1e-8, seen=lambda c, fit: seen.append(c)
    )
    assert seen == [0.01, 0.1, 1.0]
    torch.testing.assert_close(path.weight, whole.weight, atol=1e-4, rtol=0)
    monkeypatch.setattr(regression, "_SCORES", 70)
    monkeypatch.setattr(regression, "_WHOLE", 0)
    chunked = fit_logistic(features, labels, classes=6, c=[1.0], tolerance=1e-8)
    torch.testing.assert_close(chunked.weight, whole.weight, atol=1e-5, rtol=0)
    torch.testing.assert_close(chunked.scores(features), whole.scores(features), atol=1e-4, rtol=0)


def test_classes_without_images_are_never_predicted() -> None:
    features, labels = activations(200, 0)
    labels[labels == 3] = 4
    fit = fit_logistic(features, labels, classes=9, c=[1.0, 10.0])
    model = LogisticRegression(C=10.0, tol=1e-7, max_iter=5000).fit(features.numpy(), labels.numpy())
    scores = fit.scores(features)
    assert scores.shape == (200, 9)
    assert scores[:, [3, 6, 7, 8]].eq(-torch.inf).all()
    assert torch.equal(scores.argmax(dim=1), torch.from_numpy(model.predict(features.numpy())))


def test_one_class_and_one_image_are_no_error() -> None:
    fit = fit_logistic(torch.ones(1, 4), torch.zeros(1, dtype=torch.int64), classes=1, c=[1.0])
    assert fit.scores(torch.randn(3, 4)).argmax(dim=1).tolist() == [0, 0, 0]


def test_the_penalty_is_chosen_as_by_a_loop_over_scikit_learn() -> None:
    (train, labels), (val, val_labels) = activations(120, 0), activations(90, 1)
    strengths = tuple(torch.logspace(-4, 3, 8).tolist())
    right = []
    for c in strengths:
        model = LogisticRegression(C=c, tol=1e-7, max_iter=5000).fit(train.double().numpy(), labels.numpy())
        right.append(model.score(val.double().numpy(), val_labels.numpy()))
    chosen = choose_penalty(train, labels, val, val_labels, classes=6, c=strengths[::-1], tolerance=1e-7)
    assert chosen.c == strengths[right.index(max(right))]
    assert chosen.unfinished == 0


def test_the_measured_classifier_learns_from_validation_images_too_and_never_chooses_by_the_test() -> None:
    (learn, labels), (test, truth) = activations(200, 0), activations(150, 1)
    val = torch.arange(200) % 4 == 0
    settings = LogisticSettings(values=6, tolerance=1e-7)
    found = logistic_regression(learn, labels, val, test, truth, classes=6, settings=settings, progress=False)
    model = LogisticRegression(C=found.c, tol=1e-7, max_iter=5000).fit(learn.double().numpy(), labels.numpy())
    assert found.metrics["top1"] == pytest.approx(100 * model.score(test.double().numpy(), truth.numpy()), abs=1e-3)
    wrong = logistic_regression(learn, labels, val, test, (truth + 1) % 6, classes=6, settings=settings, progress=False)
    assert wrong.c == found.c


def test_images_for_the_choice_that_come_last_are_not_copied(monkeypatch: pytest.MonkeyPatch) -> None:
    (learn, labels), (test, truth) = activations(60, 0), activations(30, 1)
    seen: list[int] = []

    def look(train: torch.Tensor, own: torch.Tensor, val: torch.Tensor, *more: object, **options: object) -> object:
        seen.extend(part.untyped_storage().data_ptr() for part in (train, val))
        assert (len(train), len(val)) == (45, 15)
        return choose_penalty(train, own, val, *more, **options)  # type: ignore[arg-type]

    monkeypatch.setattr("glocal.evaluation.protocols.logistic.choose_penalty", look)
    settings, here = LogisticSettings(values=3), learn.untyped_storage().data_ptr()
    last = torch.arange(60) >= 45
    order = torch.randperm(60, generator=torch.Generator().manual_seed(0))
    found = [
        logistic_regression(
            learn[rows] if rows is not None else learn,
            labels if rows is None else labels[rows],
            val,
            test,
            truth,
            classes=6,
            settings=settings,
            progress=False,
        )
        for rows, val in ((None, last), (order, last[order]))
    ]
    assert seen[:2] == [here, here]
    assert here not in seen[2:]
    assert found[0].c == found[1].c
    assert found[0].metrics == pytest.approx(found[1].metrics)


def test_there_are_45_values_between_the_papers_bounds() -> None:
    strengths = LogisticSettings().strengths()
    assert len(strengths) == 45
    assert strengths[0] == pytest.approx(1e-5)
    assert strengths[-1] == pytest.approx(1e6)
    assert LogisticSettings(c=(3.0, 1.0, 3.0)).strengths() == (1.0, 3.0)
    with pytest.raises(GlocalError, match=r"c\.0 must be greater than 0"):
        validated(LogisticSettings, {"c": [0.0]}, "protocol logistic")


def parts() -> dict[str, Source]:
    digits = open_source("digits")
    return {
        "train": Subset(digits, torch.arange(300)),
        "val": Subset(digits, torch.arange(300, 400)),
        "test": Subset(open_source("digits:test"), torch.arange(150)),
    }


class Coarse:
    """A backbone that sees an image as 8×8 grey values."""

    size, dim, label = 32, 64, "coarse"

    def features(self, images: torch.Tensor) -> torch.Tensor:
        return torch.nn.functional.avg_pool2d(images[:, :1].float(), 4).flatten(1) / 64


def test_end_to_end_with_and_without_val_and_standardised() -> None:
    sources = parts()
    settings = {"logistic.values": 5}
    arguments = {"protocols": "logistic", "cache": False, "progress": False}
    found = evaluate(Coarse(), **sources, **arguments, settings=settings)  # type: ignore[arg-type]
    [entry] = found["protocols"]["logistic"]["results"]
    assert entry["setting"].startswith("L-BFGS, C=")
    assert entry["setting"].endswith(", chosen on val")
    both = sources["train"].images(), sources["val"].images()  # type: ignore[attr-defined]
    learn, labels = Coarse().features(torch.cat(both)), torch.cat([sources["train"].labels, sources["val"].labels])  # type: ignore[list-item]
    c = float(entry["setting"].split("C=")[1].split(",")[0])
    model = LogisticRegression(C=c, tol=1e-6, max_iter=5000).fit(learn.double().numpy(), labels.numpy())
    test = Coarse().features(sources["test"].images()).double().numpy()  # type: ignore[attr-defined]
    assert entry["metrics"]["top1"] == pytest.approx(100 * model.score(test, sources["test"].labels.numpy()), abs=0.7)  # type: ignore[union-attr]
    del sources["val"]
    found = evaluate(Coarse(), **sources, **arguments, settings={**settings, "logistic.standardise": True})  # type: ignore[arg-type]
    [entry] = found["protocols"]["logistic"]["results"]
    assert entry["setting"].endswith(", chosen on 20% of train")
    assert entry["metrics"]["top1"] > 70


def test_running_out_of_iterations_is_told(capsys: pytest.CaptureFixture[str]) -> None:
    settings = {"logistic.c": [1.0, 100.0], "logistic.iterations": 2}
    found = evaluate(Coarse(), **parts(), protocols="logistic", settings=settings, cache=False, progress=False)
    [entry] = found["protocols"]["logistic"]["results"]
    assert entry["setting"].endswith("stopped at 2 iterations")
    told = capsys.readouterr().err
    assert "the 2 iterations ran out before L-BFGS converged in 2 of the 2 fits for the choice and the measured" in told


def test_a_source_without_spare_images_asks_for_val() -> None:
    source = MemorySource("few", torch.zeros(3, 3, 8, 8, dtype=torch.uint8), torch.arange(3), ["a", "b", "c"])
    with pytest.raises(
        GlocalError, match=r"3 images of 3 classes are too few .*; give --val, or one C, --set logistic\.c=\[1\.0\]"
    ):
        evaluate(Coarse(), train=source, test=source, protocols="logistic", cache=False, progress=False)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_a_gpu_finds_the_same_classifier() -> None:
    features, labels = activations(300, 0)
    here = fit_logistic(features, labels, classes=6, c=[1.0], tolerance=1e-8)
    there = fit_logistic(features.cuda(), labels, classes=6, c=[1.0], tolerance=1e-8)
    torch.testing.assert_close(there.weight.cpu(), here.weight, atol=1e-5, rtol=0)
