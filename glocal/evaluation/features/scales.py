"""Features of whole images at one or several scales, for networks that take images of any size and for others."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import interpolate, normalize

from glocal.console import note, progress_bar
from glocal.data.lanes.skipped import tell_unreadable
from glocal.data.lanes.whole import Box, Fit, whole_images
from glocal.data.sources.base import Source
from glocal.errors import BrokenImageError, GlocalError
from glocal.evaluation.features.bench import Bench
from glocal.evaluation.features.cache import Kept
from glocal.evaluation.features.extraction import Extractor, Readout, blank_image

_PIXELS = 1 << 23  # of the images in a batch
_SMALL = 64  # networks for images up to this side get their own size: larger images are not what they know


@dataclass(frozen=True)
class View:
    """How a network sees whole images.

    Attributes:
        fit: the size of the images.
        scales: factors of that size; features at several are normalised, averaged and normalised.
    """

    fit: Fit
    scales: tuple[float, ...] = (1.0,)

    def __str__(self) -> str:
        scales = "" if len(self.scales) == 1 else f", {len(self.scales)} scales"
        return f"{self.fit.size} px{' squares' if self.fit.square else ''}{scales}"


def view_for(backbone: Extractor, size: int | None, scales: tuple[float, ...] | None, *, usual: View) -> View:
    """How a backbone shall see whole images.

    A network that only takes images of its own size sees them resized to that, and a note says so; one that takes none
    below some size (`smallest_side`) sees smaller ones enlarged.

    Args:
        backbone: the network.
        size: the size that was asked for; None is the usual one, or the network's own up to 64 pixels.
        scales: the factors that were asked for; None are the usual ones, or 1 alone up to 64 pixels.
        usual: what is usual; `size` and `scales` change it.
    """
    step = size_step(backbone)
    small = backbone.size <= _SMALL
    if step is None:
        if (size or backbone.size) != backbone.size or len(scales or (1,)) > 1 or not small:
            note(
                f"{backbone.label} takes images of {backbone.size} × {backbone.size} pixels only: whole images are "
                "resized to that, at one scale"
            )
        return View(Fit(backbone.size, square=True))
    size = size or (backbone.size if small else usual.fit.size)
    if usual.fit.square:
        size = max(1, round(size / step)) * step
    return View(
        Fit(size, step, usual.fit.square, smallest_side(backbone, step)),
        scales or ((1.0,) if small else usual.scales),
    )


def size_step(backbone: Extractor) -> int | None:
    """What the sides of a network's images must be multiples of; None where it takes only squares of its own size."""
    network = getattr(backbone, "network", None)
    if not isinstance(network, nn.Module):
        return None
    step = patch_side(backbone)
    try:  # whether it does is written nowhere in timm's networks
        images = blank_image(backbone, backbone.size, backbone.size + step)
        backbone.features(images)
        backbone.features(images.mT)
    except Exception:  # they refuse by whatever fails first
        return None
    return step


def patch_side(backbone: Extractor) -> int:
    """The side in pixels of a transformer's patches; 1 for other networks."""
    patch = getattr(getattr(getattr(backbone, "network", None), "patch_embed", None), "patch_size", None)
    return int(patch[0]) if patch is not None else 1


def smallest_side(backbone: Extractor, step: int = 1) -> int:
    """The smallest side, 1, 2, 4, … 32 pixels, of images that a network takes, 1 where `step` is enough.

    The last maps of networks without padding (ConvNeXt) have no place left for smaller ones.
    """
    for least in (1, 2, 4, 8, 16):
        side = -(-least // step) * step
        try:
            backbone.features(blank_image(backbone, side))
        except Exception:  # as above
            continue
        return least if side > step else 1
    return 32


def whole_features(
    bench: Bench, source: Source, readout: Readout, view: View, *, boxes: list[Box] | None = None
) -> Tensor:
    """Features of all images of a source, seen whole; kept on the disk like others.

    Args:
        bench: its backbone computes them.
        source: the images.
        readout: which features; its `compute` gets floating-point images at scales other than 1.
        view: the size of the images, and the scales.
        boxes: for each image the part of it that is seen.

    Returns:
        (N, D) float32 on the CPU; NaN in the rows of images that cannot be read, of which a warning tells.

    Raises:
        GlocalError: no image can be read, or the features are no finite numbers.
    """

    def compute() -> Kept:
        skipped: list[BrokenImageError] = []
        found, places = [], []
        batch = max(1, min(64, _PIXELS // view.fit.size**2))
        parts = whole_images(source, view.fit, boxes=boxes, batch_size=batch, workers=bench.workers, skipped=skipped)
        with progress_bar("images", visible=bench.progress) as bar:
            task = bar.add_task(f"features of {source.name}", total=len(source))
            for index, images in parts:
                features = at_scales(bench.backbone, images, readout, view).cpu()
                if not features.isfinite().all():
                    raise GlocalError(
                        f"{bench.backbone.label} gives features that are infinite or no numbers for images of "
                        f"{source.name}; has its training diverged?"
                    )
                found.append(features)
                places.append(index)
                bar.update(task, advance=len(index))
        if not found:
            raise GlocalError(f"{source.name}: none of its {len(source)} images can be read")
        features = torch.cat(found)
        whole = torch.full((len(source), *features.shape[1:]), torch.nan)
        whole[torch.cat(places)] = features
        return {"features": whole}, [[error.key, error.reason] for error in skipped]

    key: dict[str, Any] = {"readout": readout.name, "whole": asdict(view), "boxes": boxes}
    tensors, skipped = bench.remember(source, key, compute)
    tell_unreadable(source.name, len(source), [BrokenImageError(key, reason) for key, reason in skipped])
    return tensors["features"]


def readable_rows(features: Tensor) -> Tensor:
    """(N,) bool: which of the rows of `whole_features` are those of images that can be read."""
    return ~features.isnan().any(dim=1)


def at_scales(backbone: Extractor, images: Tensor, readout: Readout, view: View) -> Tensor:
    """Features (B, D) of images (B, 3, H, W) uint8 of one size, at the scales of a view.

    Scaled images are interpolated bilinearly, without a filter against aliasing, as the authors of revisited Oxford
    and Paris do.

    Raises:
        GlocalError: the network does not take images of such a size.
    """
    if view.scales == (1.0,):
        return _computed(backbone, images, readout)
    total: Tensor | None = None
    for scale in view.scales:
        height, width = images.shape[-2:]
        sides = view.fit.rounded(height * scale, width * scale)
        scaled = images if sides == (height, width) else _scaled(images.to(_device(backbone)), sides)
        features = normalize(_computed(backbone, scaled, readout), dim=1)
        total = features if total is None else total + features
    assert total is not None
    return normalize(total, dim=1)


def _computed(backbone: Extractor, images: Tensor, readout: Readout) -> Tensor:
    try:
        return readout.compute(backbone, images)
    except (GlocalError, AssertionError, RuntimeError) as error:  # networks refuse by whatever fails first
        if isinstance(error, torch.OutOfMemoryError):
            raise
        height, width = images.shape[-2:]
        raise GlocalError(
            f"{backbone.label} cannot see images of {height}×{width} pixels ({error}); change size or scales of the "
            "protocol (retrieval.size, retrieval.scales, copy_detection.size)"
        ) from error


def _scaled(images: Tensor, sides: tuple[int, int]) -> Tensor:
    images = images if images.is_floating_point() else images.float() / 255  # values stay in their own units
    return interpolate(images, sides, mode="bilinear", align_corners=False)


def _device(backbone: Extractor) -> torch.device:
    mean = getattr(backbone, "mean", None)
    return mean.device if isinstance(mean, Tensor) else torch.device("cpu")
