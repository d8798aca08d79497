"""VICReg beside the other methods; its loss is tested in tests/losses/test_redundancy.py."""

import pytest

from glocal.losses import vicreg
from tests.methods.cases import RESNET_RUN, MethodCase, make, views

CASE = MethodCase(
    trained={"loss": {"backbone", "projector"}},
    small={"output_dim": 32},
    run={**RESNET_RUN, "method.output_dim": 128, "optimizer.lr": 0.05},
    budget={"method.output_dim": 512, "optimizer.lr": 0.03, "train.epochs": 6},
)


def test_it_is_the_loss_of_both_projections_with_its_three_weights() -> None:
    weights = {"invariance": 10.0, "variance": 20.0, "covariance": 3.0}
    method, fresh = (make("vicreg", **weights) for _ in range(2))
    batch = views(method)
    first, second = (fresh.projector(fresh.backbone(image)) for image in batch.images)
    assert method(batch).item() == pytest.approx(vicreg(first, second, **weights).item(), rel=1e-4)
