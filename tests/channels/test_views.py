"""Views of images that are not RGB: the same draws and pixels in both lanes, nothing lost, nothing cut off."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torchvision.transforms.v2 import functional as transforms

from glocal.config import build_recipe
from glocal.data.lanes.choice import open_lane
from glocal.data.lanes.order import BatchOrder
from glocal.data.ranges import decode_as
from glocal.data.settings import DataSettings
from glocal.data.sources.base import MemorySource
from glocal.data.sources.folder import ImageFolder
from glocal.errors import GlocalError
from glocal.views.color import shown
from glocal.views.pictures import as_picture
from glocal.views.plan import Blur, Jitter, Noise, Photometry, View, ViewPlan
from glocal.views.values import apply_values, blank_channels, disturb, noise_of
from tests.channels.made import save, spectra, stripes

JITTER = Jitter(probability=1, saturation=0, hue=0)
INDEX = torch.arange(6)


def drawn(view: View, seed: int = 0) -> Photometry:
    return ViewPlan([view]).draw_photometry(seed, 0, INDEX).view(0)


def images(channels: int = 5) -> torch.Tensor:
    return 100 + 10 * torch.randn(6, channels, 16, 16, generator=torch.Generator().manual_seed(0))


def test_brightness_and_contrast_are_what_they_are_called_in_either_order() -> None:
    view = View(size=16, jitter=JITTER)
    parameters, pixels = drawn(view), images()
    mean, std = [100.0, 90, 110, 100, 100], [10.0, 5, 20, 10, 10]
    found = apply_values(pixels, parameters, view, mean=mean, std=std)
    assert {tuple(order.tolist()).index(0) < tuple(order.tolist()).index(1) for order in parameters.order} == {
        True,
        False,
    }
    for image, order, brightness, contrast, result in zip(
        pixels.numpy().astype(np.float64),
        parameters.order,
        parameters.brightness,
        parameters.contrast,
        found,
        strict=True,
    ):
        for channel in range(5):
            x = (image[channel] - mean[channel]) / std[channel]
            for operation in order.tolist():
                if operation == 0:
                    x = float(brightness) * (x + 2) - 2  # black lies two deviations below the mean
                elif operation == 1:
                    x = float(contrast) * x + (1 - float(contrast)) * x.mean()
            assert np.allclose(result[channel].numpy(), x, atol=1e-5)


def test_units_do_not_matter() -> None:
    view = View(size=16, jitter=JITTER, blur=Blur(probability=1), noise=Noise(probability=1), channel_drop=0.3)
    parameters, celsius = drawn(view), images(1).double() / 10
    one = shown(celsius, parameters, view, mean=[10.0], std=[1.0], way="values")
    other = shown(celsius * 1.8 + 32, parameters, view, mean=[50.0], std=[1.8], way="values")
    assert torch.allclose(one, other, atol=1e-9)


def test_blur_is_that_of_torchvision_on_every_channel() -> None:
    view = View(size=16, blur=Blur(probability=1, sigma=(1.0, 1.0), kernel_size=7))
    found = apply_values(images(), drawn(view), view, mean=[0.0] * 5, std=[1.0] * 5)
    assert torch.allclose(found, transforms.gaussian_blur(images(), [7, 7], [1.0, 1.0]), rtol=1e-4)


def test_noise_has_the_deviation_that_was_drawn_and_depends_on_counters_alone() -> None:
    view = View(size=64, noise=Noise(probability=0.5, sigma=(0.1, 0.3)))
    plan, index = ViewPlan([view]), torch.arange(200)
    parameters = plan.draw_photometry(3, 1, index).view(0)
    assert parameters.noise is not None
    on = parameters.noise > 0
    assert 80 < int(on.sum()) < 120
    assert 0.1 <= float(parameters.noise[on].min()) < 0.12 < 0.28 < float(parameters.noise.max()) <= 0.3
    found = disturb(torch.zeros(200, 2, 32, 32), parameters, view)
    assert torch.allclose(found.flatten(1).std(dim=1)[on], parameters.noise[on].float(), rtol=0.12)
    assert not found[~on].any()
    some = torch.tensor([150, 7])
    again = disturb(torch.zeros(2, 2, 32, 32), plan.draw_photometry(3, 1, some).view(0), view)
    assert torch.equal(again, found[some])
    for seed, epoch in ((4, 1), (3, 2)):
        other = disturb(torch.zeros(200, 2, 32, 32), plan.draw_photometry(seed, epoch, index).view(0), view)
        assert not torch.equal(other, found)


def test_noise_is_normal() -> None:
    from scipy.stats import kstest

    keys = torch.arange(3)
    values = noise_of(keys, 20_001)
    assert values.shape == (3, 20_001)
    assert all(kstest(row.numpy(), "norm").pvalue > 0.01 for row in values)
    assert abs(float(torch.corrcoef(values)[0, 1])) < 0.03


def test_channels_are_dropped_as_often_as_asked_and_never_all() -> None:
    keys = torch.arange(20_000)
    blank = blank_channels(keys, 4, 0.3)
    assert float(blank.float().mean()) == pytest.approx(0.3, abs=0.01)
    assert not blank_channels(keys, 4, 1.0).all(dim=1).any()
    assert (blank_channels(keys, 4, 1.0).sum(dim=1) == 3).all()
    view = View(size=16, channel_drop=0.5)
    parameters = drawn(view)
    assert parameters.key is not None
    found = disturb(torch.ones(6, 5, 16, 16), parameters, view)
    assert torch.equal(found[:, :, 0, 0] == 0, blank_channels(parameters.key, 5, 0.5))


def test_noise_and_dropped_channels_are_for_rgb_too() -> None:
    view = View(size=16, noise=Noise(probability=1, sigma=(0.5, 0.5)), channel_drop=0.5)
    plain = View(size=16)
    pixels = torch.full((6, 3, 16, 16), 128, dtype=torch.uint8)
    arguments: dict[str, Any] = {"mean": [0.5] * 3, "std": [0.2] * 3, "way": "fused"}
    found, before = (shown(pixels, drawn(one), one, **arguments) for one in (view, plain))
    assert 0.4 < float((found - before)[found != 0].std()) < 0.6
    assert (found == 0).flatten(2).all(dim=2).any()


def test_views_that_ask_for_none_of_it_draw_what_they_drew() -> None:
    parameters = ViewPlan([View(jitter=Jitter(probability=1), grey=0.5)]).draw_photometry(0, 0, INDEX)
    assert parameters.noise is None
    assert parameters.key is None


@pytest.mark.parametrize("kind", ["grey", "spectra"])
def test_both_lanes_show_the_same_views(kind: str, tmp_path: Path) -> None:
    if kind == "grey":
        channels, folder = 1, save(tmp_path, *stripes(24, 0), ".tif")
    else:
        channels, folder = 12, save(tmp_path, *spectra(24, 0), ".npy")
    source = ImageFolder(folder, values=True)
    settings = DataSettings(channels=channels, workers=0)
    decode_as(source, settings.decoding)
    pixels = torch.stack([source[number].image for number in range(24)])
    mean, std = pixels.mean(dim=(0, 2, 3)), pixels.std(dim=(0, 2, 3))
    settings = settings.model_copy(update={"mean": tuple(mean.tolist()), "std": tuple(std.tolist())})
    drop = 0.2 if channels > 1 else 0.0
    plan = ViewPlan(
        [
            View(count=2, size=12, jitter=JITTER, noise=Noise(probability=0.5), channel_drop=drop),
            View(size=8, interpolation="bicubic", blur=Blur(probability=0.5)),
        ]
    )
    found = {}
    for lane in ("resident", "streaming"):
        chosen = settings.model_copy(update={"lane": lane})
        opened = open_lane(source, chosen, plan, BatchOrder(24, 8, 0), torch.device("cpu"), progress=False)
        found[lane] = list(opened.batches(0, 3))
    for one, other in zip(found["resident"], found["streaming"], strict=True):
        assert torch.equal(one.index, other.index)
        for a, b, c, d in zip(one.images, other.images, one.geometry, other.geometry, strict=True):
            assert a.shape[1] == channels
            assert torch.equal(c.box, d.box)
            assert torch.allclose(a, b, atol=2e-4)
    assert float(torch.cat([views.images[0] for views in found["resident"]]).std()) == pytest.approx(1, abs=0.4)


@pytest.mark.parametrize("lane", ["resident", "streaming"])
def test_the_lowest_of_sixteen_bits_reaches_the_network(lane: str, tmp_path: Path) -> None:
    image = np.random.default_rng(0).integers(0, 65_535, (16, 16), dtype=np.uint16)
    save(tmp_path, np.stack([image, image + 1]), np.zeros(2, int), ".png")
    source = ImageFolder(tmp_path)
    settings = DataSettings(channels=1, workers=0, lane=lane, mean=(32_000.0,), std=(20_000.0,))
    decode_as(source, settings.decoding)
    plan = ViewPlan([View(size=16, scale=(1, 1), ratio=(1, 1), flip=0)])
    opened = open_lane(source, settings, plan, BatchOrder(2, 2, 0), torch.device("cpu"), progress=False)
    views = next(opened.batches(0, 1))
    first, second = views.images[0][views.index.argsort()]
    assert torch.allclose(second - first, torch.full((1, 16, 16), 1 / 20_000), atol=3e-7)
    assert bool((second > first).all())


def test_colours_are_refused_by_name_and_left_out_where_nobody_asked_for_them() -> None:
    mapping = {"data": {"channels": 2, "size": 32}, "method": {"name": "byol"}}
    for view in build_recipe(mapping).views or []:
        assert not view.colors()
        assert view.jitter.brightness == 0.4
    refused: dict[str, dict[str, Any]] = {
        "views.0.grey=0.2": {"grey": 0.2},
        "views.0.jitter.hue=0.1": {"jitter": {"probability": 0.5, "hue": 0.1}},
        "views.0.jitter.saturation=0.3": {"jitter": {"probability": 0.5, "saturation": 0.3}},
        "views.0.solarize.probability=0.1": {"solarize": {"probability": 0.1}},
    }
    for said, view in refused.items():
        with pytest.raises(GlocalError, match=f"{said} needs RGB.*data.channels=2"):
            build_recipe({**mapping, "views": [{"count": 2, **view}]})
    with pytest.raises(GlocalError, match=r"views.1.grey=0.3 needs RGB"):
        build_recipe(mapping, {"views.1.grey": 0.3})
    [kept] = build_recipe({**mapping, "views": [{"count": 2, "jitter": {"probability": 0.5}}]}).views or []
    assert kept.jitter.probability == 0.5
    assert not kept.colors()
    with pytest.raises(GlocalError, match="channel_drop would leave nothing of one channel"):
        build_recipe({"data": {"channels": 1}, "views": [{"count": 2, "channel_drop": 0.5}]})


def test_rgb_keeps_its_recipe() -> None:
    views = build_recipe({"method": {"name": "byol"}}).views or []
    assert views[0].grey == 0.2
    assert views[1].solarize.probability == 0.2


def test_settings_of_channels_that_contradict_one_another_are_refused() -> None:
    wrong = {
        "rgb=true needs channels=3, not 1": {"channels": 1, "rgb": True},
        "mean has 3 numbers for channels=2": {"channels": 2, "mean": [1, 2, 3]},
        "mean has 2 numbers for channels=3": {"mean": [0.5, 0.5]},
        "std must be positive": {"channels": 2, "std": [1, 0]},
        "range is of grey images": {"channels": 1, "range": [0, 4095]},
    }
    for said, data in wrong.items():
        with pytest.raises(GlocalError, match=said):
            build_recipe({"data": data})
    assert DataSettings(rgb=False).stored_channels == 3
    assert DataSettings().stored_channels is None


def test_pictures_are_grey_or_the_first_three_channels_stretched() -> None:
    ramp = torch.linspace(-5, 900, 10_000).view(1, 100, 100)
    grey = as_picture(ramp)
    assert grey.shape == (3, 100, 100)
    assert grey.dtype == torch.uint8
    assert int(grey.float().mean()) in (127, 128)
    several = as_picture(torch.stack([ramp[0], 1e6 * ramp[0], -ramp[0], ramp[0] * 0]))
    assert torch.equal(several[0], grey[0])
    assert torch.equal(several[1], grey[0])
    assert torch.equal(several[2], grey[0].flip(0, 1))
    assert as_picture(torch.stack([ramp, ramp])).shape == (2, 3, 100, 100)
    assert torch.equal(as_picture(grey), grey)


def test_images_in_memory_have_the_channels_that_are_asked_for() -> None:
    source = MemorySource("made", torch.zeros(4, 2, 8, 8), None, None)
    decode_as(source, DataSettings(channels=2).decoding)
    with pytest.raises(GlocalError, match=r"made: its images have 2 channels; set data.channels=2"):
        decode_as(source, DataSettings().decoding)
