"""SimSiam: prediction of a fixed target."""

import pytest

from glocal.losses import negative_cosine
from tests.methods.cases import RESNET_RUN, MethodCase, make, views

CASE = MethodCase(
    trained={"loss": {"backbone", "projector", "predictor"}},
    run={**RESNET_RUN, "method.output_dim": 128, "method.predictor_dim": 32},
    budget={"method.output_dim": 512, "method.predictor_dim": 128},
)


def test_simsiam_is_symmetric_and_stops_the_gradient_of_targets() -> None:
    method = make("simsiam", output_dim=16, predictor_dim=8)
    batch = views(method)
    first, second = (method.projector(method.backbone(view)) for view in batch.images)
    expected = negative_cosine(method.predictor(first), second.detach()) / 2
    expected = expected + negative_cosine(method.predictor(second), first.detach()) / 2
    loss = make("simsiam", output_dim=16, predictor_dim=8)(batch)
    assert loss.item() == pytest.approx(expected.item(), rel=1e-5)


def test_simsiams_predictor_keeps_its_learning_rate() -> None:
    groups = make("simsiam").parameter_groups()
    assert [group.constant_lr for group in groups] == [False, False, True]
