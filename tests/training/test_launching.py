"""Processes that torchrun has started train together, whatever the recipe says of their number."""

from pathlib import Path

import pytest

from glocal import Run
from glocal.checkpoints import checkpoint_files
from glocal.config import build_recipe
from glocal.errors import GlocalError
from glocal.training.machine import as_launched
from tests.preloaded import Preloaded
from tests.training.test_every_method import start_both
from tests.training.test_lock import SETTINGS


def test_torchruns_processes_are_one_training(tmp_path: Path, preloaded: Preloaded) -> None:
    words = ["pretrain", "--data=shapes:train:64", f"--out={tmp_path}", *SETTINGS, "--set=train.device=cpu"]
    said = start_both(preloaded, words, TORCHELASTIC_RUN_ID="a", LOCAL_WORLD_SIZE="2", GROUP_RANK="0")
    assert Run(tmp_path).recipe.train.devices == 2
    assert Run(tmp_path).metrics["step"] == [1, 2, 3, 4]
    assert checkpoint_files(tmp_path / "checkpoints")[0].name == "step-000000004.pt"
    assert said.count("run:") == 1


def test_another_number_of_processes_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {"TORCHELASTIC_RUN_ID": "a", "WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2"}.items():
        monkeypatch.setenv(name, value)
    recipe = build_recipe({}, {"train.devices": 3})
    with pytest.raises(GlocalError, match=r"train.devices=3, but torchrun has --nproc-per-node=2; leave"):
        as_launched(recipe)
    assert as_launched(build_recipe({}, {})).train.devices == 2
    monkeypatch.setenv("WORLD_SIZE", "4")
    with pytest.raises(GlocalError, match="several machines"):
        as_launched(build_recipe({}, {}))
