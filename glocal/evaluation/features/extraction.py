"""Features of a whole source, computed once."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple, Protocol

import torch
from torch import Tensor

from glocal.console import progress_bar
from glocal.data.lanes.central import images_of
from glocal.data.lanes.readings import PATIENCE
from glocal.data.sources.base import Source, Subset
from glocal.distributed import all_objects, gather_shares, own_share, process_count
from glocal.errors import BrokenImageError, GlocalError
from glocal.views.crops import Interpolation


class Extractor(Protocol):
    """What evaluation needs of a backbone; `glocal.models.backbone.Backbone` is one.

    One that also has `fingerprint() -> str`, which changes whenever its features do, has its features kept on the disk.
    One that has `interpolation` sees images resized so where a protocol does not say how. One whose `channels` is a
    number gets so many channels of values in their own units, float32, instead of RGB.
    """

    dim: int
    size: int
    label: str

    def features(self, images: Tensor) -> Tensor:
        """(B, 3, size, size) uint8 → (B, dim) float32."""
        ...


class RawPixels:
    """The pixels themselves as features: what a learned backbone has to beat.

    Args:
        size: side in pixels to which images are resized.
    """

    def __init__(self, size: int = 32) -> None:
        self.size = size
        self.dim = 3 * size * size
        self.label = "raw pixels"

    def features(self, images: Tensor) -> Tensor:
        """(B, 3, S, S) uint8 → (B, 3·S²) float32 in [0, 1]."""
        return images.flatten(1).float() / 255

    def fingerprint(self) -> str:
        """Names the size, on which alone the features depend."""
        return f"pixels at {self.size}"


class Readout(NamedTuple):
    """Which features of a backbone.

    Attributes:
        name: names the features in the cache: another name for any other computation.
        compute: backbone and images (B, 3, S, S) uint8 → (B, …) float32.
        share: of the images (`glocal.data.lanes.central.images_of`).
        interpolation: how they are resized; None is the backbone's own (`interpolation_of`).
    """

    name: str
    compute: Callable[[Extractor, Tensor], Tensor]
    share: float | None = None
    interpolation: Interpolation | None = None


def blank_image(backbone: Extractor, height: int | None = None, width: int | None = None) -> Tensor:
    """An image of zeros (1, C, height, width) uint8 that a backbone takes; without sides, of its own size."""
    height = height or backbone.size
    return torch.zeros(1, channels_of(backbone) or 3, height, width or height, dtype=torch.uint8)


def channels_of(backbone: Extractor) -> int | None:
    """How many channels a backbone's images have whose values come in their own units; None: they are RGB."""
    found: int | None = getattr(backbone, "channels", None)
    return found


POOLED = Readout("pooled", lambda backbone, images: backbone.features(images))
"""What the backbone gives for an image: its pooled features, or the CLS token."""


def interpolation_of(backbone: Extractor, asked: Interpolation | None = None) -> Interpolation:
    """How images are resized for a backbone: as asked, else as its weights expect, else bilinearly."""
    own: Interpolation | None = getattr(backbone, "interpolation", None)
    return asked or own or "bilinear"


@dataclass(frozen=True)
class Features:
    """Features of the readable images of a source.

    Attributes:
        features: (N, …) float32 on the CPU.
        index: (N,) int64, the images' positions in the source.
        labels: (N,) int64; None for an unlabelled source.
        classes: names of the classes; None for an unlabelled source.
        skipped: images that could not be read.
    """

    features: Tensor
    index: Tensor
    labels: Tensor | None
    classes: list[str] | None
    skipped: list[BrokenImageError]


def extract(
    backbone: Extractor,
    source: Source,
    readout: Readout = POOLED,
    *,
    batch_size: int = 256,
    workers: int | None = None,
    progress: bool = True,
    shared: bool = False,
    patience: float = PATIENCE,
) -> Features:
    """Computes the features of all images of a source.

    Args:
        backbone: gives the features.
        source: the images; their central squares are taken (`glocal.data.lanes.central.images_of`).
        readout: which features.
        batch_size: images at a time.
        workers: processes that decode images; None chooses.
        progress: show a progress bar.
        shared: of several processes each computes its part, and all get the whole; they must come here together.
        patience: seconds that reading one image may take; 0: any number.

    Raises:
        GlocalError: no image in the source can be read, one takes too long, or the features are no finite numbers.
    """
    own = own_share(len(source)) if shared else slice(0, len(source))
    mine = Subset(source, torch.arange(own.start, own.stop)) if own != slice(0, len(source)) else source
    features, index, skipped = _extract(backbone, mine, readout, batch_size, workers, patience, progress=progress)
    if shared and process_count() > 1:
        features, index, skipped = _together(features, index + own.start, skipped, len(source), own)
    if features is None:
        raise GlocalError(f"{source.name}: none of its {len(source)} images can be read")
    return with_labels(source, features, index, skipped)


def _extract(
    backbone: Extractor,
    source: Source,
    readout: Readout,
    batch_size: int,
    workers: int | None,
    patience: float,
    *,
    progress: bool,
) -> tuple[Tensor | None, Tensor, list[BrokenImageError]]:
    """Features of the readable images, or None, their places, and the images that could not be read."""
    skipped: list[BrokenImageError] = []
    found: Tensor | None = None  # one tensor from the start: joined in the end, features would be held twice
    places: list[Tensor] = []
    rows = 0
    with progress_bar("images", visible=progress) as bar:
        task = bar.add_task(f"features of {source.name}", total=len(source))
        for index, images in images_of(
            source,
            backbone.size,
            batch_size=batch_size,
            workers=workers,
            skipped=skipped,
            share=readout.share,
            interpolation=interpolation_of(backbone, readout.interpolation),
            patience=patience,
        ):
            features = readout.compute(backbone, images)
            if not features.isfinite().all():
                raise GlocalError(
                    f"{backbone.label} gives features that are infinite or no numbers for images of {source.name}; has "
                    "its training diverged?"
                )
            if found is None:
                found = torch.empty(len(source), *features.shape[1:], dtype=features.dtype)
            found[rows : rows + len(index)] = features
            rows += len(index)
            places.append(index)
            bar.update(task, advance=len(index))
    if found is None:
        return None, torch.empty(0, dtype=torch.int64), skipped
    return found[:rows], torch.cat(places), skipped


def _together(
    features: Tensor | None, index: Tensor, skipped: list[BrokenImageError], images: int, own: slice
) -> tuple[Tensor | None, Tensor, list[BrokenImageError]]:
    """What all processes have found, in the order of the images."""
    about = all_objects(
        (None if features is None else (features.shape[1:], features.dtype), [(e.key, e.reason) for e in skipped])
    )
    kinds = [kind for kind, _ in about if kind is not None]
    broken = [BrokenImageError(key, reason) for _, errors in about for key, reason in errors]
    if not kinds:
        return None, index, broken
    shape, dtype = kinds[0]
    rows, readable = torch.zeros(own.stop - own.start, *shape, dtype=dtype), torch.zeros(own.stop - own.start)
    if features is not None:
        rows[index - own.start], readable[index - own.start] = features, 1.0
    everything, found = gather_shares(rows, images), gather_shares(readable, images).bool()
    return everything if bool(found.all()) else everything[found], found.nonzero().flatten(), broken


def with_labels(source: Source, features: Tensor, index: Tensor, skipped: list[BrokenImageError]) -> Features:
    """Features beside the labels that the source has for their images."""
    labels = None if source.labels is None else source.labels[index]
    return Features(features, index, labels, source.classes, skipped)
