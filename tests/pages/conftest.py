"""Small runs whose pages are looked at."""

from pathlib import Path

import pytest

import glocal

SMALL = {"model.name": "resnet18", "model.options": {"channels": [8, 8, 8, 8], "layers": [1, 1, 1, 1]}, "seed": 0}
STEPS = {"train.epochs": 3, "train.batch_size": 32, "train.log_steps": 1, "monitor.knn_epochs": 1}


@pytest.fixture(scope="session")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of three epochs of drawn shapes."""
    folder = tmp_path_factory.mktemp("runs") / "first"
    glocal.pretrain("shapes:train:128", folder, recipe="demo-shapes", overrides={**SMALL, **STEPS}, progress=False)
    return folder


@pytest.fixture(scope="session")
def reported(trained: Path) -> Path:
    """Its page."""
    return glocal.write_report(trained, trained / "page.html", images=96, progress=False)
