"""Average precision of detections: COCO's, LVIS's and Pascal VOC 2007's."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
from torch import Tensor

from glocal.data.annotated.boxes import DetectionImages
from glocal.data.annotated.outlines import MISSING
from glocal.errors import GlocalError
from glocal.files import write_csv

THRESHOLDS = tuple(share / 100 for share in range(50, 100, 5))
"""The overlaps (IoU) over which AP is averaged."""

_ELEVEN = np.arange(0.0, 1.1, 0.1)  # not linspace: 0.30000000000000004 is what the common implementations ask for


class Detections(NamedTuple):
    """What a detector found in one image.

    Attributes:
        boxes: (K, 4) left, top, right, bottom in pixels.
        scores: (K,)
        labels: (K,) int64, classes from 0.
        masks: K run lengths {"size", "counts"}; None for boxes alone.
    """

    boxes: Tensor
    scores: Tensor
    labels: Tensor
    masks: list[dict[str, Any]] | None = None


@dataclass(frozen=True)
class Scores:
    """Average precisions in percent.

    Attributes:
        metrics: AP, AP50, AP75; for LVIS also APr, APc and APf, those of rare, common and frequent classes.
        per_class: for each class that is there AP, AP50 and AP75.
    """

    metrics: dict[str, float]
    per_class: dict[str, tuple[float, float, float]]


def coco_scores(
    images: DetectionImages, found: Sequence[Detections], kind: Literal["bbox", "segm"], *, most: int = 100
) -> Scores:
    """COCO's average precision (101 points), as pycocotools computes it; LVIS's where `images` are LVIS's.

    In LVIS a class counts only in images where it is known to be or not to be; where not every object of a class is
    marked, what is found beside the marked ones is no error; and the `most` detections of highest score of an image
    count, of all classes together, instead of each class (Gupta, Dollár and Girshick, "LVIS", CVPR 2019).

    Args:
        images: N images with their objects; ignored ones are treated as COCO's crowds.
        found: N detections.
        kind: compare boxes or masks.
        most: detections that count, at most.

    Raises:
        GlocalError: faster-coco-eval is not installed, or there is no object that counts.
    """
    try:
        from faster_coco_eval import COCO, COCOeval_faster  # type: ignore[import-untyped]
    except ImportError as error:
        raise GlocalError(MISSING) from error
    lvis = images.frequency is not None
    if lvis:
        found = [_best(one, most) for one in found]
    truth = COCO(_truth(images, masks=kind == "segm"))
    scorer = COCOeval_faster(truth, truth.loadRes(_results(found, kind)), kind, lvis_style=lvis)
    scorer.params.maxDets = [most]
    scorer.evaluate()
    scorer.accumulate()
    precision = np.asarray(scorer.eval["precision"])[:, :, :, 0, 0]  # (10, 101, C); -1 where a class is not there
    return _scores(precision.mean(axis=1).T, images)


def voc_scores(images: DetectionImages, found: Sequence[Detections]) -> Scores:
    """Average precision of boxes with VOC 2007's eleven points, at ten overlaps: what detectron2 and MoCo report.

    A detection is compared with the object of its class that it overlaps most, difficult ones included; it is right
    where the overlap exceeds the threshold and no detection of higher score had the object.

    Args:
        images: N images with their objects; of ignored ones detections count neither as right nor as wrong.
        found: N detections.

    Raises:
        GlocalError: there is no object that counts.
    """
    table = np.full((len(images.classes), len(THRESHOLDS)), -1.0)
    owner = images.image_of
    image = torch.repeat_interleave(torch.arange(len(found)), torch.tensor([len(one.scores) for one in found]))
    boxes = torch.cat([torch.empty(0, 4, dtype=torch.float64), *(one.boxes.double().cpu() for one in found)])
    scores = torch.cat([torch.empty(0), *(one.scores.float().cpu() for one in found)])
    labels = torch.cat([torch.empty(0, dtype=torch.int64), *(one.labels.cpu() for one in found)])
    for label in range(len(images.classes)):
        objects = (images.labels == label).nonzero()[:, 0]
        wanted = int((~images.ignored[objects]).sum())
        if wanted == 0:
            continue
        mine = (labels == label).nonzero()[:, 0]
        mine = mine[scores[mine].argsort(descending=True, stable=True)]
        overlap, place = _nearest_objects(boxes[mine], image[mine], images.boxes[objects], owner[objects])
        best = objects[place]
        for column, threshold in enumerate(THRESHOLDS):
            hit = overlap > threshold
            neither = hit & images.ignored[best]
            right = _first(best, hit) & ~neither
            table[label, column] = _eleven_points(right.numpy(), (~right & ~neither).numpy(), wanted)
    return _scores(table, images)


def write_per_class(path: Path, scores: dict[str, Scores]) -> None:
    """Writes a CSV with a line for each class and each kind of score."""
    rows = [
        (kind, name, *(f"{value:.4f}" for value in values))
        for kind, of_kind in scores.items()
        for name, values in of_kind.per_class.items()
    ]
    write_csv(path, ("scored", "class", "AP", "AP50", "AP75"), rows)


def _nearest_objects(boxes: Tensor, image: Tensor, objects: Tensor, owner: Tensor) -> tuple[Tensor, Tensor]:
    """For each of K boxes its largest overlap with an object in its image, (K,), and which object that is, (K,) int64.

    Args:
        boxes: (K, 4).
        image: (K,) their images.
        objects: (M, 4), M > 0.
        owner: (M,) their images, ascending.
    """
    first = torch.searchsorted(owner, image)
    count = torch.searchsorted(owner, image, right=True) - first
    box = torch.repeat_interleave(torch.arange(len(boxes)), count)  # (P,) pairs in the same image
    thing = torch.arange(len(box)) + torch.repeat_interleave(first - count.cumsum(0) + count, count)
    mine, its = boxes[box], objects[thing]
    shared = (torch.minimum(mine[:, 2:], its[:, 2:]) - torch.maximum(mine[:, :2], its[:, :2])).clamp(min=0).prod(dim=1)
    areas = (mine[:, 2:] - mine[:, :2]).prod(dim=1) + (its[:, 2:] - its[:, :2]).prod(dim=1)
    overlaps = shared / (areas - shared).clamp(min=1e-9)  # boxes of no area overlap nothing
    largest = overlaps.new_zeros(len(boxes)).scatter_reduce(0, box, overlaps, "amax")
    where = overlaps == largest[box]
    place = torch.full((len(boxes),), len(objects)).scatter_reduce(0, box[where], thing[where], "amin")
    return largest, place.clamp(max=len(objects) - 1)  # without an object in the image, the overlap is 0


def _first(best: Tensor, hit: Tensor) -> Tensor:
    """Which detections, best first, are the first ones that hit their object."""
    rows = hit.nonzero()[:, 0]
    _, first = np.unique(best[rows].numpy(), return_index=True)
    right = torch.zeros_like(hit)
    right[rows[torch.from_numpy(first)]] = True
    return right


def _eleven_points(right: np.ndarray, wrong: np.ndarray, wanted: int) -> float:
    true, false = right.cumsum(), wrong.cumsum()
    recall = true / wanted
    precision = true / np.maximum(true + false, 1)
    return float(np.mean([precision[recall >= point].max(initial=0.0) for point in _ELEVEN]))


def _scores(table: np.ndarray, images: DetectionImages) -> Scores:
    """Scores from (C, 10) average precisions in [0, 1] at the ten overlaps, -1 for classes that are not there."""
    there = (table[:, 0] > -1).nonzero()[0]
    if len(there) == 0:
        raise GlocalError(f"{images.name}: there is no object to be found in its images")

    def summary(rows: np.ndarray) -> tuple[float, float, float]:
        values = 100 * table[rows].mean(axis=0)
        return float(values.mean()), float(values[0]), float(values[5])

    metrics = dict(zip(("AP", "AP50", "AP75"), summary(there), strict=True))
    if images.frequency is not None:
        for group in "rcf":
            rows = there[[images.frequency[number] == group for number in there]]
            if len(rows) > 0:
                metrics[f"AP{group}"] = summary(rows)[0]
    return Scores(metrics, {images.classes[number]: summary(there[there == number]) for number in there})


def _truth(images: DetectionImages, *, masks: bool) -> dict[str, Any]:
    """The objects as COCO's JSON, with ids from 1: 0 would mean "no match"."""
    sizes, boxes = images.sizes.tolist(), images.boxes.tolist()
    labels, ignored, areas = images.labels.tolist(), images.ignored.tolist(), images.areas.tolist()
    rows = enumerate(zip(images.image_of.tolist(), labels, boxes, ignored, areas, strict=True), start=1)
    annotations = [
        {
            "id": number,
            "image_id": image,
            "category_id": label + 1,
            "bbox": [left, top, right - left, bottom - top],
            "iscrowd": int(crowd),
            "area": area,
        }
        for number, (image, label, (left, top, right, bottom), crowd, area) in rows
    ]
    if masks:
        for entry, outline in zip(annotations, images.outlines, strict=True):
            left, top, width, height = entry["bbox"]
            box = [left, top, left, top + height, left + width, top + height, left + width, top]
            if isinstance(outline, dict):
                entry["segmentation"] = outline
            else:
                entry["segmentation"] = [box] if outline is None else [part.tolist() for part in outline]
    frequency = images.frequency or ["f"] * len(images.classes)
    negative = images.negative or [[]] * len(images)
    open_ended = images.not_exhaustive or [[]] * len(images)
    return {
        "info": {},
        "images": [
            {
                "id": number,
                "height": height,
                "width": width,
                "neg_category_ids": [label + 1 for label in negative[number]],
                "not_exhaustive_category_ids": [label + 1 for label in open_ended[number]],
            }
            for number, (height, width) in enumerate(sizes)
        ],
        "categories": [
            {"id": number, "name": name, "frequency": group}
            for number, (name, group) in enumerate(zip(images.classes, frequency, strict=True), start=1)
        ],
        "annotations": annotations,
    }


def _results(found: Sequence[Detections], kind: str) -> list[dict[str, Any]]:
    """Detections as COCO's JSON of results."""
    results = []
    for image, one in enumerate(found):
        corners = one.boxes.double()
        boxes = torch.cat([corners[:, :2], corners[:, 2:] - corners[:, :2]], dim=1).tolist()
        shapes: Sequence[Any] = boxes if kind == "bbox" else one.masks or []
        for shape, score, label in zip(shapes, one.scores.tolist(), one.labels.tolist(), strict=True):
            where = "bbox" if kind == "bbox" else "segmentation"
            results.append({"image_id": image, "category_id": label + 1, "score": score, where: shape})
    return results


def _best(found: Detections, most: int) -> Detections:
    """The detections of highest score."""
    rows = found.scores.argsort(descending=True, stable=True)[:most]
    masks = None if found.masks is None else [found.masks[row] for row in rows.tolist()]
    return Detections(found.boxes[rows], found.scores[rows], found.labels[rows], masks)
