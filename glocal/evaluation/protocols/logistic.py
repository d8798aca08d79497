"""Logistic regression on frozen features, by L-BFGS."""

from __future__ import annotations

import warnings
from typing import Any

import torch
from pydantic import Field
from torch import Tensor

from glocal.console import progress_bar
from glocal.evaluation.bench import Bench, Measurement, Protocol
from glocal.evaluation.protocols.linear import accuracies, hold_out, standardise
from glocal.settings import Settings


class LBFGSProbe(Settings):
    """Multinomial logistic regression with an ℓ2 penalty, strength chosen from `penalties` (scikit-learn's C)."""

    penalties: tuple[float, ...] = (1e-4, 1e-3, 1e-2, 1e-1, 1.0, 10.0)
    iterations: int = Field(1000, ge=1)
    held_out: float = Field(0.1, gt=0, lt=1)
    seed: int = 0


def linear_lbfgs(
    train_features: Tensor,
    train_labels: Tensor,
    test_features: Tensor,
    test_labels: Tensor,
    *,
    settings: LBFGSProbe | None = None,
    progress: bool = True,
) -> dict[str, Any]:
    """Accuracy of ℓ2-regularised logistic regression on frozen features, by scikit-learn's L-BFGS.

    Args, Returns: as `linear_sgd`, with the chosen `penalty` (scikit-learn's C, the inverse strength).
    """
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.linear_model import LogisticRegression

    settings = settings or LBFGSProbe()
    train_features, test_features = standardise(train_features.cpu(), test_features.cpu())
    kept, held = hold_out(len(train_features), settings.held_out, settings.seed)

    def fit(rows: Tensor, penalty: float) -> Any:
        model = LogisticRegression(C=penalty, max_iter=settings.iterations)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ConvergenceWarning)  # the bound on iterations is a setting
            return model.fit(train_features[rows].numpy(), train_labels[rows].numpy())

    with progress_bar("fits", visible=progress) as bar:
        task = bar.add_task("logistic regression", total=len(settings.penalties) + 1)
        right = []
        for penalty in settings.penalties:
            model = fit(kept, penalty)
            right.append(float(model.score(train_features[held].numpy(), train_labels[held].numpy())))
            bar.advance(task)
        best = settings.penalties[right.index(max(right))]
        model = fit(torch.arange(len(train_features)), best)
    scores = torch.full((len(test_features), int(train_labels.max()) + 1), -torch.inf, dtype=torch.float64)
    found = model.predict_proba(test_features.numpy())
    scores[:, torch.from_numpy(model.classes_)] = torch.from_numpy(found).double()
    return {**accuracies(scores, test_labels), "penalty": best}


def measure(bench: Bench, settings: LBFGSProbe) -> list[Measurement]:
    """`linear_lbfgs` on the pooled features."""
    pair = bench.labelled()
    found = linear_lbfgs(
        pair.train, pair.train_labels, pair.test, pair.test_labels, settings=settings, progress=bench.progress
    )
    penalty = found.pop("penalty")
    return [Measurement(f"L-BFGS, C={penalty:g}", found)]


PROTOCOL = Protocol(
    name="logistic", summary="logistic regression on frozen features, by L-BFGS", settings=LBFGSProbe, measure=measure
)
