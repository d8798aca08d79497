"""A batch as methods receive it."""

from __future__ import annotations

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
