"""Transfer to ten data sets by logistic regression on frozen features, as LoGo's Table 1.

For each data set the penalty is chosen on its validation images and the classifier is fitted again with them
(`glocal.evaluation.protocols.logistic`; papers there). Images are resized to the backbone's size at their shorter side,
bicubic, and cut to their central square, without a margin. Sizes of splits, metrics and sources of the data sets:
`glocal.data.annotated.transfer_sets`.
"""

from __future__ import annotations

from pathlib import Path

import torch
from pydantic import Field

from glocal.data.annotated.transfer_sets import BENCHMARKS, BenchmarkName, open_benchmarks
from glocal.errors import GlocalError
from glocal.evaluation.features.bench import Bench, Measurement, Protocol
from glocal.evaluation.features.extraction import Readout
from glocal.evaluation.protocols.logistic import LogisticSettings, logistic_regression, tell_unfinished
from glocal.settings import Settings
from glocal.transfer import exact_device

WHOLE_SQUARES = Readout(
    "pooled, of whole squares", lambda backbone, images: backbone.features(images), share=1.0, interpolation="bicubic"
)
"""Pooled features of the largest central squares, as transfer experiments have them."""


class TransferSettings(Settings):
    """Logistic regression on each of several data sets in one folder."""

    data: str | None = None  # the folder that holds the data sets' folders
    datasets: tuple[BenchmarkName, ...] | None = Field(None, min_length=1)  # null: all that are there
    logistic: LogisticSettings = (
        LogisticSettings()
    )  # held_out does not count: the data sets have their validation images


def measure(bench: Bench, settings: TransferSettings) -> list[Measurement]:
    """`logistic_regression` on every data set, and the mean where there are several.

    Raises:
        GlocalError: no folder is given, or as `open_benchmarks`.
    """
    if settings.data is None:
        raise GlocalError(PROTOCOL.missing(settings, labelled=False))
    opened = open_benchmarks(Path(settings.data), settings.datasets, settings.logistic.seed)
    measured: list[Measurement] = []
    for name, (learn, val, test) in opened.items():
        benchmark = BENCHMARKS[name]
        bench.decode(learn, test)
        own, other = bench.features(learn, WHOLE_SQUARES), bench.features(test, WHOLE_SQUARES)
        assert own.labels is not None and other.labels is not None and learn.classes is not None  # noqa: PT018
        found = logistic_regression(
            own.features.to(exact_device(bench.device)),
            own.labels,
            val[own.index],
            other.features,
            other.labels,
            classes=len(learn.classes),
            settings=settings.logistic,
            metric=benchmark.metric,
            name=benchmark.title,
            progress=bench.progress,
        )
        extra = tell_unfinished(found, settings.logistic, benchmark.title)
        measured.append(
            Measurement(f"{name}: C={found.c:.4g}{extra}", {benchmark.metric: found.metrics[benchmark.metric]})
        )
    if len(measured) > 1:
        values = torch.tensor([value for _, metrics in measured for value in metrics.values()], dtype=torch.float64)
        measured.append(Measurement(f"mean of {len(values)} data sets", {"mean": float(values.mean())}))
    return measured


PROTOCOL = Protocol(
    name="transfer",
    summary="logistic regression on Food-101, MIT67, Pets, Flowers, Caltech-101, Cars, Aircraft, DTD and CIFAR",
    settings=TransferSettings,
    measure=measure,
    rgb=True,
    labels=False,
    data=(
        "a folder that holds the folders of the data sets, food-101/, mit67/, oxford-iiit-pet/, flowers-102/, "
        "caltech101/, stanford_cars/, fgvc-aircraft-2013b/, dtd/, cifar-10-batches-py/, cifar-100-python/, as they are "
        "distributed (glocal/data/annotated/transfer_sets.py names where each comes from); those that are not there "
        "are left out"
    ),
)
