"""Losses reach the log in order, whole, and with the rate of their own steps."""

import time
from collections.abc import Iterator
from typing import Any

import pytest
import torch

from glocal.training.clock import DeviceClock
from glocal.training.meter import Line, LossMeter
from glocal.training.streams import made_beside, stream_beside
from glocal.transfer import to_device
from glocal.views.batch import Views

CPU = torch.device("cpu")


class Event:
    """A GPU's event that happens when the test says so."""

    def __init__(self) -> None:
        self.happened, self.seconds = False, 0.0

    def query(self) -> bool:
        return self.happened


def gpu_meter(monkeypatch: pytest.MonkeyPatch) -> tuple[LossMeter, list[Event]]:
    """A meter that thinks it is on a GPU, whose events are in the test's hands."""
    meter, events = LossMeter(CPU, images=10), []

    def now() -> Event:
        events.append(Event())
        return events[-1]

    monkeypatch.setattr(meter, "_on_gpu", True)
    monkeypatch.setattr(meter._clock, "now", now)
    monkeypatch.setattr(meter._clock, "seconds", lambda start, end: 0.5)
    monkeypatch.setattr(torch, "empty", lambda shape, pin_memory: torch.zeros(shape))
    return meter, events


def test_lines_hold_the_losses_of_their_steps_and_their_rate(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = iter([0.0, 2.0, 3.0])
    monkeypatch.setattr(time, "perf_counter", lambda: next(clock))
    meter = LossMeter(CPU, images=10)
    for step in range(1, 4):
        meter.add(torch.tensor([float(step), 10.0 * step]))
    meter.send(3, {"lr": 0.1})
    meter.send(3, {"lr": 0.3})  # nothing new
    meter.add(torch.tensor([4.0, 40.0]))
    meter.send(4, {"lr": 0.2})
    first, second = meter.arrived(wait=False)
    assert first.losses.tolist() == [[1, 10], [2, 20], [3, 30]]
    assert (first.step, second.step) == (3, 4)
    assert first.images_per_second == pytest.approx(15)  # three steps of ten images in two seconds
    assert second.images_per_second == pytest.approx(10)
    assert first.numbers(("inner", "outer"), steps_per_epoch=2) == {
        "epoch": 1.5,
        "loss": 20,
        "loss_inner": 2,
        "lr": 0.1,
        "images_per_second": pytest.approx(15),
    }


def test_what_has_not_come_from_the_gpu_is_not_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    meter, events = gpu_meter(monkeypatch)
    for step in (1, 2, 3):
        meter.add(torch.tensor([float(step)]))
        meter.send(step, {})
    assert list(meter.arrived(wait=False)) == []
    events[1].happened = True  # the second before the first: lines keep their order
    assert list(meter.arrived(wait=False)) == []
    events[0].happened = True
    assert [line.step for line in meter.arrived(wait=False)] == [1, 2]
    last: list[Line] = list(meter.arrived(wait=True))
    assert [line.losses.tolist() for line in last] == [[[3.0]]]


class Copied:
    """A tensor on the CPU that notes how it is copied."""

    device, dtype = CPU, torch.float64

    def __init__(self, pinned: bool = False) -> None:
        self.pinned = pinned

    def pin_memory(self) -> "Copied":
        return Copied(pinned=True)

    def to(self, device: torch.device, dtype: Any = None, non_blocking: bool = False) -> tuple[str, bool, bool, Any]:
        return device.type, self.pinned, non_blocking, dtype


def test_copies_to_a_gpu_are_page_locked_and_those_to_metal_waited_for() -> None:
    assert to_device(Copied(), torch.device("cuda")) == ("cuda", True, True, None)  # type: ignore[arg-type]
    # There the copy may come after its source is gone, and there is no float64.
    metal = torch.device("mps")
    assert to_device(Copied(), metal) == ("mps", False, False, torch.float32)  # type: ignore[arg-type]
    assert to_device(Copied(), metal, torch.float16) == ("mps", False, False, torch.float16)  # type: ignore[arg-type]


def batches(device: torch.device) -> Iterator[Views]:
    generator = torch.Generator().manual_seed(0)
    for _ in range(8):
        images = torch.randn(4, 3, 512, 512, generator=generator).to(device)
        for _ in range(20):
            images = images.mul(1.01).sub_(0.01)
        yield Views((images,), (), torch.arange(4))


def test_without_a_gpu_there_is_no_stream_and_views_pass() -> None:
    assert stream_beside(CPU) is None
    assert sum(len(views.index) for views in made_beside(batches(CPU), None)) == 32


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_views_made_beside_the_training_are_the_views() -> None:
    device = torch.device("cuda")
    expected = [views.images[0].sum().item() for views in batches(device)]
    found = []
    for views in made_beside(batches(device), stream_beside(device)):
        busy = torch.randn(2048, 2048, device=device)
        for _ in range(20):  # the training's stream is behind
            busy = busy @ busy / 100
        found.append(views.images[0].sum())
    assert [value.item() for value in found] == expected


def test_time_apart_is_no_time_of_the_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    now = iter([0.0, 2.0, 9.0, 10.0, 20.0])
    monkeypatch.setattr(DeviceClock, "now", lambda self: next(now))
    meter = LossMeter(torch.device("cpu"), images=30)
    meter.add(torch.zeros(1))
    with meter.apart():  # from 2 to 9
        pass
    meter.send(1, {})  # at 10
    meter.add(torch.zeros(1))
    meter.send(2, {})  # at 20
    assert [line.images_per_second for line in meter.arrived(wait=True)] == [10.0, 3.0]
