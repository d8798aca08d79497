"""The training of linear classifiers on frozen features, on features or on augmented images."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from typing import Annotated, Any, Literal, NamedTuple

import torch
from pydantic import Field, model_validator
from torch import Tensor

from glocal.console import progress_bar
from glocal.data.annotated.held_out import hold_out
from glocal.data.lanes.central import CENTRAL_SHARE, central_share
from glocal.errors import GlocalError
from glocal.evaluation.metrics.accuracy import moments
from glocal.evaluation.probes.augmented import Batch
from glocal.evaluation.probes.sgd import Classifiers
from glocal.settings import Seed, Settings
from glocal.views.crops import Interpolation
from glocal.views.random import permutation

_STYLES: dict[str, dict[str, Any]] = {
    "features": {"learning_rates": (0.003, 0.01, 0.03, 0.1, 0.3, 1.0), "standardise": True},
    "moco": {"learning_rates": (30.0,), "schedule": "steps", "augmentation": "crop"},
    "dino": {
        "learning_rates": (0.0004, 0.001, 0.004, 0.01, 0.04, 0.1),
        "batch_size": 1024,
        "augmentation": "crop",
        "interpolation": "bicubic",
        "tokens": True,
    },
    "sce": {"learning_rates": (30.0,), "schedule": "steps", "augmentation": "auto", "whole_to": 96},
}


class LinearSettings(Settings):
    """A linear classifier by SGD with momentum; `style` sets the values that are not given."""

    style: Literal["features", "moco", "dino", "sce"] = "features"
    learning_rates: tuple[Annotated[float, Field(gt=0)], ...] = Field((), min_length=1)  # not scaled with the batch
    epochs: int = Field(100, ge=1)
    batch_size: int = Field(256, ge=1)
    momentum: float = Field(0.9, ge=0, lt=1)
    weight_decay: float = Field(0.0, ge=0)
    schedule: Literal["cosine", "steps"] = "cosine"  # by epoch
    steps: tuple[Annotated[float, Field(gt=0, lt=1)], ...] = (0.6, 0.8)  # shares of the epochs after which ×0.1
    augmentation: Literal["none", "crop", "pad", "flip", "auto"] = "none"  # auto: pad to 64 pixels, flip to 96, or crop
    scale: tuple[float, float] = (0.08, 1.0)  # share of the image's area that a crop has
    padding: int = Field(4, ge=0)
    interpolation: Interpolation | None = None  # of central squares; null: the backbone's own, or else bilinear
    whole_to: int = Field(64, ge=1)  # up to this size in pixels central squares are whole; above, 7/8 (224 of 256)
    standardise: bool = False
    tokens: bool = False  # CLS tokens of the last blocks, where the network has them
    blocks: int | None = Field(None, ge=1)  # how many; null: 4, or 1 for networks as wide as ViT-B
    patch_mean: bool | None = None  # the mean of the last patch tokens beside them; null: for networks as wide as ViT-B
    held_out: float = Field(0.1, gt=0, lt=1)  # share of the training images for the choice where no --val is given
    seed: Seed = 0

    @model_validator(mode="before")
    @classmethod
    def _fill(cls, raw: Any) -> Any:
        if not isinstance(raw, Mapping):
            return raw
        style = raw.get("style", "features")
        return {**(_STYLES.get(style, {}) if isinstance(style, str) else {}), **raw}

    @property
    def several(self) -> bool:
        """There is a learning rate to choose."""
        return len(self.learning_rates) > 1

    def central_share(self, size: int) -> float | None:
        """The side of the central square as `images_of` takes it: None is its own rule, whole up to 64 pixels."""
        if size <= self.whole_to:
            return None if central_share(size) == 1 else 1.0
        return None if central_share(size) < 1 else CENTRAL_SHARE

    def share(self, epoch: int) -> float:
        """What the schedule makes of the learning rates in an epoch, from 0."""
        if self.schedule == "cosine":
            return (1 + math.cos(math.pi * epoch / self.epochs)) / 2
        return 0.1 ** sum(epoch >= round(step * self.epochs) for step in self.steps)


class Trained(NamedTuple):
    """The outcome of a training.

    Attributes:
        classifiers: all that were trained.
        number: the one to be measured.
        rate: its learning rate.
    """

    classifiers: Classifiers
    number: int
    rate: float


class Probe:
    """What one training of classifiers needs.

    Args:
        settings: the protocol's settings.
        features: (N, D) float32 of the training images without augmentation.
        labels: (N,) int64.
        classes: their number.
        device: where classifiers are.
        progress: show a progress bar.
        val: features (M, D) and labels (M,) on which the learning rate is chosen; None holds some training images out
            for it where there are several.
    """

    def __init__(
        self,
        settings: LinearSettings,
        features: Tensor,
        labels: Tensor,
        classes: int,
        *,
        device: torch.device | str = "cpu",
        progress: bool = True,
        val: tuple[Tensor, Tensor] | None = None,
    ) -> None:
        self.settings = settings
        self.features, self.labels = features, labels.cpu()
        self.classes = classes
        self.device = device
        self.progress = progress
        self.held: Tensor | None = None  # (N,) bool
        self.val = val
        if settings.several and val is None:
            self.held = hold_out(
                self.labels,
                max(1, round(settings.held_out * len(labels))),
                settings.seed,
                instead="one rate, --set linear.learning_rates=[0.1]",
            )
            self.val = features[self.held.to(features.device)], self.labels[self.held]
        mean, deviation = moments(features) if settings.standardise else (torch.zeros(1), torch.ones(1))
        self._mean, self._deviation = mean.to(device), deviation.to(device)

    def on_features(self) -> Trained:
        """Trains on the features themselves; with held-out images, the best rate is trained anew on all images."""
        rates = self.settings.learning_rates
        kept = torch.ones(len(self.labels)).bool() if self.held is None else ~self.held
        with progress_bar("epochs", visible=self.progress) as bar:
            task = bar.add_task("linear probe", total=self.settings.epochs * (1 if self.held is None else 2))
            trained = self._fit(kept.nonzero()[:, 0], rates, lambda: bar.advance(task))
            best = number = self._best(trained)
            if self.held is not None:
                trained = self._fit(torch.arange(len(self.labels)), (rates[best],), lambda: bar.advance(task))
                number = 0
        return Trained(trained, number, rates[best])

    def on_images(self, batches: Iterator[Batch], steps: int, features_of: Callable[[Tensor], Tensor]) -> Trained:
        """Trains on augmented images, each of which goes through the backbone once.

        Where images are held out, each learning rate has two classifiers: one that does not learn from them, for the
        choice, and one that does, to be measured.

        Args:
            batches: of all epochs.
            steps: batches in an epoch.
            features_of: images (B, 3, S, S) uint8 → (B, D).
        """
        rates = self.settings.learning_rates
        trained = self._classifiers(rates if self.held is None else rates + rates)
        with progress_bar("epochs", visible=self.progress) as bar:
            task = bar.add_task("linear probe", total=self.settings.epochs)
            for number, batch in enumerate(batches, start=1):
                learn = None
                if self.held is not None:
                    learn = torch.ones(len(batch.places), 2 * len(rates), dtype=torch.bool)
                    learn[:, : len(rates)] = ~self.held[batch.places, None]
                    learn = learn.to(self.device)
                features = self._normalised(features_of(batch.images))
                labels = self.labels[batch.places].to(self.device)
                trained.step(features, labels, share=self.settings.share(batch.epoch), learn=learn)
                bar.update(task, completed=number / steps)
        best = self._best(trained)
        return Trained(trained, best if self.held is None else len(rates) + best, rates[best])

    def test(self, trained: Trained, features: Tensor) -> Tensor:
        """Scores (M, C) of features (M, D).

        Raises:
            GlocalError: the classifier has diverged.
        """
        scores = trained.classifiers.scores_of(trained.number, self._normalised(features))
        if not bool(scores.isfinite().all()):
            raise GlocalError(
                f"linear: the classifier diverged at the learning rate {trained.rate:g}; set smaller "
                "linear.learning_rates, or linear.standardise=true"
            )
        return scores

    def _fit(self, rows: Tensor, rates: tuple[float, ...], advance: Callable[[], None]) -> Classifiers:
        classifiers = self._classifiers(rates)
        labels = self.labels.to(self.device)
        batches = -(-len(rows) // self.settings.batch_size)
        for epoch in range(self.settings.epochs):
            order = permutation(len(rows), self.settings.seed, "linear probe", epoch)
            for chosen in rows[order].to(self.features.device).chunk(batches):
                batch = self._normalised(self.features[chosen])
                classifiers.step(batch, labels[chosen.to(labels.device)], share=self.settings.share(epoch))
            advance()
        return classifiers

    def _classifiers(self, rates: tuple[float, ...]) -> Classifiers:
        return Classifiers(
            self.features.shape[1],
            self.classes,
            rates,
            momentum=self.settings.momentum,
            weight_decay=self.settings.weight_decay,
            seed=self.settings.seed,
            device=self.device,
        )

    def _normalised(self, features: Tensor) -> Tensor:
        return (features.to(self.device) - self._mean) / self._deviation

    def _best(self, trained: Classifiers) -> int:
        """The best learning rate's number, by the images that are for the choice."""
        if not self.settings.several or self.val is None:
            return 0
        features, labels = self.val
        right = trained.right(self._normalised(features), labels)
        return int(right[: len(self.settings.learning_rates)].argmax())
