"""Dense: segmentation by the labels of the nearest patches, without training anything."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Annotated, Literal

import torch
from pydantic import Field
from torch import Tensor

from glocal.console import progress_bar
from glocal.data.annotated.masks import DATA, UNKNOWN, Masked, MaskedFiles, open_masked
from glocal.data.lanes.central import images_of
from glocal.data.lanes.skipped import tell_unreadable
from glocal.errors import BrokenImageError, GlocalError
from glocal.evaluation.features.bench import Bench, Measurement, Protocol
from glocal.evaluation.features.cache import Kept
from glocal.evaluation.features.extraction import interpolation_of
from glocal.evaluation.features.scales import patch_side
from glocal.evaluation.metrics.segmentation import (
    Upsampling,
    confusion,
    intersection_over_union,
    patch_counts,
    patch_labels,
    segmentation_scores,
    upsampled,
    vote,
)
from glocal.files import write_csv
from glocal.report.mask_pictures import class_name, draw_segmentation
from glocal.settings import Seed, Settings
from glocal.views.random import permutation, uniform

_PIXELS = 1 << 23  # of the images in a batch


_Number = Annotated[int, Field(ge=0, le=UNKNOWN)]


class DenseSettings(Settings):
    """Votes of the nearest of a bank of labelled patches; k, τ and the bank are those of Balažević et al."""

    data: str | None = None
    k: int = Field(30, ge=1)
    temperature: float = Field(0.02, gt=0)
    bank_patches: int = Field(102_400, ge=1)  # at most, a seeded sample of equally many from each image
    labels: Literal["soft", "majority"] = "soft"  # of a patch: shares of its pixels, or the most frequent class
    upsample: Upsampling = "bilinear"  # of votes from patches to pixels
    ignore: tuple[_Number, ...] | None = None  # class numbers that do not count; null: 255, of shapes the ground too
    size: int | None = Field(None, ge=1)  # side of the images; null: what the backbone was trained on
    images: int | None = Field(None, ge=1)  # of each part, at most; null: all
    held_out: float = Field(0.2, gt=0, lt=1)  # to measure on, where a folder has no train/ and val/
    picture_images: int = Field(6, ge=0)
    seed: Seed = 0


def measure(bench: Bench, settings: DenseSettings) -> list[Measurement]:
    """mIoU and accuracies of the test images' pixels, and a picture of some of them."""
    assert settings.data is not None  # the protocol has `data`
    maps = _maps(bench)
    train, test = open_masked(settings.data, images=settings.images, held_out=settings.held_out, seed=settings.seed)
    bench.decode(train.images, test.images)
    bank, labels, classes = _bank(bench, settings, train, maps)
    bank, labels = bank.to(bench.device), labels.to(bench.device)
    k = min(settings.k, len(bank))
    shown = permutation(len(test.images), settings.seed, "dense picture")[: settings.picture_images]
    counts = torch.zeros(UNKNOWN + 1, UNKNOWN + 1, dtype=torch.int64)
    examples: list[tuple[Tensor, Tensor, Tensor]] = []
    for index, images, found, truth in _batches(bench, settings, test, maps, "segmentation"):
        rows, columns = found.shape[1:3]
        votes = vote(found.flatten(0, 2), bank, labels, k=k, temperature=settings.temperature)
        prediction = upsampled(votes.view(-1, rows, columns, len(classes)), images.shape[-1], settings.upsample)
        prediction = classes[prediction.cpu()]
        counts += confusion(truth, prediction)
        examples += [(images[row], truth[row], prediction[row]) for row in torch.isin(index, shown).nonzero()[:, 0]]
    if not counts.any():
        raise GlocalError(f"{test.images.name}: no pixel has a class; all are among {_ignored(settings, test)}")
    _write(bench, counts, examples, test.classes)
    return [Measurement(f"k={k}", segmentation_scores(counts))]


def _ignored(settings: DenseSettings, data: Masked) -> tuple[int, ...]:
    return data.ignored if settings.ignore is None else settings.ignore


def _maps(bench: Bench) -> Callable[[Tensor], Tensor]:
    """Images (B, 3, S, S) → features of their patches (B, rows, columns, D)."""
    feature_map = getattr(bench.backbone, "feature_map", None)
    if feature_map is None:
        raise GlocalError(f"{bench.backbone.label} has one feature for an image; protocol dense needs those of patches")

    def compute(images: Tensor) -> Tensor:
        size = images.shape[-1]
        try:
            found: Tensor = feature_map(images)
        except (AssertionError, RuntimeError, GlocalError) as error:
            if isinstance(error, torch.OutOfMemoryError) or size == bench.backbone.size:
                raise
            step = patch_side(bench.backbone)
            if size % step:
                near = " or ".join(str(side) for side in (size // step * step, (size // step + 1) * step) if side)
                raise GlocalError(
                    f"dense.size={size} cannot be cut into patches of {step} pixels; the nearest sizes are {near}"
                ) from error
            if isinstance(error, GlocalError):
                raise
            raise GlocalError(
                f"{bench.backbone.label} does not take images of {size} pixels (dense.size): {error}"
            ) from error
        return found.permute(0, 2, 3, 1)

    return compute


def _batches(
    bench: Bench, settings: DenseSettings, data: Masked, maps: Callable[[Tensor], Tensor], what: str
) -> Iterator[tuple[Tensor, Tensor, Tensor, Tensor]]:
    """Of the readable images: index (B,), images (B, 3, S, S), patches (B, rows, columns, D) and masks (B, S, S)."""
    size = settings.size or bench.backbone.size
    ignored = torch.tensor(_ignored(settings, data), dtype=torch.uint8)
    batch = max(1, min(256, _PIXELS // size**2))
    skipped: list[BrokenImageError] = []
    with progress_bar("images", visible=bench.progress) as bar:
        task = bar.add_task(f"{what} of {data.images.name}", total=len(data.images))
        for index, images in images_of(
            data.images,
            size,
            batch_size=batch,
            workers=bench.workers,
            skipped=skipped,
            interpolation=interpolation_of(bench.backbone),
        ):
            masks = data.masks(index, size)
            masks[torch.isin(masks, ignored)] = UNKNOWN
            yield index, images, maps(images), masks
            bar.update(task, advance=len(index))
    masks_of = data.broken.items() if isinstance(data, MaskedFiles) else ()
    broken = [*skipped, *(BrokenImageError(path, reason) for path, reason in masks_of)]
    tell_unreadable(data.images.name, len(data.images), broken, "do not count")


def _bank(
    bench: Bench, settings: DenseSettings, data: Masked, maps: Callable[[Tensor], Tensor]
) -> tuple[Tensor, Tensor, Tensor]:
    """A seeded sample of the patches with labelled pixels: features (N, D), labels (N, C), class numbers (C,)."""

    def compute() -> Kept:
        features, counts = [], []
        for index, _, found, masks in _batches(bench, settings, data, maps, "patches"):
            of_patches = patch_counts(masks, *found.shape[1:3])  # (B, P, 256)
            draw = uniform(settings.seed, "dense bank", index[:, None], torch.arange(of_patches.shape[1]))
            draw[of_patches.sum(dim=2) == 0] = torch.inf
            each = max(1, settings.bank_patches // len(data.images))
            lowest, patch = draw.topk(min(each, draw.shape[1]), dim=1, largest=False)
            image, place = (lowest < torch.inf).nonzero().unbind(1)
            patch = patch[image, place]
            features.append(found.flatten(1, 2)[image.to(found.device), patch.to(found.device)].cpu())
            counts.append(of_patches[image, patch].int())
        if not sum(len(part) for part in features):
            raise GlocalError(f"{data.images.name}: no image can be read in which a pixel has a class")
        order = permutation(sum(len(part) for part in features), settings.seed, "dense bank")[: settings.bank_patches]
        whole = torch.cat(counts)[order]
        classes = whole.any(dim=0).nonzero()[:, 0]
        return {"features": torch.cat(features)[order], "counts": whole[:, classes], "classes": classes}, None

    drawn = settings.model_dump(mode="json", include={"bank_patches", "seed"})
    drawn["ignore"] = _ignored(settings, data)
    key = {"dense": drawn, "side": settings.size or bench.backbone.size, "masks": data.fingerprint()} | bench.resized()
    kept, _ = bench.remember(data.images, key, compute)
    return kept["features"], patch_labels(kept["counts"], settings.labels), kept["classes"]


def _write(
    bench: Bench, counts: Tensor, examples: list[tuple[Tensor, Tensor, Tensor]], classes: list[str] | None
) -> None:
    """dense.csv with the IoU of each class, and dense.png."""
    path = bench.picture("dense.csv")
    if path is None:
        return
    each = enumerate(zip(intersection_over_union(counts), counts.sum(dim=1), strict=True))
    rows = [
        (number, class_name(number, classes), int(pixels), f"{iou:.2f}") for number, (iou, pixels) in each if pixels
    ]
    write_csv(path, ("class", "name", "pixels", "IoU"), rows)
    picture = bench.picture("dense.png")
    if examples and picture is not None:
        draw_segmentation(examples, classes, f"{bench.backbone.label}: the nearest patches' classes", picture)


PROTOCOL = Protocol(
    name="dense",
    summary="segmentation by the classes of the nearest patches (mIoU)",
    settings=DenseSettings,
    measure=measure,
    labels=False,
    data=DATA,
)
