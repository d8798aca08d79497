"""The memory bank: a vector of every image."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.functional import normalize

from glocal.distributed import all_gather
from glocal.errors import GlocalError
from glocal.transfer import to_device


class MemoryBank(nn.Module):
    """A unit vector of every image, moved towards what the network says each time the image is seen.

    Wu, Xiong, Yu and Lin, "Unsupervised Feature Learning via Non-Parametric Instance Discrimination", CVPR 2018,
    section 3.2. It starts with random unit vectors. The rows are a buffer, so they are in the checkpoint.

    Args:
        images: N, as many as the training has; None is an error that names the setting.
        dim: D, their width.

    Raises:
        GlocalError: `images` is None.
    """

    rows: Tensor

    def __init__(self, images: int | None, dim: int) -> None:
        super().__init__()
        if images is None:
            raise GlocalError("method.images is not set, but the memory bank needs the number of images")
        self.register_buffer("rows", normalize(torch.randn(images, dim), dim=1))  # (N, D)

    def __len__(self) -> int:
        return len(self.rows)

    def places(self, index: Tensor) -> Tensor:
        """Images' indices (B,) on the bank's device.

        Raises:
            GlocalError: an index beyond the bank.
        """
        if int(index.max()) >= len(self):
            raise GlocalError(f"method.images is {len(self)}, but there is an image with index {int(index.max())}")
        return to_device(index, self.rows.device)

    @torch.no_grad()
    def update(self, places: Tensor, rows: Tensor, *, momentum: float) -> None:
        """v ← m·v + (1 − m)·row at unit length, for the rows of all processes.

        Args:
            places: (B,) int64.
            rows: (B, D).
            momentum: m.
        """
        places, rows = all_gather(places), all_gather(rows)
        moved = torch.lerp(rows, self.rows[places], momentum)
        self.rows.index_copy_(0, places, normalize(moved, dim=1))
