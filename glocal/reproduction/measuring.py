"""The numbers of a table's metrics for a backbone: each protocol once for all metrics that it gives."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Mapping
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

from glocal.errors import in_a_line
from glocal.evaluation import evaluate
from glocal.papers import Metric
from glocal.reproduction.images import Images

_K = "knn.k"
_GIVES_NO = " gives no "


def measure(
    backbone: str | Path, metrics: Mapping[str, Metric], images: Images, *, out: Path | None, device: str
) -> tuple[dict[str, float], dict[str, str]]:
    """Measures a backbone.

    Args:
        backbone: as `glocal.evaluate` names it.
        metrics: by name; each has a protocol.
        images: to learn from and to measure on.
        out: folder for evaluation.json.
        device: where.

    Returns:
        The values, and for metrics that could not be measured the reason.
    """
    values: dict[str, float] = {}
    errors: dict[str, str] = {}
    with tempfile.TemporaryDirectory(prefix="glocal-features-") as features:  # for as long as this takes
        for settings, names in grouped(metrics):
            protocol = str(metrics[names[0]].protocol)
            try:
                found = evaluate(
                    backbone,
                    train=images.learn,
                    test=images.test,
                    protocols=(protocol,),
                    settings=settings,
                    out=out,
                    device=device,
                    workers=0 if device == "cpu" else None,
                    cache=Path(features),
                    progress=False,
                )
                entries = found["protocols"][protocol]["results"]
            except Exception as error:  # what others find is worth having
                errors |= dict.fromkeys(names, in_a_line(error))
                continue
            for name in names:
                value = _look_up(metrics[name], entries)
                if value is None:
                    errors[name] = f"{protocol}{_GIVES_NO}{_asked(metrics[name])} among {'; '.join(_given(entries))}"
                else:
                    values[name] = value
    return {name: values[name] for name in metrics if name in values}, errors


def mistaken(errors: Mapping[str, str]) -> dict[str, str]:
    """Of the reasons why metrics were not measured those that are the table's mistake, which no backbone mends."""
    return {name: error for name, error in errors.items() if _GIVES_NO in error}


def grouped(metrics: Mapping[str, Metric]) -> list[tuple[dict[str, Any], list[str]]]:
    """Settings of a protocol with the metrics that one evaluation by them gives; numbers of neighbours go together."""
    groups: dict[str, tuple[dict[str, Any], list[str]]] = {}
    for name, metric in metrics.items():
        rest = {path: value for path, value in metric.settings.items() if path != _K}
        one, names = groups.setdefault(json.dumps([metric.protocol, rest], sort_keys=True), (rest, []))
        names.append(name)
        if metric.settings.get(_K):
            one[_K] = sorted({*one.get(_K, ()), *metric.settings[_K]})
    return list(groups.values())


def _asked(metric: Metric) -> str:
    return f"{metric.result!r} of {metric.setting!r}"


def _given(entries: list[dict[str, Any]]) -> list[str]:
    """What a protocol gives: the results of each of its settings."""
    return [f"{', '.join(entry['metrics'])} of {entry['setting']!r}" for entry in entries]


def _look_up(metric: Metric, entries: list[dict[str, Any]]) -> float | None:
    return next(
        (
            float(entry["metrics"][metric.result])
            for entry in entries
            if fnmatchcase(entry["setting"], metric.setting) and metric.result in entry["metrics"]
        ),
        None,
    )
