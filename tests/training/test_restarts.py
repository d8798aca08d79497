"""Under torchrun, a training whose processes are killed goes on by itself, and ends as one that was left alone."""

import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from glocal.checkpoints import newest_checkpoint
from tests.training.test_runs import TINY, assert_equal

KILLS = int(os.environ.get("GLOCAL_TEST_KILLS", "3"))
STEPS = 16 * KILLS  # of which a start does few before it is killed
SETTINGS = {**TINY, "train.epochs": STEPS // 2, "train.checkpoint_steps": 2, "train.device": "cpu"}


def start(folder: Path, restarts: int) -> subprocess.Popen[bytes]:
    settings = [f"--set={key}={json.dumps(value)}" for key, value in SETTINGS.items()]
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    command = [*torchrun, f"--max-restarts={restarts}", "-m", "glocal", "pretrain", "--data=shapes:train:64"]
    with said(folder).open("wb") as errors:  # a pipe that nobody reads would be full after some tracebacks
        return subprocess.Popen(
            [*command, f"--out={folder}", *settings, "--no-report", "--quiet"],
            stdout=subprocess.DEVNULL,
            stderr=errors,
            env={**os.environ, "OMP_NUM_THREADS": "1"},
        )


def said(folder: Path) -> Path:
    return folder.with_suffix(".err")


def workers_of(process: subprocess.Popen[bytes]) -> list[int]:
    found = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text(encoding="ascii").split()
    return [int(one) for one in found]


def newest_step(folder: Path) -> int:
    return max((int(file.stem[5:]) for file in (folder / "checkpoints").glob("step-*.pt")), default=0)


@pytest.mark.slow
@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="looks for processes in /proc")
def test_one_of_two_workers_is_killed_again_and_again(tmp_path: Path) -> None:
    whole = start(tmp_path / "whole", 0)
    assert whole.wait(timeout=600) == 0, said(tmp_path / "whole").read_text()
    random.seed(0)
    process, done = start(tmp_path / "killed", KILLS), 0
    while done < KILLS and process.poll() is None:
        before = newest_step(tmp_path / "killed")
        while newest_step(tmp_path / "killed") <= before and process.poll() is None:
            time.sleep(0.02)  # it has gone on
        time.sleep(random.random() / 5)
        workers = workers_of(process)
        if len(workers) == 2 and newest_step(tmp_path / "killed") < STEPS:
            os.kill(random.choice(workers), signal.SIGKILL)
            done += 1
        elif newest_step(tmp_path / "killed") >= STEPS:
            break
    assert process.wait(timeout=600) == 0, said(tmp_path / "killed").read_text()
    assert done == KILLS
    one, other = (newest_checkpoint(tmp_path / name / "checkpoints") for name in ("whole", "killed"))
    assert one is not None
    assert other is not None
    assert one["step"] == other["step"]
    assert_equal(one["method"], other["method"])
    assert torch.equal(one["rng"], other["rng"])
