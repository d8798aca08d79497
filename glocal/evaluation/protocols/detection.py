"""Object detection and instance segmentation: the backbone is put into torchvision's detectors and fine-tuned.

The settings that are null are those of the task, as MoCo's detection configurations and detectron2's baselines have
them: He et al., "Momentum Contrast for Unsupervised Visual Representation Learning", CVPR 2020, section 4.2.

voc: Faster R-CNN C4, 24,000 iterations, short sides 480 … 800. coco and lvis: Mask R-CNN FPN, schedule 1x or 2x (90,000
or 180,000 iterations), short sides 640 … 800; lvis with repeated images (0.001) and 300 detections. Sixteen images in a
batch, learning rate 0.02; with another batch size the rate is in proportion to it, and iterations, warm-up and decays
are in inverse proportion, so that as many images are seen (Goyal et al., "Accurate, Large Minibatch SGD", 2017).
"""

from __future__ import annotations

from typing import Literal, NamedTuple

import torch
from pydantic import Field, PositiveInt

from glocal.data.annotated.box_batches import ExampleReader, repeat_factors
from glocal.data.annotated.boxes import DATA, Task, open_detection
from glocal.data.annotated.outlines import mask_tools
from glocal.data.lanes.central import default_workers
from glocal.data.lanes.skipped import tell_unreadable
from glocal.data.ranges import range_of
from glocal.errors import GlocalError
from glocal.evaluation.detection.detectors import DETECTORS, Norm, torchvision_resnet
from glocal.evaluation.detection.training import Keeper, Plan, detect, finetune
from glocal.evaluation.features.bench import Bench, Measurement, Protocol
from glocal.evaluation.metrics.detection import Scores, coco_scores, voc_scores, write_per_class
from glocal.models.backbone import Backbone
from glocal.settings import Seed, Settings

_BATCH = 16  # of the schedules below
_AFTERWARDS = {"data", "save_every", "test_side", "detections", "score_threshold"}  # do not change what is learned


class _Schedule(NamedTuple):
    iterations: int
    decays: tuple[int, ...]
    warmup: int


_SCHEDULES = {
    "24k": _Schedule(24_000, (18_000, 22_000), 100),
    "1x": _Schedule(90_000, (60_000, 80_000), 1_000),
    "2x": _Schedule(180_000, (120_000, 160_000), 1_000),
}


class DetectionSettings(Settings):
    """Fine-tuning of a detector; null is the task's (voc, coco, lvis) own value."""

    data: str | None = None  # the data set's folder
    task: Task = "voc"
    model: Literal["faster_rcnn_c4", "mask_rcnn_fpn"] | None = None
    schedule: Literal["24k", "1x", "2x"] | None = None
    batch_size: int = Field(_BATCH, ge=1)
    iterations: int | None = Field(None, ge=1)
    learning_rate: float | None = Field(None, gt=0)
    warmup: int | None = Field(None, ge=0)  # iterations
    weight_decay: float = Field(1e-4, ge=0)
    short_sides: tuple[PositiveInt, ...] | None = Field(None, min_length=1)  # in training, one is drawn for each image
    test_side: int = Field(800, ge=1)
    longest_side: int = Field(1333, ge=1)
    norm: Norm = "train"  # batch normalisation goes on learning; frozen: as it came
    precise_norm: int = Field(200, ge=0)  # batches over which its statistics are taken in the end
    repeat_threshold: float | None = Field(None, ge=0)  # classes in a smaller share of images are shown more often
    regions: int = Field(512, ge=1)  # of an image from which the head learns
    detections: int | None = Field(None, ge=1)  # in an image, at most
    score_threshold: float | None = Field(None, ge=0, lt=1)  # what scores below is no detection
    bf16: bool = False
    save_every: int = Field(1000, ge=1)  # iterations between two states on the disk
    seed: Seed = 0


def resolved(settings: DetectionSettings) -> DetectionSettings:
    """The settings with the task's values in the place of null.

    >>> found = resolved(DetectionSettings(task="coco", batch_size=8))
    >>> found.model, found.schedule, found.iterations, found.learning_rate, found.warmup
    ('mask_rcnn_fpn', '1x', 180000, 0.01, 2000)
    """
    voc, lvis = settings.task == "voc", settings.task == "lvis"
    schedule = settings.schedule or ("24k" if voc else "1x")
    its = _SCHEDULES[schedule]
    iterations = settings.iterations or round(its.iterations * _BATCH / settings.batch_size)
    own = {
        "model": "faster_rcnn_c4" if voc else "mask_rcnn_fpn",
        "schedule": schedule,
        "iterations": iterations,
        "learning_rate": 0.02 * settings.batch_size / _BATCH,
        "warmup": round(its.warmup * iterations / its.iterations),
        "short_sides": tuple(range(480 if voc else 640, 801, 32)),
        "repeat_threshold": 0.001 if lvis else 0.0,
        "detections": 300 if lvis else 100,
        "score_threshold": 1e-4 if lvis else 0.05,
    }
    return settings.model_copy(update={key: value for key, value in own.items() if getattr(settings, key) is None})


def plan_of(settings: DetectionSettings) -> Plan:
    """The training that resolved settings stand for; decays come at the schedule's shares of the iterations."""
    its = _SCHEDULES[settings.schedule or "1x"]
    assert settings.iterations is not None and settings.learning_rate is not None  # noqa: PT018  # resolved
    assert settings.warmup is not None
    return Plan(
        settings.iterations,
        settings.batch_size,
        settings.learning_rate,
        settings.warmup,
        tuple(round(decay * settings.iterations / its.iterations) for decay in its.decays),
        weight_decay=settings.weight_decay,
        bf16=settings.bf16,
        precise=settings.precise_norm,
        seed=settings.seed,
    )


def measure(bench: Bench, settings: DetectionSettings) -> list[Measurement]:
    """Fine-tunes a detector and scores what it finds in the test images."""
    mask_tools()  # is it installed? Rather asked now than after two days of training
    its = resolved(settings)
    bench.resolve(**its.model_dump(mode="json"))
    if not isinstance(bench.backbone, Backbone):
        raise GlocalError(f"{bench.backbone.label} cannot be fine-tuned for detection; give a ResNet")
    assert its.data is not None and its.model is not None and its.short_sides is not None  # noqa: PT018
    masks = its.model == "mask_rcnn_fpn"
    if masks and its.task == "voc":
        raise GlocalError("detection.model=mask_rcnn_fpn needs masks, which detection.task=voc has not: take coco")
    torchvision_resnet(bench.backbone)  # does it fit? Asked before a large file is read
    train, test = open_detection(its.data, its.task)
    bench.decode(train.files, test.files)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(its.seed)  # the new layers
        model = DETECTORS[its.model](
            bench.backbone,
            len(train.classes),
            norm=its.norm,
            min_size=its.test_side,
            max_size=its.longest_side,
            box_batch_size_per_image=its.regions,
            box_detections_per_img=its.detections,
            box_score_thresh=its.score_threshold,
        ).to(bench.device)
    reader = ExampleReader(
        train,
        short=its.short_sides,
        longest=its.longest_side,
        masks=masks,
        difficult=its.task == "voc",
        seed=its.seed,
    )
    about = {
        "settings": its.model_dump(mode="json", exclude=_AFTERWARDS),
        "backbone": bench.fingerprint(),
        "images": [train.name, len(train), len(train.boxes), *train.classes],
    }
    values = range_of(train.files)
    if values is not None:  # else as it was before there were ranges
        about["range"] = list(values)
    workers = default_workers() if bench.workers is None else bench.workers
    finetune(
        model,
        reader,
        plan_of(its),
        keeper=Keeper(bench.picture(f"detector_{its.task}.pt"), about, its.save_every),
        repeats=repeat_factors(train, its.repeat_threshold) if its.repeat_threshold else None,
        workers=workers,
        progress=bench.progress,
    )
    found, broken = detect(model, test, workers=workers, progress=bench.progress)
    tell_unreadable(test.name, len(test), broken, "count as images without detections")
    assert its.detections is not None
    scores: dict[str, Scores] = {}
    if its.task == "voc":
        scores["boxes, 11-point (VOC07)"] = voc_scores(test, found)
    scores["boxes"] = coco_scores(test, found, "bbox", most=its.detections)
    if masks:
        scores["masks"] = coco_scores(test, found, "segm", most=its.detections)
    table = bench.picture(f"detection_{its.task}.csv")
    if table is not None:
        write_per_class(table, scores)
    recipe = f"{its.model}, {its.iterations}×{its.batch_size} images, lr={its.learning_rate:g}"
    return [Measurement(f"{recipe}: {kind}", of_kind.metrics) for kind, of_kind in scores.items()]


PROTOCOL = Protocol(
    name="detection",
    summary="boxes and masks: Faster R-CNN C4 on VOC, Mask R-CNN FPN on COCO and LVIS, fine-tuned; AP, AP50, AP75",
    settings=DetectionSettings,
    measure=measure,
    rgb=True,
    labels=False,
    data=DATA,
    usual=False,
)
