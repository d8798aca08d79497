"""Every method, through `pretrain`: it learns, does not collapse, and resumes bit for bit."""

import csv
import json
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

import glocal
from glocal.checkpoints import newest_checkpoint
from glocal.errors import GlocalError
from glocal.methods.patchwise_dino import PatchwiseDINO
from glocal.training import lookout, loop
from glocal.views.batch import Views
from tests.methods.cases import RESNET_RUN, VIT_RUN, cases, parameters
from tests.preloaded import NO_PICTURES, Preloaded
from tests.training.test_runs import assert_equal

pytestmark = pytest.mark.usefixtures("no_pictures")

CASES = cases()
SETTINGS = {
    "train.batch_size": 32,
    "train.log_steps": 1,
    "train.precision": "fp32",
    "train.epochs": 2,
    "monitor.knn_epochs": 0,
    "monitor.collapse_epochs": 1,
    "data.lane": "resident",
}


@pytest.mark.parametrize("name", parameters())
def test_it_learns_in_two_epochs_does_not_collapse_and_is_not_accused_of_it(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(lookout, "EVERY", 8)
    overrides = {**SETTINGS, **CASES[name].run, **CASES[name].falls, "method.name": name}
    run = glocal.pretrain("shapes:train:1024", tmp_path / "a", overrides=overrides, progress=False)
    losses = run.metrics["loss"][8:]  # the queue's first keys are random
    assert sum(losses[-10:]) / 10 < sum(losses[:4]) / 4
    rows = list(csv.DictReader((tmp_path / "a" / "monitor.csv").open()))
    values = {row["name"]: float(row["value"]) for row in rows}
    assert values["spread"] > 0.1
    assert values["effective_rank"] > 2
    assert "warning" not in capsys.readouterr().err


@pytest.mark.parametrize("name", parameters("logo"))
def test_a_run_that_was_stopped_between_checkpoints_ends_in_the_same_weights(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    overrides = {**SETTINGS, **CASES[name].run, "method.name": name, "train.checkpoint_steps": 3, "train.epochs": 3}
    data = "shapes:train:128"  # 4 steps an epoch
    glocal.pretrain(data, tmp_path / "whole", overrides=overrides, progress=False)

    class Killed(BaseException):
        pass

    real, left = loop._optimise, 5

    def some_steps(*args: Any) -> torch.Tensor:
        nonlocal left
        if left == 0:
            raise Killed
        left -= 1
        return real(*args)

    with monkeypatch.context() as patch:
        patch.setattr(loop, "_optimise", some_steps)
        with pytest.raises(Killed):
            glocal.pretrain(data, tmp_path / "parts", overrides=overrides, progress=False)
    glocal.pretrain(data, tmp_path / "parts", overrides=overrides, progress=False)
    whole, parts = (newest_checkpoint(tmp_path / folder / "checkpoints") for folder in ("whole", "parts"))
    assert whole is not None
    assert parts is not None
    assert whole["step"] == parts["step"] == 12
    assert_equal(whole["method"], parts["method"])
    assert_equal(whole["optimizers"], parts["optimizers"])


def start_both(preloaded: Preloaded, arguments: list[str], **environment: str) -> str:
    """The command in two processes that were told their ranks, as torchrun and SLURM do; what both print."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        meeting = {
            "MASTER_ADDR": "127.0.0.1",
            "MASTER_PORT": str(free.getsockname()[1]),
            "WORLD_SIZE": "2",
            **environment,
        }
    here = int(environment.get("LOCAL_WORLD_SIZE", "2"))
    ranks = [{**meeting, "NODE_RANK": "0", "LOCAL_RANK": str(rank % here), "RANK": str(rank)} for rank in range(2)]
    both = [preloaded.start(*arguments, before=NO_PICTURES, environment=rank) for rank in ranks]
    done = [process.finish() for process in both]
    assert [one.returncode for one in done] == [0, 0], b"".join(one.stderr for one in done).decode()
    return b"".join(one.stdout for one in done).decode()


@pytest.mark.slow
def test_a_training_starts_its_second_process_itself(tmp_path: Path) -> None:
    """What two processes come to is compared with one in `test_sharing.py`."""
    overrides = {**SETTINGS, **CASES["npid"].run, "method.name": "npid", "train.devices": 2, "train.device": "cpu"}
    settings = [f"--set={key}={json.dumps(value)}" for key, value in overrides.items()]
    command = [sys.executable, "-m", "glocal", "pretrain", "--data=shapes:train:128", f"--out={tmp_path}", *settings]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    state = newest_checkpoint(tmp_path / "checkpoints")
    assert state is not None
    assert state["step"] == 8
    assert done.stdout.count("run:") == 1


@pytest.mark.slow
def test_two_processes_train_the_heads_first(tmp_path: Path, preloaded: Preloaded) -> None:
    """A backbone that stands still gives no gradients, for which the other process does not wait."""
    frozen = {"train.freeze_backbone_epochs": 1, "train.checkpoint_steps": 2, "train.keep_checkpoints": 4}
    overrides = {**SETTINGS, **CASES["simclr"].run, **frozen, "train.devices": 2, "train.device": "cpu"}
    settings = [f"--set={key}={json.dumps(value)}" for key, value in {**overrides, "method.name": "simclr"}.items()]
    start_both(preloaded, ["pretrain", "--data", "shapes:train:128", "--out", str(tmp_path), *settings])
    first, still, _, last = (
        torch.load(file, weights_only=True)["method"] for file in sorted((tmp_path / "checkpoints").glob("step-*.pt"))
    )
    convolutions = [name for name, one in first.items() if name.startswith("backbone.") and one.ndim == 4]
    assert convolutions
    assert all(torch.equal(first[name], still[name]) for name in convolutions)
    assert not any(torch.equal(still[name], last[name]) for name in convolutions)


def test_bfloat16_leaves_the_boxes_of_the_views_as_they_are(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Fabric rounds every float tensor that it finds in a batch; a box of 365 pixels would become one of 364."""
    seen: list[torch.Tensor] = []
    real = PatchwiseDINO.loss

    def look(self: PatchwiseDINO, views: Views) -> torch.Tensor:
        seen.extend(geometry.box for geometry in views.geometry)
        return real(self, views)

    monkeypatch.setattr(PatchwiseDINO, "loss", look)
    overrides = {
        **SETTINGS,
        **CASES["patchwise_dino"].run,
        "method.name": "patchwise_dino",
        "train.epochs": 1,
        "train.precision": "bf16",
    }
    glocal.pretrain("shapes:train:32", tmp_path / "a", overrides=overrides, progress=False)
    assert seen
    assert {box.dtype for box in seen} == {torch.float64}


def test_a_diverging_run_is_named_also_when_gradients_are_clipped(tmp_path: Path) -> None:
    overrides = {**SETTINGS, **RESNET_RUN, "method.name": "simsiam", "optimizer.lr": 1e30, "train.clip_norm": 1e30}
    with pytest.raises(GlocalError, match="the loss is (nan|inf)"):
        glocal.pretrain("shapes:train:128", tmp_path / "a", overrides=overrides, progress=False)


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ({**CASES["logo"].run, "method.name": "logo", "optimizer.name": "adamw"}, "adamw: method logo needs sgd"),
        (
            {**CASES["dino"].run, "method.name": "dino", "data.size": 30},
            "views of 30 pixels cannot be cut into patches of 8",
        ),
        (
            {
                **CASES["patchwise_dino"].run,
                **{"method.name": "patchwise_dino", "method.center": "position"},
                **{"views.0.size": 40, "views.1.size": 40},
            },
            "global views of 40 pixels have 26 tokens, but the centre is made for 17",
        ),
        ({**CASES["dino"].run, "method.name": "dino", "views.0.size": 24}, "first two views are the global ones"),
        (
            {
                **CASES["patchwise_dino"].run,
                "method.name": "patchwise_dino",
                "model.options": {**VIT_RUN["model.options"], "reg_tokens": 4},
            },
            "one CLS token before the patches is expected, not 5",
        ),
        ({**RESNET_RUN, "method.name": "patchwise_dino", "method.prototypes": 8}, "ResNet has no patches"),
        (
            {**CASES["clim"].run, "method.name": "clim", "views.0.resolutions": [16]},
            "CLIM gets 6 views instead of 4",
        ),
    ],
)
def test_what_does_not_fit_together_is_named(overrides: dict[str, Any], message: str, tmp_path: Path) -> None:
    with pytest.raises(GlocalError, match=message):
        glocal.pretrain("shapes:train:64", tmp_path / "a", overrides={**SETTINGS, **overrides}, progress=False)
