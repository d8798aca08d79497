"""Plain attention in place of the fused kernel: the same numbers, for short sequences only."""

from unittest.mock import patch

import pytest
import torch
from timm.layers import attention as of_timm
from torch import Tensor, nn

from glocal.config import TrainSettings
from glocal.errors import GlocalError
from glocal.models.architecture import ModelSettings
from glocal.models.attention import cls_attention, use_plain_attention
from glocal.models.backbone import Backbone
from glocal.models.building import build_backbone
from glocal.training.machine import suit_to_machine


def small_backbone(size: int = 32) -> Backbone:
    torch.manual_seed(0)
    options = {"embed_dim": 24, "depth": 2, "num_heads": 2, "patch_size": 8}
    return build_backbone(ModelSettings(name="vit_tiny", options=options), size=size)


def passed(backbone: Backbone, images: Tensor) -> tuple[list[Tensor], int]:
    """Features and gradients, and how often the fused kernel was called."""
    fused = torch.nn.functional.scaled_dot_product_attention
    backbone.zero_grad()
    with patch.object(of_timm.F, "scaled_dot_product_attention", side_effect=fused) as calls:
        features = backbone(images)
    features.float().square().sum().backward()
    return [features, *(p.grad for p in backbone.parameters() if p.grad is not None)], calls.call_count


def test_values_and_gradients_are_those_of_the_fused_kernel() -> None:
    backbone, images = small_backbone().double(), torch.randn(3, 3, 32, 32, dtype=torch.float64)
    fused, calls = passed(backbone, images)
    assert calls == 2
    use_plain_attention(backbone)
    plain, calls = passed(backbone, images)
    assert calls == 0
    assert len(plain) == len(fused) > 10
    for one, other in zip(plain, fused, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-9, atol=1e-11)


def test_many_tokens_keep_the_fused_kernel() -> None:
    backbone = small_backbone(168)  # 442 tokens
    use_plain_attention(backbone)
    assert passed(backbone, torch.randn(1, 3, 168, 168))[1] == 2
    assert passed(backbone, torch.randn(1, 3, 32, 32))[1] == 0  # local views of the same training


@pytest.mark.parametrize(("precision", "calls"), [("bf16", 0), ("fp32", 2)])
def test_a_training_takes_it_in_bf16(precision: str, calls: int) -> None:
    backbone = small_backbone()
    its = suit_to_machine(nn.ModuleList([backbone]), TrainSettings(precision=precision), torch.device("cpu"))  # type: ignore[arg-type,type-var]
    assert passed(its[0], torch.randn(2, 3, 32, 32))[1] == calls  # type: ignore[index]


def test_attention_of_the_cls_token_is_what_the_last_block_computes() -> None:
    torch.manual_seed(0)
    options = {"embed_dim": 24, "depth": 2, "num_heads": 3, "patch_size": 8, "qk_norm": True}
    backbone = build_backbone(ModelSettings(name="vit_tiny", options=options), size=32)
    images = torch.rand(2, 3, 32, 32)
    found = cls_attention(backbone, images)
    attention = backbone.network.blocks[-1].attn  # type: ignore[union-attr, index]
    attention.fused_attn, seen = False, []  # then the weights pass the dropout, as they are
    attention.attn_drop.register_forward_hook(lambda _, inputs, __: seen.append(inputs[0]))
    backbone.tokens(images)
    assert found.shape == (2, 3, 4, 4)
    assert torch.allclose(found.flatten(2), seen[0][:, :, 0, 1:], atol=1e-6)
    with pytest.raises(GlocalError, match="has no CLS token"):
        cls_attention(build_backbone(ModelSettings(name="resnet18"), size=32), images)
