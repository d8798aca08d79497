"""Features of a whole source, computed once."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from glocal.console import progress_bar
from glocal.data.plain import images_of
from glocal.data.sources import Source
from glocal.errors import BrokenImageError, GlocalError


class Extractor(Protocol):
    """What evaluation needs of a backbone; `glocal.models.backbone.Backbone` is one."""

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


@dataclass(frozen=True)
class Features:
    """Features of the readable images of a source.

    Attributes:
        features: (N, D) float32 on the CPU.
        labels: (N,) int64.
        classes: names of the classes.
        skipped: images that could not be read.
    """

    features: Tensor
    labels: Tensor
    classes: list[str]
    skipped: list[BrokenImageError]


def extract(
    backbone: Extractor,
    source: Source,
    *,
    batch_size: int = 256,
    workers: int | None = None,
    progress: bool = True,
) -> Features:
    """Computes the features of all images of a labelled source.

    Args:
        backbone: gives the features.
        source: labelled images.
        batch_size: images at a time.
        workers: processes that decode images; None chooses.
        progress: show a progress bar.

    Raises:
        GlocalError: the source has no labels, or no image in it can be read.
    """
    if source.labels is None or source.classes is None:
        raise GlocalError(f"{source.name} has no labels; in a folder, the folders of the first level are the classes")
    skipped: list[BrokenImageError] = []
    found, places = [], []
    with progress_bar("images", visible=progress) as bar:
        task = bar.add_task(f"features of {source.name}", total=len(source))
        for index, images in images_of(source, backbone.size, batch_size=batch_size, workers=workers, skipped=skipped):
            found.append(backbone.features(images).cpu())
            places.append(index)
            bar.update(task, advance=len(index))
    if not found:
        raise GlocalError(f"{source.name}: none of its {len(source)} images can be read")
    return Features(torch.cat(found), source.labels[torch.cat(places)], source.classes, skipped)
