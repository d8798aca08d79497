"""Weights from files: every usual layout and prefix goes in, and what does not fit or is not safe is refused."""

import argparse
import json
import os
import pickle
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
import torchvision
from safetensors.torch import save_file
from timm.layers import resample_abs_pos_embed
from torch import Tensor, nn
from typer.testing import CliRunner

import glocal
from glocal.cli import app
from glocal.errors import GlocalError
from glocal.models import fitting
from glocal.models.architecture import ModelSettings
from glocal.models.building import build_backbone
from glocal.models.fitting import best_fit, likely_networks, load_into
from glocal.models.weights import read_weights

TINY: dict[str, Any] = {"channels": [8, 8, 16, 16], "layers": [1, 1, 1, 1]}
VIT: dict[str, Any] = {"embed_dim": 16, "depth": 2, "num_heads": 2, "patch_size": 8}


def resnet(seed: int = 0, **options: Any) -> nn.Module:
    torch.manual_seed(seed)
    return build_backbone(ModelSettings(stem="standard", options=TINY | options), size=32).network


def vit(size: int = 32, seed: int = 0, **options: Any) -> nn.Module:
    torch.manual_seed(seed)
    return build_backbone(ModelSettings(name="vit_tiny", options=VIT | options), size=size).network


def assert_same(network: nn.Module, expected: dict[str, Tensor]) -> None:
    for name, tensor in network.state_dict().items():
        if "num_batches" not in name:
            assert torch.equal(tensor, expected[name]), name


def prefixed(state: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {prefix + name: tensor for name, tensor in state.items()}


LAYOUTS: dict[str, Callable[[dict[str, Tensor], dict[str, Tensor]], dict[str, Any]]] = {
    "timm and torchvision": lambda good, _: {**good, "fc.weight": torch.zeros(10, 16), "fc.bias": torch.zeros(10)},
    "data parallel": lambda good, _: {"state_dict": prefixed(good, "module."), "epoch": 3},
    "compiled": lambda good, _: {"model": prefixed(good, "_orig_mod.")},
    "MoCo": lambda good, other: {
        "epoch": 200,
        "arch": "resnet50",
        "state_dict": {
            **prefixed(other, "module.encoder_k."),
            **prefixed(good, "module.encoder_q."),
            "module.queue": torch.zeros(4, 4),
        },
        "optimizer": {"state": {0: {"momentum_buffer": torch.zeros(3)}}, "param_groups": [{"lr": 0.03}]},
    },
    "MoCo v3": lambda good, other: {
        "state_dict": {**prefixed(other, "module.momentum_encoder."), **prefixed(good, "module.base_encoder.")}
    },
    "DINO": lambda good, other: {
        "student": prefixed(other, "module.backbone."),
        "teacher": {**prefixed(good, "backbone."), "head.mlp.0.weight": torch.zeros(2, 2)},
        "args": argparse.Namespace(arch="resnet50", lr=0.1),
    },
    "solo-learn": lambda good, other: {
        "state_dict": {**prefixed(other, "momentum_backbone."), **prefixed(good, "backbone.")}
    },
    "timm's average": lambda good, other: {
        "state_dict": other,
        "state_dict_ema": {name: tensor for name, tensor in good.items() if "num_batches" not in name},
        "arch": "resnet18",
    },
    "ours": lambda good, _: prefixed(good, "network."),
}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_layout_and_its_prefix_are_found(layout: str, tmp_path: Path) -> None:
    good, other = resnet(1).state_dict(), resnet(2).state_dict()
    torch.save(LAYOUTS[layout](good, other), tmp_path / "weights.pth")
    network = resnet(3)
    line = load_into(network, read_weights(tmp_path / "weights.pth"), label="resnet18")
    assert_same(network, good)
    assert "65 of 65 tensors of resnet18" in line


def test_safetensors_go_in_and_what_is_left_over_is_said(tmp_path: Path) -> None:
    good = resnet(1).state_dict()
    save_file({**good, "fc.weight": torch.zeros(10, 16)}, tmp_path / "weights.safetensors")
    network = resnet()
    line = load_into(network, read_weights(tmp_path / "weights.safetensors"), label="resnet18")
    assert_same(network, good)
    assert line == f"65 of 65 tensors of resnet18 come from {tmp_path}/weights.safetensors; left over: fc.weight"


def test_torchvisions_networks_give_the_same_features(tmp_path: Path) -> None:
    torch.manual_seed(1)
    images = torch.rand(2, 3, 64, 64)
    theirs: Any = torchvision.models.resnet18().eval()
    torch.save(theirs.state_dict(), tmp_path / "resnet.pth")
    network = build_backbone(ModelSettings(stem="standard"), size=64).network.eval()
    line = load_into(network, read_weights(tmp_path / "resnet.pth"), label="resnet18")
    assert line.endswith("left over: fc.weight, fc.bias")
    theirs.fc = nn.Identity()
    torch.testing.assert_close(network(images), theirs(images))

    theirs = torchvision.models.VisionTransformer(64, 8, 2, 2, 16, 64).eval()
    nn.init.normal_(theirs.encoder.pos_embedding)
    torch.save({"model": theirs.state_dict()}, tmp_path / "vit.pth")
    network = vit(size=64).eval()
    line = load_into(network, read_weights(tmp_path / "vit.pth"), label="vit_tiny")
    assert "missing" not in line
    theirs.heads = nn.Identity()
    torch.testing.assert_close(network(images), theirs(images), rtol=1e-4, atol=1e-5)


def test_codes_of_positions_are_resampled(tmp_path: Path) -> None:
    stored = vit(size=64, seed=1).state_dict()
    torch.save(prefixed(stored, "module."), tmp_path / "vit.pth")
    network: Any = vit(size=32)
    line = load_into(network, read_weights(tmp_path / "vit.pth"), label="vit_tiny")
    expected = resample_abs_pos_embed(stored["pos_embed"], [4, 4], num_prefix_tokens=1)
    torch.testing.assert_close(network.pos_embed.detach(), expected)
    assert "another shape" not in line


def test_codes_of_positions_are_resampled_in_files_of_masked_autoencoders(tmp_path: Path) -> None:
    stored = vit(size=64, seed=1).state_dict()
    more = {"mask_token": torch.zeros(1, 1, 16), "decoder_pos_embed": torch.zeros(1, 65, 8)}
    torch.save({"model": {**stored, **more}}, tmp_path / "mae.pth")
    network: Any = vit(size=32)
    load_into(network, read_weights(tmp_path / "mae.pth"), label="vit_tiny")
    expected = resample_abs_pos_embed(stored["pos_embed"], [4, 4], num_prefix_tokens=1)
    torch.testing.assert_close(network.pos_embed.detach(), expected)
    torch.testing.assert_close(network.blocks[1].mlp.fc2.weight, stored["blocks.1.mlp.fc2.weight"])


def test_fewer_than_nine_tenths_of_the_tensors_are_refused_and_the_first_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fitting, "_USUAL", {})
    good, network = resnet(1).state_dict(), resnet(2)
    some = [name for name in good if not name.endswith("num_batches_tracked")]
    torch.save({name: tensor for name, tensor in good.items() if name not in some[-6:]}, tmp_path / "enough.pth")
    line = load_into(network, read_weights(tmp_path / "enough.pth"), label="resnet18")
    assert f"59 of 65 tensors of resnet18 come from {tmp_path}/enough.pth; missing: {some[-6]}, " in line
    assert line.endswith("and 3 more")
    torch.save({name: tensor for name, tensor in good.items() if name not in some[-7:]}, tmp_path / "few.pth")
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    with pytest.raises(
        GlocalError, match=rf"few.pth: only 58 of the 65 tensors of resnet18 fit: {some[-7]} is missing"
    ):
        load_into(network, read_weights(tmp_path / "few.pth"), label="resnet18")
    assert_same(network, before)


def test_other_shapes_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fitting, "_USUAL", {})
    torch.save(resnet(channels=[4, 8, 16, 16]).state_dict(), tmp_path / "narrow.pth")
    with pytest.raises(GlocalError, match=r"narrow.pth: only 48 of the 65 .*layer1.0.* has shape \(4, .*\), not \(8, "):
        load_into(resnet(), read_weights(tmp_path / "narrow.pth"), label="resnet18")
    grey = resnet(1).state_dict()
    grey["conv1.weight"] = grey["conv1.weight"].sum(dim=1, keepdim=True)
    torch.save(grey, tmp_path / "grey.pth")
    with pytest.raises(
        GlocalError, match=r"conv1.weight, the first convolution of resnet18, has shape \(64, 1, 7, 7\)"
    ):
        load_into(resnet(), read_weights(tmp_path / "grey.pth"), label="resnet18")


class Malicious:
    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.path),)


def test_files_that_execute_code_are_refused_and_nothing_is_executed(tmp_path: Path) -> None:
    trap = tmp_path / "executed"
    torch.save({**resnet().state_dict(), "hook": Malicious(trap)}, tmp_path / "new.pth")
    torch.save({"a": Malicious(trap)}, tmp_path / "old.pth", _use_new_zipfile_serialization=False)
    (tmp_path / "plain.bin").write_bytes(pickle.dumps(Malicious(trap)))
    for name in ("new.pth", "old.pth", "plain.bin"):
        with pytest.raises(GlocalError, match=rf"{name} is not read: .*could execute anything"):
            read_weights(tmp_path / name)
    assert not trap.exists()


def test_damaged_and_other_files_are_named(tmp_path: Path) -> None:
    state = resnet().state_dict()
    torch.save(state, tmp_path / "a.pth")
    save_file(state, tmp_path / "a.safetensors")
    for name in ("a.pth", "a.safetensors"):
        whole = (tmp_path / name).read_bytes()
        (tmp_path / f"cut-{name}").write_bytes(whole[: len(whole) // 2])
        (tmp_path / f"empty-{name}").write_bytes(b"")
        for broken in (f"cut-{name}", f"empty-{name}"):
            with pytest.raises(GlocalError, match=rf"{broken} is (no readable|no file of weights|not read)"):
                read_weights(tmp_path / broken)
    (tmp_path / "notes.txt").write_text("hello world")
    torch.save([1, 2], tmp_path / "list.pth")
    torch.save({"epoch": 3}, tmp_path / "none.pth")
    (tmp_path / "folder").mkdir()
    for name, message in {
        "notes.txt": "is no file of weights that torch has saved, or is damaged",
        "list.pth": "holds a list, not a network's weights",
        "none.pth": "holds no tensors",
        "folder": "holds no weights: neither a run's checkpoints nor model.safetensors",
        "nothing.pth": "there are no weights .*nothing.pth",
    }.items():
        with pytest.raises(GlocalError, match=message):
            read_weights(tmp_path / name)
    state["bn1.bias"][0] = float("nan")
    torch.save(state, tmp_path / "nan.pth")
    with pytest.raises(GlocalError, match="nan.pth: bn1.bias holds infinite values or no numbers"):
        load_into(resnet(), read_weights(tmp_path / "nan.pth"), label="resnet18")


def test_what_lies_beside_a_file_names_its_network(tmp_path: Path) -> None:
    save_file(resnet().state_dict(), tmp_path / "model.safetensors")
    beside = {"architecture": "resnet18", "model_args": TINY, "pretrained_cfg": {"mean": [0.1, 0.2, 0.3]}}
    (tmp_path / "config.json").write_text(json.dumps(beside))
    found = read_weights(tmp_path)
    assert (found.architecture, found.options, found.config) == ("resnet18", TINY, {"mean": [0.1, 0.2, 0.3]})
    save_file(resnet().state_dict(), tmp_path / "b.safetensors", {"model": "timm resnet18"})
    assert read_weights(tmp_path / "b.safetensors").architecture == "resnet18"
    header = {"architecture": "resnet18", "model_args": json.dumps(TINY), "mean": "[0.1, 0.2, 0.3]"}
    save_file(resnet().state_dict(), tmp_path / "b.safetensors", header)
    found = read_weights(tmp_path / "b.safetensors")
    assert (found.options, found.config) == (TINY, {"mean": [0.1, 0.2, 0.3]})
    torch.save({"arch": "resnet18", "state_dict": resnet().state_dict()}, tmp_path / "c.pth")
    assert read_weights(tmp_path / "c.pth").architecture == "resnet18"
    more = {"num_classes": 7, "in_chans": 3, "checkpoint_path": ""}
    (tmp_path / "config.json").write_text(json.dumps({**beside, "model_args": {**TINY, **more}}))
    assert read_weights(tmp_path).options == TINY
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(GlocalError, match=r"config.json: cannot be read"):
        read_weights(tmp_path)


def test_likely_networks_are_those_into_which_the_weights_go(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fitting, "_USUAL", {"layer1.": ("resnet18", "resnet10t")})
    state = timm.create_model("resnet14t", num_classes=5).state_dict()
    torch.save(state, tmp_path / "resnet14t-1234.pth")
    assert likely_networks(read_weights(tmp_path / "resnet14t-1234.pth"))[0] == "resnet14t"
    network = timm.create_model("resnet14t", num_classes=0)
    assert best_fit(network, state).left_over == ("fc.weight", "fc.bias")


def test_networks_with_the_files_patches_come_before_those_that_resample_them(tmp_path: Path) -> None:
    state = timm.create_model("vit_tiny_patch16_224", num_classes=0, embed_dim=384, num_heads=6, patch_size=8)
    torch.save(state.state_dict(), tmp_path / "small8.pth")
    weights = read_weights(tmp_path / "small8.pth")
    assert likely_networks(weights) == ["vit_small_patch8_224"]
    with torch.device("meta"):
        other = timm.create_model("vit_small_patch16_224", num_classes=0)
    line = best_fit(other, weights.tensors).line(weights, "vit_small_patch16_224")
    assert "150 of 150" in line
    assert line.endswith("; resampled: pos_embed, patch_embed.proj.weight")


def of_the_authors(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """A ConvNeXt's weights by the names of its authors' code."""
    rules = (
        *((r"head\.norm", "norm"), (r"head\.fc", "head"), (r"stages\.(\d)\.blocks\.", r"stages.\1.")),
        *((r"stages\.(\d)\.downsample", r"downsample_layers.\1"), (r"stem\.", "downsample_layers.0.")),
        *((r"conv_dw", "dwconv"), (r"mlp\.fc", "pwconv")),
    )
    found = {}
    for name, tensor in state.items():
        for pattern, name_there in rules:
            name = re.sub(pattern, name_there, name)
        found[name] = tensor.flatten(1) if "pwconv" in name and tensor.ndim == 4 else tensor
    return found


@pytest.mark.parametrize(("wrap", "prefix"), [(None, ""), ("model", "model.")])
def test_the_authors_convnext_goes_in(wrap: str | None, prefix: str, tmp_path: Path) -> None:
    torch.manual_seed(1)
    stored = timm.create_model("convnext_atto", num_classes=10).state_dict()
    state = of_the_authors(stored)
    torch.save({wrap: state} if wrap else state, tmp_path / "own.pth")
    network = timm.create_model("convnext_atto", num_classes=0)
    line = load_into(network, read_weights(tmp_path / "own.pth"), label="convnext_atto")
    assert_same(network, stored)
    assert "126 of 126" in line
    assert line.endswith("left over: head.fc.weight, head.fc.bias")
    assert (f"begin with {prefix}" in line) == bool(prefix)


def test_a_backbone_of_timm_takes_a_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    torch.manual_seed(1)
    network = timm.create_model("resnet10t", num_classes=10).eval()
    torch.save(network.state_dict(), tmp_path / "own.pth")
    backbone = glocal.load_backbone("timm:resnet10t", weights=tmp_path / "own.pth")
    images = torch.rand(2, 3, 32, 32)
    expected = network.forward_head(network.forward_features(backbone.prepare(images)), pre_logits=True)
    torch.testing.assert_close(backbone.features(images), expected)
    assert backbone.label == "timm:resnet10t with own.pth"
    assert "left over: fc.weight, fc.bias" in capsys.readouterr().err.replace("\n", " ")
    with pytest.raises(GlocalError, match="weights of another file go with timm:NAME"):
        glocal.load_backbone(tmp_path, weights=tmp_path / "own.pth")
    with pytest.raises(GlocalError, match="weights go with timm:NAME, not with a backbone"):
        glocal.evaluate(backbone, weights=tmp_path / "own.pth")


def test_a_file_in_place_of_a_backbone_is_told_how_to_name_its_network(tmp_path: Path) -> None:
    for header, name in (({}, "NAME"), ({"architecture": "resnet18"}, "resnet18")):
        save_file(resnet().state_dict(), tmp_path / "a.safetensors", header)
        with pytest.raises(GlocalError, match=f"name its network: `timm:{name} --weights .*a.safetensors`"):
            glocal.load_backbone(tmp_path / "a.safetensors")


def test_the_command_measures_a_file(tmp_path: Path, image_folder: Callable[..., Path]) -> None:
    torch.save(timm.create_model("resnet10t", num_classes=10).state_dict(), tmp_path / "own.pth")
    data = str(image_folder(16))
    command = ["evaluate", "timm:resnet10t", "--weights", str(tmp_path / "own.pth"), "--train", data, "--test", data]
    result = CliRunner().invoke(app, [*command, "--protocol", "knn", "--k", "1", "--quiet", "--workers", "0"])
    assert result.exit_code == 0, result.output
    assert "timm:resnet10t with own.pth" in result.output
