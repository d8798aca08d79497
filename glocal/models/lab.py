"""CIE Lab and its colours: what colorization predicts.

sRGB with the white of D65; L lies in [0, 100], a and b within about ±110.
"""

from __future__ import annotations

from functools import cache
from itertools import product

import torch
from torch import Tensor

from glocal.transfer import tensor_on

# Rows: X, Y, Z of linear red, green and blue, divided by X, Y and Z of the white point (IEC 61966-2-1).
_XYZ = (
    (0.4124564 / 0.95047, 0.3575761 / 0.95047, 0.1804375 / 0.95047),
    (0.2126729, 0.7151522, 0.0721750),
    (0.0193339 / 1.08883, 0.1191920 / 1.08883, 0.9503041 / 1.08883),
)
_KNEE = 6 / 29  # of Lab's cube root
_GRID = 10  # side of a bin
# Corners of the gamut that the authors' list of bins has beyond those found here: yellow, magenta.
_AUTHORS_MORE = ((40, 90), (100, -90), (100, -10), (100, 0))


def _linear(rgb: Tensor) -> Tensor:
    return torch.where(rgb <= 0.04045, rgb / 12.92, ((rgb.clamp(min=0.04) + 0.055) / 1.055) ** 2.4)


def rgb_to_lab(rgb: Tensor) -> Tensor:
    """(B, 3, …) RGB in [0, 1] → (B, 3, …) Lab."""
    linear = _linear(rgb)
    xyz = torch.einsum("ij,bj...->bi...", tensor_on(rgb.device, _XYZ, rgb.dtype), linear)
    root = torch.where(xyz > _KNEE**3, xyz.clamp(min=_KNEE**3) ** (1 / 3), xyz / (3 * _KNEE**2) + 4 / 29)
    x, y, z = root.unbind(1)
    return torch.stack([116 * y - 16, 500 * (x - y), 200 * (y - z)], dim=1)


def grey_of_same_lightness(rgb: Tensor) -> Tensor:
    """(B, 3, …) RGB in [0, 1] → (B, 1, …): the grey whose L is that of the colour."""
    red, green, blue = _linear(rgb).unbind(1)
    y = (_XYZ[1][0] * red + _XYZ[1][1] * green + _XYZ[1][2] * blue)[:, None]
    return torch.where(y <= 0.0031308, 12.92 * y, 1.055 * y.clamp(min=0.003) ** (1 / 2.4) - 0.055).clamp(0, 1)


@cache
def _bins() -> tuple[tuple[int, int], ...]:
    """The surface of the cube of RGB holds the most colourful ones: the 8-bit colours on it are looked at."""
    with torch.device("cpu"):
        level = torch.arange(256, dtype=torch.float64) / 255
        faces = []
        for channel, value in product(range(3), (0.0, 1.0)):
            face = list(torch.meshgrid(level, level, indexing="ij"))
            face.insert(channel, torch.full_like(face[0], value))
            faces.append(torch.stack(face).flatten(1))
        colors = rgb_to_lab(torch.cat(faces, dim=1)[None])[0, 1:].T  # (n, 2)
        cells = (colors / _GRID).floor().long().unique(dim=0).tolist()
    # The gamut has no holes: between the outermost cells of a row all are in it.
    rows = {a: [b for other, b in cells if other == a] for a, _ in cells}
    corners = {
        ((a + right) * _GRID, (b + up) * _GRID)
        for a, there in rows.items()
        for b in range(min(there), max(there) + 1)
        for right, up in product((0, 1), (0, 1))
    }
    return tuple(sorted(corners | set(_AUTHORS_MORE)))


def color_bins() -> Tensor:
    """The 313 quantised colours (313, 2) float64 on the CPU: a and b on a grid of 10, those in sRGB's gamut.

    Zhang, Isola and Efros, "Colorful Image Colorization", ECCV 2016, section 2.1. A point of the grid is in it if one
    of the four cells around it holds a colour of sRGB. That gives 309; the authors' list has these and four more at its
    edge, which are added.
    """
    return torch.tensor(_bins(), dtype=torch.float64, device="cpu")


def soft_encoding(ab: Tensor, bins: Tensor, *, nearest: int = 5, sigma: float = 5.0) -> tuple[Tensor, Tensor]:
    """Each colour as shares of its nearest bins, in proportion to a Gaussian of their distance.

    Zhang et al., ECCV 2016, section 2.1.

    Args:
        ab: (N, 2).
        bins: (Q, 2).
        nearest: K, the bins that have a share.
        sigma: of the Gaussian.

    Returns:
        The bins (N, K) int64, the nearest first, and their shares (N, K), which sum to 1.
    """
    distance, index = torch.cdist(ab, bins, compute_mode="donot_use_mm_for_euclid_dist").topk(nearest, largest=False)
    return index, torch.softmax(-distance.square() / (2 * sigma**2), dim=1)
