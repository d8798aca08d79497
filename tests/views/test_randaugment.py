"""RandAugment against timm's functions on Pillow's images, one image at a time, with the same levels."""

from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image
from timm.data import auto_augment
from torch import Tensor

from glocal.config import build_recipe
from glocal.errors import GlocalError
from glocal.views.fused import apply_fused
from glocal.views.photometric import apply_photometry
from glocal.views.plan import COLOR_OPERATIONS, WARPS, Jitter, Photometry, RandAugment, View, ViewPlan
from glocal.views.randaugment import rand_augment

FILL = (0.25, 0.5, 0.75)
OF_TIMM = {
    "auto_contrast": "AutoContrast",
    "equalize": "Equalize",
    "invert": "Invert",
    "posterize": "Posterize",
    "solarize": "Solarize",
    "solarize_add": "SolarizeAdd",
    "color": "Color",
    "contrast": "Contrast",
    "brightness": "Brightness",
    "sharpness": "Sharpness",
    "rotate": "Rotate",
    "shear_x": "ShearX",
    "shear_y": "ShearY",
    "translate_x": "TranslateXRel",
    "translate_y": "TranslateYRel",
}
LEVELS = (0.4, 2.6, 5.0, 7.9, 9.3, 10.0)


def pictures(size: int = 33) -> Tensor:
    """Smooth pictures in whole values of 255; one has a single colour, one leaves out the darkest and the brightest."""
    coarse = torch.rand(len(LEVELS), 3, 6, 6, generator=torch.Generator().manual_seed(0))
    images = torch.nn.functional.interpolate(coarse, (size, size), mode="bicubic").clamp(0, 1)
    images[1] = torch.tensor(FILL)[:, None, None]
    images[2] = images[2] * 0.5 + 0.3
    return (images * 255).round() / 255


def by_timm(image: Tensor, name: str, level: float) -> Tensor:
    """Timm draws the sign of a level itself, so it is put on afterwards."""
    kind = OF_TIMM[name]
    to_argument = auto_augment.LEVEL_TO_ARG[kind]
    arguments = to_argument(abs(level), {}) if to_argument else ()
    if name in WARPS:
        arguments = (abs(arguments[0]) * (1 if level >= 0 else -1),)
    picture = Image.fromarray((image * 255).round().byte().permute(1, 2, 0).numpy())
    fill = tuple(round(255 * value) for value in FILL)
    made = auto_augment.NAME_TO_OP[kind](picture, *arguments, fillcolor=fill, resample=Image.Resampling.BILINEAR)
    return torch.from_numpy(np.asarray(made).copy()).permute(2, 0, 1).float() / 255


def told(names: list[list[str]], levels: list[list[float]]) -> Photometry:
    """Parameters by hand; an empty name is no operation."""
    plain = ViewPlan([View(size=33)]).draw_photometry(0, 0, torch.arange(len(names))).view(0)
    numbers = {"": -1, **{name: number for number, name in enumerate((*COLOR_OPERATIONS, *WARPS))}}
    chosen = torch.tensor([[numbers[name] for name in some] for some in names])
    return replace(plain, augment=chosen, level=torch.tensor(levels, dtype=torch.float64))


@pytest.mark.parametrize("sign", [1, -1])
@pytest.mark.parametrize("name", OF_TIMM)
def test_each_operation_is_that_of_timm(name: str, sign: int) -> None:
    images = pictures()
    levels = [sign * (max(level, 2.6) if name == "posterize" else level) for level in LEVELS]  # Pillow keeps a bit
    ours = rand_augment(images.clone(), told([[name]] * len(images), [[level] for level in levels]), FILL)
    theirs = torch.stack([by_timm(image, name, level) for image, level in zip(images, levels, strict=True)])
    apart = (ours - theirs).abs() * 255
    # Float32 and Pillow's whole numbers differ by one value here and there, and in a pixel on the edge of
    # what comes in from outside.
    assert float((apart > 1.01).float().mean()) <= (0.01 if name in WARPS else 0)
    assert float(apart.mean()) < 0.05
    assert not torch.equal(ours, images)


def test_two_operations_follow_one_another_and_images_that_drew_none_stay() -> None:
    images = pictures()
    names = [["invert", "posterize"], ["", ""], ["posterize", "invert"], ["", "invert"], ["invert", "invert"], ["", ""]]
    ours = rand_augment(images.clone(), told(names, [[10.0, 7.5]] * 6), FILL)
    for number, some in enumerate(names):
        image = images[number]
        for name, level in zip(some, (10.0, 7.5), strict=True):
            image = by_timm(image, name, level) if name else image
        assert torch.allclose(ours[number], image, atol=1e-6)


def test_what_is_drawn_is_what_was_asked_for() -> None:
    views = [
        View(size=16, randaugment=RandAugment(operations=2)),
        View(size=16, randaugment=RandAugment(operations=1, probability=1, magnitude=4, deviation=2, warps=False)),
        View(size=16),
    ]
    drawn = ViewPlan(views).draw_photometry(0, 0, torch.arange(6000))
    assert drawn.augment is not None
    assert drawn.level is not None
    assert drawn.augment.shape == drawn.level.shape == (6000, 3, 2)
    assert (drawn.augment[:, 2] == -1).all()
    assert (drawn.augment[:, 1, 1] == -1).all()
    of_first = Counter(drawn.augment[:, 0].flatten().tolist())
    assert abs(of_first.pop(-1) / 12000 - 0.5) < 0.02
    assert sorted(of_first) == list(range(15))
    assert all(abs(count / 400 - 1) < 0.25 for count in of_first.values())
    assert sorted(set(drawn.augment[:, 1, 0].tolist())) == list(range(10))
    strong, weak = drawn.level[:, 0].abs(), drawn.level[:, 1, 0].abs()
    assert 0.48 < float((strong == 10).double().mean()) < 0.52  # the upper half is cut
    assert 7 < float(strong.min()) < 9.2
    assert abs(float(weak.median()) - 4) < 0.15
    assert abs(float((drawn.level[:, 0] > 0).double().mean()) - 0.5) < 0.02
    again = ViewPlan(views).draw_photometry(0, 0, torch.arange(100, 200))
    assert again.augment is not None
    assert torch.equal(again.augment, drawn.augment[100:200])
    assert ViewPlan([View(size=16)]).draw_photometry(0, 0, torch.arange(4)).augment is None


@pytest.mark.parametrize("whole", [True, False])
def test_both_ways_of_colours_end_in_the_same(whole: bool) -> None:
    """After a jitter they differ by what `fused` is about; without one they do not."""
    view = View(size=33, randaugment=RandAugment(operations=2, probability=0.7))
    images = pictures()
    images = (images * 255).round().byte() if whole else images
    drawn = ViewPlan([view]).draw_photometry(1, 0, torch.arange(len(images))).view(0)
    mean, std = (0.4, 0.5, 0.6), (0.2, 0.3, 0.25)
    exact = apply_photometry(images.clone(), drawn, view, mean=mean, std=std)
    fused = apply_fused(images, drawn, view, mean=mean, std=std)
    assert torch.allclose(exact, fused, atol=1e-4)
    assert not torch.allclose(exact, apply_fused(images, replace(drawn, augment=None), view, mean=mean, std=std))


def test_a_method_that_matches_places_refuses_warps_and_images_without_colours_refuse_all() -> None:
    view = {"count": 2, "size": 32, "randaugment": {"operations": 2}}
    calm = {**view, "randaugment": {"operations": 2, "warps": False}}
    with pytest.raises(
        GlocalError, match=r"views\.0\.randaugment\.warps=true moves what a view shows, and patchwise_dino"
    ):
        build_recipe({"method": {"name": "patchwise_dino"}, "views": [view]})
    build_recipe({"method": {"name": "patchwise_dino"}, "views": [calm]})
    build_recipe({"method": {"name": "moco"}, "views": [view]})
    with pytest.raises(GlocalError, match=r"views\.0\.randaugment\.operations=2 needs RGB"):
        build_recipe({"method": {"name": "moco"}, "data": {"channels": 1}, "views": [calm]})


def test_a_view_with_jitter_and_randaugment_stays_within_black_and_white() -> None:
    view = View(size=33, jitter=Jitter.of_strength(1.0), randaugment=RandAugment(operations=3, probability=1))
    images = pictures()
    drawn = ViewPlan([view]).draw_photometry(2, 0, torch.arange(len(images))).view(0)
    for apply in (apply_photometry, apply_fused):
        made = apply(images.clone(), drawn, view, mean=(0.0, 0.0, 0.0), std=(1.0, 1.0, 1.0))
        assert float(made.min()) >= -1e-6
        assert float(made.max()) <= 1 + 1e-6
