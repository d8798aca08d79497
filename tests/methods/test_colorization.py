"""Colorization: quantised colours out of lightness."""

import colorsys
import hashlib
import math

import numpy as np
import pytest
import torch
from torch import Tensor

from glocal.config import build_recipe, load_mapping
from glocal.errors import GlocalError
from glocal.losses.pretext import rarity_weights, rebalanced_cross_entropy
from glocal.models.lab import color_bins, grey_of_same_lightness, rgb_to_lab, soft_encoding
from glocal.settings import parse_overrides
from glocal.views.batch import Views
from tests.methods.cases import RESNET_RUN, MethodCase, make, views

# No budget: drawn shapes have few colours, which say nothing of their kind.
CASE = MethodCase(
    slow=True,
    trained={"loss": {"backbone", "decoder"}},
    small={"decoder_dim": 16, "doublings": 1},
    run={**RESNET_RUN, "method.decoder_dim": 32, "optimizer.lr": 0.06},
)


def random(*shape: int, seed: int = 0) -> Tensor:
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@pytest.mark.parametrize(
    ("rgb", "lab"),
    [
        ((1, 1, 1), (100.0, 0.0, 0.0)),
        ((1, 0, 0), (53.24, 80.09, 67.20)),
        ((0, 1, 0), (87.73, -86.18, 83.18)),
        ((0, 0, 1), (32.30, 79.19, -107.86)),
        ((0, 0, 0), (0.0, 0.0, 0.0)),
    ],
)
def test_lab_is_that_of_the_tables(rgb: tuple[float, ...], lab: tuple[float, ...]) -> None:
    found = rgb_to_lab(torch.tensor(rgb, dtype=torch.float64)[None])[0]
    assert found.tolist() == pytest.approx(lab, abs=0.02)


def test_the_grey_has_the_lightness_of_the_colour_and_no_colour() -> None:
    colors = random(50, 3, 1, 1)
    grey = grey_of_same_lightness(colors)
    lab = rgb_to_lab(grey.expand(-1, 3, -1, -1))
    assert torch.allclose(lab[:, 0], rgb_to_lab(colors)[:, 0], atol=1e-2)
    assert lab[:, 1:].abs().max() < 0.02


def test_the_313_bins_are_the_authors_and_every_color_lies_in_reach_of_one() -> None:
    bins = color_bins()
    assert bins.shape == (313, 2)
    assert (bins % 10 == 0).all()
    # Of the authors' pts_in_hull.npy as OpenCV's samples/dnn/colorization.cpp lists it, in its order: a b a b …
    text = " ".join(str(round(one)) for one in bins.flatten().tolist())
    digest = "9fecdd2471318074d4281c4cb8dcd8f717c28308ae71fecdfe44ffe92c70652a"
    assert hashlib.sha256(text.encode()).hexdigest() == digest
    colors = [colorsys.hsv_to_rgb(hue / 97, 1 if vivid else 0.3, 1) for hue in range(97) for vivid in (False, True)]
    ab = rgb_to_lab(torch.tensor(colors, dtype=torch.float64))[:, 1:]
    assert (ab[:, None] - bins).abs().amax(dim=2).min(dim=1).values.max() <= 5


def test_the_soft_encoding_equals_a_plain_loop() -> None:
    bins, ab = color_bins(), random(6, 2) * 100 - 50
    index, shares = soft_encoding(ab, bins)
    for row in range(6):
        distance = [math.dist(ab[row].tolist(), one.tolist()) for one in bins]
        nearest = sorted(range(313), key=distance.__getitem__)[:5]
        weights = np.exp([-(distance[one] ** 2) / 50 for one in nearest])
        assert index[row].tolist() == nearest
        assert shares[row].tolist() == pytest.approx((weights / weights.sum()).tolist())


def test_the_loss_equals_a_plain_loop_and_weights_those_of_eq_4() -> None:
    logits, prior = random(4, 7) * 4, torch.softmax(random(7, seed=1) * 3, dim=0)
    bins, shares = torch.tensor([[0, 3], [6, 1], [2, 0], [5, 4]]), torch.tensor([[0.7, 0.3]]).double().expand(4, 2)
    raw = [1 / (0.5 * float(p) + 0.5 / 7) for p in prior]
    scale = sum(float(p) * w for p, w in zip(prior, raw, strict=True))
    weights = rarity_weights(prior, uniform=0.5)
    assert weights.tolist() == pytest.approx([w / scale for w in raw])
    total = 0.0
    for row in range(4):
        log_sum = math.log(sum(math.exp(float(one)) for one in logits[row]))
        each = sum(float(shares[row, k]) * (log_sum - float(logits[row, bins[row, k]])) for k in range(2))
        total += raw[int(bins[row, 0])] / scale * each
    found = rebalanced_cross_entropy(logits.requires_grad_(), bins, shares, weights)
    assert found.dtype == torch.float64
    assert found.item() == pytest.approx(total / 4)
    assert torch.autograd.gradcheck(lambda one: rebalanced_cross_entropy(one, bins, shares, weights), logits)


def test_the_network_sees_no_color_and_the_prior_follows_those_of_all_parts() -> None:
    method = make("colorization", prior_momentum=0.9)
    batch = views(method)
    grey, ab = method._apart(batch.images[0])
    pixels = grey * method.backbone.std + method.backbone.mean
    assert torch.allclose(pixels[:, :1].expand_as(pixels), pixels, atol=1e-6)
    assert ab.abs().max() > 5
    before = method.prior.clone()
    assert method(batch).item() == pytest.approx(math.log(313), rel=0.3)  # weights are even at first
    [found] = method.seen
    assert found.sum().item() == pytest.approx(1, abs=1e-5)
    method.after_step()
    assert torch.allclose(method.prior, 0.9 * before + 0.1 * found, atol=1e-7)
    for part in (slice(0, 4), slice(4, 8)):
        method(Views((batch.images[0][part],), batch.geometry, batch.index[part]))
    assert torch.allclose(torch.stack(method.seen).mean(dim=0), found, atol=1e-6)


def test_images_that_are_not_in_color_are_refused() -> None:
    method = make("colorization")
    method.backbone.mean = method.backbone.mean[:1]
    for given in ("data.channels=1", "data.rgb=false"):  # before anything is said of the recipe's mean
        with pytest.raises(GlocalError, match=f"method colorization learns from colours.* leave {given} out"):
            build_recipe(load_mapping("colorization-cifar10"), parse_overrides([given]))
    with pytest.raises(GlocalError, match="needs images in colour"):
        type(method)(method.backbone, method.settings)


def test_images_without_colour_are_refused() -> None:
    method = make("colorization")
    batch = views(method)
    mean, std = method.backbone.mean, method.backbone.std
    grey = tuple((image[:, :1].sigmoid().expand(-1, 3, -1, -1) - mean) / std for image in batch.images)
    with pytest.raises(GlocalError, match=r"sees no colour in the first images.*views\.N\.grey below 1"):
        method(Views(grey, batch.geometry, batch.index))
    method(batch)
