"""Measuring what a backbone has learned: features once, every protocol on them."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch

import glocal
from glocal.console import note, warn
from glocal.data.sources import Source, open_source
from glocal.errors import GlocalError, did_you_mean
from glocal.evaluation import results
from glocal.evaluation.bench import Bench
from glocal.evaluation.cache import FeatureCache, default_cache
from glocal.evaluation.features import Extractor, Features, RawPixels, Readout, extract
from glocal.evaluation.protocols import protocol, protocol_names
from glocal.settings import Settings, assign, validated

__all__ = ["Bench", "Extractor", "Features", "RawPixels", "Readout", "evaluate", "extract", "protocol_names", "results"]

_USUAL = ("knn", "linear")


def evaluate(
    backbone: Extractor | str | Path,
    *,
    train: str | Path | Source | None = None,
    test: str | Path | Source | None = None,
    val: str | Path | Source | None = None,
    protocols: str | Sequence[str] | None = None,
    data: Mapping[str, str | Path] | None = None,
    settings: Mapping[str, Any] | None = None,
    k: Sequence[int] | None = None,
    out: str | Path | None = None,
    device: str = "auto",
    workers: int | None = None,
    cache: bool | Path = True,
    progress: bool = True,
) -> dict[str, Any]:
    """Measures a backbone.

    Args:
        backbone: a backbone, a run's folder, a checkpoint, `timm:NAME`, or what these have to beat: `untrained:RUN`
            (the run's backbone before its first step) and `pixels` (32×32 raw pixels).
        train: labelled images that the protocols learn from: a source or its name.
        test: labelled images that they are measured on; its classes must be among those of `train`.
        val: labelled images on which settings are chosen; without, a part of `train` is held out for it.
        protocols: names (`glocal protocols` lists them), or `all`: every usual one that has what it needs. By default
            knn and linear where `train` and `test` are given, and those that `data` names.
        data: folders of the protocols whose images have a format of their own, `{"retrieval": "roxford5k/"}`.
        settings: settings of protocols by path, `{"knn.temperature": 0.1}`.
        k: numbers of neighbours for knn; by default 10, 20 and 200, at most the training images.
        out: folder for evaluation.json, evaluation.csv and pictures; what is in it about the same backbone by other
            protocols is kept. None writes no files.
        device: where features and probes are computed: auto, cpu, cuda, mps.
        workers: processes that decode images; None chooses.
        cache: keep features on the disk: in $GLOCAL_CACHE or ~/.cache/glocal/features, or in the folder given.
        progress: show progress bars.

    Returns:
        Names, counts, versions, and for each protocol its settings and results; see `glocal.evaluation.results`.

    Raises:
        GlocalError: an unknown protocol or setting, something a protocol needs is missing, unlabelled images, or a test
            class that training lacks. What other protocols found before is in `out`.
    """
    from glocal.models.loading import choose_device, load_backbone

    raw: dict[str, Any] = {}
    for path, value in (settings or {}).items():
        assign(raw, path, value)
    for name, place in (data or {}).items():
        assign(raw, f"{name}.data", str(place))
    if k:
        assign(raw, "knn.k", tuple(k))
    chosen = _choose(protocols, raw, tuple(data or ()), labelled=train is not None and test is not None)
    where = choose_device(device)
    if isinstance(backbone, str | Path):
        backbone = RawPixels() if str(backbone) == "pixels" else load_backbone(backbone)
    if isinstance(backbone, torch.nn.Module):
        backbone.to(where)
    folder = None if out is None else Path(out)
    bench = Bench(
        backbone=backbone,
        train=None if train is None else open_source(train),
        val=None if val is None else open_source(val),
        test=None if test is None else open_source(test),
        device=where,
        workers=workers,
        progress=progress,
        out=folder,
        cache=None if cache is False else FeatureCache(default_cache() if cache is True else cache),
    )
    result: dict[str, Any] = {
        "backbone": backbone.label,
        "fingerprint": bench.fingerprint(),
        "features": {"dim": backbone.dim, "size": backbone.size},
        "protocols": {},
        "versions": {"glocal": glocal.__version__, "torch": str(torch.__version__)},
    }
    failed: dict[str, GlocalError] = {}
    for name, its in chosen.items():
        started = time.perf_counter()
        try:
            found = protocol(name).measure(bench, its)
        except GlocalError as error:
            if len(chosen) == 1:
                raise
            failed[name] = error
            warn(f"{name}: {error}")
            continue
        result["protocols"][name] = {
            **_images(bench, its, labels=protocol(name).labels),
            "settings": its.model_dump(mode="json"),
            "results": [{"setting": setting, "metrics": metrics} for setting, metrics in found],
            "date": datetime.now(UTC).isoformat(timespec="seconds"),
            "seconds": round(time.perf_counter() - started, 3),
        }
        if folder is not None:  # after each one: what the next ones do cannot harm it
            results.save(result, folder)
    if failed:
        first = next(iter(failed))
        if len(failed) == len(chosen):
            raise failed[first]
        kept = f"; the others are in {folder}" if folder is not None else ""
        raise GlocalError(f"{first}: {failed[first]}{kept}")
    return result


def _choose(
    names: str | Sequence[str] | None, raw: Mapping[str, Any], with_data: Sequence[str], *, labelled: bool
) -> dict[str, Settings]:
    """The protocols that were asked for with their checked settings."""
    names = [names] if isinstance(names, str) else list(names) if names is not None else None
    every = names == ["all"]
    if every:
        names = [name for name in protocol_names() if protocol(name).usual]
    elif names is None:
        names = [*(_USUAL if labelled else ()), *with_data]
    else:
        names = [*names, *(name for name in with_data if name not in names)]
    for name in raw:
        if name not in protocol_names():
            raise GlocalError(f"there is no protocol {name!r} to set; {did_you_mean(name, protocol_names())}")
    chosen, left_out = {}, []
    for name in names:
        its = validated(protocol(name).settings, raw.get(name, {}), f"protocol {name}")
        missing = protocol(name).missing(its, labelled=labelled)
        if missing and not every:
            raise GlocalError(missing)
        if missing:
            left_out.append(name)
        else:
            chosen[name] = its
    if left_out and chosen:
        note(f"left out for want of images: {', '.join(left_out)} (`glocal protocols NAME` says what they need)")
    if not chosen:
        raise GlocalError("nothing to measure: give --train and --test with labels, or --data PROTOCOL=PATH")
    return chosen


def _images(bench: Bench, settings: Settings, *, labels: bool) -> dict[str, Any]:
    """What the protocol measured on, for the record."""
    data = getattr(settings, "data", None)
    if data is not None or not labels:
        return {"data": str(data or "")}
    found: dict[str, Any] = {}
    for what, source in (("train", bench.train), ("val", bench.val), ("test", bench.test)):
        if source is not None:
            skipped = bench.skipped(source)
            found[what] = {"name": source.name, "images": len(source) - len(skipped), "skipped": skipped}
    return found
