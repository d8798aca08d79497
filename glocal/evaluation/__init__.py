"""Measuring what a backbone has learned: features once, every protocol on them."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch

import glocal
from glocal.data.sources import Source, open_source
from glocal.errors import GlocalError, did_you_mean
from glocal.evaluation import results
from glocal.evaluation.features import Extractor, Features, RawPixels, extract
from glocal.evaluation.knn import knn
from glocal.evaluation.linear import LBFGSProbe, SGDProbe, linear_lbfgs, linear_sgd

__all__ = ["PROTOCOLS", "Extractor", "Features", "RawPixels", "evaluate", "extract", "knn", "results"]

_DEFAULT_K = (10, 20, 200)
_KNN_TEMPERATURE = 0.07

Found = dict[str, Any]


def _knn(train: Features, test: Features, k: Sequence[int] | None, device: str, progress: bool) -> Found:
    chosen = tuple(k) if k else tuple(sorted({min(number, len(train.labels)) for number in _DEFAULT_K}))
    accuracy = knn(
        train.features.to(device),
        train.labels,
        test.features.to(device),
        test.labels,
        k=chosen,
        temperature=_KNN_TEMPERATURE,
    )
    found = [{"setting": f"k={number}", "metrics": {"top1": value}} for number, value in accuracy.items()]
    settings = {"k": list(chosen), "temperature": _KNN_TEMPERATURE, "metric": "cosine", "weighted": True}
    return {"settings": settings, "results": found}


def _linear(train: Features, test: Features, k: Sequence[int] | None, device: str, progress: bool) -> Found:
    settings = SGDProbe()
    found = linear_sgd(
        train.features.to(device),
        train.labels.to(device),
        test.features.to(device),
        test.labels,
        settings=settings,
        progress=progress,
    )
    rate = found.pop("learning_rate")
    return {
        "settings": settings.model_dump(mode="json"),
        "results": [{"setting": f"SGD, lr={rate:g}", "metrics": found}],
    }


def _logistic(train: Features, test: Features, k: Sequence[int] | None, device: str, progress: bool) -> Found:
    settings = LBFGSProbe()
    found = linear_lbfgs(train.features, train.labels, test.features, test.labels, settings=settings, progress=progress)
    penalty = found.pop("penalty")
    return {
        "settings": settings.model_dump(mode="json"),
        "results": [{"setting": f"L-BFGS, C={penalty:g}", "metrics": found}],
    }


Protocol = Callable[[Features, Features, Sequence[int] | None, str, bool], Found]
PROTOCOLS: dict[str, Protocol] = {"knn": _knn, "linear": _linear, "logistic": _logistic}


def evaluate(
    backbone: Extractor | str | Path,
    *,
    train: str | Path | Source,
    test: str | Path | Source,
    protocols: Sequence[str] = ("knn", "linear"),
    k: Sequence[int] | None = None,
    out: str | Path | None = None,
    device: str = "auto",
    workers: int | None = None,
    progress: bool = True,
) -> dict[str, Any]:
    """Measures a backbone on labelled images.

    Args:
        backbone: a backbone, a run's folder, a checkpoint, `timm:NAME`, or what these have to beat: `untrained:RUN`
            (the run's backbone before its first step) and `pixels` (32×32 raw pixels).
        train: labelled images that the protocols learn from: a source or its name.
        test: labelled images that they are measured on; its classes must be among those of `train`.
        protocols: knn (weighted, cosine, τ 0.07), linear (SGD), logistic (L-BFGS).
        k: numbers of neighbours for knn; by default 10, 20 and 200, at most the training images.
        out: folder for evaluation.json and evaluation.csv; None writes no files.
        device: where features and probes are computed: auto, cpu, cuda, mps.
        workers: processes that decode images; None chooses.
        progress: show progress bars.

    Returns:
        Names, counts, versions, and for each protocol its settings and results; see `glocal.evaluation.results`.

    Raises:
        GlocalError: an unknown protocol, unlabelled images, or a test class that training lacks.
    """
    from glocal.models.loading import choose_device, load_backbone

    for protocol in protocols:
        if protocol not in PROTOCOLS:
            raise GlocalError(f"there is no protocol {protocol!r}; {did_you_mean(protocol, PROTOCOLS)}")
    started = time.perf_counter()
    where = choose_device(device)
    if isinstance(backbone, str | Path):
        backbone = RawPixels() if str(backbone) == "pixels" else load_backbone(backbone)
    if isinstance(backbone, torch.nn.Module):
        backbone.to(where)
    bank = extract(backbone, open_source(train), workers=workers, progress=progress)
    queries = extract(backbone, open_source(test), workers=workers, progress=progress)
    queries = _with_classes_of(bank, queries)
    result = {
        "backbone": backbone.label,
        "features": {"dim": backbone.dim, "size": backbone.size},
        "train": _describe(train, bank),
        "test": _describe(test, queries),
        "protocols": {name: PROTOCOLS[name](bank, queries, k, where, progress) for name in protocols},
        "versions": {"glocal": glocal.__version__, "torch": str(torch.__version__)},
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "seconds": round(time.perf_counter() - started, 3),
    }
    if out is not None:
        results.save(result, Path(out))
    return result


def _with_classes_of(train: Features, test: Features) -> Features:
    """The test features with their labels counted by the training set's classes, which go by name."""
    number = {name: place for place, name in enumerate(train.classes)}
    for name in test.classes:
        if name not in number:
            raise GlocalError(f"test class {name!r} is not among the training classes; {did_you_mean(name, number)}")
    mapping = torch.tensor([number[name] for name in test.classes])
    return Features(test.features, mapping[test.labels], train.classes, test.skipped)


def _describe(source: str | Path | Source, features: Features) -> dict[str, Any]:
    name = str(source) if isinstance(source, str | Path) else source.name
    return {
        "name": name,
        "images": len(features.labels),
        "skipped": [error.key for error in features.skipped],
    }
