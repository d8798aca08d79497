"""Two processes whose weights lie in shards train as one does, and leave an ordinary checkpoint."""

from pathlib import Path
from typing import Any

import pytest
import torch

from glocal import GlocalError, Run, pretrain
from glocal.checkpoints import newest_checkpoint
from glocal.data.sources.shapes import Shapes
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


# Sharded for two steps, whole for two more, then sharded again, in one folder.
TURNS: list[dict[str, object]] = [{"stop": 2}, {"stop": 4, "train.sharded": False}, {"stop": 6}]


OPTIONS = {"embed_dim": 64, "depth": 3, "num_heads": 2}
# What these need of a vision transformer: places of patches that fit their crops.
FITTING: dict[str, dict[str, object]] = {
    "obow": {"data.size": 32, "views.1.size": 24, "views.2.size": 16},
    "selfpatch": {"model.options": {**OPTIONS, "patch_size": 4, "class_token": False, "global_pool": "avg"}},
}


def with_shards(name: str, own: dict[str, object]) -> dict[str, object]:
    return {**settings(name), **VIT_RUN, **FITTING.get(name, {}), "train.sharded": True, **own}


@pytest.mark.slow
def test_two_processes_with_shards_train_as_one_does(preloaded: Preloaded, tmp_path: Path) -> None:
    runs = {"patchwise_dino": with_shards("patchwise_dino", SHARDED["patchwise_dino"])}
    one, two = (train(preloaded, tmp_path, runs, processes) for processes in (1, 2))
    assert_same(one / "patchwise_dino", two / "patchwise_dino")
    assert_alike(newest(one / "patchwise_dino"), newest(two / "patchwise_dino"))


@pytest.mark.slow
def test_runs_with_shards_go_on_whole_and_sharded_again(preloaded: Preloaded, tmp_path: Path) -> None:
    runs = {name: with_shards(name, own) for name, own in SHARDED.items()}
    turns = {
        f"turn {number}": {**runs["moco_v3"], "method.name": "moco_v3", "folder": "in turns", **own}
        for number, own in enumerate(TURNS)
    }
    one, two = train(preloaded, tmp_path, runs, 1), train(preloaded, tmp_path, runs | turns, 2)
    for name in runs:
        assert_same(one / name, two / name)
        assert_alike(newest(one / name), newest(two / name))
    assert_same(one / "moco_v3", two / "in turns")
    images = torch.rand(2, 3, 32, 32)
    features = (Run(folder / "dino").backbone().features(images) for folder in (one, two))
    torch.testing.assert_close(*features, rtol=1e-6, atol=1e-6)


def newest(run: Path) -> dict[str, Any]:
    found = newest_checkpoint(run / "checkpoints")
    assert found is not None
    return found


def assert_alike(one: dict[str, Any], two: dict[str, Any]) -> None:
    """The checkpoints have the same keys and whole tensors, with no memory beyond these."""
    assert one.keys() == two.keys()
    states = ({phase: optimizer["state"] for phase, optimizer in each["optimizers"].items()} for each in (two, one))
    torch.testing.assert_close(*states, rtol=1e-6, atol=1e-8)
    for name, tensor in two["method"].items():
        assert type(tensor) is torch.Tensor, name
        assert tensor.untyped_storage().nbytes() == tensor.numel() * tensor.element_size(), name


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"model.name": "resnet18"}, "train.sharded is for vision transformers.*not for model.name=resnet18"),
        ({"train.compile": True}, "train.sharded does not go with train.compile"),
        ({"train.precision": "fp16"}, "train.sharded does not go with train.precision=fp16; use bf16"),
        ({"optimizer.name": "lars"}, "train.sharded does not go with optimizer.name=lars; use adamw"),
    ],
)
def test_what_cannot_be_sharded_is_refused_before_a_folder_is_made(
    settings: dict[str, object], message: str, tmp_path: Path
) -> None:
    overrides = {"method.name": "simclr", **VIT_RUN, "train.sharded": True, **settings}
    if "model.name" in settings:
        del overrides["model.options"]
    with pytest.raises(GlocalError, match=message):
        pretrain(Shapes("train", 48), tmp_path / "run", overrides=overrides, progress=False)
    assert not (tmp_path / "run").exists()


@pytest.mark.slow
def test_two_processes_with_shards_train_every_method_as_one_does(preloaded: Preloaded, tmp_path: Path) -> None:
    runs = {name: with_shards(name, {"optimizer.name": "sgd"}) for name in cases()}
    one, two = (train(preloaded, tmp_path, runs, processes) for processes in (1, 2))
    for name in runs:
        assert_same(one / name, two / name)
