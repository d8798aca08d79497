"""Weighted k-nearest-neighbour classification of frozen features."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Literal

import torch
from pydantic import Field
from torch import Tensor

from glocal.errors import GlocalError
from glocal.evaluation.features.bench import Bench, Measurement, Protocol
from glocal.neighbors import nearest_neighbors
from glocal.neighbors.nearest import sums_in_fp32
from glocal.settings import Settings

_K = (10, 20, 200)
_UNVOTED = torch.iinfo(torch.int64).max


class KNNSettings(Settings):
    """Weighted and unweighted votes of the nearest training images."""

    k: tuple[int, ...] | None = None  # null: 10, 20 and 200, at most the training images
    temperature: float = Field(0.07, gt=0)
    votes: tuple[Literal["weighted", "unweighted"], ...] = ("weighted", "unweighted")


def measure(bench: Bench, settings: KNNSettings) -> list[Measurement]:
    """`knn` for all k and both kinds of votes; top-5 accuracy too where there are more than five classes.

    A class is among the five where less than five classes have more votes, or as many and a lower number, and some
    neighbour votes for it: with few neighbours, classes without a vote fill no place.
    """
    pair = bench.labelled()
    k = settings.k or tuple(sorted({min(number, len(pair.train)) for number in _K}))
    bench.resolve(k=list(k))
    similarity, label = _search(pair.train, pair.train_labels, pair.test, k, all_of(bench.device))
    found = []
    for vote in settings.votes:
        places = _vote(similarity, label, pair.test_labels, k, settings.temperature, vote == "weighted")
        note = "" if vote == "weighted" else ", unweighted"
        for number, place in places.items():
            metrics = {"top1": _share(place < 1)}
            if len(pair.classes) > 5:
                metrics["top5"] = _share(place < 5)
            found.append(Measurement(f"k={number}{note}", metrics))
    return found


def knn(
    train_features: Tensor,
    train_labels: Tensor,
    test_features: Tensor,
    test_labels: Tensor,
    *,
    k: int | Sequence[int] = (10, 20, 200),
    temperature: float = 0.07,
    weighted: bool = True,
) -> dict[int, float]:
    """Top-1 accuracy of the vote of the k nearest training features by cosine similarity.

    A neighbour's vote counts exp(similarity / τ). Wu et al., "Unsupervised Feature Learning via Non-Parametric Instance
    Discrimination", CVPR 2018, section 3.4, with τ = 0.07. Neighbours are searched once for all k.

    Args:
        train_features: (N, D); lengths do not matter.
        train_labels: (N,) int64, classes from 0.
        test_features: (M, D).
        test_labels: (M,) int64.
        k: one number of neighbours or several.
        temperature: τ of the weights.
        weighted: False counts every neighbour once.

    Returns:
        Accuracy in percent for each k.

    Raises:
        GlocalError: a k below 1 or above N.
    """
    numbers = [k] if isinstance(k, int) else sorted(set(k))
    similarity, label = _search(train_features, train_labels, test_features, numbers, [str(test_features.device)])
    places = _vote(similarity, label, test_labels, numbers, temperature, weighted)
    return {number: _share(place < 1) for number, place in places.items()}


def _search(
    train: Tensor, labels: Tensor, test: Tensor, k: Sequence[int], devices: Sequence[str]
) -> tuple[Tensor, Tensor]:
    """Cosine similarities (M, K) and labels (M, K) of the nearest training features, nearest first, on the CPU."""
    most = max(k, default=0)
    if not k or min(k) < 1 or most > len(train):
        raise GlocalError(f"k-NN: k={sorted(k)} must lie between 1 and {len(train)}, the training images")

    def search(part: Tensor, device: str) -> tuple[Tensor, Tensor]:
        bank = train.to(device) if _fits(train, device) else train  # else it comes block by block
        distance, index = nearest_neighbors(part.to(device), bank, most, metric="cosine")
        return 1 - distance.cpu(), index.cpu()

    parts = test.chunk(len(devices))
    with sums_in_fp32(), ThreadPoolExecutor(len(devices)) as pool:
        found = list(pool.map(search, parts, devices))
    similarity, index = (torch.cat(each) for each in zip(*found, strict=True))
    return similarity, labels.cpu()[index]


def _fits(bank: Tensor, device: str) -> bool:
    """Whether the bank takes less than half of the device's free memory."""
    if not device.startswith("cuda") or bank.device.type == "cuda":
        return True
    return bank.numel() * bank.element_size() < torch.cuda.mem_get_info(device)[0] / 2


def all_of(device: str) -> list[str]:
    """Every GPU for `cuda`, else the device alone."""
    count = torch.cuda.device_count() if device == "cuda" else 0
    return [f"cuda:{number}" for number in range(count)] or [device]


def _vote(
    similarity: Tensor, label: Tensor, truth: Tensor, k: Sequence[int], temperature: float, weighted: bool
) -> dict[int, Tensor]:
    """For each k the place (M,) int64 of the true class by its votes, from 0; `_UNVOTED` where it has none."""
    truth = truth.cpu()[:, None]  # (M, 1)
    weight = vote_weights(similarity, temperature) if weighted else torch.ones_like(similarity)
    votes = weight.new_zeros(len(label), 1 + max(int(label.max()), int(truth.max())))
    lower = torch.arange(votes.shape[1]) < truth  # (M, C): of classes with as many votes, the first goes before
    found: dict[int, Tensor] = {}
    numbers = sorted(set(k))
    for before, number in zip([0, *numbers], numbers, strict=False):
        votes.scatter_add_(1, label[:, before:number], weight[:, before:number])
        own = votes.gather(1, truth)
        place = ((votes > own) | ((votes == own) & lower)).sum(dim=1)
        found[number] = place.masked_fill(own[:, 0] == 0, _UNVOTED)
    return found


def vote_weights(similarity: Tensor, temperature: float) -> Tensor:
    """What the vote of each neighbour counts, exp(similarity / τ), relative to the nearest neighbour's.

    Args:
        similarity: (M, K), nearest first.
        temperature: τ.
    """
    return ((similarity - similarity[:, :1]) / temperature).exp()  # relative: no exponential overflows in a small dtype


def _share(right: Tensor) -> float:
    """In percent."""
    return 100 * float(right.float().mean())


PROTOCOL = Protocol(
    name="knn",
    summary="votes of the nearest training images by cosine, weighted (τ 0.07) and unweighted; K 10, 20, 200",
    settings=KNNSettings,
    measure=measure,
)
