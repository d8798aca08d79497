"""Distillation with unlabelled images: a fine-tuned network teaches another one, or itself anew.

Chen, Kornblith, Swersky, Norouzi and Hinton, "Big Self-Supervised Models are Strong Semi-Supervised Learners", NeurIPS
2020, section 2 (eq. 2 and 3): the backbone is fine-tuned with few labels, and a student that begins with random weights
learns its softened answers on all training images, whose other labels are not looked at. The teacher is trained as by
`finetune`. The paper trains the student with LARS in batches of 4,096; here it is SGD.
"""

from __future__ import annotations

import torch
from pydantic import Field

from glocal.console import progress_bar
from glocal.data.lanes.skipped import tell_unreadable
from glocal.errors import GlocalError
from glocal.evaluation.features.bench import Bench, Measurement, Protocol
from glocal.evaluation.probes.distilling import StudentSettings, distil
from glocal.evaluation.probes.finetuning import (
    Accuracy,
    TuningSettings,
    draw_balanced,
    fine_tune,
    measure_accuracy,
    readable,
)
from glocal.evaluation.protocols.finetune import kept, list_of, percent, projector_of
from glocal.models.architecture import ModelSettings
from glocal.models.backbone import Backbone
from glocal.models.building import build_backbone
from glocal.plain import typed
from glocal.settings import Seed


class DistilSettings(StudentSettings):
    """Which labels the teacher sees, which network the student is, and how it is trained."""

    fraction: float = Field(0.1, gt=0, le=1)
    lists: str | None = None  # folder of SimCLR's lists; null: in or beside that of the images, if there
    projector_layers: int = Field(0, ge=0, le=100)  # first layers of a run's projector that the teacher keeps
    teacher: TuningSettings = TuningSettings()  # how it is fine-tuned
    student: ModelSettings | None = None  # null: the teacher's own network; the projector's layers are not in it
    temperature: float | None = Field(None, gt=0)  # τ; null: 0.1 for the teacher's own network, 1 for another
    seed: Seed = 0


def measure(bench: Bench, settings: DistilSettings) -> list[Measurement]:
    """Accuracy of the teacher and of its student on the test images."""
    backbone = bench.backbone
    if not isinstance(backbone, Backbone):
        raise GlocalError(
            f"distil trains the backbone, and {backbone.label} has nothing to train; give a run or timm:NAME"
        )
    student = student_of(backbone, settings)  # before the long work
    temperature = temperature_for(student, backbone, settings)
    projector = projector_of(backbone, settings.projector_layers, setting="distil.projector_layers")
    train, test, mapping = bench.sources()
    assert train.labels is not None and train.classes is not None  # noqa: PT018
    listed = list_of(train, settings.fraction, settings.lists, setting="distil.lists")
    wanted = draw_balanced(train.labels, settings.fraction, seed=settings.seed) if listed is None else listed
    rows, skipped = readable(train, wanted, workers=bench.workers)
    tell_unreadable(f"{train.name}, {percent(settings.fraction)}", len(wanted), skipped)
    bench.leave_out(train, [error.key for error in skipped])
    epochs = settings.teacher.epochs + settings.epochs
    with progress_bar("epochs", visible=bench.progress, extra=("loss",)) as bar:
        task = bar.add_task("teacher", total=epochs, loss="")

        def after_epoch(_: int, loss: float) -> None:
            bar.update(task, advance=1, loss=f"loss {loss:.3f}")

        teacher = fine_tune(
            backbone,
            train,
            rows,
            len(train.classes),
            settings=settings.teacher,
            seed=settings.seed,
            projector=projector,
            workers=bench.workers,
            after_epoch=after_epoch,
        )
        bar.update(task, description="student")
        learned = distil(
            teacher,
            student,
            train,
            rows,
            settings=settings,
            temperature=temperature,
            seed=settings.seed,
            workers=bench.workers,
            after_epoch=after_epoch,
        )
    found = []
    weight = f", labels with weight {settings.labelled_weight:g}" * (settings.labelled_weight > 0)
    for name, model, own in (
        (
            f"teacher, {percent(settings.fraction, len(rows))}{kept(settings.projector_layers)}",
            teacher,
            settings.teacher,
        ),
        (f"student {student.label}, τ={temperature:g}{weight}", learned, settings),
    ):
        accuracy = measure_accuracy(model, test, mapping, settings=own, workers=bench.workers)
        found.append(Measurement(name, _metrics(accuracy)))
    tell_unreadable(test.name, len(test), accuracy.skipped)
    bench.leave_out(test, [error.key for error in accuracy.skipped])
    return found


def student_of(backbone: Backbone, settings: DistilSettings) -> Backbone:
    """The student before its first step, for the images that the backbone expects.

    Raises:
        GlocalError: the backbone's own network is asked for, and it is not known how it was built.
    """
    model = settings.student
    if model is None:
        if backbone.architecture is None:
            raise GlocalError(f"distil.student: name a network; it is not known how {backbone.label} was built")
        name, options, stem = backbone.architecture
        model = ModelSettings(name=name, stem=stem, options=dict(options))
        label = f"{name}, as the teacher"
    else:
        chosen = model.model_dump(mode="json", exclude_defaults=True, exclude={"name"})
        label = f"{model.name} {typed(chosen)}" if chosen else model.name
    if model.init is not None:
        raise GlocalError(f"distil.student.init={model.init}: the student begins with random weights or timm's own")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(settings.seed)
        found = build_backbone(
            model,
            size=backbone.size,
            mean=backbone.mean.flatten().tolist(),
            std=backbone.std.flatten().tolist(),
            channels=backbone.channels,
        )
    found.label = label
    return found.to(backbone.mean.device).eval()


def temperature_for(student: Backbone, backbone: Backbone, settings: DistilSettings) -> float:
    """τ: where none is named, the paper's for a student of the teacher's own network, or for another (section 3)."""
    if settings.temperature is not None:
        return settings.temperature
    return 0.1 if student.architecture == backbone.architecture else 1.0


def _metrics(accuracy: Accuracy) -> dict[str, float]:
    found = {"top1": accuracy.top1, "top5": accuracy.top5}
    return {name: value for name, value in found.items() if value is not None}


PROTOCOL = Protocol(
    name="distil",
    summary="a network fine-tuned with 10 % of the labels teaches a student on all images: SGD, 400 epochs, cosine",
    settings=DistilSettings,
    measure=measure,
    usual=False,
)
