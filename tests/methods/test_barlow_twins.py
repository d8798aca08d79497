"""Barlow Twins beside the other methods; its loss is tested in tests/losses/test_redundancy.py."""

import pytest

from glocal.losses import barlow_twins
from tests.methods.cases import RESNET_RUN, MethodCase, make, views

CASE = MethodCase(
    slow=True,
    trained={"loss": {"backbone", "projector"}},
    small={"output_dim": 32},
    run={**RESNET_RUN, "method.output_dim": 128, "optimizer.lr": 0.05},
    budget={
        "method.output_dim": 256,
        "method.coefficient": 0.005,
        "optimizer.lr": 0.02,
        "optimizer.weight_decay": 1e-4,
        "train.epochs": 10,
    },
)


def test_it_is_the_loss_of_both_projections() -> None:
    method, fresh = (make("barlow_twins", coefficient=0.1) for _ in range(2))
    batch = views(method)
    first, second = (fresh.projector(fresh.backbone(image)) for image in batch.images)
    assert method(batch).item() == pytest.approx(barlow_twins(first, second, coefficient=0.1).item(), rel=1e-4)
    linears = [layer for layer in method.projector if hasattr(layer, "in_features")]
    assert len(linears) == 3
    assert all(layer.bias is None for layer in linears)
