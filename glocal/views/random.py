"""Counter-based randomness: every draw is a pure function of what it is for.

A draw is named by counters (seed, purpose, epoch, sample index, view, …). A stateless 64-bit integer hash turns the
counters into bits, so a draw never depends on what was drawn before, on the number of workers or processes, or on the
device. The mixing function is the finaliser of SplitMix64 (Steele, Lea and Flood, "Fast splittable pseudorandom number
generators", OOPSLA 2014), applied once per counter.
"""

from __future__ import annotations

import math
import zlib

import torch
from torch import Tensor

from glocal.transfer import widest

Counter = int | str | Tensor

_MASK = (1 << 64) - 1
_GOLDEN = 0x9E3779B97F4A7C15
_FIRST = 0xBF58476D1CE4E5B9
_SECOND = 0x94D049BB133111EB
_ROUNDS = (
    4  # of `permuted`, two moves each: twice the four that Luby and Rackoff (1988) prove enough for a perfect hash
)


def _signed(value: int) -> int:
    """The same 64 bits as a two's-complement int64, the only 64-bit integer that torch computes with everywhere."""
    return value - (1 << 64) if value >> 63 else value


def _shift_right(value: Tensor, bits: int) -> Tensor:
    """Logical shift; torch's own shift of int64 is arithmetic."""
    return (value >> bits) & ((1 << (64 - bits)) - 1)


def _mix_int(value: int) -> int:
    value = (value + _GOLDEN) & _MASK
    value = ((value ^ (value >> 30)) * _FIRST) & _MASK
    value = ((value ^ (value >> 27)) * _SECOND) & _MASK
    return value ^ (value >> 31)


def _mix_tensor(value: Tensor) -> Tensor:
    value = value + _signed(_GOLDEN)
    value = (value ^ _shift_right(value, 30)) * _signed(_FIRST)
    value = (value ^ _shift_right(value, 27)) * _signed(_SECOND)
    return value ^ _shift_right(value, 31)


def random_bits(seed: int, *counters: Counter) -> Tensor:
    """64 random bits for each combination of counters.

    Args:
        seed: the run's seed, any integer.
        counters: whole numbers, names of purposes, or int64 tensors, which broadcast against one another.

    Returns:
        int64 tensor of the broadcast shape, on the tensors' device (a scalar on the CPU if there is none).

    >>> bool(random_bits(0, "flip", torch.arange(3))[1] == random_bits(0, "flip", 1))
    True
    """
    state: int | Tensor = _mix_int(seed & _MASK)
    for counter in counters:
        if isinstance(counter, str):
            counter = zlib.crc32(counter.encode())
        if isinstance(state, int) and isinstance(counter, int):
            state = _mix_int(state ^ (counter & _MASK))
        else:
            left = _signed(state) if isinstance(state, int) else state
            right = _signed(counter & _MASK) if isinstance(counter, int) else counter.long()
            state = _mix_tensor(left ^ right)  # type: ignore[arg-type]  # at least one of the two is a tensor
    return torch.tensor(_signed(state)) if isinstance(state, int) else state


def uniform(seed: int, *counters: Counter) -> Tensor:
    """Uniform draws from [0, 1) in float64 (53 bits each), one for each combination of counters (`random_bits`).

    Of tensors on Metal, which has no float64, they are the first 24 of these bits in float32.
    """
    drawn = random_bits(seed, *counters)
    dtype = widest(drawn.device)
    bits = 53 if dtype == torch.float64 else 24
    return _shift_right(drawn, 64 - bits).to(dtype) * 2.0**-bits


def normal(seed: int, *counters: Counter) -> Tensor:
    """Standard normal draws in the dtype of `uniform`, one for each combination of counters (Box and Muller, 1958)."""
    first, second = (uniform(seed, *counters, number) for number in (0, 1))
    return (-2 * torch.log1p(-first)).sqrt() * torch.cos(2 * torch.pi * second)


def permutation(length: int, seed: int, *counters: Counter) -> Tensor:
    """A random order of 0 … length − 1: an int64 tensor (length,).

    >>> sorted(permutation(5, 0, "shuffle", 3).tolist())
    [0, 1, 2, 3, 4]
    """
    return torch.argsort(random_bits(seed, *counters, torch.arange(length)), stable=True)


def permuted(places: Tensor, length: int, seed: int, *counters: Counter) -> Tensor:
    """What stands at some places of a random order of 0 … length − 1, of which nothing else is computed.

    Time and memory are those of the places, however long the order is; `permutation` makes all of another one. The
    numbers lie in a grid of about √length rows and columns. In turn each one is moved along its column, as far as a
    hash of the column says, and along its row: every such move can be undone, so no two numbers meet (a Feistel
    network). The grid has a few places more than there are numbers; what ends on one of them moves on until it does
    not. Black and Rogaway, "Ciphers with Arbitrary Finite Domains", CT-RSA 2002, sections 4 and 5.

    Args:
        places: int64, from 0 to length − 1.
        length: of the order, below 2⁶².
        seed: the run's seed.
        counters: as of `random_bits`; tensors broadcast against `places`.

    Returns:
        int64 tensor of the broadcast shape.

    >>> sorted(permuted(torch.arange(5), 5, 0, "shuffle", 3).tolist())
    [0, 1, 2, 3, 4]
    """
    rows = math.isqrt(length - 1) + 1
    columns = -(-length // rows)

    def moved(number: Tensor) -> Tensor:
        row, column = number // columns, number % columns
        for round_ in range(_ROUNDS):
            row = (row + _shift_right(random_bits(seed, *counters, 2 * round_, column), 1) % rows) % rows
            column = (column + _shift_right(random_bits(seed, *counters, 2 * round_ + 1, row), 1) % columns) % columns
        return row * columns + column

    found = moved(places)
    while bool((beyond := found >= length).any()):
        found = torch.where(beyond, moved(found), found)
    return found
