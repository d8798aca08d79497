"""Regions have the features that a map with their place everywhere would have, whatever stands behind the pooling."""

import pytest
import timm
import torch

from glocal.errors import GlocalError
from glocal.models.architecture import ModelSettings
from glocal.models.backbone import Backbone
from glocal.models.building import build_backbone
from glocal.models.regions import pooled_regions, view_and_regions

NETWORKS = {
    "resnet10t": {},
    "mobilenetv3_small_050": {},  # a convolution behind the pooling
    "efficientnet_lite0": {},  # its last convolution belongs to no stage
    "convnext_atto": {},  # a normalisation behind the pooling
    "swin_tiny_patch4_window7_224": {
        "img_size": 64,
        "window_size": 2,
        "embed_dim": 24,
        "num_heads": (1, 2, 2, 4),
    },  # NHWC
}


@pytest.mark.parametrize("name", NETWORKS)
def test_regions_are_in_the_space_of_the_features(name: str) -> None:
    torch.manual_seed(0)
    network = timm.create_model(name, num_classes=0, **NETWORKS[name])
    backbone = Backbone(network, size=64, mean=(0.5,) * 3, std=(0.5,) * 3, label=name).eval()
    images = torch.randn(3, 3, 64, 64)
    with torch.no_grad():
        found, maps = view_and_regions(backbone, images), network.forward_features(images)
        assert found.shape == (3, 1 + 4, found.shape[2])
        assert torch.equal(found[:, 0], backbone(images))
        for row in range(2):
            for column in range(2):
                if name.startswith("swin"):
                    everywhere = maps[:, row : row + 1, column : column + 1].expand_as(maps)
                else:
                    everywhere = maps[:, :, row : row + 1, column : column + 1].expand_as(maps)
                expected = network.forward_head(everywhere)
                assert torch.allclose(found[:, 1 + 2 * row + column], expected, atol=1e-5)


def test_a_pooled_resnet_is_the_mean_of_its_regions() -> None:
    backbone = build_backbone(ModelSettings(name="resnet10t"), size=64)
    found = view_and_regions(backbone, torch.randn(2, 3, 64, 64))
    assert torch.allclose(found[:, 0], found[:, 1:].mean(dim=1), atol=1e-5)


@pytest.mark.parametrize(
    ("options", "prefix"),
    [
        ({}, 1),
        ({"class_token": False, "global_pool": "avg", "fc_norm": False}, 0),
        ({"class_token": False, "global_pool": "avg", "fc_norm": True}, 0),
        ({"reg_tokens": 2}, 3),
    ],
)
def test_patches_of_vision_transformers_are_regions(options: dict[str, object], prefix: int) -> None:
    small = {"embed_dim": 24, "depth": 2, "num_heads": 2, "patch_size": 8}
    backbone = build_backbone(ModelSettings(name="vit_tiny", options={**small, **options}), size=32).eval()
    images = torch.randn(2, 3, 32, 32)
    found = view_and_regions(backbone, images)
    assert found.shape == (2, 1 + 16, 24)
    assert torch.equal(found[:, 0], backbone(images))
    tokens = backbone.network.forward_features(images)[:, prefix:]  # type: ignore[operator]
    assert torch.equal(found[:, 1:], backbone.network.fc_norm(tokens))  # type: ignore[operator]


def test_networks_without_a_map_are_refused() -> None:
    with pytest.raises(GlocalError, match="SmallAlexNet has no feature map; choose a ResNet"):
        view_and_regions(build_backbone(ModelSettings(name="small_alexnet"), size=64), torch.randn(1, 3, 64, 64))


@pytest.mark.parametrize(("own", "side", "left"), [(2, 8, 2), (8, 8, 8), (9, 8, 5), (14, 8, 7), (28, 8, 7)])
def test_regions_of_large_maps_are_averaged(own: int, side: int, left: int) -> None:
    regions = torch.randn(2, own * own, 3)
    found = pooled_regions(regions, side)
    assert found.shape == (2, left * left, 3)
    step = -(-own // left)
    maps = regions.view(2, own, own, 3)
    for row in range(left):
        for column in range(left):
            part = maps[:, row * step : (row + 1) * step, column * step : (column + 1) * step]
            assert torch.allclose(found[:, row * left + column], part.mean(dim=(1, 2)), atol=1e-6)
