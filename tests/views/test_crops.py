"""Drawn crops against torchvision's distribution, executed crops against its pixels."""

import pytest
import torch
from torchvision.transforms import RandomResizedCrop
from torchvision.transforms.v2 import InterpolationMode
from torchvision.transforms.v2 import functional as tv

from glocal.views.crops import central_geometry, render_batch, render_one
from glocal.views.geometry import ViewGeometry
from glocal.views.plan import View, ViewPlan

CROPS = [(0, 0, 40, 30), (3, 5, 14, 29), (10, 0, 11, 30), (8, 8, 40, 9), (20, 11, 36, 27)]


@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic"])
@pytest.mark.parametrize("size", [8, 16, 50])
@pytest.mark.parametrize("flipped", [False, True])
def test_pixels_equal_torchvisions_crop_resize_and_flip(interpolation: str, size: int, flipped: bool) -> None:
    images = torch.rand(len(CROPS), 3, 30, 40, generator=torch.Generator().manual_seed(0))
    geometry = ViewGeometry(torch.tensor(CROPS).double(), torch.full((len(CROPS),), flipped))
    ours = render_batch(images, geometry, size, interpolation)
    for image, (left, top, right, bottom), view in zip(images, CROPS, ours, strict=True):
        mode = InterpolationMode(interpolation)
        expected = tv.resized_crop(
            image, top, left, bottom - top, right - left, [size, size], interpolation=mode, antialias=True
        )
        expected = expected.flip(-1) if flipped else expected
        assert (view - expected).abs().max() < 2e-5


@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic"])
def test_one_image_in_bytes_is_within_a_grey_level_of_the_batch(interpolation: str) -> None:
    generator = torch.Generator().manual_seed(0)  # middle levels: no bicubic overshoot leaves [0, 255]
    images = torch.randint(70, 186, (len(CROPS), 3, 30, 40), generator=generator, dtype=torch.uint8)
    flipped = torch.tensor([True, False, True, False, True])
    batch = render_batch(images.float(), ViewGeometry(torch.tensor(CROPS).double(), flipped), 24, interpolation)
    for row, box in enumerate(CROPS):
        one = render_one(images[row], box, bool(flipped[row]), 24, interpolation)
        assert one.dtype == torch.uint8
        assert (one.float() - batch[row]).abs().max() <= 1.5


def drawn_boxes(height: int, width: int, view: View, count: int) -> torch.Tensor:
    return ViewPlan([view]).draw_geometry(torch.tensor([height, width]), 0, 0, torch.arange(count)).box[:, 0]


@pytest.mark.parametrize(("height", "width"), [(32, 32), (60, 90)])
def test_boxes_have_the_distribution_of_random_resized_crop(height: int, width: int) -> None:
    view, count = View(scale=(0.2, 1.0)), 4000
    ours = drawn_boxes(height, width, view, count)
    torch.manual_seed(0)
    image = torch.empty(3, height, width)
    theirs = torch.tensor([RandomResizedCrop.get_params(image, [0.2, 1.0], [3 / 4, 4 / 3]) for _ in range(count)])
    theirs = theirs[:, [1, 0, 3, 2]].double()  # left, top, width, height
    ours = torch.cat([ours[:, :2], ours[:, 2:] - ours[:, :2]], dim=1)
    for column in range(4):
        a, b = ours[:, column].sort().values, theirs[:, column].sort().values
        grid = torch.arange(0, max(height, width) + 1).double()
        gap = (torch.searchsorted(a, grid, right=True) - torch.searchsorted(b, grid, right=True)).abs().max() / count
        assert gap < 1.95 * (2 / count) ** 0.5  # Kolmogorov–Smirnov at 0.001


def test_boxes_are_whole_pixels_inside_the_image_and_flips_are_fair() -> None:
    plan = ViewPlan([View(count=2), View(size=8, scale=(0.05, 0.2), flip=0.0)])
    sizes = torch.tensor([[20, 50], [300, 7], [1, 1], [64, 64]]).repeat(500, 1)
    geometry = plan.draw_geometry(sizes, 0, 2, torch.arange(2000))
    left, top, right, bottom = geometry.box.unbind(-1)
    assert torch.equal(geometry.box, geometry.box.round())
    assert (left >= 0).all()
    assert (top >= 0).all()
    assert (right > left).all()
    assert (bottom > top).all()
    assert (right <= sizes[:, 1:]).all()
    assert (bottom <= sizes[:, :1]).all()
    assert 0.45 < geometry.flipped[:, :2].double().mean() < 0.55
    assert not geometry.flipped[:, 2].any()
    assert not torch.equal(geometry.box[:, 0], geometry.box[:, 1])


def test_an_image_too_long_for_any_box_gives_its_centre() -> None:
    box = drawn_boxes(10, 1000, View(scale=(0.9, 1.0)), 3)
    assert box.tolist() == [[493, 0, 506, 10]] * 3  # 4/3 of the height, as torchvision falls back


def test_central_square_of_evaluation() -> None:
    box = central_geometry(torch.tensor([[256, 300], [100, 50]]), 7 / 8).box
    assert box.tolist() == [[38, 16, 262, 240], [3, 28, 47, 72]]
