"""Linear SVMs on frozen features, one for each class, as on VOC07 classification.

Goyal, Mahajan, Gupta and Misra, "Scaling and Benchmarking Self-Supervised Visual Representation Learning", ICCV 2019,
sections 6.1 and 6.2, with the settings of the authors' code: features of unit length, squared hinge loss, positives
that count twice, and for each class the cost C with the best average precision in 3-fold cross-validation on the
training images. An image in which a class is "difficult" is a negative one in training and left out of the class's
test.

With few images per class there is nothing to cross-validate on. The authors report the cost that is best on the test
set; here C is 0.5, the default of PCL's code (Li et al., ICLR 2021), unless `shot_cost` says "rest" (best on the
training images that were not drawn) or "test" (the authors' way, too good by the choice).
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import product
from typing import Annotated, Any, Literal, NamedTuple, TypeVar

import numpy as np
import torch
from pydantic import Field
from torch import Tensor

from glocal.console import progress_bar
from glocal.data.lanes.central import default_workers
from glocal.errors import GlocalError
from glocal.evaluation.metrics.average_precision import interpolated_average_precision, voc07_average_precision
from glocal.settings import Seed, Settings
from glocal.views.random import uniform

_ROWS = 4096  # of features that are normalised at a time
_MEMORY = 8 << 30  # bytes for the copies that all fits at a time make of the features

Cost = Annotated[float, Field(gt=0)]
Shots = Annotated[int, Field(ge=1)]

J = TypeVar("J")
R = TypeVar("R")


class SVMSettings(Settings):
    """One linear SVM for each class; `data` is VOC's folder, without it the labelled images are taken."""

    data: str | None = None
    costs: tuple[Cost, ...] = Field((0.01, 0.1, *(0.5**power for power in range(4, 20))), min_length=1)
    folds: int = Field(3, ge=2)
    positive_weight: float = Field(2.0, gt=0)
    iterations: int = Field(2000, ge=1)
    shots: tuple[Shots, ...] | None = None  # images of each class; null: 1, 2, 4, … 64, 96 on VOC, none elsewhere
    samples: int = Field(5, ge=1)  # draws of images for each number of shots
    # each: k positives and (classes − 1)·k negatives for each class (Goyal); shared: k positives of every class
    # together train all classes (PCL, ReSSL, SCE)
    shot_rule: Literal["each", "shared"] = "each"
    shot_cost: Cost | Literal["rest", "test"] = 0.5
    jobs: int | None = Field(None, ge=1)  # fits at a time; null: as many as cores and memory allow
    seed: Seed = 0


class Task(NamedTuple):
    """Features of training and test images, and which classes these show.

    Attributes:
        train, test: (N, D) and (M, D).
        train_targets, test_targets: (N, C) and (M, C) int8: 1 shows the class, −1 does not, 0 is difficult.
        classes: names of the classes.
    """

    train: Tensor
    train_targets: Tensor
    test: Tensor
    test_targets: Tensor
    classes: list[str]


class Fitted(NamedTuple):
    """What the SVMs of all classes found: `scores` (M, C) of the test images, and the cost C of each class."""

    scores: Tensor
    costs: list[float]


def one_vs_rest(task: Task, *, settings: SVMSettings | None = None, progress: bool = True) -> Fitted:
    """Fits an SVM for each class on all training images, its cost chosen by cross-validation on them.

    Raises:
        GlocalError: a class has too few images that show it, or that do not.
    """
    settings = settings or SVMSettings()
    costs = sorted(settings.costs)
    check_counts(task, settings.folds if len(costs) > 1 else 1)
    train, test = unit_features(task.train), unit_features(task.test)
    signs = _signs(task.train_targets)
    columns = range(len(task.classes))

    def validate(job: tuple[int, float]) -> float:
        from sklearn.model_selection import cross_val_score

        column, cost = job
        model = _svm(cost, settings)
        found = cross_val_score(model, train, signs[:, column], cv=settings.folds, scoring="average_precision")
        return float(found.mean())

    def test_scores(column: int) -> Any:
        return _svm(chosen[column], settings).fit(train, signs[:, column]).decision_function(test)

    chosen = [costs[0]] * len(task.classes)
    if len(costs) > 1:
        jobs = list(product(columns, costs))
        values = _in_threads(validate, jobs, train, settings, "cross-validation", progress)
        best = torch.tensor(values, dtype=torch.float64).view(len(columns), len(costs)).argmax(dim=1)
        chosen = [costs[place] for place in best.tolist()]
    scores = _in_threads(test_scores, columns, train, settings, "linear SVMs", progress)
    return Fitted(torch.from_numpy(np.stack(scores, axis=1)), chosen)


def low_shot(
    task: Task, shots: Sequence[int], *, settings: SVMSettings | None = None, progress: bool = True
) -> dict[int, dict[str, float]]:
    """Precision of SVMs on k images of each class, for several k: mean and deviation over `samples` draws.

    Returns:
        For each k mAP and mAP_11point in percent, with several draws their standard deviations (n − 1), and the cost C.

    Raises:
        GlocalError: a class has fewer than k images.
    """
    settings = settings or SVMSettings()
    check_counts(task, max(shots, default=1))
    train, test = unit_features(task.train), unit_features(task.test)
    signs = _signs(task.train_targets)
    costs = sorted(settings.costs) if isinstance(settings.shot_cost, str) else [settings.shot_cost]

    def measure_one(job: tuple[int, float, int]) -> tuple[float, float, float]:
        k, cost, sample = job
        drawn = draw_shots(task.train_targets, k, sample=sample, seed=settings.seed, rule=settings.shot_rule)
        scores, rest = [], []
        for column, rows in enumerate(drawn.numpy().T):
            if (signs[rows, column] == 1).all():
                raise GlocalError(f"all images drawn for k={k} show {task.classes[column]!r}; try another svm.seed")
            model = _svm(cost, settings).fit(train[rows], signs[rows, column])
            scores.append(model.decision_function(test))
            if settings.shot_cost == "rest":
                rest.append(model.decision_function(train))
        found = mean_precisions(torch.from_numpy(np.stack(scores, axis=1)), task.test_targets)
        judged = found[0]
        if settings.shot_cost == "rest":
            left = torch.where(drawn, 0, task.train_targets)
            judged = mean_precisions(torch.from_numpy(np.stack(rest, axis=1)), left)[0]
        return *found, judged

    jobs = list(product(shots, costs, range(settings.samples)))
    values = _in_threads(measure_one, jobs, train, settings, "few images per class", progress)
    found = torch.tensor(values, dtype=torch.float64)
    result = {}
    for k, of_k in zip(shots, found.view(len(shots), len(costs), settings.samples, 3), strict=True):
        best = int(of_k[..., 2].mean(dim=1).argmax())
        result[k] = {"cost": costs[best]}
        for name, drawn in zip(("mAP", "mAP_11point"), of_k[best].unbind(1), strict=False):
            result[k][name] = float(drawn.mean())
            if settings.samples > 1:
                result[k][f"{name}_std"] = float(drawn.std())
    return result


def draw_shots(
    targets: Tensor, k: int, *, sample: int = 0, seed: int = 0, rule: Literal["each", "shared"] = "each"
) -> Tensor:
    """Which images train which class. The images of a smaller k are among those of a larger one.

    Args:
        targets: (N, C) int8: 1, −1, or 0 for difficult images, which are not drawn for the class.
        k: images of each class.
        sample: the number of the draw.
        seed: of all draws.
        rule: "each" draws for every class k images that show it and (C − 1)·k that do not; "shared" draws k images
            that show it for every class, and all of them train all classes.

    Returns:
        (N, C) bool.
    """
    images, classes = targets.shape
    draw = uniform(seed, "shots", sample, torch.arange(classes), torch.arange(images)[:, None])

    def first(members: Tensor, count: int) -> Tensor:
        rank = torch.where(members, draw, 2.0).argsort(dim=0, stable=True).argsort(dim=0)
        return members & (rank < count)

    positives = first(targets == 1, k)
    if rule == "shared":
        return positives.any(dim=1, keepdim=True).expand(images, classes)
    return positives | first(targets == -1, (classes - 1) * k)


def unit_features(features: Tensor) -> Any:
    """(N, D) → (N, D) float64 of length 1 for scikit-learn; some rows at a time, so that there is one copy alone.

    Raises:
        GlocalError: the features are infinite or no numbers.
    """
    found = torch.empty(features.shape, dtype=torch.float64)
    for part, place in zip(features.split(_ROWS), found.split(_ROWS), strict=True):
        place.copy_(part)
        place /= place.norm(dim=1, keepdim=True) + 1e-5
    if not bool(torch.stack([part.isfinite().all() for part in found.split(_ROWS)]).all()):
        raise GlocalError("the backbone gives features that are infinite or no numbers")
    return found.numpy()


def _signs(targets: Tensor) -> Any:
    """1 for positives, −1 for all others: difficult images are negatives in training."""
    return torch.where(targets == 1, 1, -1).numpy()


def _svm(cost: float, settings: SVMSettings) -> Any:
    from sklearn.svm import LinearSVC

    return LinearSVC(
        C=cost,
        class_weight={1: settings.positive_weight, -1: 1.0},
        penalty="l2",
        loss="squared_hinge",
        dual=True,
        tol=1e-4,
        max_iter=settings.iterations,
        random_state=settings.seed,
    )


def check_counts(task: Task, least: int) -> None:
    """Whether every class has so many training images that show it, and as many that do not.

    Raises:
        GlocalError: one has fewer.
    """
    for shows, what in ((1, "show"), (-1, "do not show")):
        counts = (task.train_targets == shows).sum(dim=0)
        few = (counts < least).nonzero()[:, 0].tolist()
        if few:
            raise GlocalError(
                f"{least} training images that {what} {task.classes[few[0]]!r} are needed, but there are "
                f"{int(counts[few[0]])}; take fewer svm.folds or svm.shots (one cost in svm.costs needs no folds)"
            )


def mean_precisions(scores: Tensor, targets: Tensor) -> tuple[float, float]:
    """Mean over the classes that any image shows of the all-point and the 11-point average precision, in percent."""
    found = precisions(scores, targets)
    return 100 * float(found[0].nanmean()), 100 * float(found[1].nanmean())


def precisions(scores: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
    """The all-point and the 11-point average precision of each class, (C,) in [0, 1]; difficult images do not count."""
    arguments = scores, targets == 1, targets != 0
    return interpolated_average_precision(*arguments), voc07_average_precision(*arguments)


def _in_threads(
    work: Callable[[J], R], jobs: Iterable[J], features: Any, settings: SVMSettings, what: str, progress: bool
) -> list[R]:
    """The work of all jobs in their order. liblinear lets other threads run; each fit copies the features thrice."""
    from sklearn.exceptions import ConvergenceWarning

    jobs = list(jobs)
    threads = settings.jobs or max(1, min(default_workers(), _MEMORY // (3 * features.nbytes + 1)))
    results = []
    with (
        warnings.catch_warnings(),
        ThreadPoolExecutor(threads) as pool,
        progress_bar("fits", visible=progress) as bar,
    ):
        warnings.simplefilter("ignore", ConvergenceWarning)  # the bound on iterations is a setting
        task = bar.add_task(what, total=len(jobs))
        for result in pool.map(work, jobs):
            results.append(result)
            bar.advance(task)
    return results
