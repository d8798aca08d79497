"""A batch as methods receive it."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from glocal.views.geometry import ViewGeometry


@dataclass
class Views:
    """All views of a batch of images.

    Attributes:
        images: for each view (B, 3, S, S), normalised float; S may differ from view to view.
        geometry: for each view where its crops lie in the source images; on the CPU, where it is drawn.
        index: (B,) int64, each image's index in its source; on the CPU.
    """

    images: tuple[Tensor, ...]
    geometry: tuple[ViewGeometry, ...]
    index: Tensor
