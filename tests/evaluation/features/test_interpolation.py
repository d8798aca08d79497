"""Images are resized for evaluation as the weights expect, where a protocol does not say how."""

from pathlib import Path

import pytest
import torch
from torch.nn.functional import interpolate

from glocal.data.sources.base import MemorySource
from glocal.evaluation.features.bench import Bench
from glocal.evaluation.features.cache import FeatureCache
from glocal.evaluation.features.extraction import POOLED, RawPixels, interpolation_of
from glocal.evaluation.probes.linear import LinearSettings
from glocal.evaluation.protocols.linear import readout_of
from glocal.models.architecture import known_interpolation
from glocal.models.loading import load_backbone


def noise() -> MemorySource:
    images = torch.randint(60, 190, (6, 3, 40, 40), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    return MemorySource("noise", images, torch.arange(6) % 2, ["a", "b"])


def resized(mode: str, size: int = 16) -> torch.Tensor:
    found = interpolate(noise().images().float(), (size, size), mode=mode, antialias=True)
    return found.round().clamp(0, 255).flatten(1) / 255


@pytest.mark.parametrize("name", ["tf_efficientnet_lite0", "resnet18.tv_in1k"])
def test_timm_says_how_images_are_resized(name: str) -> None:
    backbone = load_backbone(f"untrained:timm:{name}")
    expected = "bicubic" if name.startswith("tf_") else "bilinear"
    assert backbone.interpolation == interpolation_of(backbone) == expected
    assert interpolation_of(backbone, "bilinear") == "bilinear"  # what was asked for
    readout = readout_of(backbone, LinearSettings())
    assert readout is POOLED  # the features that other protocols use
    other = "bilinear" if expected == "bicubic" else "bicubic"
    asked = readout_of(backbone, LinearSettings(interpolation=other))  # type: ignore[arg-type]
    assert (asked.name, asked.interpolation) == (f"pooled, {other}", other)


def test_features_are_those_of_images_resized_so_and_kept_apart(tmp_path: Path) -> None:
    plain, own = RawPixels(16), RawPixels(16)
    own.interpolation = "bicubic"  # type: ignore[attr-defined]
    for backbone, mode in ((plain, "bilinear"), (own, "bicubic")):  # one cache for both
        found = Bench(backbone, workers=0, progress=False, cache=FeatureCache(tmp_path)).features(noise())
        assert (found.features - resized(mode)).abs().max() <= 1.01 / 255
        assert (found.features - resized("bicubic" if mode == "bilinear" else "bilinear")).abs().max() > 4 / 255


def test_interpolations_that_are_not_known_here_are_bilinear() -> None:
    assert known_interpolation("bicubic") == "bicubic"
    assert known_interpolation("lanczos") is None
    assert interpolation_of(RawPixels()) == "bilinear"
