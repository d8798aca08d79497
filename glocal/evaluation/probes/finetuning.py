"""Training a backbone and a classifier on it with few labels: which images, the training, the accuracy."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Literal, NamedTuple

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from glocal.data.lanes.central import images_of
from glocal.data.lanes.choice import Lane, open_lane
from glocal.data.lanes.order import BatchOrder
from glocal.data.settings import DataSettings
from glocal.data.sources.base import Source, Subset
from glocal.errors import BrokenImageError, GlocalError
from glocal.evaluation.features.extraction import blank_image
from glocal.models.backbone import Backbone
from glocal.models.strided import use_exact_strides
from glocal.settings import Settings
from glocal.views.plan import Areas, View, ViewPlan
from glocal.views.random import normal, permutation

_LOOK = 8  # side at which images are read only to see whether they can be


class TrainingSettings(Settings):
    """What all trainings of a network with a classifier on it share."""

    epochs: int = Field(60, ge=1)
    batch_size: int = Field(256, ge=2)  # fewer where there are fewer images
    momentum: float = Field(0.9, ge=0, lt=1)
    weight_decay: float = Field(0.0, ge=0)
    scale: Areas = (0.08, 1.0)  # share of the image's area that a training crop shows
    precision: Literal["fp32", "bf16"] = "fp32"
    channels_last: bool = True
    resident_megabytes: int = Field(2048, ge=0)  # images of one size are kept on the device up to here


class TuningSettings(TrainingSettings):
    """SGD with one learning rate for the backbone and another for the classifier, both lowered in steps."""

    backbone_lr: float = Field(1e-4, ge=0)  # also of the projector's layers
    head_lr: float = Field(10.0, ge=0)
    decay_epochs: int = Field(20, ge=1)  # epochs after which both are multiplied by `decay_factor`
    decay_factor: float = Field(0.1, gt=0, le=1)


class Classifier(nn.Module):
    """A linear layer on the pooled features of a copy of a backbone; the backbone that is given stays as it is.

    Between them may stand a copy of a projector's first layers (Chen et al., "Big Self-Supervised Models are Strong
    Semi-Supervised Learners", NeurIPS 2020, section 2). Weights begin with N(0, 0.01²), biases with 0, as in the probes
    of MoCo and DINO.
    """

    def __init__(self, backbone: Backbone, classes: int, *, seed: int, projector: nn.Module | None = None) -> None:
        super().__init__()
        self.backbone = copy.deepcopy(backbone).requires_grad_(True)
        use_exact_strides(self.backbone)
        self.projector = nn.Identity() if projector is None else copy.deepcopy(projector).requires_grad_(True)
        self.projector.to(backbone.mean.device)
        # Counted, not asked for: some of timm's networks give more than their `num_features` (MobileNetV3).
        with torch.no_grad():
            width = self.projector.eval()(backbone.features(blank_image(backbone))).shape[1]
        self.head = nn.Linear(width, classes, device=backbone.mean.device)
        with torch.no_grad():
            weight = normal(seed, "classifier", torch.arange(classes)[:, None], torch.arange(width))
            self.head.weight.copy_(0.01 * weight)
            self.head.bias.zero_()

    def forward(self, images: Tensor) -> Tensor:
        """Scores (B, C) of normalised images (B, 3, S, S)."""
        return self.head(self.projector(self.backbone(images)))  # type: ignore[no-any-return]


class Accuracy(NamedTuple):
    """Shares of test images in percent whose class has the highest score, or one of the five highest scores.

    `top5` is None where there are no more than five classes; `skipped` are images that could not be read.
    """

    top1: float
    top5: float | None
    skipped: list[BrokenImageError]


def draw_balanced(labels: Tensor, fraction: float, *, seed: int) -> Tensor:
    """A share of the images with as many of each class as there can be.

    A class with fewer images gives all it has, and the others more in its place. Every class has at least one image.

    Args:
        labels: (N,) int64.
        fraction: in (0, 1].
        seed: another one draws other images.

    Returns:
        Sorted positions (M,) int64, M = fraction · N rounded, or the number of classes if that is more.

    >>> draw_balanced(torch.tensor([0] * 90 + [1] * 10), 0.1, seed=0) // 90
    tensor([0, 0, 0, 0, 0, 1, 1, 1, 1, 1])
    """
    order = permutation(len(labels), seed, "balanced images")
    by_class = order[labels[order].argsort(stable=True)]  # random within each class
    classes, count = labels.unique(return_counts=True)
    first = torch.repeat_interleave(count.cumsum(dim=0) - count, count)
    turn = torch.arange(len(labels)) - first  # the class's first, second, … image
    who = torch.repeat_interleave(permutation(len(classes), seed, "balanced classes"), count)  # takes its turn when
    wanted = max(len(classes), round(fraction * len(labels)))
    return by_class[(turn * len(classes) + who).argsort()][:wanted].sort().values


def readable(source: Source, rows: Tensor, *, workers: int | None) -> tuple[Tensor, list[BrokenImageError]]:
    """Those of some images that can be read, and the errors of the others.

    The training shows the next image in place of one that it cannot read, which would have a wrong label.
    """
    if hasattr(source, "images"):
        return rows, []
    skipped: list[BrokenImageError] = []
    found = [index for index, _ in images_of(Subset(source, rows), _LOOK, workers=workers, skipped=skipped)]
    return (rows[torch.cat(found)] if found else rows[:0]), skipped


def fine_tune(
    backbone: Backbone,
    source: Source,
    rows: Tensor,
    classes: int,
    *,
    settings: TuningSettings,
    seed: int,
    projector: nn.Module | None = None,
    workers: int | None = None,
    after_epoch: Callable[[int, float], None] | None = None,
) -> Classifier:
    """Trains a classifier and a copy of the backbone on some labelled images, on the backbone's device.

    Args:
        backbone: stays as it is.
        source: labelled images.
        rows: (N,) which of them; all of them can be read.
        classes: how many there are.
        settings: the training's settings.
        seed: of the classifier's first weights, the order of the images and their crops.
        projector: what stands between backbone and classifier, a copy of which is trained as well; None: nothing.
        workers: processes that decode images; None chooses.
        after_epoch: is told how many epochs are done and their last one's mean loss.

    Returns:
        The classifier, in evaluation mode.

    Raises:
        GlocalError: there are fewer than two images, or the loss is infinite or no number.
    """
    if len(rows) < 2:
        raise GlocalError(f"finetune: {len(rows)} labelled image of {source.name} is too few; take a larger fraction")
    assert source.labels is not None
    device = backbone.mean.device
    labels = source.labels[rows].to(device)
    lane, order = crops_of(Subset(source, rows), backbone, settings, seed=seed, workers=workers)
    model = Classifier(backbone, classes, seed=seed, projector=projector).train()
    if settings.channels_last:
        model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    rates = (settings.backbone_lr, settings.head_lr)
    parts = ([*model.backbone.parameters(), *model.projector.parameters()], model.head.parameters())
    groups = [{"params": part} for part in parts]
    optimizer = torch.optim.SGD(groups, lr=0.0, momentum=settings.momentum, weight_decay=settings.weight_decay)
    losses: list[Tensor] = []  # on the device: looking at one waits for it
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        torch.manual_seed(seed)  # for networks that drop paths or features
        for step, views in enumerate(lane.batches(0, settings.epochs * order.steps_per_epoch)):
            epoch, place = divmod(step, order.steps_per_epoch)
            lowered = settings.decay_factor ** (epoch // settings.decay_epochs)
            for group, rate in zip(optimizer.param_groups, rates, strict=True):
                group["lr"] = rate * lowered
            images = views.images[0]
            if settings.channels_last:
                images = images.contiguous(memory_format=torch.channels_last)
            with computing(device, settings):
                scores = model(images)
            loss = cross_entropy(scores.float(), labels[views.index.to(device)])
            loss.backward()
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
            losses.append(loss.detach())
            if place == order.steps_per_epoch - 1:
                mean = float(torch.stack(losses).mean())
                losses.clear()
                if not torch.isfinite(torch.tensor(mean)):
                    raise GlocalError(
                        f"finetune: the loss is {mean} in epoch {epoch + 1}; try a smaller finetune.head_lr or "
                        "finetune.backbone_lr"
                    )
                if after_epoch is not None:
                    after_epoch(epoch + 1, mean)
    return model.eval()


def crops_of(
    source: Source, backbone: Backbone, settings: TrainingSettings, *, seed: int, workers: int | None
) -> tuple[Lane, BatchOrder]:
    """Random crops and flips of images as a backbone expects them, and the order in which they come."""
    order = BatchOrder(len(source), min(settings.batch_size, len(source)), seed)
    data = DataSettings(
        channels=len(backbone.mean),
        rgb=None if backbone.channels is None else False,
        mean=tuple(backbone.mean.flatten().tolist()),
        std=tuple(backbone.std.flatten().tolist()),
        workers=workers,
        resident_megabytes=settings.resident_megabytes,
    )
    plan = ViewPlan([View(size=backbone.size, scale=settings.scale)])
    return open_lane(source, data, plan, order, backbone.mean.device, progress=False), order


@torch.no_grad()
def measure_accuracy(
    model: Classifier, source: Source, mapping: Tensor, *, settings: TrainingSettings, workers: int | None = None
) -> Accuracy:
    """Accuracy on the central squares of all readable images of a source.

    Args:
        model: in evaluation mode.
        source: labelled images.
        mapping: (C,) the number that each of its classes has for the model.
        settings: those of the training.
        workers: processes that decode images; None chooses.

    Raises:
        GlocalError: no image can be read.
    """
    assert source.labels is not None
    device = model.head.weight.device
    labels = mapping[source.labels].to(device)
    skipped: list[BrokenImageError] = []
    many = model.head.out_features > 5
    right, count = torch.zeros(2, dtype=torch.int64, device=device), 0
    for index, images in images_of(source, model.backbone.size, workers=workers, skipped=skipped):
        with computing(device, settings):
            scores = model(model.backbone.prepare(images)).float()
        hit = scores.topk(5 if many else 1, dim=1).indices == labels[index.to(device)][:, None]
        right += torch.stack([hit[:, 0].sum(), hit.sum()])
        count += len(index)
    if not count:
        raise GlocalError(f"{source.name}: none of its {len(source)} images can be read")
    first, five = (100 * right / count).tolist()
    return Accuracy(first, five if many else None, skipped)


def computing(device: torch.device, settings: TrainingSettings) -> torch.autocast:
    """The context in which the network computes."""
    return torch.autocast(device.type, torch.bfloat16, enabled=settings.precision == "bf16")
