"""Orders of patches that are told apart easily."""

from __future__ import annotations

from functools import cache
from itertools import permutations
from typing import Any

import numpy as np
import torch
from torch import Tensor

_NEVER = 10**8  # times in which an order that was chosen agrees with others: far more than any that was not


@cache
def _distant(count: int, length: int) -> np.ndarray[Any, np.dtype[np.int64]]:
    orders = np.array(list(permutations(range(length))))
    # Only orders that agree with the one chosen last in some place get nearer: they are looked up by place and entry.
    agreeing = [[np.flatnonzero(orders[:, place] == entry) for entry in range(length)] for place in range(length)]
    total = np.zeros(len(orders), dtype=np.int32)  # places in which an order agrees with those chosen
    most = np.zeros(len(orders), dtype=np.int32)  # the same with the one chosen that it is most like
    chosen = [0]
    while len(chosen) < count:
        alike = np.zeros(len(orders), dtype=np.int32)
        for place, entry in enumerate(orders[chosen[-1]]):
            alike[agreeing[place][entry]] += 1
        total += alike
        np.maximum(most, alike, out=most)
        total[chosen[-1]] = _NEVER
        chosen.append(int(np.argmin(total * (length + 1) + most)))
    return orders[chosen]


def distant_permutations(count: int, length: int = 9) -> Tensor:
    """Permutations that lie far from one another, chosen one after another: the same at every call.

    The next one has the largest mean Hamming distance from those chosen (Noroozi and Favaro, "Unsupervised Learning of
    Visual Representations by Solving Jigsaw Puzzles", ECCV 2016, algorithm 1). Many have; of these the one whose
    nearest is farthest is taken, and of those the first in alphabetical order. The paper takes any and draws the first;
    here that is 0 … length − 1.

    Args:
        count: how many, up to length!.
        length: of each, at most 9.

    Returns:
        (count, length) int64 on the CPU.

    >>> distant_permutations(3, 3).tolist()
    [[0, 1, 2], [1, 2, 0], [2, 0, 1]]
    """
    return torch.tensor(_distant(count, length).tolist(), dtype=torch.int64, device="cpu")
