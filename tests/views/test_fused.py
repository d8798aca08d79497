"""Colours in one map: equal to the operations one after another where nothing is cut off, near to them elsewhere."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from torch import Tensor
from torchvision.transforms.v2 import functional as tv

from glocal.views.blur import gaussian_blur
from glocal.views.fused import apply_fused, color_maps
from glocal.views.photometric import apply_photometry, shift_hue
from glocal.views.plan import Blur, Jitter, Photometry, Solarize, View, ViewPlan

BATCH, SIZE = 24, 40
GREY = torch.tensor([0.2989, 0.587, 0.114], dtype=torch.float64)
MEAN, STD = (0.4, 0.5, 0.6), (0.2, 0.3, 0.25)


def pictures(low: float = 0.0, high: float = 1.0) -> Tensor:
    """Smooth pictures in float64 with values in [low, high]."""
    coarse = torch.rand(BATCH, 3, 6, 6, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    return torch.nn.functional.interpolate(coarse, (SIZE, SIZE), mode="bilinear") * (high - low) + low


def drawn(view: View) -> Photometry:
    return ViewPlan([view]).draw_photometry(3, 5, torch.arange(BATCH)).view(0)


def in_turn(image: Tensor, found: Photometry, row: int) -> Tensor:
    """The linear operations as formulas, one after another, in float64 and without any clamp."""
    for number in found.order[row].tolist():
        luminance = (image * GREY[:, None, None]).sum(dim=0)
        if number == 0:
            image = image * found.brightness[row]
        elif number == 1:
            image = found.contrast[row] * image + (1 - found.contrast[row]) * luminance.mean()
        elif number == 2:
            image = found.saturation[row] * image + (1 - found.saturation[row]) * luminance
        else:  # Rodrigues' formula, for the angle of the hue about (1, 1, 1)
            angle = 2 * math.pi * float(found.hue[row])
            axis = torch.full((3,), 3**-0.5, dtype=torch.float64)
            crossed = torch.linalg.cross(axis[:, None, None].expand_as(image), image, dim=0)
            along = axis[:, None, None] * (image * axis[:, None, None]).sum(dim=0)
            image = image * math.cos(angle) + crossed * math.sin(angle) + along * (1 - math.cos(angle))
    if found.grey[row]:
        image = (image * GREY[:, None, None]).sum(dim=0).expand(3, -1, -1)
    return image


JITTERED = View(size=SIZE, jitter=Jitter(probability=0.8, brightness=0.4, contrast=0.5, saturation=0.5), grey=0.3)


def test_the_maps_are_the_operations_one_after_another_in_float64() -> None:
    images, found = pictures(), drawn(JITTERED)
    pixel, average = color_maps(found)
    ours = torch.einsum("bij,bjhw->bihw", pixel, images) + (average @ images.mean(dim=(2, 3))[..., None])[..., None]
    expected = torch.stack([in_turn(image, found, row) for row, image in enumerate(images)])
    assert (ours - expected).abs().max() < 1e-12


def test_maps_of_several_views_are_those_of_each() -> None:
    found = ViewPlan([JITTERED, JITTERED]).draw_photometry(3, 5, torch.arange(BATCH))
    for whole, *parts in zip(color_maps(found), *(color_maps(found.view(n)) for n in (0, 1)), strict=True):
        assert torch.equal(whole, torch.stack(parts, dim=1))


@pytest.mark.parametrize("given", ["uint8", "float"])
def test_fused_equals_exact_where_nothing_is_cut_off_and_the_hue_stays(given: str) -> None:
    jitter = Jitter(probability=0.8, brightness=0.3, contrast=0.3, saturation=0.3, hue=0.0)
    view = View(size=SIZE, jitter=jitter, grey=0.3)
    stored = (pictures(0.35, 0.6) * 255).round().byte()
    images = stored if given == "uint8" else stored.float() / 255
    exact = apply_photometry(stored.float() / 255, drawn(view), view, mean=MEAN, std=STD)
    assert (apply_fused(images, drawn(view), view, mean=MEAN, std=STD) - exact).abs().max() < 1e-5


def test_fused_is_near_exact_where_values_are_cut_off_and_the_hue_turns() -> None:
    view, images = JITTERED.model_copy(update={"blur": Blur(probability=0.5)}), pictures()
    one, other = (
        apply(images.float(), drawn(view), view, mean=[0, 0, 0], std=[1, 1, 1])
        for apply in (apply_fused, apply_photometry)
    )
    assert one.min() >= 0
    assert one.max() <= 1
    assert (one - other).square().mean().sqrt() < 0.06  # these pictures are far more colourful than photographs


def test_a_third_of_a_turn_is_hsvs_and_grey_stays() -> None:
    images = pictures()
    found = replace(drawn(View(size=SIZE)), hue=torch.full((BATCH,), 1 / 3, dtype=torch.float64))
    pixel, average = color_maps(found)
    assert (torch.einsum("bij,bjhw->bihw", pixel, images) - shift_hue(images, torch.tensor(1 / 3))).abs().max() < 1e-6
    assert (pixel.sum(dim=-1) - 1).abs().max() < 1e-12  # of a grey pixel
    assert not average.any()


def test_solarisation_and_normalisation_are_exact() -> None:
    view, images = View(size=SIZE, solarize=Solarize(probability=0.5, threshold=0.4)), pictures().float()
    exact = apply_photometry(images.clone(), drawn(view), view, mean=MEAN, std=STD)
    ours = apply_fused(images, drawn(view), view, mean=MEAN, std=STD)
    assert ((ours - exact).abs() < 1e-5).float().mean() > 0.9995  # but for pixels within rounding of the threshold


@pytest.mark.parametrize("size", [5, 40])
def test_the_blur_is_torchvisions_with_taps_to_three_sigma(size: int) -> None:
    images = pictures()[..., :size, :size].float()
    sigma = torch.linspace(2, 0.1, BATCH, dtype=torch.float64)
    ours = gaussian_blur(images, sigma, 23, 3)
    for row, (image, value) in enumerate(zip(images, sigma.tolist(), strict=True)):
        reach = min(round(3 * value), 11, size - 1)
        same = tv.gaussian_blur(image, [2 * reach + 1] * 2, [value] * 2) if reach else image
        assert (ours[row] - same).abs().max() < 1e-5
        whole = min(11, size - 1)
        full = tv.gaussian_blur(image, [2 * whole + 1] * 2, [value] * 2)
        assert (ours[row] - full).abs().max() < 1 / 255


def test_the_blur_takes_no_more_taps_than_it_is_allowed() -> None:
    images = pictures().float()
    ours = gaussian_blur(images, torch.full((BATCH,), 2.0), 5, 3)
    assert (ours - tv.gaussian_blur(images, [5, 5], [2.0, 2.0])).abs().max() < 1e-5


def test_chunks_on_the_cpu_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    view = JITTERED.model_copy(update={"blur": Blur(probability=0.5), "solarize": Solarize(probability=0.3)})
    images = (pictures() * 255).byte()
    whole = apply_fused(images, drawn(view), view, mean=MEAN, std=STD)
    monkeypatch.setattr("glocal.views.fused._CPU_CHUNK_BYTES", 5 * images[0].numel() * 4)
    assert (apply_fused(images, drawn(view), view, mean=MEAN, std=STD) - whole).abs().max() < 1e-6


def test_images_of_uint8_are_left_as_they_are() -> None:
    images = (pictures() * 255).byte()
    before = images.clone()
    apply_fused(images, drawn(JITTERED), JITTERED, mean=MEAN, std=STD)
    assert torch.equal(images, before)
