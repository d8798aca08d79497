"""A small table of our own, and jobs that are done in the process of the test."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import yaml

from glocal.reproduction import reproducing, worker
from glocal.reproduction.jobs import Job, is_done

TINY = {
    "like": "small",
    "images": 64,
    "epochs": 1,
    "networks": {"resnet*": {"model.name": "resnet18", "model.options": {"channels": [8, 8, 8, 8]}}},
    "settings": {"train.batch_size": 32, "monitor.knn_epochs": 1},
}
KNN = {"title": "k-NN (%)", "protocol": "knn", "settings": {"knn.k": [5]}, "setting": "k=5", "result": "top1"}
SHAPES: dict[str, Any] = {"data": ["shapes:train:128"], "test": ["shapes:test:64"]}


@pytest.fixture
def study(tmp_path: Path) -> Callable[..., Path]:
    """Writes a table: `study(rows)`."""

    def write(rows: Sequence[dict[str, Any]] | None = None, **changes: Any) -> Path:
        rows = rows or [
            {"label": "MoCo", "values": {"knn": 50.5}, "recipe": "moco-cifar10"},
            {"label": "SCE, own", "values": {}, "recipe": "sce-cifar10"},
        ]
        whole = {"id": "tiny", "title": "small runs", "place": "a test", "metrics": {"knn": KNN}, "budget": TINY}
        path = tmp_path / "tiny.yaml"
        path.write_text(yaml.safe_dump({**whole, "rows": rows, **changes}), encoding="utf-8")
        return path

    return write


@pytest.fixture
def done(monkeypatch: pytest.MonkeyPatch, no_pictures: None) -> list[str]:
    """Jobs are done in this process, one after the other; their titles in the order in which they were done."""
    titles: list[str] = []

    def run_jobs(jobs: Sequence[Job], *_: Any, after: Callable[[Job], object], **__: Any) -> None:
        for job in jobs:
            if not is_done(job):
                titles.append(job.title)
                job.write()
                worker.do(job)
                after(job)

    monkeypatch.setattr(reproducing, "run_jobs", run_jobs)
    return titles
