"""Linear classifiers by SGD, one for each of several learning rates, which all learn from the same batches."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from glocal.views.random import normal

_ROWS = 4096  # images whose scores are computed at a time


class Classifiers:
    """Linear classifiers that differ in their learning rate alone, trained by SGD with momentum on the cross-entropy.

    All start at the same weights, from N(0, 0.01²), and biases of zero. The scores of all of them are one matrix
    product, so a batch costs little more than with one of them, and its features are computed once.

    Args:
        dim: of the features, D.
        classes: C.
        rates: the learning rates, R of them.
        momentum: of SGD, in PyTorch's form.
        weight_decay: of the weights; biases have none.
        seed: of the initial weights.
        device: where they are.
    """

    def __init__(
        self,
        dim: int,
        classes: int,
        rates: Sequence[float],
        *,
        momentum: float = 0.9,
        weight_decay: float = 0.0,
        seed: int = 0,
        device: torch.device | str = "cpu",
    ) -> None:
        self.rates = torch.tensor(rates, dtype=torch.float32, device=device)
        self.momentum, self.weight_decay = momentum, weight_decay
        first = normal(seed, "classifier", torch.arange(dim)[:, None], torch.arange(classes)).float()  # (D, C)
        self.weight = (0.01 * first[:, None]).repeat(1, len(rates), 1).to(device)  # (D, R, C)
        self.bias = torch.zeros(len(rates), classes, device=device)
        self._speed = [torch.zeros_like(self.weight), torch.zeros_like(self.bias)]

    def step(self, features: Tensor, labels: Tensor, *, share: float = 1.0, learn: Tensor | None = None) -> None:
        """One step of SGD.

        Args:
            features: (B, D) float32.
            labels: (B,) int64.
            share: of the learning rates, by the schedule.
            learn: (B, R) bool, which classifier learns from which image; its loss is the mean over these. None: all.
        """
        error = self.scores(features).softmax(dim=2)  # (B, R, C); the gradient of the cross-entropy is softmax − 1
        rows = torch.arange(len(labels), device=labels.device)
        error[rows, :, labels] -= 1
        if learn is None:
            error /= len(labels)
        else:
            error *= (learn / learn.sum(dim=0).clamp(min=1))[:, :, None]
        gradients = (features.mT @ error.flatten(1)).view_as(self.weight), error.sum(dim=0)
        if self.weight_decay:
            gradients[0].add_(self.weight, alpha=self.weight_decay)
        for value, gradient, speed in zip((self.weight, self.bias), gradients, self._speed, strict=True):
            speed.mul_(self.momentum).add_(gradient)
            value.sub_(speed * (share * self.rates[:, None]))

    def scores(self, features: Tensor) -> Tensor:
        """(B, D) → (B, R, C)."""
        return (features @ self.weight.flatten(1)).view(len(features), *self.bias.shape) + self.bias

    def scores_of(self, number: int, features: Tensor) -> Tensor:
        """Those of one of them, (M, D) → (M, C), computed in parts on the classifiers' device."""
        weight, bias = self.weight[:, number], self.bias[number]
        return torch.cat([part.to(weight.device) @ weight + bias for part in features.split(_ROWS)])

    def right(self, features: Tensor, labels: Tensor) -> Tensor:
        """The share of images that each classifier has right, (R,) on the CPU; 0 for one that has diverged.

        Args:
            features: (M, D), computed in parts on the classifiers' device.
            labels: (M,) int64.
        """
        count = torch.zeros(len(self.rates))
        for part, target in zip(features.split(_ROWS), labels.split(_ROWS), strict=True):
            scores = self.scores(part.to(self.weight.device))
            found = (scores.argmax(dim=2) == target.to(scores.device)[:, None]) & scores.isfinite().all(dim=2)
            count += found.sum(dim=0).cpu()
        return count / max(1, len(labels))
