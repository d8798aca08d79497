"""What one of two processes cannot do ends both, in one line, and costs no step."""

import json
import shutil
import signal
import socket
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from subprocess import CompletedProcess

import numpy as np
import pytest

from glocal.checkpoints import checkpoint_files
from glocal.config import build_recipe
from glocal.data.lanes.skipped import read_skipped
from glocal.training import machine
from tests.preloaded import NO_PICTURES, Preloaded
from tests.training.test_runs import TINY

STREAMING = {
    **TINY,
    **{"data.lane": "streaming", "data.workers": 0, "train.device": "cpu", "train.devices": 2, "train.batch_size": 8},
    **{"train.epochs": 3, "train.checkpoint_steps": None, "monitor.knn_epochs": 0},
}

Pair = tuple[CompletedProcess[bytes], CompletedProcess[bytes]]


def both(preloaded: Preloaded, data: str, out: Path, before: Sequence[str] = ("", ""), **more: object) -> Pair:
    """The same command in two processes, after some code in each."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        meeting = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free.getsockname()[1]), "WORLD_SIZE": "2"}
    sets = [f"--set={key}={json.dumps(value)}" for key, value in {**STREAMING, **more}.items()]
    command = ["pretrain", "--data", data, "--out", str(out), *sets, "--quiet", "--no-report"]
    started = [
        preloaded.start(
            *command,
            before=NO_PICTURES + code,
            environment={**meeting, "NODE_RANK": "0", "LOCAL_RANK": str(rank), "RANK": str(rank)},
        )
        for rank, code in enumerate(before)
    ]
    first, second = (one.finish(timeout=100) for one in started)
    return first, second


def assert_one_line(done: Pair, *words: str) -> None:
    """Both ended with a user's error, of which the first one tells."""
    said = [one.stderr.decode() for one in done]
    assert [one.returncode for one in done] == [2, 2], said
    lines = [line for line in "".join(said).splitlines() if line.startswith("glocal: ")]
    assert len(lines) == 1, said
    for word in words:
        assert word in lines[0]
    assert "Traceback" not in "".join(said)
    assert lines[0] in said[0]


FAILS = """
from glocal.data.lanes.streaming import StreamingLane
from glocal.errors import GlocalError
usual = StreamingLane.batches
def failing(self, first, last):
    for number, views in enumerate(usual(self, first, last)):
        if number == 5:
            raise GlocalError("a folder is gone")
        yield views
StreamingLane.batches = failing
"""
FULL = """
import glocal.training.log as log
from glocal.errors import WriteError
usual = log.RunLog.metrics
def full(self, step, values):
    if step == 4:
        raise WriteError("metrics.csv cannot be written: No space left on device", 28, "No space left on device")
    usual(self, step, values)
log.RunLog.metrics = full
"""

# A thread of gloo that lets go of a tensor after Python has ended aborts the process: SIGABRT instead of its exit code.
TELLS_THREADS = """
import atexit, os, sys
def tell():
    names = [open(f"/proc/self/task/{task}/comm").read() for task in os.listdir("/proc/self/task")]
    print("left:", [name for name in names if "gloo" in name], file=sys.stderr)
if os.path.exists("/proc/self/task"):
    atexit.register(tell)
else:
    print("left: []", file=sys.stderr)
"""


def test_images_that_one_cannot_read_cost_no_step(
    preloaded: Preloaded, tmp_path: Path, image_folder: Callable[..., Path]
) -> None:
    data = str(image_folder(32, sizes=((24, 24), (30, 24))))
    done = both(preloaded, data, tmp_path / "a", ("", FAILS))
    assert_one_line(done, "process 1: a folder is gone")
    assert [path.name for path in checkpoint_files(tmp_path / "a/checkpoints")] == ["step-000000005.pt"]


def test_a_disk_that_is_full_for_one_ends_both(
    preloaded: Preloaded, tmp_path: Path, image_folder: Callable[..., Path]
) -> None:
    data = str(image_folder(32, sizes=((24, 24), (30, 24))))
    before = (TELLS_THREADS + FULL, TELLS_THREADS)
    done = both(preloaded, data, tmp_path / "a", before, **{"train.checkpoint_steps": 2, "train.log_steps": 1})
    assert_one_line(done, "No space left on device", "goes on from", "step-000000002.pt")
    assert all(one.stderr.decode().endswith("left: []\n") for one in done), done


def test_an_image_whose_loss_is_no_number_is_named_whichever_process_has_it(
    preloaded: Preloaded, tmp_path: Path
) -> None:
    images = np.random.default_rng(0).random((32, 3, 16, 16), np.float32)
    images[17] = 1e38
    (tmp_path / "images").mkdir()
    for number, image in enumerate(images):
        np.save(tmp_path / f"images/{number:02}.npy", image)
    values = {"data.rgb": False, "data.channels": 3, "data.channel_axis": "first", "data.mean": [0.5] * 3}
    done = both(preloaded, str(tmp_path / "images"), tmp_path / "a", **values, **{"data.std": [0.25] * 3})
    assert_one_line(done, "the loss is nan at step", "the loss of 17.npy alone is no number")


def test_broken_images_are_named_whichever_process_reads_them(
    preloaded: Preloaded, tmp_path: Path, image_folder: Callable[..., Path]
) -> None:
    folder = image_folder(32, sizes=((24, 24), (30, 24)))
    broken = sorted(folder.rglob("*.png"))[::7]
    for path in broken:
        path.write_bytes(path.read_bytes()[:60])
    done = both(preloaded, str(folder), tmp_path / "a", **{"data.broken_limit": 0.5, "train.epochs": 1})
    assert [one.returncode for one in done] == [0, 0], done
    named = [line.partition("\t")[0] for line in read_skipped(tmp_path / "a/skipped.txt")]
    assert sorted(named) == [str(path.relative_to(folder)) for path in broken]


def test_processes_with_other_images_are_refused(
    preloaded: Preloaded, tmp_path: Path, image_folder: Callable[..., Path]
) -> None:
    folder = image_folder(16)
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        shutil.copytree(folder, tmp_path / name / "imgs")
    extra = next((tmp_path / "two/imgs").rglob("*.png"))
    shutil.copy(extra, extra.with_name("more.png"))
    before = [f"import os; os.chdir({str(tmp_path / name)!r})" for name in ("one", "two")]
    done = both(preloaded, "imgs", tmp_path / "a", before, **{"method.queue_size": 16})
    assert_one_line(done, "the processes do not have the same images: count 16 in the first, count 17 in number 1")
    assert not (tmp_path / "a").exists()


@pytest.mark.slow
def test_all_go_on_from_the_checkpoint_that_the_first_has_chosen(
    preloaded: Preloaded, tmp_path: Path, image_folder: Callable[..., Path]
) -> None:
    data = str(image_folder(16))
    settings = {"train.epochs": 1, "train.checkpoint_steps": 1, "train.keep_checkpoints": 5}
    assert [one.returncode for one in both(preloaded, data, tmp_path / "a", **settings)] == [0, 0]
    newest, *_ = checkpoint_files(tmp_path / "a/checkpoints")
    (tmp_path / "b").mkdir()
    shutil.copytree(tmp_path / "a", tmp_path / "b/a")
    (tmp_path / "b/a/checkpoints" / newest.name).unlink()
    shutil.move(tmp_path / "a", tmp_path / "c/a")
    before = [f"import os; os.chdir({str(tmp_path / name)!r})" for name in ("c", "b")]
    done = both(preloaded, data, Path("a"), before, **{**settings, "train.epochs": 2})
    assert_one_line(done, f"there is no checkpoint a/checkpoints/{newest.name}")


def test_a_signal_to_one_is_the_wish_of_all(preloaded: Preloaded, tmp_path: Path) -> None:
    folder = tmp_path / "a"
    signals = (
        "import os, signal; from glocal.training.log import RunLog; usual = RunLog.metrics\n"
        "from glocal.training import loop; step = loop._optimise\n"
        "def at_the_third(*given):\n"
        "    if given[5].step == 2: os.kill(os.getpid(), signal.SIGUSR1)\n"
        "    return step(*given)\n"
        "loop._optimise = at_the_third\n"
    )
    done = both(preloaded, "shapes:train:32", folder, ("", signals), **{"train.log_steps": 100})
    assert [one.returncode for one in done] == [128 + signal.SIGUSR1] * 2, done
    said = "".join(one.stderr.decode() for one in done)
    assert said.count("stopped after step 4 of 12; the same command continues it") == 1  # heard before the fourth


def test_processes_that_never_come_are_named(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(machine, "_ALONE", 0.01)
    monkeypatch.setenv("MASTER_ADDR", "10.0.0.7")
    with machine._told_if_alone(build_recipe({}, {"train.machines": 2})):
        time.sleep(0.2)
    assert "still waiting for 2 processes (train.devices=1, train.machines=2) to meet at 10.0.0.7" in " ".join(
        capsys.readouterr().err.split()
    )
