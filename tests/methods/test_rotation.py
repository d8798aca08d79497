"""RotNet: all four rotations of each image in a batch, told apart."""

from pathlib import Path

import numpy as np
import pytest
import torch

import glocal
from glocal.views.batch import Views
from tests.methods.cases import RESNET_RUN, MethodCase, make, views

# No budget: drawn shapes lie turned at random, so nothing in them tells how they were turned again.
CASE = MethodCase(trained={"loss": {"backbone", "classifier"}}, run=RESNET_RUN)


def test_the_loss_is_the_cross_entropy_of_the_four_rotations() -> None:
    method, fresh = make("rotation"), make("rotation")
    batch = views(method)
    [images] = batch.images
    turned = [np.rot90(images.numpy(), turn, axes=(2, 3)).copy() for turn in range(4)]
    scores = fresh.classifier(fresh.backbone(torch.from_numpy(np.concatenate(turned)))).double().log_softmax(dim=1)
    expected = -sum(scores[turn * 8 + row, turn].item() for turn in range(4) for row in range(8)) / 32
    assert method(batch).item() == pytest.approx(expected, rel=1e-5)


def test_views_of_several_sizes_are_all_turned() -> None:
    method, fresh = make("rotation"), make("rotation")
    batch = views(method)
    small = batch.images[0][:, :, 2:14, 2:14].contiguous()
    both = Views((batch.images[0], small), batch.geometry * 2, batch.index)
    expected = (make("rotation")(batch) + fresh(Views((small,), batch.geometry, batch.index))) / 2
    # Batch normalisation sees the views of one size together, so both ways normalise alike.
    assert method(both).item() == pytest.approx(expected.item(), rel=1e-5)


def test_rotations_of_upright_images_are_learned(tmp_path: Path) -> None:
    overrides = {
        **RESNET_RUN,
        "method.name": "rotation",
        "train.epochs": 5,
        "train.batch_size": 32,
        "monitor.knn_epochs": 0,
    }
    run = glocal.pretrain("digits", tmp_path / "run", overrides=overrides, progress=False)
    assert sum(run.metrics["loss"][-5:]) / 5 < 0.8  # chance: log 4 = 1.39
