"""Attention of vision transformers: made faster on a CPU in bf16, and looked at."""

from __future__ import annotations

import math
from typing import Any

import torch
from timm.layers.attention import Attention
from torch import Tensor, nn

from glocal.errors import GlocalError
from glocal.models.backbone import Backbone
from glocal.models.given import AnyImages

_MOST_TOKENS = 400  # plain attention keeps a number for each pair of tokens: with many of them that is too much memory


def use_plain_attention(module: nn.Module) -> None:
    """Lets timm's attention layers multiply, take the softmax and multiply, where there are at most 400 tokens.

    On a CPU in bf16 PyTorch's fused backward pass is several times as slow as the plain products.
    The same function with its products rounded to bf16, as everywhere in bf16. `benchmarks/attention.py` measures both.
    """
    for its in module.modules():
        if getattr(its, "fused_attn", False) and isinstance(getattr(its, "qkv", None), nn.Linear):
            its.register_forward_pre_hook(_choose)


def _choose(attention: Any, inputs: tuple[Any, ...]) -> None:
    attention.fused_attn = inputs[0].shape[-2] > _MOST_TOKENS


@torch.no_grad()
def cls_attention(backbone: Backbone, images: AnyImages) -> Tensor:
    """How much the CLS token attends to each patch in a vision transformer's last block, (B, heads, h, w) float32.

    What Caron et al., "Emerging Properties in Self-Supervised Vision Transformers", ICCV 2021, draw in Figure 1: of
    each head, the softmax over all tokens, of which the patches' part is kept.

    Args:
        backbone: a vision transformer with a CLS token.
        images: squares, as for `Backbone.features`.

    Raises:
        GlocalError: the network has no CLS token, or its attention is not of the usual kind.
    """
    network = backbone.network
    if not backbone.has_cls_token or not isinstance(network.blocks[-1].attn, Attention):  # type: ignore[union-attr, index]
        raise GlocalError(f"{backbone.label} has no CLS token that attends to patches; choose a vision transformer")
    attention: Any = network.blocks[-1].attn  # type: ignore[union-attr, index]
    found: list[Tensor] = []
    hook = attention.register_forward_pre_hook(lambda _, inputs: found.append(inputs[0]))
    try:
        patches = backbone.tokens(images).shape[1] - 1
    finally:
        hook.remove()
    [tokens] = found  # (B, T, D)
    query, key, _ = attention.qkv(tokens).unflatten(2, (3, attention.num_heads, -1)).permute(2, 0, 3, 1, 4)
    query, key = attention.q_norm(query), attention.k_norm(key)
    weights = (attention.scale * query[:, :, :1] @ key.mT).softmax(dim=-1)  # (B, H, 1, T)
    return weights[:, :, 0, network.num_prefix_tokens :].unflatten(2, (math.isqrt(patches), -1)).float()  # type: ignore[index]
