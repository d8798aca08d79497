"""The two ways to carry out drawn photometric operations, by the name that `data.color` gives them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from torch import Tensor

from glocal.views.fused import apply_fused
from glocal.views.photometric import apply_photometry
from glocal.views.plan import Color, Photometry, View


class ApplyColor(Protocol):
    """Photometric operations on (B, 3, S, S) uint8, or float in [0, 1] that may be overwritten; normalised float."""

    def __call__(
        self, images: Tensor, parameters: Photometry, view: View, *, mean: Sequence[float], std: Sequence[float]
    ) -> Tensor: ...


APPLY_COLOR: dict[Color, ApplyColor] = {"exact": apply_photometry, "fused": apply_fused}
