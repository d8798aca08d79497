"""RandAugment on batches: each image its own operations and strengths; no loop over images.

Cubuk et al., "RandAugment: Practical automated data augmentation with a reduced search space", NeurIPS 2020, with the
operations, levels and arithmetic of timm's `rand-n2-m10-mstd0.5`, which InfoMin's authors took: pixels are whole
numbers from 0 to 255, and results are cut to such as Pillow does. Warps are bilinear; timm's are at random bilinear or
bicubic.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor
from torch.nn.functional import avg_pool2d, grid_sample

from glocal.transfer import tensor_on, to_device
from glocal.views.plan import COLOR_OPERATIONS, WARPS, Photometry

_LUMA = (299 / 1000, 587 / 1000, 114 / 1000)  # Pillow's conversion to grey
_LEVELS = 10.0
_CHOOSABLE = (*COLOR_OPERATIONS, *WARPS)


def rand_augment(images: Tensor, parameters: Photometry, fill: Sequence[float]) -> Tensor:
    """The operations that each image drew, in their order.

    Args:
        images: (B, 3, S, S) float in [0, 1]; overwritten where an image drew something.
        parameters: (B,) drawn values, on the CPU.
        fill: the colour, in [0, 1], of what a warp brings in from outside.
    """
    if parameters.augment is None or parameters.level is None:
        return images
    for chosen, level in zip(parameters.augment.unbind(-1), parameters.level.unbind(-1), strict=True):
        for numbers, operation in _OPERATIONS:
            rows = torch.isin(chosen, numbers).nonzero()[:, 0]
            if len(rows) == 0:
                continue
            where = to_device(rows, images.device)
            whole = images[where].mul_(255).round_()
            changed = operation(whole, chosen[rows], level[rows].to(torch.float64), fill)
            images[where] = changed.clamp_(0, 255).div_(255).to(images.dtype)
    return images


def _on(images: Tensor, values: Tensor) -> Tensor:
    return to_device(values.to(images.dtype), images.device)[:, None, None, None]


def _share(level: Tensor) -> Tensor:
    return level.abs() / _LEVELS


def _auto_contrast(images: Tensor, chosen: Tensor, level: Tensor, fill: Sequence[float]) -> Tensor:
    low, high = images.amin(dim=(2, 3), keepdim=True), images.amax(dim=(2, 3), keepdim=True)
    spread = (255 / (high - low).clamp(min=1)).where(high > low, 1.0)
    # A lookup table of Pillow's is cut to whole numbers; what is a whole number up to rounding stays that.
    return ((images - low.where(high > low, 0.0)) * spread + 1e-3).floor()


def _equalize(images: Tensor, chosen: Tensor, level: Tensor, fill: Sequence[float]) -> Tensor:
    values = images.flatten(2).long()  # (B, 3, S·S)
    counts = torch.zeros(*values.shape[:2], 256, dtype=torch.int64, device=images.device)
    counts.scatter_add_(2, values, torch.ones_like(values))
    last = 255 - counts.flip(2).ne(0).byte().argmax(dim=2, keepdim=True)  # the largest value that occurs
    step = (values.shape[2] - counts.gather(2, last)) // 255
    before = counts.cumsum(dim=2) - counts
    table = torch.where(step > 0, (step // 2 + before) // step.clamp(min=1), torch.arange(256, device=images.device))
    return table.clamp(max=255).gather(2, values).view_as(images).to(images.dtype)


def _invert(images: Tensor, chosen: Tensor, level: Tensor, fill: Sequence[float]) -> Tensor:
    return 255 - images


def _posterize(images: Tensor, chosen: Tensor, level: Tensor, fill: Sequence[float]) -> Tensor:
    kept = (4 * _share(level)).floor()  # bits
    grain = _on(images, 2 ** (8 - kept))
    return (images / grain).floor() * grain


def _solarize(images: Tensor, chosen: Tensor, level: Tensor, fill: Sequence[float]) -> Tensor:
    threshold = _on(images, (256 * _share(level)).floor())
    return torch.where(images < threshold, images, 255 - images)


def _solarize_add(images: Tensor, chosen: Tensor, level: Tensor, fill: Sequence[float]) -> Tensor:
    added = _on(images, (110 * _share(level)).floor())
    return torch.where(images < 128, images + added, images)


def _blend(images: Tensor, chosen: Tensor, level: Tensor, fill: Sequence[float]) -> Tensor:
    """Colour, contrast, brightness and sharpness: from something plain towards the image, and beyond it."""
    factor = _on(images, 1.8 * _share(level) + 0.1)
    grey = sum(images[:, channel : channel + 1] * weight for channel, weight in enumerate(_LUMA))
    assert isinstance(grey, Tensor)
    grey = (grey + 0.5).floor()
    of = {name: _on(images, chosen == _CHOOSABLE.index(name)) for name in ("color", "contrast", "sharpness")}
    plain = of["color"] * grey + of["contrast"] * (grey.mean(dim=(2, 3), keepdim=True) + 0.5).floor()
    plain = plain + of["sharpness"] * _smooth(images)  # of brightness, black
    return (plain + factor * (images - plain)).clamp_(0, 255).floor()


def _smooth(images: Tensor) -> Tensor:
    """Pillow's SMOOTH: a mean of the neighbours in which the pixel itself counts five times; the border stays."""
    out = images.clone()
    inner = images[:, :, 1:-1, 1:-1]
    out[:, :, 1:-1, 1:-1] = ((9 * avg_pool2d(images, 3, stride=1) + 4 * inner) / 13 + 0.5).floor()
    return out


def _warp(images: Tensor, chosen: Tensor, level: Tensor, fill: Sequence[float]) -> Tensor:
    """Rotation, shear and translation: where each pixel comes from is an affine map of its place."""
    size = images.shape[-1]
    is_ = {name: (chosen == _CHOOSABLE.index(name)).double() for name in WARPS}
    angle = torch.deg2rad(30 * level / _LEVELS) * is_["rotate"]
    shear, shift = 0.3 * level / _LEVELS, 0.45 * level / _LEVELS * size
    rows = torch.stack(
        [
            torch.stack([angle.cos(), -angle.sin() + shear * is_["shear_x"], shift * is_["translate_x"]], dim=1),
            torch.stack([angle.sin() + shear * is_["shear_y"], angle.cos(), shift * is_["translate_y"]], dim=1),
        ],
        dim=1,
    )  # (B, 2, 3): source = rows @ (x, y, 1), in pixels; a rotation about the centre
    centre = torch.full((2,), size / 2, dtype=torch.float64)
    about = centre - rows[:, :, :2] @ centre  # (B, 2)
    rows[:, :, 2] += about * is_["rotate"][:, None]
    rows = to_device(rows, images.device, torch.float32)
    middle = torch.arange(size, dtype=torch.float32, device=images.device) + 0.5
    x, y = torch.meshgrid(middle, middle, indexing="xy")
    place = torch.stack([x, y, torch.ones_like(x)], dim=-1).flatten(0, 1)
    source = (place @ rows.transpose(1, 2)).unflatten(1, (size, size))  # (B, S, S, 2)
    outside = ((source < 0) | (source >= size)).any(dim=-1)[:, None]
    grid = (2 * source / size - 1).to(images.dtype)
    seen = grid_sample(images, grid, mode="bilinear", padding_mode="border", align_corners=False).add_(1e-3).floor_()
    colour = tensor_on(images.device, fill, images.dtype).mul_(255).round_()[:, None, None]
    return torch.where(outside, colour, seen)


_Operation = Callable[[Tensor, Tensor, Tensor, Sequence[float]], Tensor]
_TOGETHER: tuple[tuple[tuple[str, ...], _Operation], ...] = (
    (("auto_contrast",), _auto_contrast),
    (("equalize",), _equalize),
    (("invert",), _invert),
    (("posterize",), _posterize),
    (("solarize",), _solarize),
    (("solarize_add",), _solarize_add),
    (("color", "contrast", "brightness", "sharpness"), _blend),
    (WARPS, _warp),
)
_OPERATIONS = [(torch.tensor([_CHOOSABLE.index(name) for name in names]), work) for names, work in _TOGETHER]
