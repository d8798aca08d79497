"""Photometric operations in few passes over the pixels: everything that happens to a colour is one affine map.

Brightness, contrast, saturation and greyscale are linear in a pixel's colour and in the image's mean colour, so is the
normalisation, and so is a turn of the hue once it is taken as a rotation about the grey axis. Their product, a 3×3
matrix for the pixel and one for the mean, is worked out from the drawn parameters before any pixel is touched.

What differs from `glocal.views.photometric`: values are cut off at black and white once, not between the operations;
the hue turns about the grey axis instead of HSV's hexagon (the same at thirds of a turn; on photographs it is 4 dB
nearer to HSV's than a rotation in YIQ); the blur ends at 3 σ.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from glocal.transfer import tensor_on, to_device
from glocal.views.blur import blur_drawn
from glocal.views.photometric import CONTRAST, GREY_WEIGHTS, HUE, SATURATION
from glocal.views.plan import Photometry, View
from glocal.views.randaugment import rand_augment

# On a CPU the passes over a chunk should meet in the second-level cache: this many bytes of float pixels.
_CPU_CHUNK_BYTES = 1 << 20

_SPIN = torch.tensor([[0, -1, 1], [1, 0, -1], [-1, 1, 0]], dtype=torch.float64) / math.sqrt(3)
# Each operation is a sum of these: identity, luminance in every channel, and Rodrigues' two terms of a rotation.
_BASIS = torch.stack(
    [
        torch.eye(3, dtype=torch.float64),
        torch.tensor(GREY_WEIGHTS, dtype=torch.float64).expand(3, 3),
        _SPIN,
        _SPIN @ _SPIN,
    ]
)


def color_maps(parameters: Photometry) -> tuple[Tensor, Tensor]:
    """The drawn jitter and greyscale as linear maps: a pixel x of an image with mean colour m becomes A x + D m.

    With S = A + D, the map of an image of one colour, contrast f multiplies A by f and S by f + (1 − f)·luminance,
    for it blends with the mean as it then is; every other operation multiplies both from the left.

    Args:
        parameters: drawn values of any shape (…).

    Returns:
        A and D, (…, 3, 3) float64.
    """
    factors = torch.stack([parameters.brightness, parameters.contrast, parameters.saturation], dim=-1)
    factors = torch.cat([factors, torch.ones_like(factors[..., :1])], dim=-1)  # (…, 4), by operation
    order = parameters.order
    factor = factors.gather(-1, order)  # (…, 4), by slot
    turned = 2 * math.pi * parameters.hue[..., None] * (order == HUE)
    to_grey = 1 - factor
    of_pixel = to_grey * (order == SATURATION)
    shares = torch.stack([of_pixel, of_pixel + to_grey * (order == CONTRAST)])  # (2, …, 4): of A and of S
    fixed = (share.expand_as(shares) for share in (factor, turned.sin(), 1 - turned.cos()))
    alpha, sine, versine = fixed
    weights = torch.stack([alpha, shares, sine, versine], dim=-1)  # (2, …, 4 slots, 4 terms)
    steps = (weights @ _BASIS.flatten(1)).unflatten(-1, (3, 3))
    maps = steps[..., 0, :, :]
    for slot in range(1, 4):
        maps = steps[..., slot, :, :] @ maps
    maps = torch.where(parameters.grey[..., None, None], _BASIS[1] @ maps, maps)
    return maps[0], maps[1] - maps[0]


def apply_fused(
    images: Tensor, parameters: Photometry, view: View, *, mean: Sequence[float], std: Sequence[float]
) -> Tensor:
    """Jitter, greyscale, blur, solarize, RandAugment and normalise, each image by its own drawn parameters.

    Args:
        images: (B, 3, S, S) uint8, or float in [0, 1].
        parameters: (B,) drawn values, on the CPU (they steer which images an operation touches).
        view: the settings that the parameters were drawn with.
        mean, std: per channel, subtracted and divided by last.

    Returns:
        (B, 3, S, S) float, normalised; `images` are left as they are.
    """
    device, dtype = images.device, images.dtype if images.is_floating_point() else torch.float32
    centre, spread = (torch.tensor(values, dtype=torch.float64) for values in (mean, std))
    whole = 1.0 if images.is_floating_point() else 255.0
    pixel, average = (colors / (whole * spread[:, None]) for colors in color_maps(parameters))
    pixel, average = (to_device(colors, device, dtype) for colors in (pixel, average))
    offset = to_device(-centre / spread, device, dtype)[:, None].expand(len(images), 3, 1)
    black, white = (-centre / spread).tolist(), ((1 - centre) / spread).tolist()
    contrasts = view.jitter.probability > 0 and view.jitter.contrast > 0  # nothing else asks for the mean

    out = torch.empty(images.shape, dtype=dtype, device=device)
    together = len(images)
    if device.type == "cpu":
        together = min(together, max(1, _CPU_CHUNK_BYTES // (images[0].numel() * out.element_size())))
    # A fourth channel of ones takes the offset into the product; adding it would be one more pass.
    room = torch.ones(together, 4, images.shape[2] * images.shape[3], dtype=dtype, device=device)
    for first in range(0, len(images), together):
        rows = slice(first, first + together)
        given, shown, drawn = images[rows], out[rows], parameters.rows(rows)
        ones = room[: len(given)]
        colors = ones[:, :3].copy_(given.flatten(2))  # (b, 3, S·S)
        bias = offset[rows]
        if contrasts:
            bias = torch.baddbmm(bias, average[rows], colors.mean(dim=2, keepdim=True))
        torch.bmm(torch.cat([pixel[rows], bias], dim=2), ones, out=shown.flatten(2))
        for channel, (low, high) in enumerate(zip(black, white, strict=True)):
            shown[:, channel].clamp_(low, high)
        if view.blur.probability > 0:
            blur_drawn(shown, drawn, view, deviations=3)
        if view.solarize.probability > 0:
            _solarize(shown, drawn, view, centre, spread)
        if drawn.augment is not None:
            _augment(shown, drawn, mean, std)
    return out


def _augment(images: Tensor, parameters: Photometry, mean: Sequence[float], std: Sequence[float]) -> None:
    """RandAugment counts in whole values from black to white; the images that drew some of it go there and back."""
    assert parameters.augment is not None
    chosen = (parameters.augment >= 0).any(dim=-1).nonzero()[:, 0]
    if len(chosen) == 0:
        return
    rows = to_device(chosen, images.device)
    centre, spread = (tensor_on(images.device, values, images.dtype)[:, None, None] for values in (mean, std))
    picked = images[rows].mul_(spread).add_(centre)
    images[rows] = rand_augment(picked, parameters.rows(chosen), mean).sub_(centre).div_(spread)


def _solarize(images: Tensor, parameters: Photometry, view: View, centre: Tensor, spread: Tensor) -> None:
    chosen = parameters.solarize.nonzero()[:, 0]
    if len(chosen) == 0:
        return
    rows = to_device(chosen, images.device)
    # 1 − x of a normalised value y = (x − c) / s is (1 − 2c) / s − y.
    threshold, mirror = (
        to_device(v / spread, images.device, images.dtype)[:, None, None]
        for v in (view.solarize.threshold - centre, 1 - 2 * centre)
    )
    picked = images[rows]
    images[rows] = torch.where(picked >= threshold, mirror - picked, picked)
