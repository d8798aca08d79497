"""Forgetting activations changes neither values nor gradients, and they are really gone."""

import weakref
from contextlib import nullcontext
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from glocal.config import TrainSettings
from glocal.models.architecture import ModelSettings
from glocal.models.backbone import Backbone
from glocal.models.building import build_backbone
from glocal.models.linear import use_onednn
from glocal.models.recompute import recomputing
from glocal.training.machine import suit_to_machine

SMALL = {"embed_dim": 24, "depth": 3, "num_heads": 2, "patch_size": 8}


def small_backbone(**options: Any) -> Backbone:
    torch.manual_seed(0)
    return build_backbone(ModelSettings(name="vit_tiny", options=SMALL | options), size=32)


def values_and_gradients(backbone: Backbone, recompute: bool, precision: str) -> list[Tensor]:
    backbone.recompute = recompute
    backbone.zero_grad()
    images = torch.randn(6, 3, 32, 32, generator=torch.Generator().manual_seed(1), requires_grad=True)
    torch.manual_seed(2)  # dropout
    with torch.autocast("cpu", torch.bfloat16, enabled=precision == "bf16"):
        features = backbone(images)
    features.float().square().sum().backward()
    assert images.grad is not None
    return [features, images.grad, *(p.grad for p in backbone.parameters() if p.grad is not None)]


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"init_values": 0.1, "qk_norm": True},
        {"proj_drop_rate": 0.2},
        {"drop_path_rate": 0.2},
        {"scale_mlp_norm": True},
    ],
)
def test_gradients_are_those_of_kept_activations(options: dict[str, Any], precision: str) -> None:
    backbone = small_backbone(**options)
    kept = values_and_gradients(backbone, False, precision)
    made_again = values_and_gradients(backbone, True, precision)
    assert len(kept) == len(made_again) > 30
    assert all(torch.equal(one, other) for one, other in zip(kept, made_again, strict=True))


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_gradients_of_blocks_that_are_made_again_are_those_of_kept_ones(precision: str) -> None:
    method: Any = small_backbone(drop_path_rate=0.2)
    kept = values_and_gradients(method, False, precision)
    suit_to_machine(method, TrainSettings(recompute="blocks", channels_last=False), torch.device("cpu"))
    assert method.network.grad_checkpointing
    made_again = values_and_gradients(method, method.recompute, precision)
    assert all(torch.allclose(one, other) for one, other in zip(kept, made_again, strict=True))


def test_gradients_with_onednn_layers() -> None:
    backbone = small_backbone()
    use_onednn(backbone)
    kept, made_again = (values_and_gradients(backbone, recompute, "fp32") for recompute in (False, True))
    assert all(torch.equal(one, other) for one, other in zip(kept, made_again, strict=True))


@pytest.mark.parametrize("onednn", [False, True])
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_activations_are_gone_after_the_forward_pass(precision: str, onednn: bool) -> None:
    backbone = small_backbone()
    if onednn:
        use_onednn(backbone)
    alive: list[weakref.ref[Tensor]] = []

    def watch(module: nn.Module, given: Any, output: Tensor) -> None:
        alive.append(weakref.ref(output.untyped_storage()))

    kept = 9 if precision == "fp32" else 3  # a rounded copy of the normalised values is kept in their place
    for recompute, expected in ((False, kept), (True, 0)):
        alive.clear()
        outputs: list[Tensor] = []
        with recomputing(backbone.network) if recompute else nullcontext():
            handles = [
                module.register_forward_hook(watch)  # sees what the linear layer behind it is given
                for block in backbone.network.blocks  # type: ignore[union-attr]
                for module in (block.norm1, block.norm2, block.mlp.act)
            ]
            with torch.autocast("cpu", torch.bfloat16, enabled=precision == "bf16"):
                outputs.append(backbone(torch.randn(6, 3, 32, 32)))
            for handle in handles:
                handle.remove()
        assert sum(reference() is not None for reference in alive) == expected


def test_a_partly_frozen_network_has_the_gradients_of_kept_activations() -> None:
    backbone = small_backbone()
    backbone.network.blocks[0].requires_grad_(False)  # type: ignore[union-attr]
    backbone.network.blocks[1].norm2.requires_grad_(False)  # type: ignore[union-attr]
    kept, made_again = (values_and_gradients(backbone, recompute, "fp32") for recompute in (False, True))
    assert len(kept) == len(made_again)
    assert all(torch.equal(one, other) for one, other in zip(kept, made_again, strict=True))


def test_no_hook_is_left_behind_by_an_error() -> None:
    backbone = small_backbone()
    backbone.recompute = True
    handle = backbone.network.norm.register_forward_hook(lambda *_: 1 / 0)  # type: ignore[union-attr]
    with pytest.raises(ZeroDivisionError):
        backbone(torch.randn(2, 3, 32, 32))
    handle.remove()
    assert not any(module._forward_hooks for module in backbone.modules())


def test_activations_go_as_the_backward_pass_goes() -> None:
    backbone = small_backbone()
    backbone.recompute = True
    inputs: list[weakref.ref[Tensor]] = []  # of GELU, which are kept
    alive: list[int] = []
    blocks = list(backbone.network.blocks)  # type: ignore[arg-type]
    for block in blocks:
        block.mlp.fc1.register_forward_hook(
            lambda module, given, output: inputs.append(weakref.ref(output.untyped_storage()))
        )
    features = backbone(torch.randn(6, 3, 32, 32))
    blocks[0].norm1.weight.register_hook(lambda _: alive.append(sum(each() is not None for each in inputs)))
    features.sum().backward()
    assert alive == [0]


def test_a_graph_that_is_dropped_is_freed() -> None:
    backbone = small_backbone()
    backbone.recompute = True
    seen: list[weakref.ref[Tensor]] = []
    handle = backbone.network.blocks[0].mlp.fc1.register_forward_hook(  # type: ignore[union-attr]
        lambda module, given, output: seen.append(weakref.ref(output.untyped_storage()))
    )
    features = backbone(torch.randn(6, 3, 32, 32))
    handle.remove()
    assert seen[0]() is not None
    del features
    assert seen[0]() is None  # without the garbage collector, which does not know of memory


@pytest.mark.parametrize("name", ["network.blocks.0.norm1.weight", "network.blocks.1.mlp.fc2.weight"])
def test_weights_that_change_before_the_backward_pass_are_noticed(name: str) -> None:
    backbone = small_backbone()
    backbone.recompute = True
    loss = backbone(torch.randn(6, 3, 32, 32)).sum()
    with torch.no_grad():
        backbone.get_parameter(name).mul_(2)
    with pytest.raises(RuntimeError, match="changed in place"):
        loss.backward()
