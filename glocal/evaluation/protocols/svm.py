"""VOC07 classification by linear SVMs, on all training images and on few of each class (`linear_svm`)."""

from __future__ import annotations

from pathlib import Path

import torch

from glocal.data.annotated.voc import VOC07, read_presence
from glocal.data.lanes.skipped import tell_unreadable
from glocal.errors import GlocalError
from glocal.evaluation.features.bench import Bench, Measurement, Protocol
from glocal.evaluation.probes.svm import (
    Fitted,
    SVMSettings,
    Task,
    check_counts,
    low_shot,
    mean_precisions,
    one_vs_rest,
    precisions,
)
from glocal.files import write_csv

_SHOTS = (1, 2, 4, 8, 16, 32, 64, 96)
_IMAGES, _CLASSES = 20_000, 200  # above which `all` leaves labelled images out: all classes are fitted for all costs


def measure(bench: Bench, settings: SVMSettings) -> list[Measurement]:
    """`one_vs_rest` on all training images and `low_shot`, on pooled features."""
    task = _labelled(bench) if settings.data is None else _voc(bench, settings.data)
    shots = settings.shots if settings.shots is not None else () if settings.data is None else _SHOTS
    bench.resolve(shots=list(shots))
    check_counts(task, max(shots, default=1))  # before the long work
    fitted = one_vs_rest(task, settings=settings, progress=bench.progress)
    table = bench.picture("svm.csv")
    if table is not None:
        _write_table(table, task, fitted)
    whole = mean_precisions(fitted.scores, task.test_targets)
    found = [Measurement("all labels", {"mAP": whole[0], "mAP_11point": whole[1]})]
    if shots:
        for k, metrics in low_shot(task, shots, settings=settings, progress=bench.progress).items():
            cost = metrics.pop("cost")
            found.append(Measurement(f"k={k} per class, {settings.samples} samples, C={cost:g}", metrics))
    return found


def _voc(bench: Bench, folder: str) -> Task:
    train, test = read_presence(folder, "trainval"), read_presence(folder, "test")
    if train.classes != test.classes:
        other = sorted(set(train.classes) ^ set(test.classes))[0]
        raise GlocalError(f"{train.source.folder}: class {other} has a list for trainval or test only; take {VOC07}")
    bank, queries = bench.features(train.source), bench.features(test.source)
    for presence, found in ((train, bank), (test, queries)):
        tell_unreadable(presence.source.name, len(presence.source), found.skipped)
    return Task(
        bank.features,
        train.targets[bank.index],
        queries.features,
        test.targets[queries.index],
        train.classes,
    )


def _labelled(bench: Bench) -> Task:
    pair = bench.labelled()
    one_hot = [
        (2 * torch.nn.functional.one_hot(labels, len(pair.classes)) - 1).to(torch.int8)
        for labels in (pair.train_labels, pair.test_labels)
    ]
    return Task(pair.train, one_hot[0], pair.test, one_hot[1], pair.classes)


def _write_table(path: Path, task: Task, fitted: Fitted) -> None:
    header = ("class", "training_images", "test_images", "cost", "AP", "AP_11point")
    counts = [(targets == 1).sum(dim=0).tolist() for targets in (task.train_targets, task.test_targets)]
    found = [(100 * values).round(decimals=4).tolist() for values in precisions(fitted.scores, task.test_targets)]
    write_csv(path, header, zip(task.classes, *counts, fitted.costs, *found, strict=True))


def _too_much(bench: Bench, settings: SVMSettings) -> str:
    source = bench.train
    if settings.data is not None or source is None:
        return ""
    images, classes = len(source), len(source.classes or ())
    if images <= _IMAGES and classes <= _CLASSES:
        return ""
    return (
        f"svm would fit {len(settings.costs)} SVMs for each of {classes:,} classes on {images:,} images, which takes "
        "long; ask for it by name"
    )


PROTOCOL = Protocol(
    name="svm",
    summary="a linear SVM for each class (VOC07 classification): mAP, on all images and on few of each class",
    settings=SVMSettings,
    measure=measure,
    data=VOC07,
    too_much=_too_much,
)
