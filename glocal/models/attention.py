"""Attention on a CPU in bf16, where PyTorch's fused backward pass is several times as slow as the plain products."""

from __future__ import annotations

from typing import Any

from torch import nn

_MOST_TOKENS = 400  # plain attention keeps a number for each pair of tokens: with many of them that is too much memory


def use_plain_attention(module: nn.Module) -> None:
    """Lets timm's attention layers multiply, take the softmax and multiply, where there are at most 400 tokens.

    The same function with its products rounded to bf16, as everywhere in bf16. `benchmarks/attention.py` measures both.
    """
    for its in module.modules():
        if getattr(its, "fused_attn", False) and isinstance(getattr(its, "qkv", None), nn.Linear):
            its.register_forward_pre_hook(_choose)


def _choose(attention: Any, inputs: tuple[Any, ...]) -> None:
    attention.fused_attn = inputs[0].shape[-2] > _MOST_TOKENS
