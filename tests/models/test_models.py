"""Backbones, heads, the momentum teacher and the queue."""

import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
import torch
from PIL import Image
from pydantic import ValidationError
from safetensors.torch import save_file
from torch import nn

from glocal.config import build_recipe
from glocal.errors import GlocalError
from glocal.methods.building import build_method
from glocal.models.architecture import ModelSettings, found_stem, known_interpolation, statistics_of_weights
from glocal.models.backbone import Backbone
from glocal.models.building import build_backbone
from glocal.models.heads import mlp
from glocal.models.loading import load_backbone
from glocal.models.momentum import MomentumTeacher
from glocal.models.queue import NegativeQueue
from glocal.training.rehearsal import notes_on

TINY = {"channels": [8, 8, 16, 16], "layers": [1, 1, 1, 1]}


def test_small_images_get_the_small_stem_and_large_ones_the_standard() -> None:
    small = build_backbone(ModelSettings(options=TINY), size=32).network
    assert small.conv1.kernel_size == (3, 3)
    assert small.conv1.stride == (1, 1)
    assert isinstance(small.maxpool, nn.Identity)
    assert small.forward_features(torch.zeros(1, 3, 32, 32)).shape[-1] == 4  # 32 / 2³
    assert build_backbone(ModelSettings(options=TINY), size=224).network.conv1.stride == (2, 2)


@pytest.mark.parametrize(("stem", "side"), [("small", 32), ("medium", 16), ("standard", 8)])
def test_a_stem_leaves_its_share_of_the_side(stem: str, side: int) -> None:
    network = build_backbone(ModelSettings(options=TINY, stem=stem), size=32).network
    network.eval()
    maps = network.maxpool(network.act1(network.bn1(network.conv1(torch.zeros(1, 3, 32, 32)))))
    assert maps.shape == (1, 64, side, side)
    assert network.forward_features(torch.zeros(1, 3, 32, 32)).shape[-1] == side // 8
    assert found_stem(network) == stem


def test_no_image_gets_the_medium_stem_unasked() -> None:
    assert {ModelSettings().for_size(size).stem for size in (16, 32, 64, 96, 224)} == {"small", "standard"}


@pytest.mark.parametrize(
    ("name", "dim", "parameters"),
    [("resnet18", 512, 11.2), ("resnet34", 512, 21.3), ("resnet50", 2048, 23.5)],
)
def test_resnets_have_their_papers_size(name: str, dim: int, parameters: float) -> None:
    backbone = build_backbone(ModelSettings(name=name), size=32)
    assert backbone.dim == dim
    assert sum(p.numel() for p in backbone.parameters()) / 1e6 == pytest.approx(parameters, abs=0.1)


def test_vision_transformers_take_several_sizes_and_give_tokens() -> None:
    backbone = build_backbone(ModelSettings(name="vit_tiny", options={"depth": 1, "patch_size": 8}), size=32)
    assert backbone(torch.zeros(2, 3, 32, 32)).shape == (2, 192)
    assert backbone(torch.zeros(2, 3, 48, 48)).shape == (2, 192)
    assert backbone.tokens(torch.zeros(2, 3, 48, 48)).shape == (2, 1 + 36, 192)


def test_features_normalise_run_in_eval_mode_and_restore_the_mode() -> None:
    backbone = build_backbone(ModelSettings(options=TINY), size=32, mean=(0.1, 0.2, 0.3), std=(0.5, 0.6, 0.7))
    backbone.train()
    images = torch.randint(0, 256, (4, 3, 32, 32), dtype=torch.uint8)
    before = {name: value.clone() for name, value in backbone.state_dict().items()}
    found = backbone.features(images)
    assert backbone.training
    assert all(torch.equal(value, before[name]) for name, value in backbone.state_dict().items())
    mean, std = torch.tensor([0.1, 0.2, 0.3])[:, None, None], torch.tensor([0.5, 0.6, 0.7])[:, None, None]
    backbone.eval()
    expected = backbone.network((images / 255 - mean) / std)
    assert torch.allclose(found, expected, atol=1e-5)
    assert torch.allclose(backbone.features(images / 255), expected, atol=1e-5)
    assert not found.requires_grad


def test_a_look_leaves_each_layers_mode_as_it_was() -> None:
    backbone = build_backbone(ModelSettings(options=TINY), size=32).train()
    frozen = next(module for module in backbone.modules() if isinstance(module, nn.BatchNorm2d)).eval()
    backbone.features(torch.zeros(2, 3, 32, 32, dtype=torch.uint8))
    assert not frozen.training
    assert sum(module.training for module in backbone.modules()) == sum(1 for _ in backbone.modules()) - 1


def test_photographs_that_a_camera_turned_are_seen_upright() -> None:
    backbone = build_backbone(ModelSettings(options=TINY), size=32).eval()
    pixels = np.arange(32 * 32 * 3, dtype=np.uint32).reshape(32, 32, 3) // 13 % 256
    turned = Image.fromarray(pixels.astype(np.uint8))
    upright = turned.transpose(Image.Transpose.ROTATE_270)
    turned.getexif()[0x0112] = 6
    assert torch.equal(backbone.features(turned), backbone.features(upright))


def test_loading_a_network_changes_no_random_state() -> None:
    for name in ("untrained:timm:test_resnet", "untrained:timm:test_vit"):
        torch.manual_seed(3)
        expected = torch.rand(2)
        torch.manual_seed(3)
        load_backbone(name)
        assert torch.equal(torch.rand(2), expected)


def test_an_option_without_a_space_behind_its_colon_is_told() -> None:
    with pytest.raises(ValidationError, match="'drop_path_rate:0.3' is one word; in YAML a space follows the colon"):
        ModelSettings(name="vit_tiny", options={"drop_path_rate:0.3": None})


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (ModelSettings(name="resnet19"), "no model 'resnet19'; did you mean resnet18"),
        (ModelSettings(name="vit_tiny", stem="small"), "small stem is for ResNets"),
        (ModelSettings(name="vit_tiny", stem="medium"), "medium stem is for ResNets"),
        (ModelSettings(name="small_alexnet", stem="medium"), "no stem but its own"),
        (ModelSettings(options={"chanels": [8]}), "model.options: resnet18 does not take them"),
        (
            ModelSettings(options={"patch_size": 8}),
            r"if they are of another .*'model=\{name: resnet18\}'",
        ),
    ],
)
def test_wrong_models_are_refused_in_one_line(settings: ModelSettings, message: str) -> None:
    with pytest.raises(GlocalError, match=message):
        build_backbone(settings, size=32)


def test_wrong_images_are_refused() -> None:
    backbone = Backbone(build_backbone(ModelSettings(options=TINY), size=32).network, size=32)
    with pytest.raises(GlocalError, match=r"shape \(B, 3, height, width\), not \(3, 32, 32\)"):
        backbone.features(torch.zeros(3, 32, 32))
    with pytest.raises(GlocalError, match="not torch.int64"):
        backbone.features(torch.zeros(1, 3, 32, 32, dtype=torch.int64))
    with pytest.raises(GlocalError, match="ResNet has no tokens"):
        backbone.tokens(torch.zeros(1, 3, 32, 32))


def test_heads_have_the_layers_of_the_papers() -> None:
    kinds = [type(layer).__name__ for layer in mlp([8, 16, 16, 4], norm=True, last_norm=True)]
    assert kinds == [
        "Linear",
        "BatchNorm1d",
        "ReLU",
        "Linear",
        "BatchNorm1d",
        "ReLU",
        "Linear",
        "BatchNorm1d",
    ]
    head = mlp([8, 16, 4], norm=True)
    assert head[0].bias is None
    assert head[3].bias is not None
    assert mlp([8, 4], norm=True, last_norm=True)[1].weight is None
    assert [type(layer).__name__ for layer in mlp([8, 8, 4], norm=False)] == ["Linear", "ReLU", "Linear"]


def student() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4))


@pytest.mark.parametrize("buffers", ["own", "average", "copy"])
def test_teacher_follows_by_the_moving_average(buffers: str) -> None:
    module = student()
    teacher = MomentumTeacher(module, buffers=buffers)  # type: ignore[arg-type]
    with torch.no_grad():
        for value in (*module.parameters(), module[1].running_mean, module[1].running_var):
            value.add_(torch.randn_like(value).abs())
        module[1].num_batches_tracked += 3
    before = [value.clone() for value in (*teacher.chain.parameters(), *teacher.chain.buffers())]
    teacher.update(module, momentum=0.9)
    after = [*teacher.chain.parameters(), *teacher.chain.buffers()]
    targets = [*module.parameters(), *module.buffers()]
    for old, new, target in zip(before[:4], after[:4], targets[:4], strict=True):
        assert torch.allclose(new, 0.9 * old + 0.1 * target, atol=1e-6)
    for old, new, target in zip(before[4:], after[4:], targets[4:], strict=True):
        moves = {
            "own": old,
            "copy": target,
            "average": 0.9 * old + 0.1 * target if old.is_floating_point() else target,
        }
        assert torch.allclose(new, moves[buffers], atol=1e-6)
    assert not any(parameter.requires_grad for parameter in teacher.parameters())


def test_teacher_in_shuffled_groups_keeps_the_order_and_normalises_each_group() -> None:
    teacher = MomentumTeacher(nn.BatchNorm1d(3, affine=False))
    images = 100 * torch.randn(8, 3)
    together, parted = teacher(images), teacher(images, 4, 5)
    assert not torch.allclose(together, parted)
    # In groups of two, batch normalisation maps each pair to −1 and 1: every row has a partner of opposite sign.
    assert torch.allclose(parted.abs(), torch.ones(8, 3), atol=1e-3)
    linear = MomentumTeacher(nn.Linear(3, 3))
    assert torch.allclose(linear(images), linear(images, 4, 5), atol=1e-4)


@pytest.mark.parametrize("batches", [[3, 3, 3], [4, 5], [10], [1] * 7, [20]])
def test_queue_keeps_the_newest_keys(batches: list[int]) -> None:
    queue = NegativeQueue(8, 1)
    start = queue.keys[:, 0].tolist()
    keys = torch.arange(100.0, 100.0 + sum(batches))
    for part in keys.split(batches):
        queue.enqueue(part[:, None])
    expected = [*start, *keys.tolist()][-8:]
    assert sorted(queue.keys[:, 0].tolist()) == sorted(expected)
    assert queue.position.item() == sum(batches) % 8


def test_the_teacher_drops_no_paths() -> None:
    options = {"patch_size": 4, "embed_dim": 32, "depth": 3, "num_heads": 2, "drop_path_rate": 0.9}
    backbone = build_backbone(ModelSettings(name="vit_tiny", options=options), size=16)
    teacher = MomentumTeacher(backbone)
    images = torch.randn(4, 3, 16, 16)
    assert torch.equal(teacher(images), teacher(images))
    assert not torch.equal(backbone(images), backbone(images))


def test_the_small_alexnet_takes_crops_of_any_size() -> None:
    network = build_backbone(ModelSettings(name="small_alexnet"), size=64)
    assert network.dim == 4096
    for size in (64, 32):
        assert network(torch.randn(2, 3, size, size)).shape == (2, 4096)
    with pytest.raises(GlocalError, match="small_alexnet has no options"):
        build_backbone(ModelSettings(name="small_alexnet", options={"depth": 3}), size=64)


def test_pretrained_networks_keep_their_stem_and_bring_their_statistics(tmp_path: Path) -> None:
    torch.manual_seed(1)
    stored = timm.create_model("resnet18", **TINY, num_classes=0).state_dict()
    save_file(stored, tmp_path / "weights.safetensors")
    overlay = {"file": str(tmp_path / "weights.safetensors"), "mean": [0.1, 0.2, 0.3], "std": [0.4, 0.5, 0.6]}
    model = {"name": "resnet18", "pretrained": True, "options": {**TINY, "pretrained_cfg_overlay": overlay}}
    recipe = build_recipe({"model": model}, data_size=32)
    assert recipe.model.stem == "standard"
    assert recipe.data.mean == (0.1, 0.2, 0.3)
    assert {view.interpolation for view in recipe.views or []} == {"bicubic"}  # of timm's note on resnet18
    named = build_recipe({"model": model}, {"data.mean": [0.5, 0.5, 0.5]}, data_size=32)
    assert named.data.mean == (0.5, 0.5, 0.5)
    assert named.data.std == (0.4, 0.5, 0.6)
    backbone = build_backbone(recipe.model, size=32)
    assert torch.equal(backbone.network.conv1.weight, stored["conv1.weight"])
    assert backbone.mean.flatten().tolist() == pytest.approx([0.1, 0.2, 0.3])
    assert "kept" in notes_on(build_method(recipe), recipe)[0]
    (tmp_path / "weights.safetensors").unlink()
    statistics = statistics_of_weights(recipe.model)
    assert statistics is not None
    assert known_interpolation(statistics.interpolation) == "bicubic"
    build_method(recipe, weights=False)  # a run that goes on needs none
    with pytest.raises(GlocalError, match=r"model.pretrained: the weights of resnet18 cannot be had"):
        build_method(recipe)
    for stem in ("small", "medium"):
        with pytest.raises(GlocalError, match=f"model.stem={stem} does not go with model.pretrained"):
            build_backbone(recipe.model.model_copy(update={"stem": stem}), size=32)


def test_networks_without_a_plain_stem_fall_back_to_the_standard_one() -> None:
    assert ModelSettings(name="resnet18d").for_size(32).stem == "standard"
    assert ModelSettings(name="resnet18").for_size(32).stem == "small"
    with pytest.raises(GlocalError, match="small stem is for ResNets"):
        build_backbone(ModelSettings(name="resnet18d", stem="small"), size=32)
    with pytest.raises(GlocalError, match=r"model.options.in_chans=1: all images come as RGB"):
        build_backbone(ModelSettings(options={"in_chans": 1, **TINY}), size=32)


def test_features_take_what_people_have_and_refuse_the_rest_in_one_line() -> None:
    backbone = build_backbone(ModelSettings(options=TINY), size=32)
    pixels = np.random.default_rng(0).integers(0, 256, (2, 32, 32, 3), dtype=np.uint8)
    expected = backbone.features(torch.from_numpy(pixels).permute(0, 3, 1, 2))
    pictures = [Image.fromarray(picture) for picture in pixels]
    for given in (pixels, list(pixels), pictures, [pictures[0], pixels[1]]):
        assert torch.allclose(backbone.features(given), expected, atol=1e-5)
    assert torch.allclose(backbone.features(pictures[0]), expected[:1], atol=1e-5)
    assert backbone.features(Image.new("LA", (32, 32))).shape == (1, 16)
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # torch warns once of an array that cannot be written to
        assert torch.allclose(backbone.features(np.asarray(pictures[0])), expected[:1], atol=1e-5)
    wrong = {
        r"must lie in \[0, 1\], not in \[0, 255\]": torch.linspace(0, 255, 3072).view(1, 3, 32, 32),
        r"not in \[nan, nan\]": torch.full((1, 3, 32, 32), torch.nan),
        r"must have one size, not .*; cut them to 32 × 32 first: features\(backbone.squares\(images\)\)": [
            Image.new("RGB", (32, 32)),
            Image.new("RGB", (32, 16)),
        ],
        r"\(height, width, 3\) uint8": pixels / 255,
        "must be tensors, NumPy arrays or PIL images, not str": ["a.png"],
        "the list is empty": [],
        "must have the shape": torch.zeros(1, 3, 0, 32),
    }
    for message, images in wrong.items():
        with pytest.raises(GlocalError, match=message):
            backbone.features(images)  # type: ignore[arg-type]
    vit = build_backbone(ModelSettings(name="vit_tiny", options={"depth": 1, "patch_size": 8}), size=32)
    with pytest.raises(GlocalError, match="views of 20 pixels cannot be cut into patches of 8"):
        vit.features(torch.zeros(1, 3, 20, 32))
    swin = {"embed_dim": 12, "depths": (1, 1), "num_heads": (1, 1), "img_size": 32, "window_size": 4}
    fixed = build_backbone(ModelSettings(name="swin_tiny_patch4_window7_224", options=swin), size=32)
    assert len(fixed.features(torch.zeros(1, 3, 32, 32))) == 1
    with pytest.raises(GlocalError, match="takes no images of 40 × 32 pixels"):
        fixed.features(torch.zeros(1, 3, 40, 32))


@pytest.mark.parametrize(
    ("options", "place"),
    [
        ({"checkpoint_path": "a.pth"}, "checkpoint_path"),
        ({"pretrained_cfg": {"file": "a.pth"}}, "pretrained_cfg.file"),
        ({"pretrained_cfg_overlay": {"custom_load": True}}, "pretrained_cfg_overlay.custom_load"),
    ],
)
def test_options_that_would_read_a_pickle_are_refused(options: dict[str, Any], place: str) -> None:
    with pytest.raises(ValidationError, match=rf"options.{place} would read a file of weights; name it as model.init"):
        ModelSettings(options=options)
    ModelSettings(
        options={"checkpoint_path": "", "pretrained_cfg": {"custom_load": False, "file": None}}
    )  # as timm does


class _Executes:
    def __init__(self, proof: Path) -> None:
        self.proof = proof

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.proof,)


def test_timm_itself_executes_nothing_in_a_file_of_weights(tmp_path: Path) -> None:
    proof = tmp_path / "executed"
    torch.save({"state_dict": _Executes(proof)}, tmp_path / "weights.pth")
    with pytest.raises(RuntimeError, match="weights_only"):
        timm.create_model("resnet18", checkpoint_path=str(tmp_path / "weights.pth"))
    assert not proof.exists()
