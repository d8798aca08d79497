"""RotNet: all four rotations of each image in a batch, told apart."""

import math

import numpy as np
import pytest
import torch

from glocal.schedules import Clock
from glocal.views.batch import Views
from tests.methods.cases import RESNET_RUN, MethodCase, make, views

# No budget: drawn shapes lie turned at random, so nothing in them tells how they were turned again.
CASE = MethodCase(trained={"loss": {"backbone", "classifier"}}, run=RESNET_RUN)


def test_the_loss_is_the_cross_entropy_of_the_four_rotations_and_solved_counts_the_right_ones() -> None:
    method, fresh = make("rotation"), make("rotation")
    batch = views(method)
    [images] = batch.images
    turned = [np.rot90(images.numpy(), turn, axes=(2, 3)).copy() for turn in range(4)]
    scores = fresh.classifier(fresh.backbone(torch.from_numpy(np.concatenate(turned)))).double().log_softmax(dim=1)
    expected = -sum(scores[turn * 8 + row, turn].item() for turn in range(4) for row in range(8)) / 32
    right = sum(int(scores[turn * 8 + row].argmax()) == turn for turn in range(4) for row in range(8))
    assert method(batch).item() == pytest.approx(expected, rel=1e-5)
    assert method.solved is not None
    assert method.solved.item() == pytest.approx(right / 32)
    assert method.chance == pytest.approx(math.log(4))


def test_views_of_several_sizes_are_all_turned() -> None:
    method, fresh = make("rotation"), make("rotation")
    batch = views(method)
    small = batch.images[0][:, :, 2:14, 2:14].contiguous()
    both = Views((batch.images[0], small), batch.geometry * 2, batch.index)
    expected = (make("rotation")(batch) + fresh(Views((small,), batch.geometry, batch.index))) / 2
    # Batch normalisation sees the views of one size together, so both ways normalise alike.
    assert method(both).item() == pytest.approx(expected.item(), rel=1e-5)


def test_it_learns_how_images_were_turned_that_are_brighter_above() -> None:
    method = make("rotation")
    optimizer = torch.optim.SGD(method.parameters(), lr=0.05, momentum=0.9)
    batch = views(method)
    slope = torch.linspace(2, -2, 16)[:, None]
    upright = Views((batch.images[0] + slope,), batch.geometry, batch.index)
    for step in range(12):
        method.before_step(Clock(step, 12, 12))
        optimizer.zero_grad()
        method(upright).backward()
        optimizer.step()
    assert method.solved is not None
    assert method.solved.item() > 0.9
