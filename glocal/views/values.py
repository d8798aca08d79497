"""Photometric operations on images of any channels, and noise and blank channels for all.

They work on normalised values, so that units do not matter: degrees Celsius and Kelvin give the same views. Nothing is
cut off, for values that are no colours have neither black nor white.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from glocal.transfer import exact_device, tensor_on, to_device
from glocal.views.blur import blur_drawn
from glocal.views.plan import Photometry, View
from glocal.views.random import uniform

_BLACK = -2.0  # deviations from the mean: what brightness multiplies is counted from there, as in photographs
_TOGETHER = 1 << 21  # values whose noise is drawn at a time


def apply_values(
    images: Tensor, parameters: Photometry, view: View, *, mean: Sequence[float], std: Sequence[float]
) -> Tensor:
    """Normalise, brightness, contrast and blur, each image by its own drawn parameters.

    With m the mean of a channel of the normalised image and black at −2, two deviations below the mean of the set:
    brightness b makes b·(x + 2) − 2 of x, contrast c makes c·x + (1 − c)·m. In either order they give the same.

    Args:
        images: (B, C, S, S) in their own units.
        parameters: (B,) drawn values, on the CPU; those of hue, saturation, grey and solarize do nothing.
        view: the settings that the parameters were drawn with.
        mean, std: per channel, in the images' units.

    Returns:
        (B, C, S, S) float, normalised; `images` are left as they are.
    """
    images = images if images.is_floating_point() else images.float()
    centre, spread = (tensor_on(images.device, values, images.dtype)[:, None, None] for values in (mean, std))
    out = (images - centre).div_(spread)
    if view.jitter.probability > 0:
        brightness, contrast = (
            to_device(factor.to(out.dtype), out.device)[:, None, None, None]
            for factor in (parameters.brightness, parameters.contrast)
        )
        level = out.mean(dim=(2, 3), keepdim=True)  # (B, C, 1, 1)
        shift = brightness * (1 - contrast) * level - _BLACK * (brightness - 1)
        out = torch.addcmul(shift, out, brightness * contrast)
    if view.blur.probability > 0:
        blur_drawn(out, parameters, view, deviations=3)
    return out


def disturb(images: Tensor, parameters: Photometry, view: View) -> Tensor:
    """Adds noise to the images that drew it, and blanks the channels that each drew; in place.

    A blank channel has the mean of the set everywhere, which is 0. One channel at least is left.

    Args:
        images: (B, C, S, S) normalised.
        parameters: (B,) drawn values, on the CPU.
        view: the settings that the parameters were drawn with.
    """
    if parameters.key is None or parameters.noise is None:
        return images
    chosen = parameters.noise.nonzero()[:, 0]
    length = images[0].numel() if len(images) else 1
    for rows in chosen.split(max(1, _TOGETHER // length)):
        where = to_device(rows, images.device)
        sigma = to_device(parameters.noise[rows].to(images.dtype), images.device)[:, None, None, None]
        drawn = noise_of(to_device(parameters.key[rows], exact_device(images.device)), length).to(images)
        images[where] = torch.addcmul(images[where], drawn.view(-1, *images.shape[1:]), sigma)
    if view.channel_drop > 0:
        blank = blank_channels(parameters.key, images.shape[1], view.channel_drop)
        images.masked_fill_(to_device(blank, images.device)[:, :, None, None], 0)
    return images


def noise_of(key: Tensor, length: int) -> Tensor:
    """Standard normal draws (B, length) in float64 that depend on each key (B,) alone (Box and Muller, 1958).

    >>> bool(noise_of(torch.tensor([7]), 10_000).std().sub(1).abs() < 0.03)
    True
    """
    half = torch.arange(-(-length // 2), device=key.device)
    radius = (-2 * torch.log1p(-uniform(0, "radius", key[:, None], half))).sqrt()
    turn = 2 * torch.pi * uniform(0, "turn", key[:, None], half)
    return torch.cat([radius * turn.cos(), radius * turn.sin()], dim=1)[:, :length]


def blank_channels(key: Tensor, channels: int, probability: float) -> Tensor:
    """Which channels each image has to do without, (B, C) bool: each with this probability, but never all."""
    drawn = uniform(0, "channel", key[:, None], torch.arange(channels))
    blank = drawn < probability
    return blank.scatter_(1, drawn.argmax(dim=1, keepdim=True), False)
