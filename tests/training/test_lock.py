"""A folder belongs to one training at a time, and to none whose process is dead."""

import json
import os
import signal
import time
from pathlib import Path

import pytest

import glocal
from glocal.errors import GlocalError
from tests.preloaded import Preloaded
from tests.training.test_runs import DATA, TINY, run

SETTINGS = [f"--set={key}={json.dumps(value)}" for key, value in TINY.items()]


def test_a_second_training_is_refused_and_the_first_goes_on(
    preloaded: Preloaded, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    long = ["--set=train.epochs=500", "--set=train.checkpoint_steps=null"]
    first = preloaded.start("pretrain", f"--data={DATA}", f"--out={tmp_path / 'a'}", *SETTINGS, *long, "--quiet")
    end = time.monotonic() + 60
    while not (tmp_path / "a/metrics.csv").exists():
        assert time.monotonic() < end
        time.sleep(0.1)
    before = (tmp_path / "a/recipe.yaml").read_text(encoding="utf-8")
    with pytest.raises(GlocalError, match=r"a training is running in .*a: wait for it, stop it, or choose another"):
        run(tmp_path / "a", train__epochs=3)
    assert (tmp_path / "a/recipe.yaml").read_text(encoding="utf-8") == before
    assert first.running()
    os.killpg(first.pid, signal.SIGKILL)
    first.finish()
    assert run(tmp_path / "a", train__epochs=1).metrics["step"] == [1, 2, 3, 4, 5, 6]


def test_nothing_is_left_of_it_and_what_cannot_be_locked_is_trained(tmp_path: Path) -> None:
    run(tmp_path / "a", train__epochs=1)
    assert not (tmp_path / "a/.lock").exists()
    with pytest.raises(GlocalError, match="no run in .* to continue"):
        glocal.pretrain(DATA, tmp_path / "b", overrides=TINY, progress=False, resume="must")
    assert not (tmp_path / "b").exists()
    (tmp_path / "c/.lock").mkdir(parents=True)  # cannot be opened, as in a folder where nothing can be written
    assert run(tmp_path / "c", train__epochs=1).metrics["step"] == [1, 2, 3, 4, 5, 6]
