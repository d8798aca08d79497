"""Processes that torchrun has started train together, whatever the recipe says of their number."""

import os
import signal
import time
from pathlib import Path

import pytest
import torch

from glocal import Run
from glocal.checkpoints import checkpoint_files, newest_checkpoint
from glocal.config import build_recipe
from glocal.errors import GlocalError
from glocal.training.machine import as_launched
from tests.preloaded import NO_PICTURES, Preloaded
from tests.training.test_every_method import start_both
from tests.training.test_lock import SETTINGS


def test_torchruns_processes_are_one_training(tmp_path: Path, preloaded: Preloaded) -> None:
    words = ["pretrain", "--data=shapes:train:64", f"--out={tmp_path}", *SETTINGS, "--set=train.device=cpu"]
    said = start_both(preloaded, words, TORCHELASTIC_RUN_ID="a", LOCAL_WORLD_SIZE="2", GROUP_RANK="0")
    assert Run(tmp_path).recipe.train.devices == 2
    assert Run(tmp_path).metrics["step"] == [1, 2, 3, 4]
    assert checkpoint_files(tmp_path / "checkpoints")[0].name == "step-000000004.pt"
    assert said.count("run:") == 1


def test_the_launcher_knows_how_many_there_are(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {"TORCHELASTIC_RUN_ID": "a", "WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2"}.items():
        monkeypatch.setenv(name, value)
    assert as_launched(build_recipe({}, {"train.devices": 3})).train.devices == 2
    assert as_launched(build_recipe({}, {})).train.processes == 2
    monkeypatch.setenv("WORLD_SIZE", "6")
    assert as_launched(build_recipe({}, {})).train.machines == 3
    monkeypatch.setenv("WORLD_SIZE", "5")
    with pytest.raises(GlocalError, match="5 processes, 2 of them on this machine; give every machine the same"):
        as_launched(build_recipe({}, {}))


def test_a_run_goes_on_with_other_processes_and_ends_as_it_would_have(tmp_path: Path, preloaded: Preloaded) -> None:
    words = [
        "pretrain",
        "--data=shapes:train:64",
        *SETTINGS,
        "--set=train.device=cpu",
        "--set=train.checkpoint_steps=2",
    ]
    torchrun = {"TORCHELASTIC_RUN_ID": "a", "LOCAL_WORLD_SIZE": "1"}  # on two machines
    start_both(preloaded, [*words, f"--out={tmp_path / 'a'}"], **torchrun, GROUP_WORLD_SIZE="2")
    assert Run(tmp_path / "a").recipe.train.machines == 2
    alone, half = (newest_checkpoint(tmp_path / "a/checkpoints"), tmp_path / "a/checkpoints/step-000000004.pt")
    half.unlink()  # back to step 2
    done = preloaded.run(*words, f"--out={tmp_path / 'a'}", before=NO_PICTURES)
    assert done.returncode == 0, done.stderr
    again = newest_checkpoint(tmp_path / "a/checkpoints")
    assert alone is not None
    assert again is not None
    assert again["step"] == alone["step"] == 4
    for name, value in alone["method"].items():
        torch.testing.assert_close(again["method"][name], value, rtol=1e-3, atol=1e-5, msg=name)


def until_it_trains(folder: Path) -> None:
    end = time.monotonic() + 120
    while not (folder / "metrics.csv").exists():
        assert time.monotonic() < end
        time.sleep(0.1)


def test_slurm_is_asked_to_take_the_job_back(tmp_path: Path, preloaded: Preloaded) -> None:
    asked = tmp_path / "scontrol"
    asked.write_text(f'#!/bin/sh\necho "$@" > {tmp_path / "said"}\n', encoding="utf-8")
    asked.chmod(0o755)
    inside = {"SLURM_JOB_ID": "77", "PATH": f"{tmp_path}:{os.environ['PATH']}"}
    words = ["pretrain", "--data=shapes:train:64", *SETTINGS, "--set=train.epochs=500"]
    for number, said in ((signal.SIGTERM, False), (signal.SIGUSR1, True)):
        process = preloaded.start(*words, f"--out={tmp_path / str(number)}", environment=inside)
        until_it_trains(tmp_path / str(number))
        os.kill(process.pid, number)
        done = process.finish()
        assert done.returncode == 128 + number, done.stderr
        assert (tmp_path / "said").exists() == said
    assert (tmp_path / "said").read_text(encoding="utf-8").split() == ["requeue", "77"]
    assert b"SLURM has taken job 77 back" in done.stderr
