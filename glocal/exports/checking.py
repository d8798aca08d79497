"""Whether an exported file does what the backbone does: the same images through both."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from glocal.data.lanes.central import central_images, images_of
from glocal.data.sources.base import Source, Subset
from glocal.data.sources.shapes import Shapes
from glocal.errors import GlocalError
from glocal.exports.preprocessing import Preprocessing
from glocal.exports.subject import Subject
from glocal.exports.target import Loaded

_BATCHES = (1, 2)  # the first batches; one of all that are left follows: files must take any number of images
_SHAPES, _CLOUDS = 3, 3  # images that are made for a check, of two kinds


class Difference(NamedTuple):
    """How far an output of the file is from the backbone's.

    Attributes:
        output: which one.
        absolute: the largest difference of two numbers.
        relative: the largest ‖file − backbone‖ / ‖backbone‖ of an image.
    """

    output: str
    absolute: float
    relative: float


class Check(NamedTuple):
    """What a check found.

    Attributes:
        name: what was run.
        differences: of each output, over all images.
        tolerance: the largest relative difference that was allowed.
        images: how many images went through both.
    """

    name: str
    differences: tuple[Difference, ...]
    tolerance: float
    images: int

    @property
    def worst(self) -> Difference:
        """That of the output that differs most."""
        return max(self.differences, key=lambda one: one.relative)


def check(subject: Subject, loaded: Loaded, images: Tensor) -> Check:
    """Runs a backbone and a file on the same images.

    Args:
        subject: the backbone.
        loaded: the file.
        images: (N, 3, S, S) uint8 or (N, C, S, S) values, N at least 5.

    Returns:
        The differences, all within the tolerance.

    Raises:
        GlocalError: they differ by more, an output is missing or has another shape, the file prepares images in another
            way, or the backbone's own features are no numbers.
    """
    if loaded.preprocessing != subject.preprocessing:
        raise GlocalError(
            f"{loaded.name}: the file prepares images as {loaded.preprocessing}, the backbone as "
            f"{subject.preprocessing}; nothing was left"
        )
    found: dict[str, list[Difference]] = {name: [] for name in loaded.outputs}
    for batch in _batches(images):
        wanted = subject.outputs(batch)
        if not all(output.isfinite().all() for output in wanted.values()):
            raise GlocalError(
                f"{subject.backbone.label} gives features that are infinite or no numbers; has its training diverged?"
            )
        given = loaded.run(loaded.preprocessing.normalise(batch))
        for name in loaded.outputs:
            if name not in given or given[name].shape != wanted[name].shape:
                shape = tuple(given[name].shape) if name in given else "nothing"
                raise GlocalError(
                    f"{loaded.name}: the file gives {shape} for {name} of {len(batch)} images, not "
                    f"{tuple(wanted[name].shape)}; nothing was left"
                )
            found[name].append(difference(name, wanted[name], given[name]))
    worst = (
        Difference(name, max(d.absolute for d in all_), max(d.relative for d in all_)) for name, all_ in found.items()
    )
    done = Check(loaded.name, tuple(worst), loaded.tolerance, len(images))
    if not done.worst.relative <= loaded.tolerance:
        raise GlocalError(
            f"{loaded.name}: the file's {done.worst.output} differ from the backbone's by {done.worst.relative:.1e} of "
            f"their length (at most {done.worst.absolute:.1e} in one number), and its tolerance is "
            f"{loaded.tolerance:.0e}; nothing was left"
        )
    return done


def difference(output: str, wanted: Tensor, given: Tensor) -> Difference:
    """How far two outputs (B, …) are apart; infinite where a number is none."""
    apart = (given.double() - wanted.double()).flatten(1)
    if not apart.isfinite().all():
        return Difference(output, float("inf"), float("inf"))
    length = wanted.double().flatten(1).norm(dim=1).clamp_min(1e-12)
    return Difference(output, float(apart.abs().max()), float((apart.norm(dim=1) / length).max()))


def _batches(images: Tensor) -> Iterator[Tensor]:
    yield from images.split([*_BATCHES, len(images) - sum(_BATCHES)])


def made_images(size: int) -> Tensor:
    """Images that are made for a check, (6, 3, size, size) uint8: shapes before backgrounds, and coloured clouds.

    Clouds have amplitudes that fall with the frequency, as those of photographs do.
    """
    shapes = Shapes("train", _SHAPES).images()
    [(_, resized)] = central_images(shapes, size, slice(0, _SHAPES), share=1.0)
    across, down = torch.fft.rfftfreq(size) * size, torch.fft.fftfreq(size) * size
    falling = 1 / torch.hypot(across[None, :], down[:, None]).clamp_min(1)
    noise = torch.randn(_CLOUDS, 3, size, size, generator=torch.Generator().manual_seed(0))
    clouds = torch.fft.irfft2(torch.fft.rfft2(noise) * falling, s=(size, size))
    clouds = 128 + 60 * clouds / clouds.std(dim=(1, 2, 3), keepdim=True)
    return torch.cat([resized, clouds.round().clamp(0, 255).byte()])


def made_values(its: Preprocessing) -> Tensor:
    """Images of values that are made for a check: noise with the mean and deviation that a network knows.

    Returns:
        (6, C, size, size) float32.
    """
    shape = (_SHAPES + _CLOUDS, len(its.mean), its.size, its.size)
    noise = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    mean, std = (torch.tensor(values)[:, None, None] for values in (its.mean, its.std))
    return noise * std + mean


def images_from(sources: Sequence[Source], subject: Subject, count: int) -> Tensor:
    """Some readable images of each source as the backbone sees them, N ≤ count · sources.

    Returns:
        (N, 3, size, size) uint8, or (N, C, size, size) float32 of values.
    """
    its = subject.preprocessing
    found = []
    for source in sources:
        spread = torch.linspace(0, len(source) - 1, min(count, len(source))).long()
        some = Subset(source, spread.clamp_(max=len(source) - 1))  # float32 rounds above 2²⁴
        for _, images in images_of(
            some,
            its.size,
            workers=0,
            share=its.crop,
            interpolation=its.interpolation,  # type: ignore[arg-type]
        ):
            found.append(images)
    kind = torch.uint8 if its.rgb else torch.float32
    return torch.cat([torch.empty(0, len(its.mean), its.size, its.size, dtype=kind), *found])
