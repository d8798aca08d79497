"""Gaussian blur of a batch, with a σ and a reach for each image."""

from __future__ import annotations

import torch
from torch import Tensor

from glocal.transfer import to_device
from glocal.views.crops import resample
from glocal.views.plan import Photometry, View


def blur_drawn(images: Tensor, parameters: Photometry, view: View, *, deviations: float) -> None:
    """Blurs the images that drew it, in place, as far as so many σ or as the view's kernel reaches.

    Args:
        images: (B, 3, S, S).
        parameters: (B,) drawn values, on the CPU.
        view: the settings that they were drawn with.
        deviations: where the taps end, in σ.
    """
    chosen = parameters.blur.nonzero()[:, 0]
    if len(chosen) == 0:
        return
    sigma, order = parameters.sigma[chosen].sort(descending=True, stable=True)
    rows = to_device(chosen[order], images.device)
    images[rows] = gaussian_blur(images[rows], sigma, view.blur.kernel_size_at(view.size), deviations)


def gaussian_blur(images: Tensor, sigma: Tensor, kernel_size: int, deviations: float) -> Tensor:
    """Blur with reflected borders, as torchvision's `gaussian_blur` with 2·reach + 1 taps.

    An image's reach is `deviations` · σ, rounded, but no farther than the kernel's or than reflection allows.

    Args:
        images: (B, C, S, S).
        sigma: (B,) pixels, descending, on the CPU: one tap more then touches one image less.
        kernel_size: odd, the most taps.
        deviations: where the taps end, in σ.
    """
    most = min(kernel_size // 2, images.shape[2] - 1, images.shape[3] - 1)
    reach = (deviations * sigma).round().clamp(max=most).int()  # (B,)
    radius = int(reach[0])
    if radius == 0:
        return images
    taps = torch.arange(radius + 1)
    half = (-0.5 * (taps / sigma[:, None]) ** 2).exp() * (taps <= reach[:, None])  # (B, radius + 1)
    half = to_device(half / (2 * half.sum(dim=1, keepdim=True) - 1), images.device, images.dtype)
    if images.device.type != "cpu":  # matrix products are the fastest there
        kernel = torch.cat([half[:, 1:].flip(1), half], dim=1)
        down, across = (_banded(kernel, length) for length in images.shape[2:])
        return resample(images, down, across)
    blurred = [int((reach >= tap).sum()) for tap in range(radius + 1)]  # the first images of the batch
    for axis in (2, 3):
        images = _blur_lines(images, half, blurred, axis)
    return images


def _blur_lines(images: Tensor, half: Tensor, blurred: list[int], axis: int) -> Tensor:
    """One direction of the blur, as a sum of shifted images: half (B, radius + 1), tap n reaches blurred[n] images."""
    radius, length = half.shape[1] - 1, images.shape[axis]
    shape = list(images.shape)
    shape[axis] += 2 * radius
    padded = images.new_empty(shape)
    padded.narrow(axis, radius, length).copy_(images)
    padded.narrow(axis, 0, radius).copy_(images.narrow(axis, 1, radius).flip(axis))
    padded.narrow(axis, radius + length, radius).copy_(images.narrow(axis, length - radius - 1, radius).flip(axis))
    weights = half[:, :, None, None, None]
    out, pair = images * weights[:, 0], torch.empty_like(images)
    for tap in range(1, radius + 1):
        some = slice(0, blurred[tap])
        before, after = (padded[some].narrow(axis, radius + shift, length) for shift in (-tap, tap))
        torch.add(before, after, out=pair[some])
        out[some].addcmul_(pair[some], weights[some, tap])
    return out


def _banded(kernel: Tensor, length: int) -> Tensor:
    """The matrix (B, length, length) that convolves a line with each image's kernel, borders reflected."""
    radius = kernel.shape[1] // 2
    places = torch.arange(length, device=kernel.device)
    source = places[:, None] + torch.arange(-radius, radius + 1, device=kernel.device)  # (length, taps)
    source = source.abs()
    source = torch.where(source >= length, 2 * (length - 1) - source, source)
    band = kernel.new_zeros(len(kernel), length, length)
    return band.scatter_add_(2, source.expand(len(kernel), -1, -1), kernel[:, None].expand(-1, length, -1))
