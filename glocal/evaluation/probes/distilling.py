"""A student learns from a classifier's softened answers on images whose labels nobody needs."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from pydantic import Field
from torch import Tensor

from glocal.data.sources.base import Source
from glocal.errors import GlocalError
from glocal.evaluation.probes.finetuning import Classifier, TrainingSettings, computing, crops_of
from glocal.losses import knowledge_distillation
from glocal.models.backbone import Backbone


class StudentSettings(TrainingSettings):
    """SGD with a linear warm-up and a cosine."""

    epochs: int = Field(400, ge=1)
    lr: float = Field(0.1, gt=0)
    warmup: float = Field(0.05, ge=0, lt=1)  # share of the steps
    weight_decay: float = Field(1e-4, ge=0)
    labelled_weight: float = Field(0.0, ge=0, le=1)  # 1 − α of eq. 3


def distil(
    teacher: Classifier,
    student: Backbone,
    source: Source,
    rows: Tensor,
    *,
    settings: StudentSettings,
    temperature: float,
    seed: int,
    workers: int | None = None,
    after_epoch: Callable[[int, float], None] | None = None,
) -> Classifier:
    """Trains a copy of a backbone, with a classifier on it, on a teacher's answers, on the student's device.

    Both see the same crops, which are those that the student expects.

    Args:
        teacher: in evaluation mode; it stays as it is.
        student: stays as it is.
        source: all images; the labels of `rows` alone are looked at.
        rows: the images whose labels are known.
        settings: the training's settings.
        temperature: τ > 0.
        seed: of the classifier's first weights, the order of the images and their crops.
        workers: processes that decode images; None chooses.
        after_epoch: is told how many epochs are done and their last one's mean loss.

    Returns:
        The student, in evaluation mode.

    Raises:
        GlocalError: the loss is infinite or no number.
    """
    device = student.mean.device
    labels = torch.full((len(source),), -1)
    if settings.labelled_weight:
        assert source.labels is not None
        labels[rows] = source.labels[rows]
    labels = labels.to(device)
    lane, order = crops_of(source, student, settings, seed=seed, workers=workers)
    model = Classifier(student, teacher.head.out_features, seed=seed).train()
    if settings.channels_last:
        model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    optimizer = torch.optim.SGD(
        model.parameters(), lr=0.0, momentum=settings.momentum, weight_decay=settings.weight_decay
    )
    steps = settings.epochs * order.steps_per_epoch
    losses: list[Tensor] = []  # on the device: looking at one waits for it
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        torch.manual_seed(seed)  # for networks that drop paths or features
        for step, views in enumerate(lane.batches(0, steps)):
            optimizer.param_groups[0]["lr"] = settings.lr * share_of_rate(step, steps, settings.warmup)
            images = views.images[0]
            if settings.channels_last:
                images = images.contiguous(memory_format=torch.channels_last)
            with computing(device, settings):
                with torch.no_grad():
                    answers = teacher(images)
                scores = model(images)
            loss = knowledge_distillation(
                scores.float(),
                answers.float(),
                temperature=temperature,
                labels=labels[views.index.to(device)],
                labelled_weight=settings.labelled_weight,
            )
            loss.backward()
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
            losses.append(loss.detach())
            if (step + 1) % order.steps_per_epoch == 0:
                epoch, mean = (step + 1) // order.steps_per_epoch, float(torch.stack(losses).mean())
                losses.clear()
                if not math.isfinite(mean):
                    raise GlocalError(f"distil: the loss is {mean} in epoch {epoch}; try a smaller distil.lr")
                if after_epoch is not None:
                    after_epoch(epoch, mean)
    return model.eval()


def share_of_rate(step: int, steps: int, warmup: float) -> float:
    """Of the highest rate: up to it in the first `warmup` of the steps, then down to 0 along a cosine.

    >>> [round(share_of_rate(step, 8, 0.25), 2) for step in range(8)]
    [0.5, 1.0, 1.0, 0.93, 0.75, 0.5, 0.25, 0.07]
    """
    rising = round(warmup * steps)
    if step < rising:
        return (step + 1) / rising
    return (1 + math.cos(math.pi * (step - rising) / (steps - rising))) / 2
