"""Which images make up which batch: every one once in an epoch, the same for any number of processes, at any size."""

import hashlib
from collections.abc import Sequence
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from glocal.data.lanes import order
from glocal.data.lanes.choice import open_lane
from glocal.data.lanes.order import BatchOrder
from glocal.data.lanes.streaming import StreamingLane
from glocal.data.settings import DataSettings
from glocal.data.sources.base import Sample
from glocal.views.plan import View, ViewPlan

BILLION = 10**9


class Largest(TorchDispatchMode):
    """The most values of a tensor that an operation makes while this is entered."""

    values = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        found = func(*args, **(kwargs or {}))
        if isinstance(found, Tensor):
            self.values = max(self.values, found.numel())
        return found


def step_of_all(step: int, processes: int, parts: int, **of: int) -> Tensor:
    """The images of a step, its shares put together."""
    shares = []
    for rank in range(processes):
        own = BatchOrder(**of, rank=rank, processes=processes, parts=parts)
        shares += [index for _, index in own.batches(step, step + 1)]
    assert len(shares) == processes * parts
    return torch.cat(shares)


def test_the_order_of_runs_that_were_begun_never_changes() -> None:
    """Below 2²⁴ images that of the first version; beyond, of the first one that computed it place by place."""
    [(_, first)] = BatchOrder(100_000, 50_000, seed=7).batches(6, 7)  # half of epoch 3
    digest = hashlib.sha256(first.contiguous().numpy().tobytes()).hexdigest()
    assert digest == "15a4ad1fbe573e07c0bb262f65555fde5d4cb2ec5b11e058b753019b697ebfd4"
    [(_, first)] = BatchOrder(BILLION, 5, seed=0).batches(0, 1)
    assert first.tolist() == [600116248, 998913381, 579844334, 144059039, 324014782]


@pytest.mark.parametrize("made_whole", [1 << 24, 0])
def test_an_epoch_has_every_image_once_for_any_number_of_processes_and_parts(
    made_whole: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(order, "_MADE_WHOLE", made_whole)
    epoch = torch.cat([index for _, index in BatchOrder(960, 48, seed=5).batches(20, 40)])
    assert torch.equal(epoch.sort().values, torch.arange(960))
    for processes, parts in ((1, 3), (2, 1), (3, 2), (4, 4)):
        shares = [step_of_all(step, processes, parts, length=960, batch_size=48, seed=5) for step in range(20, 40)]
        assert torch.equal(torch.cat(shares), epoch)


def test_processes_share_a_billion_images_as_few() -> None:
    of = {"length": BILLION, "batch_size": 240, "seed": 1}
    for step in (0, 123_456, BILLION // 240 - 1, 7 * (BILLION // 240) + 99):
        whole = step_of_all(step, 1, 1, **of)
        assert whole.unique().numel() == 240
        for processes, parts in ((2, 3), (3, 1), (4, 2)):
            assert torch.equal(step_of_all(step, processes, parts, **of), whole)


def test_the_memory_of_an_order_does_not_grow_with_its_images() -> None:
    largest = {}
    for length in ((1 << 24) + 1, BILLION, 10**15):
        own = BatchOrder(length, 256, seed=0)
        with Largest() as seen:
            for step in torch.linspace(0, own.steps_per_epoch - 1, 20, dtype=torch.float64).long().tolist():
                list(own.batches(step, step + 1))
        largest[length] = seen.values
    assert set(largest.values()) == {256}


@pytest.mark.slow
def test_the_first_order_that_is_not_made_whole_is_one() -> None:
    length = (1 << 24) + 1
    seen = torch.zeros(length, dtype=torch.uint8)
    for _, index in BatchOrder(length, 1 << 16, seed=3).batches(0, length >> 16):
        seen[index] += 1
    assert int(seen.max()) == 1
    assert int(seen.sum()) == length - 1  # one image does not fill a batch


class Numbered(Sequence[str]):
    """Names that are made when they are asked for."""

    def __len__(self) -> int:
        return BILLION

    def __getitem__(self, index: Any) -> str:
        return str(range(BILLION)[index])


class Billion:
    """A source of a billion small images, each of one grey value."""

    name, classes, labels, keys = "billion", None, None, Numbered()

    def __len__(self) -> int:
        return BILLION

    def __getitem__(self, index: int) -> Sample:
        return Sample(torch.full((3, 8, 8), index % 251, dtype=torch.uint8), None, self.keys[index])


def test_the_streaming_lane_shows_a_billion_images_and_holds_none() -> None:
    plan, settings = ViewPlan([View(size=8)]), DataSettings(workers=0, mean=(0, 0, 0), std=(1, 1, 1))
    with Largest() as seen:
        lane = open_lane(
            Billion(), settings, plan, BatchOrder(BILLION, 16, seed=0), torch.device("cpu"), progress=False
        )
        assert isinstance(lane, StreamingLane)
        last = BILLION // 16 - 1
        [batch] = lane.batches(last, last + 1)
    assert seen.values <= 1 << 16
    assert int(batch.index.max()) > 1 << 24
    assert torch.allclose(batch.images[0][:, 0, 0, 0] * 255, (batch.index % 251).float(), atol=0.6)
