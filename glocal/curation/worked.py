"""A function applied to many items in processes of their own, in order."""

from __future__ import annotations

from collections.abc import Callable, Generator, Sequence
from typing import Generic, TypeVar

from torch.utils.data import Dataset

from glocal.data.lanes.central import default_workers
from glocal.data.lanes.readings import reading
from glocal.data.lanes.workers import batches_of

Item = TypeVar("Item")
Found = TypeVar("Found")

_FEW = 64  # items for which starting processes takes longer than the work


class _Applied(Dataset[list[Found]], Generic[Item, Found]):
    def __init__(self, function: Callable[[Item], Found], items: Sequence[Item]) -> None:
        self.function = function
        self.items = items

    def __len__(self) -> int:
        return len(self.items)

    def __getitem__(self, place: int) -> list[Found]:
        return self.__getitems__([place])

    def __getitems__(self, places: list[int]) -> list[Found]:
        found = []
        for place in places:
            reading(place)
            found.append(self.function(self.items[place]))
        return found


def applied(
    function: Callable[[Item], Found], items: Sequence[Item], *, workers: int | None = None, batch: int = 32
) -> Generator[list[Found], None, None]:
    """What a function gives for items, a few at a time and in order.

    Args:
        function: what is applied; it must not use pyarrow, whose threads do not come along to other processes.
        items: what it is applied to.
        workers: processes; None takes as many as decode images elsewhere, 0 this process.
        batch: items at a time.
    """
    if workers is None:
        workers = 0 if len(items) <= _FEW else default_workers()
    requests = [range(first, min(first + batch, len(items))) for first in range(0, len(items), batch)]
    yield from batches_of(_Applied(function, items), requests, workers=workers, name=lambda place: str(items[place]))
