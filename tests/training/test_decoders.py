"""A process that decodes and hangs, or dies, costs a start of the same command, and its image is named."""

import multiprocessing
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch

import glocal
from glocal.checkpoints import newest_checkpoint
from glocal.config import build_recipe
from glocal.data.lanes.readings import DecoderError, Readings, awaited
from glocal.data.lanes.resident import read_all
from glocal.data.lanes.skipped import SkippedImages
from glocal.data.lanes.threads import read_in_threads
from glocal.data.sources.base import MemorySource, Sample, Source
from glocal.errors import GlocalError
from glocal.evaluation import RawPixels
from glocal.signals import Stopped
from glocal.training.monitors import knn_monitor
from tests.training.test_runs import TINY

pytestmark = pytest.mark.usefixtures("no_pictures")

STREAMING = {**TINY, "data.lane": "streaming", "data.workers": 1, "train.checkpoint_steps": None}
HANGS = r"bad/7 has been read for 1 s without an end: .*data\.patience"


class Bad(MemorySource):
    """Images of which one does something when it is read for the second time: in the second epoch, after six steps."""

    def __init__(self, images: torch.Tensor, act: Callable[[], object] | None) -> None:
        super().__init__("bad", images, None, None)
        self.act, self.times = act, 0

    def __getitem__(self, index: int) -> Sample:
        self.times += index == 7
        if index == 7 and self.times == 2 and self.act:
            self.act()
        return super().__getitem__(index)


def train(images: torch.Tensor, out: Path, act: Callable[[], object] | None, **settings: Any) -> glocal.Run:
    return glocal.pretrain(Bad(images, act), out, overrides={**STREAMING, **settings}, progress=False)


def die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


@pytest.mark.parametrize(
    ("workers", "act", "said"),
    [
        (1, partial(time.sleep, 60), HANGS),
        (0, partial(time.sleep, 60), HANGS),
        (1, die, r"died while it read bad/7: "),
    ],
    ids=["a process hangs", "its thread hangs", "a process dies"],
)
def test_the_image_is_named_and_the_same_command_goes_on_from_the_step_before(
    workers: int, act: Callable[[], object], said: str, tmp_path: Path, shape_images: torch.Tensor
) -> None:
    with pytest.raises(GlocalError, match=said):
        train(shape_images[:192], tmp_path / "a", act, **{"data.patience": 1, "data.workers": workers})
    state = newest_checkpoint(tmp_path / "a" / "checkpoints")
    assert state is not None
    assert 6 <= state["step"] < 12
    assert train(shape_images[:192], tmp_path / "a", None).metrics["step"] == list(range(1, 13))
    whole = train(shape_images[:192], tmp_path / "whole", None)
    ends = [newest_checkpoint(run / "checkpoints") for run in (tmp_path / "a", whole.folder)]
    assert all(torch.equal(value, ends[1]["method"][name]) for name, value in ends[0]["method"].items())  # type: ignore[index]


def test_a_signal_is_heard_while_a_batch_does_not_come(tmp_path: Path, shape_images: torch.Tensor) -> None:
    def hang() -> None:
        os.kill(os.getppid(), signal.SIGTERM)
        time.sleep(60)

    with pytest.raises(Stopped, match="stopped after step"):
        train(shape_images[:192], tmp_path / "a", hang)
    state = newest_checkpoint(tmp_path / "a" / "checkpoints")
    assert state is not None
    assert state["step"] >= 6
    assert not multiprocessing.active_children()  # or Python would wait in the end for a process that heeds no signal


def test_a_process_that_dies_while_it_hands_a_batch_over_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    """The connection that is reset is then seen before the process' end."""
    readings = Readings(1, "number {}".format)
    readings._places[:] = [2**30, 7]  # no such process, and what it read

    def batches() -> Iterator[object]:
        raise ConnectionResetError(104, "Connection reset by peer")
        yield

    with pytest.raises(DecoderError, match="died while it read number 7"):
        next(awaited(batches(), readings, 1.0))
    readings._places[:] = [0, -1]  # nobody died
    monkeypatch.setattr(readings, "someone_died", lambda: False)
    with pytest.raises(ConnectionResetError):
        next(awaited(batches(), readings, 1.0))


class Slow(Source):
    """Images of a folder, as far as the resident lane sees it, of which one never comes."""

    def __init__(self, images: torch.Tensor) -> None:
        self.name, self.keys, self.labels, self.classes = "bad", [f"bad/{n}" for n in range(len(images))], None, None
        self.pixels = images

    def __len__(self) -> int:
        return len(self.pixels)

    def __getitem__(self, index: int) -> Sample:
        if index == 7:
            time.sleep(60)
        return Sample(self.pixels[index], None, self.keys[index])


def test_an_image_that_never_comes_is_named_before_the_resident_lane_begins(shape_images: torch.Tensor) -> None:
    source = Slow(shape_images[:64])
    with pytest.raises(DecoderError, match=HANGS):
        read_all(source, SkippedImages(source, 0.1, None), patience=1, progress=False)


def test_the_k_nn_monitor_waits_as_long_as_the_recipe_says(shape_images: torch.Tensor) -> None:
    source = Slow(shape_images[:64])
    source.labels, source.classes = torch.arange(64) % 2, ["even", "odd"]
    recipe = build_recipe({"name": "x"}, {"data.patience": 1, "monitor.knn_epochs": 1}, data_size=32)
    monitor = knn_monitor(source, recipe)
    assert monitor is not None
    with pytest.raises(DecoderError, match=HANGS):
        monitor.measure(RawPixels(32))  # type: ignore[arg-type]


def test_threads_give_what_is_read_in_order_and_raise_its_errors() -> None:
    def read(number: int) -> int:
        time.sleep(0.01 * (number % 3))
        if number == 17:
            raise ValueError("17")
        return number

    before = set(threading.enumerate())
    assert list(read_in_threads(read, range(17), name=str, threads=3)) == list(range(17))
    with pytest.raises(ValueError, match="17"):
        list(read_in_threads(read, range(40), name=str, threads=3))
    for thread in set(threading.enumerate()) - before:  # they are told to end
        thread.join(timeout=10)
        assert not thread.is_alive()


NOBODY_CATCHES = """
from glocal.data.lanes.workers import batches_of
def work():
    batches = batches_of(list(range(64)), [range(4 * n, 4 * n + 4) for n in range(16)], workers=2)
    for _ in batches:
        raise ValueError("nobody catches this")
work()
"""


def test_an_error_that_nobody_catches_ends_the_process_and_those_that_decode() -> None:
    """Python waits for them in the end, and they ignore the signal by which it asks."""
    ended = subprocess.run([sys.executable, "-c", NOBODY_CATCHES], capture_output=True, text=True, timeout=60)
    assert "nobody catches this" in ended.stderr
    assert ended.returncode == 1
