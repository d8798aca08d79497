"""Images as shuffled patches: where they are cut, and the head that puts them together."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from glocal.errors import GlocalError
from glocal.models.heads import mlp
from glocal.transfer import to_device
from glocal.views.random import uniform

SIDE = 3  # patches a side
_SHARE = 64 / 85  # of a cell's side that a patch shows


class ShuffledHead(nn.Module):
    """A vector for each of an image's patches, and one for all of them together, in whatever order they come.

    The head of Misra and van der Maaten, "Self-Supervised Learning of Pretext-Invariant Representations", CVPR 2020,
    section 3, as InfoMin's authors have it.

    Args:
        dim: width of the patches' features.
        hidden: widths of the hidden layers for each patch.
        output: width of a patch's and of the image's vector.
    """

    def __init__(self, dim: int, hidden: list[int], output: int) -> None:
        super().__init__()
        self.of_patch = mlp([dim, *hidden, output], norm=False)
        self.of_image = nn.Linear(SIDE**2 * output, output)

    def forward(self, features: Tensor, order: Tensor) -> Tensor:
        """(B·9, D) features and the order (B, 9) in which each image's patches come → (B, output)."""
        vectors = self.of_patch(features).unflatten(0, order.shape)  # (B, 9, output)
        shuffled = vectors.gather(1, order[..., None].expand_as(vectors))
        return self.of_image(shuffled.flatten(1))  # type: ignore[no-any-return]


def shuffled_patches(images: Tensor, seed: int, step: int, index: Tensor) -> tuple[Tensor, Tensor]:
    """A patch at a random place in each of 3 × 3 cells, and a random order of them.

    64 of 85 pixels of a cell where images have 255, as in the authors' code, and in proportion.

    Args:
        images: (B, C, S, S).
        seed, step: of the run.
        index: (B,) int64 of the images in their source, on the CPU.

    Returns:
        Patches (B·9, C, p, p), row by row, and orders (B, 9), on the images' device.

    Raises:
        GlocalError: S is no multiple of 3.
    """
    size = images.shape[-1]
    if size % SIDE:
        raise GlocalError(f"views of {size} pixels cannot be cut into 3 × 3 cells; change views.2.size")
    cell, device = size // SIDE, images.device
    patch = max(1, round(cell * _SHARE))
    draws = uniform(seed, "patches", step, index[:, None, None], torch.arange(SIDE**2)[:, None], torch.arange(3))
    begin = (draws[..., :2] * (cell - patch + 1)).long().flatten(0, 1)  # (B·9, 2)
    rows, columns = (to_device(begin[:, [side]] + torch.arange(patch), device) for side in (0, 1))  # (B·9, p)
    cells = images.unfold(2, cell, cell).unfold(3, cell, cell).permute(0, 2, 3, 1, 4, 5).flatten(0, 2)
    cut = cells.gather(2, rows[:, None, :, None].expand(-1, cells.shape[1], -1, cell))
    cut = cut.gather(3, columns[:, None, None, :].expand(-1, cells.shape[1], patch, -1))
    return cut, to_device(draws[..., 2].argsort(dim=1), device)
