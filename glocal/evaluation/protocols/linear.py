"""A linear classifier on frozen features, by SGD.

Features are standardised with the training set's mean and deviation, which plays the part of the batch normalisation
that probes put before the classifier (He et al., MAE, appendix A) and lets one range of learning rates fit
all backbones. What is chosen (learning rate, strength of the penalty) is chosen on a part of the training set that is
held out for it, never on the test set; the classifier that is reported is trained on all of the training set.
"""

from __future__ import annotations

from typing import Any

import torch
from pydantic import Field
from torch import Tensor
from torch.nn.functional import cross_entropy

from glocal.console import progress_bar
from glocal.evaluation.bench import Bench, Measurement, Protocol
from glocal.settings import Settings
from glocal.views.random import permutation


class SGDProbe(Settings):
    """SGD with momentum and a cosine schedule; all learning rates are trained at once, in one pass over the data."""

    learning_rates: tuple[float, ...] = (0.003, 0.01, 0.03, 0.1, 0.3, 1.0)
    epochs: int = Field(100, ge=1)
    batch_size: int = Field(256, ge=1)
    momentum: float = 0.9
    weight_decay: float = 0.0
    held_out: float = Field(0.1, gt=0, lt=1)
    seed: int = 0


def linear_sgd(
    train_features: Tensor,
    train_labels: Tensor,
    test_features: Tensor,
    test_labels: Tensor,
    *,
    settings: SGDProbe | None = None,
    progress: bool = True,
) -> dict[str, Any]:
    """Accuracy of a linear classifier trained by SGD on frozen features.

    Args:
        train_features: (N, D) float, on the device where the training shall run.
        train_labels: (N,) int64, classes from 0.
        test_features: (M, D).
        test_labels: (M,) int64.
        settings: the probe's settings.
        progress: show a progress bar.

    Returns:
        top1 (and top5 with more than five classes) in percent, and the chosen learning_rate.
    """
    settings = settings or SGDProbe()
    train_features, test_features = standardise(train_features, test_features)
    kept, held = hold_out(len(train_features), settings.held_out, settings.seed)
    classes = int(train_labels.max()) + 1
    with progress_bar("epochs", visible=progress) as bar:
        task = bar.add_task("linear probe", total=2 * settings.epochs)

        def fit(rows: Tensor, rates: tuple[float, ...]) -> tuple[Tensor, Tensor]:
            def advance() -> None:
                bar.advance(task)

            return _fit(train_features[rows], train_labels[rows], classes, rates, settings, advance)

        weight, bias = fit(kept, settings.learning_rates)
        scores = _scores(train_features[held], weight, bias)  # (R, N', C)
        right = (scores.argmax(dim=2) == train_labels[held]).float().mean(dim=1)
        best = settings.learning_rates[int(right.argmax())]
        weight, bias = fit(torch.arange(len(train_features)), (best,))
    return {**accuracies(_scores(test_features, weight, bias)[0], test_labels), "learning_rate": best}


def _fit(
    features: Tensor,
    labels: Tensor,
    classes: int,
    rates: tuple[float, ...],
    settings: SGDProbe,
    advance: Any,
) -> tuple[Tensor, Tensor]:
    """Classifiers for all learning rates: weights (R, D, C) and biases (R, 1, C), which share their batches."""
    weight = features.new_zeros(len(rates), features.shape[1], classes, requires_grad=True)
    bias = features.new_zeros(len(rates), 1, classes, requires_grad=True)
    speed = [torch.zeros_like(weight), torch.zeros_like(bias)]
    rate = features.new_tensor(rates)[:, None, None]
    batches = max(1, -(-len(features) // settings.batch_size))
    total = settings.epochs * batches
    for epoch in range(settings.epochs):
        order = permutation(len(features), settings.seed, "linear probe", epoch).to(features.device)
        for number, rows in enumerate(order.chunk(batches)):
            scores = _scores(features[rows], weight, bias)  # (R, B, C)
            target = labels.to(features.device)[rows].expand(len(rates), -1)
            # The sum over the classifiers has for each of them the gradient of its own mean.
            loss = cross_entropy(scores.flatten(0, 1), target.flatten()) * len(rates)
            gradients = torch.autograd.grad(loss, (weight, bias))
            share = (1 + torch.cos(torch.tensor(torch.pi * (epoch * batches + number) / total))) / 2
            with torch.no_grad():
                for value, gradient, velocity in zip((weight, bias), gradients, speed, strict=True):
                    decay = settings.weight_decay if value is weight else 0.0
                    velocity.mul_(settings.momentum).add_(gradient + decay * value)
                    value.sub_(rate * share.to(rate) * velocity)
        advance()
    return weight.detach(), bias.detach()


def _scores(features: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    return torch.matmul(features, weight) + bias


def standardise(train: Tensor, test: Tensor) -> tuple[Tensor, Tensor]:
    mean, deviation = train.mean(dim=0), train.std(dim=0, unbiased=False)
    deviation = torch.where(deviation > 1e-6 * deviation.max(), deviation, 1.0)  # constant features stay zero
    return (train - mean) / deviation, (test - mean) / deviation


def hold_out(length: int, share: float, seed: int) -> tuple[Tensor, Tensor]:
    order = permutation(length, seed, "held out")
    held = max(1, round(share * length))
    return order[held:], order[:held]


def accuracies(scores: Tensor, labels: Tensor) -> dict[str, float]:
    labels = labels.to(scores.device)
    classes = scores.shape[1]
    result = {"top1": 100 * float((scores.argmax(dim=1) == labels).float().mean())}
    if classes > 5:
        top = scores.topk(5, dim=1).indices
        result["top5"] = 100 * float((top == labels[:, None]).any(dim=1).float().mean())
    return result


def measure(bench: Bench, settings: SGDProbe) -> list[Measurement]:
    """`linear_sgd` on the pooled features."""
    pair = bench.labelled()
    found = linear_sgd(
        pair.train.to(bench.device),
        pair.train_labels.to(bench.device),
        pair.test.to(bench.device),
        pair.test_labels,
        settings=settings,
        progress=bench.progress,
    )
    rate = found.pop("learning_rate")
    return [Measurement(f"SGD, lr={rate:g}", found)]


PROTOCOL = Protocol(
    name="linear", summary="a linear classifier on frozen features, by SGD", settings=SGDProbe, measure=measure
)
