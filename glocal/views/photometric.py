"""Photometric operations on batches, each image with its own parameters; no loop over images.

Colour arithmetic follows torchvision's `adjust_*` functions on float images in [0, 1].
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from glocal.transfer import tensor_on, to_device
from glocal.views.blur import blur_drawn
from glocal.views.plan import Photometry, View
from glocal.views.randaugment import rand_augment

CONTRAST, SATURATION, HUE = 1, 2, 3  # as Photometry.order numbers them
GREY_WEIGHTS = (0.2989, 0.587, 0.114)  # torchvision's rgb_to_grayscale
# On a CPU the passes over an image should meet in the cache: this many bytes of pixels are worked on at a time.
_CPU_CHUNK_BYTES = 1 << 20


def apply_photometry(
    images: Tensor, parameters: Photometry, view: View, *, mean: Sequence[float], std: Sequence[float]
) -> Tensor:
    """Jitter, greyscale, blur, solarize, RandAugment and normalise, each image by its own drawn parameters.

    Args:
        images: (B, 3, S, S) uint8, or float in [0, 1], which is overwritten.
        parameters: (B,) drawn values, on the CPU (they steer which images an operation touches).
        view: the settings that the parameters were drawn with.
        mean, std: per channel, subtracted and divided by last.

    Returns:
        (B, 3, S, S) float, normalised.
    """
    if not images.is_floating_point():
        images = images.float().div_(255)
    rows = len(images)
    if images.device.type == "cpu":
        rows = max(1, _CPU_CHUNK_BYTES // (images[0].numel() * images.element_size()))
    for first in range(0, len(images), rows):
        chunk = slice(first, first + rows)
        drawn = parameters.rows(chunk)
        images[chunk] = rand_augment(_apply(images[chunk], drawn, view), drawn, mean)
    centre, spread = (tensor_on(images.device, values, images.dtype)[:, None, None] for values in (mean, std))
    return images.sub_(centre).div_(spread)


def _apply(images: Tensor, parameters: Photometry, view: View) -> Tensor:
    if view.jitter.probability > 0:
        images = jitter(images, parameters)
    if view.grey > 0:
        chosen = _on(images, parameters.grey)
        images = torch.where(chosen, greyscale(images), images)
    if view.blur.probability > 0:
        blur_drawn(images, parameters, view, deviations=5.5)  # what is farther weighs less than 3e-7 of the centre
    if view.solarize.probability > 0:
        chosen = _on(images, parameters.solarize)
        images = torch.where(chosen & (images >= view.solarize.threshold), 1 - images, images)
    return images


def _on(images: Tensor, values: Tensor) -> Tensor:
    """(B,) parameters as (B, 1, 1, 1) on the images' device; floats in the images' dtype."""
    values = values.to(images.dtype) if values.is_floating_point() else values
    return to_device(values, images.device)[:, None, None, None]


def greyscale(images: Tensor) -> Tensor:
    """Luminance, (B, 3, S, S) → (B, 1, S, S)."""
    red, green, blue = GREY_WEIGHTS
    return (images[:, 0:1] * red).add_(images[:, 1:2], alpha=green).add_(images[:, 2:3], alpha=blue)


def jitter(images: Tensor, parameters: Photometry) -> Tensor:
    """Brightness, contrast, saturation and hue, in each image's own order.

    The first three are one operation, clamp(f·x + (1 − f)·y): y is 0 for brightness, the image's mean luminance for
    contrast and the pixel's luminance for saturation. So each of the four slots is one blend of the whole batch, with
    factor 1 where the slot's operation is hue, and one change of hue for the images whose slot it is.
    """
    factors = torch.stack([parameters.brightness, parameters.contrast, parameters.saturation], dim=1)
    neutral = torch.ones_like(factors[:, :1])
    factors = torch.cat([factors, neutral], dim=1)  # (B, 4), by operation
    factor_at = factors.gather(1, parameters.order)  # (B, 4), by slot
    for slot in range(4):
        operation = parameters.order[:, slot]
        factor = factor_at[:, slot]
        mean_share, pixel_share = ((1 - factor) * (operation == number) for number in (CONTRAST, SATURATION))
        if bool((factor != 1).any()):
            grey = greyscale(images)
            mean = grey.mean(dim=(2, 3), keepdim=True)
            other = grey.mul_(_on(images, pixel_share)).add_(mean * _on(images, mean_share))
            images = torch.addcmul(other, images, _on(images, factor)).clamp_(0, 1)
        rows = ((operation == HUE) & (parameters.hue != 0)).nonzero()[:, 0]
        if len(rows) > 0:
            shift = _on(images, parameters.hue[rows])[:, 0]
            rows = to_device(rows, images.device)
            images[rows] = shift_hue(images[rows], shift)
    return images


def shift_hue(images: Tensor, shift: Tensor) -> Tensor:
    """Turns the hue, keeping saturation and value of HSV.

    With V the largest and C = V − min the chroma, channel n of the result is V − C·clamp(min(k, 4 − k), 0, 1),
    k = (n + 6·hue) mod 6, n = 5, 3, 1 for red, green, blue.

    Args:
        images: (B, 3, S, S) in [0, 1].
        shift: in turns, broadcasts with (B, S, S).
    """
    red, green, blue = images.unbind(1)
    value = torch.maximum(torch.maximum(red, green), blue)  # (B, S, S)
    chroma = value - torch.minimum(torch.minimum(red, green), blue)
    divisor = chroma.clamp(min=torch.finfo(chroma.dtype).tiny)  # where it is 0, so is what is divided
    from_red, from_green, from_blue = (
        (green - blue).div_(divisor),
        (blue - red).div_(divisor).add_(2),
        (red - green).div_(divisor).add_(4),
    )
    sextant = torch.where(value == green, from_green, from_blue)
    sextant = torch.where(value == red, from_red, sextant).add_(6 * shift)
    offsets = tensor_on(images.device, [5, 3, 1], images.dtype)[:, None, None]
    k = offsets + sextant[:, None]  # (B, 3, S, S)
    k.sub_((k / 6).floor_().mul_(6))  # the remainder, in a third of the time that torch takes for it
    share = torch.minimum(k, 4 - k).clamp_(0, 1)
    return torch.addcmul(value[:, None], chroma[:, None], share, value=-1)
