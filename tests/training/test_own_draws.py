"""What looks at images draws nothing from the numbers that the training draws from (dropped paths, for example)."""

import shutil
from pathlib import Path
from typing import Any

import pytest

import glocal
from tests.training.test_runs import TINY, assert_equal, final_state

VIT: dict[str, Any] = {
    **TINY,
    "model.name": "vit_tiny",
    "model.stem": None,
    "model.options": {"patch_size": 8, "embed_dim": 16, "depth": 2, "num_heads": 2, "drop_path_rate": 0.5},
    "data.lane": "streaming",
    "train.keep_checkpoints": 100,
}


def train(out: Path, **changes: Any) -> dict[str, Any]:
    settings = {**VIT, **{key.replace("__", "."): value for key, value in changes.items()}}
    settings = {key: value for key, value in settings.items() if value is not None}
    glocal.pretrain("shapes:train:96", out, overrides=settings, progress=False, report=False)
    return final_state(out)


@pytest.mark.parametrize("workers", [0, 1])
def test_a_streaming_run_that_drops_paths_goes_on_exactly(workers: int, tmp_path: Path) -> None:
    whole = train(tmp_path / "whole", data__workers=workers)
    shutil.copytree(tmp_path / "whole", tmp_path / "stopped")
    for step in (5, 6):
        (tmp_path / f"stopped/checkpoints/step-{step:09d}.pt").unlink()
    assert_equal(train(tmp_path / "stopped", data__workers=workers)["method"], whole["method"])


def test_measurements_change_nothing(tmp_path: Path) -> None:
    whole = train(tmp_path / "whole")
    assert_equal(train(tmp_path / "measured", monitor__knn_epochs=1)["method"], whole["method"])
