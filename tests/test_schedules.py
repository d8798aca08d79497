"""Schedules and optimisers."""

import math

import pytest
import torch

from glocal.errors import GlocalError
from glocal.methods import method_class
from glocal.models.architecture import ModelSettings
from glocal.models.building import build_backbone
from glocal.schedules import Clock, Schedule, Steps, value_at
from glocal.settings import validated
from glocal.training.optimizers import OptimizerSettings, build_optimizers, clip_each, set_schedules


def values(schedule: Schedule | Steps, total: int = 100) -> list[float]:
    return [schedule.at(Clock(step, 10, total)) for step in range(total + 1)]


def test_cosine_after_a_linear_warm_up() -> None:
    found = values(Schedule(start=1.0, end=0.0, warmup_epochs=2))
    assert found[:21] == pytest.approx([step / 20 for step in range(21)])
    expected = [(1 + math.cos(math.pi * step / 80)) / 2 for step in range(81)]
    assert found[20:] == pytest.approx(expected)


def test_a_schedule_of_some_epochs_stays_at_its_end() -> None:
    found = values(Schedule(start=0.04, end=0.07, kind="linear", epochs=3))
    assert found[15] == pytest.approx(0.055)
    assert found[30:] == pytest.approx([0.07] * 71)


def test_steps_are_those_of_torch() -> None:
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=0.3)
    theirs = torch.optim.lr_scheduler.MultiStepLR(optimizer, milestones=[60, 80], gamma=0.1)
    expected = []
    for _ in range(101):
        expected.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        theirs.step()
    settings = OptimizerSettings(lr=0.3, schedule="step", milestones=(6, 8))
    assert values(settings.lr_schedule(256)) == pytest.approx(expected)


def test_steps_come_after_a_linear_warm_up() -> None:
    settings = OptimizerSettings(lr=1.0, schedule="step", milestones=(5,), factor=0.5, warmup_epochs=2)
    found = values(settings.lr_schedule(256))
    assert found[:21] == pytest.approx([step / 20 for step in range(21)])
    assert found[20:] == pytest.approx([1.0] * 30 + [0.5] * 51)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"schedule": "step"}, r"schedule=step needs optimizer.milestones, for example \[120, 160\]"),
        ({"schedule": "step", "milestones": [160, 120]}, r"milestones must ascend, not \[160.0, 120.0\]"),
        ({"clip": "value"}, "clip must be 'norm' or 'parameter', not 'value'"),
    ],
)
def test_steps_and_clipping_that_mean_nothing_are_named(settings: dict[str, object], message: str) -> None:
    with pytest.raises(GlocalError, match=message):
        validated(OptimizerSettings, settings, "here")


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_each_gradient_is_clipped_as_by_a_loop(dtype: torch.dtype) -> None:
    """As in `clip_gradients` of DINO's authors, one parameter after the other."""
    torch.manual_seed(0)
    sizes = (0.01, 3.0, 40.0, 0.0)
    gradients = [
        size * torch.randn(shape, dtype=dtype) for size, shape in zip(sizes, [4, (3, 5), (2, 3, 3), 7], strict=True)
    ]
    expected = []
    for gradient in gradients:
        share = 3.0 / (gradient.norm(2) + 1e-6)
        expected.append(gradient * share if share < 1 else gradient.clone())
    clip_each(gradients, 3.0)
    for found, wanted in zip(gradients, expected, strict=True):
        torch.testing.assert_close(found, wanted)
    assert gradients[2].norm().item() == pytest.approx(3.0, rel=1e-5)
    clip_each([], 3.0)


def test_numbers_are_constant() -> None:
    assert value_at(0.3, Clock(5, 10, 100)) == 0.3


def test_groups_get_scaled_rates_decay_only_where_it_applies_and_constant_ones_stay() -> None:
    kind = method_class("simsiam")
    backbone = build_backbone(ModelSettings(options={"channels": [8, 8, 8, 8], "layers": [1, 1, 1, 1]}), size=16)
    settings = OptimizerSettings(lr=0.05, weight_decay=1e-4, decay_norm_and_bias=False, warmup_epochs=1)
    method = kind(backbone, kind.Settings(output_dim=16, predictor_dim=8))
    optimizer = build_optimizers(method, settings)["loss"]
    set_schedules(optimizer, settings, 512, Clock(5, 10, 100))
    rates = {
        (not group["plain"], group["constant_lr"]): (group["lr"], group["weight_decay"])
        for group in optimizer.param_groups
    }
    assert rates[(True, False)] == pytest.approx((0.05, 1e-4))  # half of the warm-up to 0.1
    assert rates[(False, False)] == pytest.approx((0.05, 0.0))
    assert rates[(True, True)] == pytest.approx((0.1, 1e-4))
    plain = [p for group in optimizer.param_groups if group["plain"] for p in group["params"]]
    assert all(parameter.ndim <= 1 for parameter in plain)
    trained = sum(len(group["params"]) for group in optimizer.param_groups)
    assert trained == len(list(method.parameters()))


def test_biases_and_normalisation_may_have_a_rate_of_their_own() -> None:
    kind = method_class("simsiam")
    backbone = build_backbone(ModelSettings(options={"channels": [8, 8, 8, 8], "layers": [1, 1, 1, 1]}), size=16)
    settings = OptimizerSettings(lr=0.2, norm_and_bias_lr=0.0048, weight_decay=1e-6)
    optimizer = build_optimizers(kind(backbone, kind.Settings(output_dim=16, predictor_dim=8)), settings)["loss"]
    set_schedules(optimizer, settings, 512, Clock(0, 10, 100))
    rates = {group["plain"]: group["lr"] for group in optimizer.param_groups}
    assert rates == {True: pytest.approx(0.0096), False: pytest.approx(0.4)}
    assert {group["weight_decay"] for group in optimizer.param_groups} == {1e-6}
    assert all((p.ndim <= 1) == group["plain"] for group in optimizer.param_groups for p in group["params"])


@pytest.mark.parametrize("name", ["sgd", "adamw", "lars"])
def test_every_optimiser_moves_the_weights(name: str) -> None:
    kind = method_class("sce")
    backbone = build_backbone(ModelSettings(options={"channels": [8, 8, 8, 8], "layers": [1, 1, 1, 1]}), size=16)
    method = kind(backbone, kind.Settings(queue_size=8))
    settings = OptimizerSettings(name=name)
    optimizer = build_optimizers(method, settings)["loss"]
    set_schedules(optimizer, settings, 256, Clock(0, 10, 100))
    before = backbone.network.conv1.weight.detach().clone()
    backbone(torch.randn(2, 3, 16, 16)).square().sum().backward()
    optimizer.step()
    assert not torch.equal(backbone.network.conv1.weight, before)
