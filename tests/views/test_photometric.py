"""Photometric operations against torchvision's, one image at a time, with the same parameters."""

import pytest
import torch
from torch import Tensor
from torchvision.transforms.v2 import ColorJitter
from torchvision.transforms.v2 import functional as tv

from glocal.views.blur import gaussian_blur
from glocal.views.photometric import apply_photometry, greyscale, shift_hue
from glocal.views.plan import Blur, Jitter, Photometry, Solarize, View, ViewPlan

BATCH = 24


def pictures(size: int = 20) -> Tensor:
    images = torch.rand(BATCH, 3, size, size, generator=torch.Generator().manual_seed(0))
    images[0] = 0.5  # grey has no hue
    images[1, :, 0] = torch.tensor([1.0, 0.0, 0.0])[:, None]
    return images


def drawn(view: View, count: int = BATCH) -> Photometry:
    return ViewPlan([view]).draw_photometry(3, 5, torch.arange(count)).view(0)


def by_torchvision(image: Tensor, drawn: Photometry, row: int, view: View) -> Tensor:
    operations = (
        lambda x: tv.adjust_brightness(x, float(drawn.brightness[row])),
        lambda x: tv.adjust_contrast(x, float(drawn.contrast[row])),
        lambda x: tv.adjust_saturation(x, float(drawn.saturation[row])),
        lambda x: tv.adjust_hue(x, float(drawn.hue[row])),
    )
    for number in drawn.order[row].tolist():
        image = operations[number](image)
    if drawn.grey[row]:
        image = tv.rgb_to_grayscale(image, num_output_channels=3)
    if drawn.blur[row]:
        side = view.blur.kernel_size_at(image.shape[-1])
        image = tv.gaussian_blur(image, [side, side], [float(drawn.sigma[row])])
    if drawn.solarize[row]:
        image = tv.solarize(image, view.solarize.threshold)
    return image


VIEWS = {
    "nothing": View(size=20),
    "jitter": View(size=20, jitter=Jitter(probability=0.8)),
    "hard jitter": View(size=20, jitter=Jitter.of_strength(1.2)),
    "grey": View(size=20, grey=0.5),
    "blur": View(size=20, blur=Blur(probability=0.5, kernel_size=7)),
    "solarize": View(size=20, solarize=Solarize(probability=0.5)),
    "all": View(
        size=20,
        jitter=Jitter(probability=0.8),
        grey=0.3,
        blur=Blur(probability=0.5, kernel_size=5),
        solarize=Solarize(probability=0.3, threshold=0.4),
    ),
}


@pytest.mark.parametrize("name", VIEWS)
def test_pixels_equal_torchvisions_with_the_same_parameters(name: str) -> None:
    view, images = VIEWS[name], pictures()
    parameters = drawn(view)
    expected = torch.stack([by_torchvision(image, parameters, row, view) for row, image in enumerate(images)])
    mean, std = torch.tensor([0.4, 0.5, 0.6]), torch.tensor([0.2, 0.3, 0.25])
    ours = apply_photometry(images.clone(), parameters, view, mean=mean.tolist(), std=std.tolist())
    ours = ours * std[:, None, None] + mean[:, None, None]
    if view.solarize.probability > 0:  # a pixel within rounding of the threshold may fall on either side of it
        close = (ours - expected).abs() < 1e-4
        assert close.float().mean() > 0.9995
    else:
        assert (ours - expected).abs().max() < 2e-5


def test_chunks_on_the_cpu_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    view, images = VIEWS["all"], pictures()
    whole = apply_photometry(images.clone(), drawn(view), view, mean=[0, 0, 0], std=[1, 1, 1])
    monkeypatch.setattr("glocal.views.photometric._CPU_CHUNK_BYTES", 5 * images[0].numel() * 4)
    parts = apply_photometry(images.clone(), drawn(view), view, mean=[0, 0, 0], std=[1, 1, 1])
    assert torch.equal(whole, parts)


def test_drawn_parameters_have_the_distribution_of_color_jitter() -> None:
    jitter, count = Jitter(probability=0.8, brightness=1.2, contrast=0.4, saturation=0.3, hue=0.1), 5000
    ours = drawn(View(jitter=jitter), count)
    torch.manual_seed(0)
    reference = ColorJitter(1.2, 0.4, 0.3, 0.1)
    theirs = [reference.make_params([]) for _ in range(count)]
    jittered = ours.hue != 0
    assert jittered.double().mean().item() == pytest.approx(0.8, abs=0.02)
    for name in ("brightness", "contrast", "saturation", "hue"):
        a = getattr(ours, name)[jittered].sort().values
        b = torch.tensor([params[f"{name}_factor"] for params in theirs], dtype=torch.float64).sort().values
        grid = torch.cat([a, b])
        gap = torch.searchsorted(a, grid, right=True) / len(a) - torch.searchsorted(b, grid, right=True) / len(b)
        assert gap.abs().max() < 1.95 * (1 / len(a) + 1 / len(b)) ** 0.5  # Kolmogorov–Smirnov at 0.001


def test_order_and_probabilities_are_fair() -> None:
    view = View(grey=0.2, blur=Blur(probability=0.5, sigma=(0.1, 2.0)), solarize=Solarize(probability=0.1))
    found = drawn(view, 10_000)
    assert torch.equal(found.order.sort(dim=1).values, torch.arange(4).expand(10_000, 4))
    for slot in range(4):
        counts = torch.bincount(found.order[:, slot], minlength=4)
        assert ((counts - 2500).abs() < 200).all()
    assert found.grey.double().mean().item() == pytest.approx(0.2, abs=0.015)
    assert found.blur.double().mean().item() == pytest.approx(0.5, abs=0.02)
    assert found.solarize.double().mean().item() == pytest.approx(0.1, abs=0.01)
    assert found.sigma.min() >= 0.1
    assert found.sigma.max() <= 2.0
    assert found.sigma.mean().item() == pytest.approx(1.05, abs=0.02)


def test_hue_turns_full_circle_and_leaves_grey_alone() -> None:
    images = pictures()
    assert (shift_hue(images, torch.tensor(1.0)) - images).abs().max() < 1e-5
    grey = greyscale(images).expand(-1, 3, -1, -1)
    assert torch.equal(shift_hue(grey, torch.tensor(0.3)), grey)


def test_blur_of_a_tiny_image_is_cut_to_what_reflection_allows() -> None:
    blurred = gaussian_blur(torch.rand(2, 3, 4, 4), torch.tensor([2.0, 1.0]), 23, 5)
    assert blurred.shape == (2, 3, 4, 4)
    assert blurred.isfinite().all()
