"""wandb (offline) and MLflow (in a folder) are told what metrics.csv has; a service that fails stops nothing."""

import json
import time
from pathlib import Path
from typing import Any

import pytest
from lightning.pytorch import loggers as of_lightning

import glocal
from glocal.config import build_recipe
from glocal.errors import GlocalError
from glocal.training import loggers
from glocal.training.log import monitor_series

SMALL = {
    "model.options": {"channels": [8, 8, 8, 8], "layers": [1, 1, 1, 1]},
    "train.epochs": 2,
    "train.batch_size": 32,
    "train.log_steps": 1,
}


def pretrain(out: Path, name: str, **more: Any) -> glocal.Run:
    overrides = {**SMALL, "train.loggers": [name], **more}
    return glocal.pretrain("shapes:train:64", out, recipe="demo-shapes", overrides=overrides, progress=False)


@pytest.mark.usefixtures("no_pictures")
def test_mlflow_has_the_numbers_and_the_settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    mlflow = pytest.importorskip("mlflow")
    for name in ("MLFLOW_TRACKING_URI", "MLFLOW_ALLOW_FILE_STORE"):
        monkeypatch.setenv(name, "")  # so that it is put back, and
        monkeypatch.delenv(name)  # what a user without either has
    run = pretrain(tmp_path / "run", "mlflow")
    client = mlflow.tracking.MlflowClient((tmp_path / "run" / "mlruns").resolve().as_uri())
    number = json.loads((tmp_path / "run" / "loggers.json").read_text())["mlflow"]
    losses = {one.step: one.value for one in client.get_metric_history(number, "loss")}
    assert losses == pytest.approx(dict(zip(map(int, run.metrics["step"]), run.metrics["loss"], strict=True)), rel=1e-6)
    spread = {one.step: one.value for one in client.get_metric_history(number, "monitor/spread")}
    assert spread == pytest.approx(dict(monitor_series(run.folder, "spread")), rel=1e-6)
    there = client.get_run(number)
    assert there.data.params["method/name"] == "sce"
    assert there.info.status == "FINISHED"

    again = pretrain(tmp_path / "run", "mlflow", **{"train.epochs": 2})  # finished: nothing is told
    assert again.metrics == run.metrics
    longer = glocal.pretrain(
        "shapes:train:64", tmp_path / "run", recipe="demo-shapes", progress=False, extend=True,
        overrides={**SMALL, "train.loggers": ["mlflow"], "train.epochs": 3},
    )  # fmt: skip
    assert json.loads((tmp_path / "run" / "loggers.json").read_text())["mlflow"] == number  # the same run goes on
    assert len(client.get_metric_history(number, "loss")) == len(longer.metrics["loss"])


def test_wandb_writes_offline(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, no_pictures: None) -> None:
    pytest.importorskip("wandb")
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_SILENT", "true")
    run = pretrain(tmp_path / "run", "wandb")
    [file] = (run.folder / "wandb").glob("offline-run-*/*.wandb")
    end = time.monotonic() + 60
    while b"images_per_second" not in (content := file.read_bytes()) and time.monotonic() < end:
        time.sleep(0.1)  # another process writes it
    assert b"images_per_second" in content
    assert b"monitor/effective_rank" in content
    assert json.loads((run.folder / "loggers.json").read_text())["wandb"] in file.name


def test_a_service_that_fails_is_left_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], no_pictures: None
) -> None:
    class Failing:
        version = "7"

        def __init__(self, **_: Any) -> None:
            self.told = 0

        def log_hyperparams(self, _: Any) -> None:
            pass

        def log_metrics(self, _: Any, step: int) -> None:
            self.told += 1
            raise ConnectionError(f"no network at step {step}")

    monkeypatch.setattr(loggers, "check_loggers", lambda _: None)
    monkeypatch.setattr("glocal.training.run.check_loggers", lambda _: None)
    monkeypatch.setattr(of_lightning, "MLFlowLogger", Failing)
    run = pretrain(tmp_path / "run", "mlflow")
    assert len(run.metrics["loss"]) == 4
    assert capsys.readouterr().err.count("mlflow is left out from here on: ConnectionError: no network") == 1


def test_missing_packages_and_wrong_names_are_told_before_anything_is_trained(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "wandb_like").mkdir()
    monkeypatch.syspath_prepend(str(tmp_path))
    with pytest.raises(GlocalError, match="is not installed"):
        loggers.check_loggers(("wandb_like",))  # type: ignore[arg-type]  # a folder is no package
    monkeypatch.setattr("importlib.util.find_spec", lambda _: None)
    with pytest.raises(
        GlocalError, match=r"loggers=wandb: the package is not installed; pip install 'glocal\[wandb\]'"
    ):
        loggers.check_loggers(("wandb",))
    with pytest.raises(GlocalError, match=r"train.loggers.*wandb"):
        build_recipe({"name": "own"}, {"train.loggers": ["wandbb"]}, data_size=32)
