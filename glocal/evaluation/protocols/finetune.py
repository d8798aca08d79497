"""Semi-supervised learning: the backbone is fine-tuned, with a classifier on it, on 1 % and 10 % of the labels.

Chen, Kornblith, Norouzi and Hinton, "A Simple Framework for Contrastive Learning of Visual Representations", ICML 2020,
section 6, set the task and published the lists of images, 1percent.txt and 10percent.txt; without them as many images
of each class are drawn as there can be. Random resized crops and flips in training, central squares in the test; batch
size, momentum, weight decay and batch normalisation that goes on learning are as in SwAV's code for this task.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor, nn

from glocal.console import note, progress_bar
from glocal.data.lanes.skipped import tell_unreadable
from glocal.data.sources.base import Source
from glocal.errors import GlocalError, counted
from glocal.evaluation.features.bench import Bench, Measurement, Protocol
from glocal.evaluation.probes.finetuning import (
    Accuracy,
    TuningSettings,
    draw_balanced,
    fine_tune,
    measure_accuracy,
    readable,
)
from glocal.models.backbone import Backbone
from glocal.models.loading import load_projector
from glocal.regular import open_regular_text
from glocal.settings import Seed

_LISTS = "https://github.com/google-research/simclr/tree/master/imagenet_subsets"


class FineTuneSettings(TuningSettings):
    """Which labels, and how the backbone is trained with them; the mean of `seeds` trainings is reported."""

    fractions: tuple[Annotated[float, Field(gt=0, le=1)], ...] = Field((0.01, 0.1), min_length=1)
    lists: str | None = (
        None  # folder of 1percent.txt and 10percent.txt; null: in or beside that of the images, if there
    )
    projector_layers: int = Field(0, ge=0, le=100)  # first layers of a run's projector that are kept (SimCLR v2: 1)
    seeds: int = Field(5, ge=1)  # trainings; without lists, each on images of its own
    seed: Seed = 0


def measure(bench: Bench, settings: FineTuneSettings) -> list[Measurement]:
    """Accuracy on the test images for each fraction: mean and standard deviation (n − 1) over the seeds."""
    backbone = bench.backbone
    if not isinstance(backbone, Backbone):
        raise GlocalError(
            f"finetune trains the backbone, and {backbone.label} has nothing to train; give a run, a checkpoint, "
            "timm:NAME or a glocal.models.backbone.Backbone"
        )
    projector = projector_of(backbone, settings.projector_layers)
    train, test, mapping = bench.sources()
    assert train.labels is not None and train.classes is not None  # noqa: PT018
    lists = [list_of(train, fraction, settings.lists) for fraction in settings.fractions]  # before the long work
    found = []
    with progress_bar("epochs", visible=bench.progress, extra=("loss",)) as bar:
        total = len(settings.fractions) * settings.seeds * settings.epochs
        task = bar.add_task("fine-tuning", total=total, loss="")

        def after_epoch(_: int, loss: float) -> None:
            bar.update(task, advance=1, loss=f"loss {loss:.3f}")

        for fraction, listed in zip(settings.fractions, lists, strict=True):
            name = percent(fraction)
            accuracies, images = [], []
            for seed, rows in _splits(bench, train, fraction, listed, settings):
                bar.update(task, description=f"{name}, seed {seed}")
                model = fine_tune(
                    backbone,
                    train,
                    rows,
                    len(train.classes),
                    settings=settings,
                    seed=seed,
                    projector=projector,
                    workers=bench.workers,
                    after_epoch=after_epoch,
                )
                images.append(len(rows))
                accuracies.append(measure_accuracy(model, test, mapping, settings=settings, workers=bench.workers))
            name = f"{percent(fraction, *images)}, {counted(settings.seeds, 'seed')}{kept(settings.projector_layers)}"
            found.append(Measurement(name, _summary(accuracies)))
    tell_unreadable(test.name, len(test), accuracies[0].skipped)
    bench.leave_out(test, [error.key for error in accuracies[0].skipped])
    return found


def projector_of(backbone: Backbone, layers: int, *, setting: str = "finetune.projector_layers") -> nn.Module | None:
    """The first layers of the projector of the run that a backbone comes from; None for 0 layers.

    Raises:
        GlocalError: it comes from no run, or the projector has not so many layers; begins with the setting's name.
    """
    if not layers:
        return None
    if backbone.checkpoint is None:
        raise GlocalError(f"{setting}={layers}: {backbone.label} has no projector; give a run or a checkpoint")
    try:
        return load_projector(backbone.checkpoint, layers)
    except GlocalError as error:
        raise GlocalError(f"{setting}={layers}: {error}") from error


def percent(fraction: float, *images: int) -> str:
    """A share of the labels in words, with the number of images, of which one that cannot be read is none.

    >>> percent(0.01), percent(0.01, 13, 12)
    ('1 % of labels', '1 % of labels (12 to 13 images)')
    """
    least = f"{min(images):,} to " if len(set(images)) > 1 else ""
    return f"{100 * fraction:g} % of labels" + (f" ({least}{counted(max(images), 'image')})" if images else "")


def kept(layers: int) -> str:
    """What a measurement's name says of the projector's layers that stay."""
    return f", {layers} {'layer' if layers == 1 else 'layers'} of the projector" if layers else ""


def _splits(
    bench: Bench, train: Source, fraction: float, listed: Tensor | None, settings: FineTuneSettings
) -> Iterator[tuple[int, Tensor]]:
    """Each seed and the images that it trains on."""
    rows = None
    for seed in range(settings.seed, settings.seed + settings.seeds):
        if rows is None or listed is None:
            assert train.labels is not None
            wanted = draw_balanced(train.labels, fraction, seed=seed) if listed is None else listed
            rows, skipped = readable(train, wanted, workers=bench.workers)
            tell_unreadable(f"{train.name}, {percent(fraction)}", len(wanted), skipped)
            bench.leave_out(train, [*bench.skipped(train), *(error.key for error in skipped)])
        yield seed, rows


def list_of(train: Source, fraction: float, folder: str | None, *, setting: str = "finetune.lists") -> Tensor | None:
    """The images of a published list; None where no folder of lists is named and none lies beside the images."""
    name = f"{100 * fraction:g}percent.txt"
    if folder is not None:
        path = Path(folder) / name
        if not path.is_file():
            raise GlocalError(f"{setting}: there is no {path}; SimCLR's lists for ImageNet are at {_LISTS}")
        return read_list(path, train)
    images = getattr(train, "folder", None)
    places = [] if images is None else [Path(images) / name, Path(images).absolute().parent / name]
    path_found = next((path for path in places if path.is_file()), None)
    if path_found is None:
        return None
    note(f"{setting.partition('.')[0]}: the images of {path_found} are taken")
    return read_list(path_found, train)


def read_list(path: Path, source: Source) -> Tensor:
    """Positions of the images that a list names, one a line by the file's name or its path in the source.

    Returns:
        Sorted, (M,) int64.

    Raises:
        GlocalError: a name is not found or stands for several images, or the list is empty; the message has the line.
    """
    try:
        with open_regular_text(path) as file:
            lines = [line.strip() for line in file.read().splitlines()]
    except (OSError, UnicodeDecodeError) as error:
        raise GlocalError(f"{path}: cannot be read: {error}") from error
    by_key = {key: number for number, key in enumerate(source.keys)}
    by_name: dict[str, int | None] = {}
    for number, key in enumerate(source.keys):
        short = key.rpartition("/")[2]
        by_name[short] = None if short in by_name else number  # None: several
    rows = set()
    for number, line in enumerate(lines, start=1):
        if not line:
            continue
        found = by_key.get(line, by_name.get(line, -1))
        if found is None:
            raise GlocalError(f"{path}, line {number}: several images of {source.name} are named {line}")
        if found < 0:
            raise GlocalError(f"{path}, line {number}: {source.name} has no image {line}")
        rows.add(found)
    if not rows:
        raise GlocalError(f"{path} names no image")
    return torch.tensor(sorted(rows))


def _summary(accuracies: list[Accuracy]) -> dict[str, float]:
    found = {}
    for name in ("top1", "top5"):
        values = [value for each in accuracies if (value := getattr(each, name)) is not None]
        if values:
            found[name] = float(torch.tensor(values, dtype=torch.float64).mean())
        if len(values) > 1:
            found[f"{name}_std"] = float(torch.tensor(values, dtype=torch.float64).std())
    return found


PROTOCOL = Protocol(
    name="finetune",
    summary="fine-tuning on 1 % and 10 % of the labels: SGD, 60 epochs, mean of 5 seeds",
    settings=FineTuneSettings,
    measure=measure,
    usual=False,
)
