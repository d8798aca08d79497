"""A batch as methods receive it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import groupby

import torch
from torch import Tensor

from glocal.errors import GlocalError
from glocal.views.geometry import ViewGeometry


class Views:
    """All views of a batch of images.

    No dataclass: mixed precision looks into those and would round the boxes along with the images.

    Attributes:
        images: for each view (B, 3, S, S), normalised float; S may differ from view to view.
        geometry: for each view where its crops lie in the source images; on the CPU, where it is drawn.
        index: (B,) int64, each image's index in its source; on the CPU.
    """

    def __init__(self, images: tuple[Tensor, ...], geometry: tuple[ViewGeometry, ...], index: Tensor) -> None:
        self.images = images
        self.geometry = geometry
        self.index = index

    def pair(self) -> tuple[Tensor, Tensor]:
        """The images of a method that looks at two views.

        Raises:
            GlocalError: there are not two.
        """
        if len(self.images) != 2:
            raise GlocalError(f"the method looks at two views of each image, not {len(self.images)}; change `views`")
        first, second = self.images
        return first, second

    def several(self, least: int, what: str) -> tuple[Tensor, ...]:
        """The images of a method that looks at `least` views or more.

        Raises:
            GlocalError: there are fewer; says `what` they should be.
        """
        if len(self.images) < least:
            raise GlocalError(
                f"{what} are needed, but there are {len(self.images)} views of each image; change `views`"
            )
        return self.images


def check_globals(views: Views) -> int:
    """The number of global views, which come first: two, of one size.

    Raises:
        GlocalError: there are not two of one size.
    """
    if len(views.images) < 2 or views.images[0].shape != views.images[1].shape:
        raise GlocalError(
            "the first two views are the global ones: they must have one size (views.0.size, views.1.size)"
        )
    return 2


def by_size(images: Sequence[Tensor]) -> list[Tensor]:
    """Runs of views of one size, each as one batch (n·B, 3, S, S), in their order."""
    return [torch.cat(list(run)) for _, run in groupby(images, key=lambda image: image.shape)]


def by_resolution(network: Callable[[Tensor], Tensor], images: Sequence[Tensor]) -> Tensor:
    """The network's output of all views, one after another, in one pass for each run of views of one size."""
    return torch.cat([network(run).flatten(0, -2) for run in by_size(images)])
