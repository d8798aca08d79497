"""The ways to carry out drawn photometric operations: two of RGB, by the name that `data.color` gives them, and that of
values that are no colours."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, Protocol

from torch import Tensor

from glocal.views.fused import apply_fused
from glocal.views.photometric import apply_photometry
from glocal.views.plan import Color, Photometry, View
from glocal.views.values import apply_values, disturb

Way = Color | Literal["values"]


class ApplyColor(Protocol):
    """Photometric operations on (B, 3, S, S) uint8, or float in [0, 1] that may be overwritten; normalised float.

    Of values, on (B, C, S, S) in their own units.
    """

    def __call__(
        self, images: Tensor, parameters: Photometry, view: View, *, mean: Sequence[float], std: Sequence[float]
    ) -> Tensor: ...


APPLY_COLOR: dict[Way, ApplyColor] = {"exact": apply_photometry, "fused": apply_fused, "values": apply_values}


def shown(
    images: Tensor, parameters: Photometry, view: View, *, mean: Sequence[float], std: Sequence[float], way: Way
) -> Tensor:
    """A view as networks see it: all of its photometric operations done, (B, C, S, S) normalised float."""
    return disturb(APPLY_COLOR[way](images, parameters, view, mean=mean, std=std), parameters, view)
