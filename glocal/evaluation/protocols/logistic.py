"""Logistic regression on frozen features, by L-BFGS, as transfer experiments run it.

The strength of the ℓ2 penalty is chosen from 45 values on validation images; the classifier that is measured is trained
on training and validation images together. Kornblith, Shlens and Le, "Do Better ImageNet Models Transfer Better?", CVPR
2019, appendix A; Ericsson, Gouk and Hospedales, "How Well Do Self-Supervised Models Transfer?", CVPR 2021; with up to
5,000 iterations as Lee et al., "Improving Transferability of Representations via Augmentation-Aware Self-Supervision",
NeurIPS 2021, and LoGo. Features are taken as they are; `standardise` divides them by their
deviations, which is not in the papers.
"""

from __future__ import annotations

from typing import Annotated, NamedTuple

import torch
from pydantic import Field
from torch import Tensor

from glocal.console import note, progress_bar
from glocal.data.annotated.held_out import hold_out
from glocal.errors import GlocalError
from glocal.evaluation.features.bench import Bench, Measurement, Protocol
from glocal.evaluation.metrics.accuracy import Metric, accuracies, moments
from glocal.evaluation.probes.logistic import choose_penalty, fit_logistic
from glocal.settings import Seed, Settings
from glocal.transfer import exact_device

_WEAKEST, _STRONGEST = -6, 5  # powers of ten of the penalty's weight λ = 1 / C


class LogisticSettings(Settings):
    """Multinomial logistic regression with an ℓ2 penalty of strength 1 / C, chosen from several."""

    c: tuple[Annotated[float, Field(gt=0)], ...] | None = Field(None, min_length=1)  # null: `values` between 1e-5, 1e6
    values: int = Field(45, ge=2)
    iterations: int = Field(5000, ge=1)
    tolerance: float = Field(1e-5, gt=0)  # of the gradient; scikit-learn's own is 1e-4
    standardise: bool = False
    held_out: float = Field(0.2, gt=0, lt=1)  # share of the training images for the choice where no --val is given
    seed: Seed = 0

    def strengths(self) -> tuple[float, ...]:
        """All C, ascending."""
        if self.c is not None:
            return tuple(sorted(set(self.c)))
        return tuple(torch.logspace(-_STRONGEST, -_WEAKEST, self.values, dtype=torch.float64).tolist())


class LogisticResult(NamedTuple):
    """What was found on test images.

    Attributes:
        metrics: `accuracies`.
        c: the chosen C.
        iterations: of L-BFGS for the classifier that was measured.
        converged: it ended before they ran out.
        unfinished: values of C whose iterations ran out during the choice.
    """

    metrics: dict[str, float]
    c: float
    iterations: int
    converged: bool
    unfinished: int


def logistic_regression(
    learn: Tensor,
    labels: Tensor,
    val: Tensor,
    test: Tensor,
    test_labels: Tensor,
    *,
    classes: int,
    settings: LogisticSettings | None = None,
    metric: Metric = "top1",
    name: str = "logistic regression",
    progress: bool = True,
) -> LogisticResult:
    """Accuracy of logistic regression whose penalty is chosen on validation images, refitted with them.

    With one C there is nothing to choose.

    Args:
        learn: (N, D) features of training and validation images, on the device that computes.
        labels: (N,) int64, classes from 0.
        val: (N,) bool, those of them on which C is chosen.
        test, test_labels: (M, D) and (M,).
        classes: their number.
        settings: the protocol's settings.
        metric: by which C is chosen.
        name: beside the progress bar.
        progress: show it.

    Raises:
        GlocalError: several C, and no validation images or nothing but these.
    """
    settings = settings or LogisticSettings()
    if settings.standardise:
        mean, deviation = moments(learn)
        test = (test.to(learn) - mean).div_(deviation)
        learn = (learn - mean).div_(deviation)
    strengths = settings.strengths()
    bounds = {"iterations": settings.iterations, "tolerance": settings.tolerance}
    chosen, before, unfinished = strengths[0], None, 0
    with progress_bar("fits", visible=progress) as bar:
        task = bar.add_task(name, total=len(strengths) + 1 if len(strengths) > 1 else 1)
        if len(strengths) > 1:
            if not bool(val.any()) or bool(val.all()):
                raise GlocalError(f"{name}: the choice of C needs images to learn from and images to choose on")
            known, held = _parts(learn, val)
            own, other = _parts(labels.to(learn.device), val)
            chosen, before, unfinished = choose_penalty(
                known,
                own,
                held,
                other,
                classes=classes,
                c=strengths,
                metric=metric,
                seen=lambda: bar.advance(task),
                **bounds,  # type: ignore[arg-type]
            )
        fit = fit_logistic(learn, labels, classes=classes, c=[chosen], start=before, **bounds)  # type: ignore[arg-type]
        bar.advance(task)
    metrics = accuracies(fit.scores(test), test_labels)
    return LogisticResult(metrics, chosen, fit.iterations, fit.converged, unfinished)


def _parts(rows: Tensor, val: Tensor) -> tuple[Tensor, Tensor]:
    """The rows that are not for the choice and those that are; without a copy where these are the last ones."""
    first = len(val) - int(val.sum())
    if bool(val[first:].all()):
        return rows[:first], rows[first:]
    val = val.to(rows.device)
    return rows[~val], rows[val]


def tell_unfinished(found: LogisticResult, settings: LogisticSettings, name: str) -> str:
    """Says where iterations ran out; returns what belongs into the measurement's setting."""
    if found.unfinished or not found.converged:
        which = [f"{found.unfinished} of the {len(settings.strengths())} fits for the choice"] * bool(found.unfinished)
        which += ["the measured one"] * (not found.converged)
        note(f"{name}: the {settings.iterations} iterations ran out before L-BFGS converged in {' and '.join(which)}")
    return "" if found.converged else f", stopped at {found.iterations} iterations"


def measure(bench: Bench, settings: LogisticSettings) -> list[Measurement]:
    """`logistic_regression` on the pooled features, with C chosen on `val` or on a part of `train`."""
    pair = bench.labelled()
    learn, labels = pair.train, pair.train_labels
    several = len(settings.strengths()) > 1
    val, how = torch.zeros(len(learn), dtype=torch.bool), ""
    if bench.val is not None:
        assert bench.train is not None  # `labelled` has seen it
        more = bench.pair(bench.train, bench.val)
        val = torch.cat([val, torch.ones(len(more.test), dtype=torch.bool)])
        learn, labels = torch.cat([learn, more.test]), torch.cat([labels, more.test_labels])
        how = ", chosen on val" * several
    elif several:
        held = max(1, round(settings.held_out * len(labels)))
        val = hold_out(labels, held, settings.seed, instead="one C, --set logistic.c=[1.0]")
        how = f", chosen on {100 * settings.held_out:g}% of train"
    found = logistic_regression(
        learn.to(exact_device(bench.device)),
        labels,
        val,
        pair.test,
        pair.test_labels,
        classes=len(pair.classes),
        settings=settings,
        progress=bench.progress,
    )
    extra = tell_unfinished(found, settings, "logistic")
    return [Measurement(f"L-BFGS, C={found.c:.4g}{how}{extra}", found.metrics)]


PROTOCOL = Protocol(
    name="logistic",
    summary="logistic regression on frozen features by L-BFGS, ℓ2 chosen from 45 values on validation images",
    settings=LogisticSettings,
    measure=measure,
)
