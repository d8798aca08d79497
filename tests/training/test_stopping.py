"""Whatever signal means stop, and however it is delivered: a checkpoint, one line, and the same weights later."""

import os
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from glocal.checkpoints import newest_checkpoint
from glocal.signals import STOP, StopSignals
from tests.preloaded import NO_PICTURES, Command, Preloaded

EPOCHS = 5  # 2 steps each
SETTINGS = [
    "model.options={channels: [8, 8, 16, 16], layers: [1, 1, 1, 1]}",
    "model.stem=standard",
    f"train.epochs={EPOCHS}",
    "train.batch_size=8",
    "train.log_steps=1",
    "train.precision=fp32",
    "method.name=sce",
    "method.queue_size=16",
    "monitor.knn_epochs=0",
    "data.lane=streaming",
    "data.workers=2",
]
# The training waits at its fourth step until a signal has come: it cannot be over before.
WAITING = """
import time
from glocal.training import loop
from glocal import signals
real, calls, caught = loop._optimise, [], []
def slow(*args):
    calls.append(None)
    while len(calls) == 4 and not caught:
        open({sign!r}, "w").close()
        time.sleep(0.02)
    if len(calls) == 4:
        time.sleep(0.5)
    return real(*args)
loop._optimise = slow
note = signals.StopSignals._note
def seen(self, *args):
    caught.append(None)
    note(self, *args)
signals.StopSignals._note = seen
"""


def command(data: Path, out: Path) -> list[str]:
    settings = [word for setting in SETTINGS for word in ("--set", setting)]
    return ["pretrain", "--data", str(data), "--out", str(out), *settings]


def start(preloaded: Preloaded, data: Path, out: Path, sign: Path) -> Command:
    process = preloaded.start(*command(data, out), before=NO_PICTURES + WAITING.format(sign=str(sign)))
    deadline = time.monotonic() + 120
    while not sign.exists() and time.monotonic() < deadline and process.running():
        time.sleep(0.02)
    return process


def children(of: int) -> list[int]:
    return [int(word) for word in Path(f"/proc/{of}/task/{of}/children").read_text().split()]


_SLOW = [pytest.param(number, marks=pytest.mark.slow) for number in (signal.SIGINT, signal.SIGHUP, signal.SIGUSR1)]


@pytest.mark.parametrize("number", [signal.SIGTERM, *_SLOW])
def test_a_signal_to_the_whole_group_twice_leaves_a_checkpoint_and_one_line(
    number: int, tmp_path: Path, image_folder: Callable[..., Path], preloaded: Preloaded
) -> None:
    data = image_folder(16, sizes=((32, 32), (48, 40)))
    process = start(preloaded, data, tmp_path / "a", tmp_path / "sign")
    os.killpg(process.pid, number)
    os.killpg(process.pid, number)  # as `timeout` does
    done = process.finish(timeout=100)
    errors = done.stderr.decode()
    assert done.returncode == 128 + number, errors
    assert "Traceback" not in errors
    assert errors.count("stopped after step 4 of 10; the same command continues it") == 1
    state = newest_checkpoint(tmp_path / "a" / "checkpoints")
    assert state is not None
    assert state["step"] == 4
    if number != signal.SIGTERM:
        return
    for out in ("a", "whole"):
        preloaded.run(*command(data, tmp_path / out), before=NO_PICTURES).check_returncode()
    continued, whole = (newest_checkpoint(tmp_path / out / "checkpoints") for out in ("a", "whole"))
    assert continued is not None
    assert whole is not None
    assert continued["step"] == whole["step"] == 10
    for name, value in whole["method"].items():
        assert torch.equal(value, continued["method"][name]), name


@pytest.mark.parametrize("number", [signal.SIGHUP, pytest.param(signal.SIGUSR1, marks=pytest.mark.slow)])
def test_processes_that_decode_heed_no_signal_and_the_training_alone_heeds_each(
    number: int, tmp_path: Path, image_folder: Callable[..., Path], preloaded: Preloaded
) -> None:
    process = start(preloaded, image_folder(16, sizes=((32, 32), (48, 40))), tmp_path / "a", tmp_path / "sign")
    for worker in children(process.pid):
        for ignored in STOP:
            os.kill(worker, ignored)
    time.sleep(0.1)
    assert process.running()
    os.kill(process.pid, number)
    done = process.finish(timeout=100)
    assert done.returncode == 128 + number
    assert done.stderr.decode().count("stopped after step 4 of 10; the same command continues it") == 1


@pytest.mark.skipif(sys.platform != "linux", reason="the kernel's signal at the parent's death")
def test_processes_that_decode_end_with_a_training_that_is_killed(
    tmp_path: Path, image_folder: Callable[..., Path], preloaded: Preloaded
) -> None:
    data = image_folder(16, sizes=((32, 32), (48, 40)))
    process = start(preloaded, data, tmp_path / "a", tmp_path / "sign")
    workers = children(process.pid)
    assert len(workers) == 2
    os.kill(process.pid, signal.SIGKILL)
    assert process.finish().returncode == -signal.SIGKILL
    deadline = time.monotonic() + 3  # torch's own look takes five seconds
    while any(Path(f"/proc/{pid}").exists() for pid in workers) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not any(Path(f"/proc/{pid}").exists() for pid in workers)


def test_the_first_signal_counts_and_a_later_ctrl_c_interrupts() -> None:
    now = [0.0]
    with StopSignals(lambda: now[0]) as stop:
        os.kill(os.getpid(), signal.SIGTERM)
        os.kill(os.getpid(), signal.SIGINT)  # the same wish, delivered twice
        assert stop.received == signal.SIGTERM
        now[0] = 1.5
        os.kill(os.getpid(), signal.SIGUSR1)
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)
    assert stop.received == signal.SIGTERM


def test_under_nohup_the_end_of_the_terminal_stays_unheard() -> None:
    assert signal.SIGHUP in STOP
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with StopSignals() as stop:
            os.kill(os.getpid(), signal.SIGHUP)
        assert stop.received is None
    finally:
        signal.signal(signal.SIGHUP, before)
