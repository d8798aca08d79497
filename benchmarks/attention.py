"""Attention on a CPU: PyTorch's fused kernel, which timm calls, over plain products; both passes, one thread.

    python benchmarks/attention.py

Ratios above 1: the fused kernel takes longer. The shapes are those of small views, of local crops and of ViTs at 224.
"""

from __future__ import annotations

import time
from collections.abc import Callable

import torch
from common import command_line, machine, write_json
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention

SHAPES = ((17, 256, 3, 32), (65, 64, 3, 32), (197, 8, 3, 64), (197, 8, 6, 64), (785, 2, 6, 64))
ROUNDS = 7


def plain(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    attention = (query * query.shape[-1] ** -0.5) @ key.transpose(-2, -1)
    return attention.softmax(dim=-1) @ value


def seconds(attend: Callable[..., Tensor], tensors: list[Tensor]) -> float:
    """Of a forward and a backward pass, the fastest of several."""
    found = []
    for _ in range(ROUNDS + 1):  # the first one warms up
        start = time.perf_counter()
        torch.autograd.grad(attend(*tensors).sum(), tensors)
        found.append(time.perf_counter() - start)
    return min(found[1:])


def main() -> None:
    given = command_line(__doc__).parse_args()
    torch.set_num_threads(1)
    ratios: dict[str, float] = {}
    for dtype in (torch.bfloat16, torch.float32):
        for tokens, images, heads, width in SHAPES:
            shape = (images, heads, tokens, width)
            tensors = [torch.randn(shape).to(dtype).requires_grad_() for _ in range(3)]
            name = f"{str(dtype).removeprefix('torch.')}, {tokens} tokens, {images} images, {heads} heads of {width}"
            ratios[name] = seconds(scaled_dot_product_attention, tensors) / seconds(plain, tensors)
            print(f"{name}: fused {ratios[name]:.2f} times as long as plain")
    write_json(given.json, machine(), ratios=ratios)


if __name__ == "__main__":
    main()
