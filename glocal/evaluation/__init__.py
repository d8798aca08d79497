"""Measuring what a backbone has learned: features once, every protocol on them."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import nullcontext
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch

import glocal
from glocal.console import note, warn
from glocal.data.sources.base import Source
from glocal.data.sources.labelled import labelled_part
from glocal.data.sources.opening import Images, open_source
from glocal.distributed import own_device, process_count, process_rank, processes_together
from glocal.errors import GlocalError, did_you_mean
from glocal.evaluation import results
from glocal.evaluation.features.bench import Bench
from glocal.evaluation.features.cache import FeatureCache
from glocal.evaluation.features.extraction import Extractor, Features, RawPixels, Readout, channels_of, extract
from glocal.evaluation.features.opening import open_extractor
from glocal.evaluation.protocols import protocol, protocol_names
from glocal.evaluation.remarks import also_train, seen_before, shortened
from glocal.files import cache_folder
from glocal.settings import Settings, assign, validated

__all__ = [
    "Bench",
    "Extractor",
    "Features",
    "IncompleteError",
    "RawPixels",
    "Readout",
    "evaluate",
    "extract",
    "protocol_names",
    "results",
]

_USUAL = ("knn", "linear")


def evaluate(
    backbone: Extractor | str | Path,
    *,
    weights: str | Path | None = None,
    train: Images | None = None,
    test: Images | None = None,
    val: Images | None = None,
    protocols: str | Sequence[str] | None = None,
    data: Mapping[str, str | Path] | None = None,
    settings: Mapping[str, Any] | None = None,
    k: Sequence[int] | None = None,
    out: str | Path | None = None,
    device: str = "auto",
    workers: int | None = None,
    cache: bool | Path = True,
    progress: bool = True,
    shared: bool = False,
) -> dict[str, Any]:
    """Measures a backbone.

    Args:
        backbone: a backbone, a run's folder, a checkpoint, `timm:NAME`, or what these have to beat: `untrained:RUN`
            (the run's backbone before its first step) and `pixels` (32×32 raw pixels).
        weights: with `timm:NAME`, a file of weights instead of those that timm knows.
        train: labelled images that the protocols learn from: a source or its name, or several; of one that is labelled
            in part (STL10), that part. The same holds of `test` and `val`.
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
        shared: the processes that torchrun has started, all of which call this, share the images of which features are
            computed. What is learned from features each of them computes; the first one writes.

    Returns:
        Names, counts, versions, and for each protocol its settings and results; see `glocal.evaluation.results`.

    Raises:
        GlocalError: an unknown protocol or setting, something a protocol needs is missing, unlabelled images, or a test
            class that training lacks.
        IncompleteError: one of several protocols failed; the others went on, and what they found is in it and in `out`.
    """
    from glocal.models.loading import choose_device

    if weights is not None and not isinstance(backbone, str | Path):
        raise GlocalError("weights go with timm:NAME, not with a backbone that has its own")
    if out is not None and Path(out).exists() and not Path(out).is_dir():
        raise GlocalError(f"{out} is a file; out must be a folder")
    raw: dict[str, Any] = {}
    for path, value in (settings or {}).items():
        assign(raw, path, value)
    for name, place in (data or {}).items():
        assign(raw, f"{name}.data", str(place))
    if k:
        assign(raw, "knn.k", (k,) if isinstance(k, int) else tuple(k))
    names = [protocols] if isinstance(protocols, str) else None if protocols is None else list(protocols)
    every = names is not None and "all" in names
    chosen = _choose(names, raw, tuple(data or ()), labelled=train is not None and test is not None)
    with processes_together() if shared else nullcontext():
        together = shared and process_count() > 1
        if together and process_rank() > 0:  # it computes what the first one does, which writes
            out, progress = None, False
        where = own_device(choose_device(device)) if together else choose_device(device)
        backbone = open_extractor(backbone, weights, device=where)
        _leave_out_colors(chosen, backbone, every=every)
        folder = None if out is None else Path(out)
        kept = None if cache is False else FeatureCache(cache_folder() if cache is True else cache, shared=together)
        bench = Bench(
            backbone=backbone,
            train=None if train is None else _open_labelled(train, backbone),
            val=None if val is None else _open_labelled(val, backbone),
            test=None if test is None else _open_labelled(test, backbone),
            device=where,
            workers=workers,
            progress=progress,
            out=folder,
            cache=kept,
            shared=together,
        )
        bench.decode(*(source for source in (bench.train, bench.val, bench.test) if source is not None))
        if any(protocol(name).labels and getattr(its, "data", None) is None for name, its in chosen.items()):
            bench.sources()  # wrong classes are told once, and before anything is computed
        if every:
            for name in [name for name, its in chosen.items() if protocol(name).too_much(bench, its)]:
                note(f"left out: {protocol(name).too_much(bench, chosen.pop(name))}")
        result: dict[str, Any] = {
            "backbone": backbone.label,
            "fingerprint": bench.fingerprint(),
            "features": {"dim": backbone.dim, "size": backbone.size},
            "protocols": {},
            "versions": {"glocal": glocal.__version__, "torch": str(torch.__version__)},
        }
        seen = list(_of_images(bench)) if any(protocol(name).labels for name in chosen) else []
        failed: dict[str, Exception] = {}
        for name, its in chosen.items():
            started = time.perf_counter()
            bench.resolved.clear()
            try:
                found = protocol(name).measure(bench, its)
            except Exception as error:  # whatever it is, it shall not cost what the others found
                if len(chosen) == 1:
                    raise
                failed[name] = error
                warn(f"{name}: {_said(error)}")
                continue
            result["protocols"][name] = {
                "protocol": name,
                **_images(bench, its, labels=protocol(name).labels),
                "settings": {**its.model_dump(mode="json"), **bench.resolved},
                "results": [{"setting": setting, "metrics": metrics} for setting, metrics in found],
                "remarks": [*shortened(its), *(seen if protocol(name).labels else ())],
                "date": datetime.now(UTC).isoformat(timespec="seconds"),
                "seconds": round(time.perf_counter() - started, 3),
            }
            if folder is not None:  # after each one: what the next ones do cannot harm it
                results.save(result, folder)
        if failed:
            name, first = next(iter(failed.items()))
            raise IncompleteError(f"{name}: {_said(first)}", result) from first
        return result


def _open_labelled(name: Images, backbone: Extractor) -> Source:
    """The source's images that have labels; the source as it is where none has, for the error that follows."""
    source = open_source(name, values=channels_of(backbone) is not None)
    part = labelled_part(source)
    if part is None or part is source:
        return source
    note(f"{source.name}: {len(part):,} of its {len(source):,} images have labels; the others are left out")
    return part


def _of_images(bench: Bench) -> Iterator[str]:
    """What has to be known of the test images: that training saw them, with their labels or without."""
    yield from also_train(bench.train, bench.test)
    yield from seen_before(bench.backbone, bench.test)


class IncompleteError(GlocalError):
    """Some of several protocols failed.

    Attributes:
        result: what the others found, as `evaluate` returns it; its protocols are empty where all failed.
    """

    def __init__(self, message: str, result: dict[str, Any]) -> None:
        super().__init__(message)
        self.result = result


def _said(error: Exception) -> str:
    kind = "" if isinstance(error, GlocalError) else f"{type(error).__name__}: "
    return kind + " ".join(str(error).split())[:500]


def _choose(
    names: list[str] | None, raw: Mapping[str, Any], with_data: Sequence[str], *, labelled: bool
) -> dict[str, Settings]:
    """The protocols that were asked for with their checked settings."""
    named = [] if names is None else [name for name in names if name != "all"]
    usual: list[str] = []
    if names is None:
        usual = list(_USUAL) if labelled else []
    elif "all" in names:
        usual = [name for name in protocol_names() if protocol(name).usual]
    wanted = dict.fromkeys([*usual, *named, *with_data])
    for name in wanted:
        protocol(name)
    for name, its in raw.items():
        if name not in protocol_names():
            settings = [f"{one}.{key}" for one in wanted for key in protocol(one).settings.model_fields]
            near = [path for path in settings if path.endswith(f".{name}")]
            hint = f"did you mean {near[0]}?" if near else did_you_mean(name, protocol_names())
            raise GlocalError(f"there is no protocol {name!r} to set; {hint}")
        if name not in wanted:
            raise GlocalError(f"{name} is set, but it is not among the protocols: add --protocol {name}")
        if not isinstance(its, Mapping):
            raise GlocalError(f"{name} is a protocol; set one of its settings, for example {_example(name)}")
        if "data" in its and "data" not in protocol(name).settings.model_fields:
            raise GlocalError(f"protocol {name} has no folder of its own: it takes --train and --test")
    chosen, left_out = {}, []
    for name in wanted:
        its = validated(protocol(name).settings, raw.get(name, {}), f"protocol {name}")
        missing = protocol(name).missing(its, labelled=labelled)
        if missing and name not in usual:
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


def _leave_out_colors(chosen: dict[str, Settings], backbone: Extractor, *, every: bool) -> None:
    """Takes out, of all protocols, those of colours where the backbone's images have none.

    Raises:
        GlocalError: one was named.
    """
    channels = channels_of(backbone)
    for name in [name for name in chosen if channels is not None and protocol(name).rgb]:
        said = f"protocol {name} is for RGB images, and those of {backbone.label} have data.channels={channels}"
        if not every:
            raise GlocalError(said)
        note(f"left out: {said}")
        del chosen[name]


def _example(name: str) -> str:
    return f"{name}.{next(iter(protocol(name).settings.model_fields))}"


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
