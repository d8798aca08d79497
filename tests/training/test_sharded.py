"""Two processes whose weights lie in shards train as one does, and leave an ordinary checkpoint."""

from pathlib import Path

import pytest

from tests.methods.cases import VIT_RUN, cases
from tests.preloaded import Preloaded
from tests.training.test_sharing import assert_same, settings, train

SHARDED: dict[str, dict[str, object]] = {
    "dino": {
        "train.accumulate": 2,
        "train.clip_norm": 0.3,
        "optimizer.clip": "parameter",
        "train.recompute": "blocks",
    },
    "patchwise_dino": {"train.clip_norm": 0.3, "optimizer.layer_decay": 0.8, "train.freeze_backbone_epochs": 1},
    "moco_v3": {"method.teacher_buffers": "average", "optimizer.name": "sgd", "monitor.knn_epochs": 1},
}


def with_shards(name: str, own: dict[str, object]) -> dict[str, object]:
    return {**settings(name), **VIT_RUN, "train.sharded": True, **own}


def test_two_processes_with_shards_train_as_one_does(preloaded: Preloaded, tmp_path: Path) -> None:
    runs = {name: with_shards(name, own) for name, own in SHARDED.items()}
    one, two = (train(preloaded, tmp_path, runs, processes) for processes in (1, 2))
    for name in runs:
        assert_same(one / name, two / name)


@pytest.mark.slow
def test_two_processes_with_shards_train_every_method_as_one_does(preloaded: Preloaded, tmp_path: Path) -> None:
    runs = {name: with_shards(name, {"optimizer.name": "sgd"}) for name in cases()}
    one, two = (train(preloaded, tmp_path, runs, processes) for processes in (1, 2))
    for name in runs:
        assert_same(one / name, two / name)
