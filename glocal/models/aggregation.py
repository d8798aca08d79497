"""A summary of patches, and of each patch's surroundings, by class attention."""

from __future__ import annotations

import math
from functools import partial

import torch
from timm.models.cait import LayerScaleBlockClassAttn
from torch import Tensor, nn
from torch.nn.functional import normalize

from glocal.errors import GlocalError

_OFFSETS = [(row, column) for row in (-1, 0, 1) for column in (-1, 0, 1) if (row, column) != (0, 0)]


class PatchAggregation(nn.Module):
    """Two blocks of class attention, in which a learned token asks the patches, and a normalisation.

    Yun, Lee, Kim and Shin, "Patch-level Representation Learning for Self-supervised Vision Transformers", CVPR 2022
    (SelfPatch). The blocks are those of Touvron et al., "Going deeper with Image Transformers", ICCV 2021 (CaiT), with
    the scale of their branches fixed at 1 (authors' code).

    Args:
        dim: width of the patches.
        heads: of the attention.
    """

    def __init__(self, dim: int, heads: int) -> None:
        super().__init__()
        norm = partial(nn.LayerNorm, eps=1e-6)
        self.token = nn.Parameter(nn.init.trunc_normal_(torch.empty(1, 1, dim), std=0.02))
        self.blocks = nn.ModuleList(
            LayerScaleBlockClassAttn(dim, heads, qkv_bias=True, norm_layer=norm, init_values=1.0) for _ in range(2)
        )
        for name, parameter in self.blocks.named_parameters():
            if "gamma" in name:
                parameter.requires_grad_(False)
        for layer in self.blocks.modules():
            if isinstance(layer, nn.Linear):
                nn.init.trunc_normal_(layer.weight, std=0.02)
                nn.init.zeros_(layer.bias)
        self.norm = norm(dim)

    def forward(self, patches: Tensor) -> Tensor:
        """One vector for all patches of an image: (B, N, D) → (B, D)."""
        token = self.token.expand(len(patches), -1, -1)
        for block in self.blocks:
            token = block(patches, token)
        return self.norm(token[:, 0])  # type: ignore[no-any-return]

    def around(self, patches: Tensor, neighbors: int) -> Tensor:
        """One vector for the most similar neighbours of each patch: (B, N, D) → (B, N, D)."""
        batch, count, dim = patches.shape
        index = similar_neighbors(patches, neighbors)  # (B, N, k)
        chosen = patches.gather(1, index.flatten(1)[..., None].expand(-1, -1, dim))
        return self(chosen.view(batch * count, neighbors, dim)).view(batch, count, dim)  # type: ignore[no-any-return]


@torch.no_grad()
def similar_neighbors(patches: Tensor, count: int) -> Tensor:
    """Of the eight patches around each patch the ones of highest cosine, the most similar first.

    Yun et al., CVPR 2022 (SelfPatch). At the border of the image the neighbours are those at the opposite border, as
    in the authors' code: every patch has eight.

    Args:
        patches: (B, N, D) of a square grid, row by row.
        count: k, 1 to 8.

    Returns:
        (B, N, k) int64 in 0 … N − 1.

    Raises:
        GlocalError: the grid is no square, or has less than three patches a side.
    """
    side = math.isqrt(patches.shape[1])
    if side * side != patches.shape[1] or side < 3:
        raise GlocalError(
            f"{patches.shape[1]} patches are no square grid of 3 × 3 or more, in which each has eight neighbours; "
            "change views.N.size or model.options.patch_size"
        )
    place = torch.arange(side, device=patches.device)
    index = torch.stack(
        [((place + row) % side * side)[:, None] + (place + column) % side for row, column in _OFFSETS], dim=-1
    ).flatten(0, 1)  # (N, 8)
    unit = normalize(patches.float(), dim=-1)
    similarity = (unit[:, index] * unit[:, :, None]).sum(dim=-1)  # (B, N, 8)
    best = similarity.topk(count, dim=-1).indices
    return index.expand(len(patches), -1, -1).gather(2, best)
