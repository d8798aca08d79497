"""Queues of keys: negatives, and neighbours."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.functional import normalize

from glocal.distributed import all_gather
from glocal.losses.precision import inner_products


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
        self._put((self.keys, keys))

    def _put(self, *held_and_new: tuple[Tensor, Tensor]) -> None:
        """New rows of all processes in place of the oldest ones, in each of the buffers that belong together."""
        size = len(self.keys)
        gathered = [(held, all_gather(new)) for held, new in held_and_new]
        count = len(gathered[0][1])
        kept = min(count, size)
        places = (self.position + count - kept + torch.arange(kept, device=self.keys.device)) % size
        for held, new in gathered:
            held.index_copy_(0, places, new[count - kept :].to(held))
        self.position.copy_((self.position + count) % size)


class IndexedQueue(NegativeQueue):
    """A queue that knows of which image each key is, so that an image can leave out its own.

    The images' indices are a buffer, so they are in the checkpoint; the random keys at the start are of none (−1).
    """

    index: Tensor

    def __init__(self, size: int, dim: int) -> None:
        super().__init__(size, dim)
        self.register_buffer("index", torch.full((size,), -1))  # (K,)

    @torch.no_grad()
    def enqueue_of(self, keys: Tensor, index: Tensor) -> None:
        """Puts keys in place of the oldest ones, those of all processes in the order of their ranks.

        Args:
            keys: (B, D) unit vectors.
            index: (B,) int64, the indices of their images, on the queue's device.
        """
        self._put((self.keys, keys), (self.index, index))

    @torch.no_grad()
    def nearest(self, query: Tensor, index: Tensor) -> Tensor:
        """The nearest key of another image for each query.

        Where all keys are of the same image, any of them.

        Args:
            query: (B, D) unit vectors.
            index: (B,) int64, the indices of their images, on the queue's device.

        Returns:
            (B, D).
        """
        similarity = inner_products(query, self.keys)
        return self.keys[similarity.masked_fill_(index[:, None] == self.index, -torch.inf).argmax(dim=1)]
