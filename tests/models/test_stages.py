"""The stage before the last is where timm has it, and the rest of the network is none the wiser."""

import pytest
import timm
import torch

from glocal.models.architecture import ModelSettings
from glocal.models.backbone import Backbone
from glocal.models.building import build_backbone
from glocal.models.stages import Stage, stage_before_last, unpooled_and_stage

NETWORKS = {
    "resnet10t": ({}, Stage(3, 256)),
    "mobilenetv3_small_050": ({}, Stage(3, 24)),
    "convnext_atto": ({}, Stage(2, 160)),
    "vit_tiny_patch16_224": ({"img_size": 64, "depth": 4}, Stage(2, 192)),
    "swin_tiny_patch4_window7_224": (
        {"img_size": 64, "window_size": 2, "embed_dim": 24, "num_heads": (1, 2, 2, 4)},
        Stage(2, 96),
    ),
}


@pytest.mark.parametrize("name", NETWORKS)
def test_a_stage_is_found_and_passed_by(name: str) -> None:
    options, expected = NETWORKS[name]
    torch.manual_seed(0)
    backbone = Backbone(timm.create_model(name, num_classes=0, **options), size=64, label=name).eval()
    images = torch.randn(2, 3, 64, 64)
    stage = stage_before_last(backbone)
    assert stage == expected
    with torch.no_grad():
        unpooled, early = unpooled_and_stage(backbone, images, stage)
        assert torch.equal(unpooled, backbone.forward_unpooled(images))
        assert early.shape == (2, stage.dim)
        [places] = backbone.network.forward_intermediates(images, indices=[stage.place], intermediates_only=True)
        assert torch.allclose(early, places.mean(dim=(2, 3)))


def test_a_network_of_one_stage_has_none_before_it() -> None:
    options = {"patch_size": 8, "embed_dim": 16, "depth": 1, "num_heads": 2}
    for settings in (ModelSettings(name="vit_tiny", options=options), ModelSettings(name="small_alexnet")):
        assert stage_before_last(build_backbone(settings, size=32)) is None
