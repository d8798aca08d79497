"""The queue of negatives."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.functional import normalize

from glocal.distributed import all_gather


class NegativeQueue(nn.Module):
    """The newest `size` keys, first in first out (He et al., "Momentum Contrast", CVPR 2020, section 3.2).

    It starts with random unit vectors. Any batch size goes: the queue wraps around, and of a batch larger than the
    queue the newest keys stay. Keys and position are buffers, so they are in the checkpoint.

    Args:
        size: K, the number of keys.
        dim: D, their width.
    """

    keys: Tensor
    position: Tensor

    def __init__(self, size: int, dim: int) -> None:
        super().__init__()
        self.register_buffer("keys", normalize(torch.randn(size, dim), dim=1))  # (K, D)
        self.register_buffer("position", torch.zeros((), dtype=torch.int64))

    @torch.no_grad()
    def enqueue(self, keys: Tensor) -> None:
        """Puts keys in place of the oldest ones, those of all processes in the order of their ranks.

        Args:
            keys: (B, D) unit vectors.
        """
        size = len(self.keys)
        keys = all_gather(keys)
        kept = keys[-size:]
        first = self.position + len(keys) - len(kept)
        places = (first + torch.arange(len(kept), device=keys.device)) % size
        self.keys.index_copy_(0, places, kept.to(self.keys))
        self.position.copy_((self.position + len(keys)) % size)
