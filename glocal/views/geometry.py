"""Where a view lies in its source image."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor


@dataclass
class ViewGeometry:
    """The crops that a batch of views shows.

    Attributes:
        box: (…, 4) float64: left, top, right, bottom in source pixels; right and bottom are exclusive.
        flipped: (…) bool: whether the view is mirrored left to right.
    """

    box: Tensor
    flipped: Tensor

    def view(self, number: int) -> ViewGeometry:
        """The geometry of one view out of a batch of several: (B, V, 4) → (B, 4)."""
        return ViewGeometry(self.box[:, number], self.flipped[:, number])
