"""Names of very many images, kept as the bytes that they are."""

from __future__ import annotations

import operator
from collections.abc import Iterable, Iterator, Sequence
from typing import overload

import numpy as np
import pyarrow as pa

_BLOCK = 65_536  # names that are made strings at a time


class Names(Sequence[str]):
    """A sequence of names in one buffer: of 30 letters they take 38 bytes each, where strings in a list take 87.

    Processes that decode share the buffer: reading a name changes nothing in it, so it is not copied for them.

    Args:
        names: bytes, or anything that can be made an array of them; text is UTF-8, bytes that are none are kept.

    >>> list(Names(["a.png", "b.png"]))
    ['a.png', 'b.png']
    """

    def __init__(self, names: Iterable[str] | pa.LargeBinaryArray) -> None:
        if not isinstance(names, pa.LargeBinaryArray):
            names = pa.array([_bytes(name) for name in names], pa.large_binary())
        self.array = names

    @classmethod
    def of_buffers(cls, content: np.ndarray, ends: np.ndarray) -> Names:
        """From the bytes of all names, one after another, and (N + 1,) int64, where they begin and end."""
        buffers = [None, pa.py_buffer(np.ascontiguousarray(ends)), pa.py_buffer(np.ascontiguousarray(content))]
        return cls(pa.LargeBinaryArray.from_buffers(pa.large_binary(), len(ends) - 1, buffers))

    def take(self, indices: np.ndarray) -> Names:
        """Those at (M,) int64 places, in that order."""
        return Names(self.array.take(pa.array(indices)))

    def buffers(self) -> tuple[np.ndarray, np.ndarray]:
        """What `of_buffers` takes."""
        if not len(self):
            return np.zeros(0, np.uint8), np.zeros(1, np.int64)
        _, ends, content = self.array.buffers()
        places = np.frombuffer(ends, np.int64)[self.array.offset : self.array.offset + len(self) + 1]
        return np.frombuffer(content, np.uint8)[places[0] : places[-1]], places - places[0]

    def __len__(self) -> int:
        return len(self.array)

    @overload
    def __getitem__(self, index: int) -> str: ...

    @overload
    def __getitem__(self, index: slice) -> Names: ...

    def __getitem__(self, index: int | slice) -> str | Names:
        if isinstance(index, slice):
            return Names(self.array[index])
        return _text(self.array[operator.index(index)].as_py())

    def __iter__(self) -> Iterator[str]:
        for first in range(0, len(self), _BLOCK):
            yield from map(_text, self.array[first : first + _BLOCK].to_pylist())

    def __eq__(self, other: object) -> bool:
        if isinstance(other, Names):
            return bool(self.array.equals(other.array))
        return isinstance(other, Sequence) and len(self) == len(other) and all(map(operator.eq, self, other))

    __hash__ = None  # type: ignore[assignment]


def _bytes(name: str) -> bytes:
    return name.encode("utf-8", "surrogateescape")


def _text(name: bytes) -> str:
    return name.decode("utf-8", "surrogateescape")
