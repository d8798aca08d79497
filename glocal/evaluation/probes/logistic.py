"""Multinomial logistic regression with an ℓ2 penalty by L-BFGS, on whatever device the features lie.

The objective is scikit-learn's: Σ −log p(label) + ‖W‖² / (2·C), biases free of penalty; with two classes the penalty is
that of its binary form, ‖w₁ − w₀‖² / (2·C). Features are centred first: free biases make that an exact change of
variables, and features that are not negative (those after a ReLU) then need about half as many iterations. Everything
is computed in float64.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from glocal.evaluation.metrics.accuracy import Metric, accuracies

_SCORES = 1 << 24  # scores that are in memory at a time
_WHOLE = 4 << 30  # bytes of features up to which they are turned into float64 once, and not chunk by chunk


class LogisticFit(NamedTuple):
    """A fitted classifier.

    Attributes:
        weight: (D, C) float64; the scores of an image are `features @ weight + bias`.
        bias: (C,) float64; −∞ for classes without training images.
        iterations: of L-BFGS.
        converged: it ended before they ran out.
    """

    weight: Tensor
    bias: Tensor
    iterations: int
    converged: bool

    def scores(self, features: Tensor) -> Tensor:
        """(M, D) → (M, C) float64 on the classifier's device."""
        rows = max(1, _SCORES // max(1, features.shape[1]))
        return torch.cat([part.to(self.weight) @ self.weight + self.bias for part in features.split(rows)])


class _Objective:
    """The mean objective of centred features as scipy's optimiser asks for it.

    Parameters are those of the classes that have images, W (C', D) and then the biases, in one float64 vector. Features
    are kept as columns: with few classes, both products are then nearly twice as fast on a CPU.
    """

    def __init__(self, features: Tensor, labels: Tensor) -> None:
        self.classes, self.labels = labels.to(features.device).unique(return_inverse=True)  # (C',), (N,)
        self.dim = features.shape[1]
        self.mean = torch.stack([part.double().sum(dim=0) for part in features.split(65536)]).sum(dim=0) / len(features)
        self.whole = features.numel() * 8 <= _WHOLE
        self.columns = self._centred(features.mT) if self.whole else features.mT  # (D, N)
        self.penalty = 0.0

    def penalise(self, c: float) -> None:
        """Sets the strength of the penalty."""
        self.penalty = (2.0 if len(self.classes) == 2 else 1.0) / c / len(self.labels)

    def __call__(self, parameters: np.ndarray) -> tuple[float, np.ndarray]:
        weight, bias = self.split(parameters)
        loss = self.penalty / 2 * weight.square().sum()
        by_weight, by_bias = self.penalty * weight, torch.zeros_like(bias)
        images = max(1, _SCORES // len(self.classes))
        for chunk, target in zip(self.columns.split(images, dim=1), self.labels.split(images), strict=True):
            part = chunk if self.whole else self._centred(chunk)
            scores = torch.addmm(bias[:, None], weight, part)  # (C', n)
            own = (target, torch.arange(len(target), device=target.device))
            total = scores.logsumexp(dim=0)
            loss += (total - scores[own]).sum() / len(self.labels)
            error = scores.sub_(total).exp_()  # the gradient of the loss: probability − 1 at the label
            error[own] -= 1
            error /= len(self.labels)
            by_weight.addmm_(error, part.mT)
            by_bias += error.sum(dim=1)
        found = torch.cat([loss[None], by_weight.flatten(), by_bias]).cpu().numpy()  # one wait for the device
        return float(found[0]), found[1:]

    def _centred(self, columns: Tensor) -> Tensor:
        return (columns.double() - self.mean[:, None]).contiguous()

    def split(self, parameters: np.ndarray) -> tuple[Tensor, Tensor]:
        """Weights (C', D) and biases (C',) on the device."""
        flat = torch.from_numpy(parameters).to(self.columns.device)
        weight, bias = flat.split([len(self.classes) * self.dim, len(self.classes)])
        return weight.view(-1, self.dim), bias

    def start(self, fit: LogisticFit | None) -> np.ndarray:
        """The parameters of a fit to the same classes; zeros where there is none."""
        if fit is None:
            return np.zeros(len(self.classes) * (self.dim + 1))
        weight, bias = fit.weight[:, self.classes], fit.bias[self.classes]
        bias = torch.where(bias.isfinite(), bias + self.mean @ weight, 0.0)
        return torch.cat([weight.mT.flatten(), bias]).cpu().numpy()

    def fit(self, parameters: np.ndarray, classes: int, iterations: int, converged: bool) -> LogisticFit:
        weight, bias = self.split(parameters)
        whole = weight.new_zeros(self.dim, classes)
        whole[:, self.classes] = weight.mT
        biases = weight.new_full((classes,), -torch.inf)
        biases[self.classes] = bias - weight @ self.mean
        return LogisticFit(whole, biases, iterations, converged)


def fit_logistic(
    features: Tensor,
    labels: Tensor,
    *,
    classes: int,
    c: Sequence[float],
    iterations: int = 5000,
    tolerance: float = 1e-5,
    start: LogisticFit | None = None,
    seen: Callable[[float, LogisticFit], None] = lambda c, fit: None,
) -> LogisticFit:
    """Fits classifiers for several strengths of the penalty, each from where the one before ended.

    Args:
        features: (N, D), on the device that computes (one with float64).
        labels: (N,) int64.
        classes: their number; those without an image get the score −∞.
        c: C of scikit-learn, the inverse strength; in the order given, strong penalties (small C) best first.
        iterations: of L-BFGS, at most, for each.
        tolerance: of the largest entry of the gradient of the mean objective, below which it has converged.
        start: a fit of features of the same kind to begin with.
        seen: called with each C and its fit.

    Returns:
        The fit of the last C.
    """
    from scipy.optimize import minimize

    objective = _Objective(features, labels)
    fit = start
    for strength in c:
        objective.penalise(strength)
        found = minimize(
            objective,
            objective.start(fit),
            jac=True,
            method="L-BFGS-B",
            # As scikit-learn has them; the number of evaluations is bounded by that of iterations alone.
            options={
                "maxiter": iterations,
                "maxfun": 100 * iterations,
                "maxls": 50,
                "gtol": tolerance,
                "ftol": 64 * np.finfo(float).eps,
            },
        )
        fit = objective.fit(found.x, classes, int(found.nit), found.status != 1)  # 1: a limit was reached
        seen(strength, fit)
    assert fit is not None  # c names at least one
    return fit


class ChosenPenalty(NamedTuple):
    """The penalty that did best on validation images.

    Attributes:
        c: C of scikit-learn.
        fit: the classifier of the training images alone.
        unfinished: values of C for which the iterations ran out.
    """

    c: float
    fit: LogisticFit
    unfinished: int


def choose_penalty(
    train: Tensor,
    train_labels: Tensor,
    val: Tensor,
    val_labels: Tensor,
    *,
    classes: int,
    c: Sequence[float],
    metric: Metric = "top1",
    iterations: int = 5000,
    tolerance: float = 1e-5,
    seen: Callable[[], None] = lambda: None,
) -> ChosenPenalty:
    """Fits all C on training images, from the strongest penalty to the weakest; of equally good ones the strongest.

    Args:
        train, train_labels: (N, D) and (N,).
        val, val_labels: (M, D) and (M,), on which C is chosen.
        metric: by which it is chosen.
        classes, c, iterations, tolerance: as for `fit_logistic`.
        seen: called after each fit.
    """
    best: list[tuple[float, float, LogisticFit]] = []
    unfinished = 0

    def look(strength: float, fit: LogisticFit) -> None:
        nonlocal unfinished
        unfinished += not fit.converged
        value = accuracies(fit.scores(val), val_labels)[metric]
        if not best or value > best[0][0]:
            best[:] = [(value, strength, fit)]
        seen()

    fit_logistic(
        train, train_labels, classes=classes, c=sorted(c), iterations=iterations, tolerance=tolerance, seen=look
    )
    _, strength, fit = best[0]
    return ChosenPenalty(strength, fit, unfinished)
