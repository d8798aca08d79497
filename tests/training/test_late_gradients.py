"""Parameters whose gradient starts after the others': DINO's last layer stands still for an epoch."""

import shutil
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from glocal.checkpoints import checkpoint_files, load_checkpoint
from glocal.data.sources.base import MemorySource
from glocal.data.sources.opening import open_source
from glocal.methods.base import Method, ParameterGroup
from glocal.schedules import Clock
from glocal.training.optimizers import OptimizerSettings, build_optimizers, set_schedules
from glocal.training.run import pretrain

NAMES = ["sgd", "lars", "adamw"]
START, STEPS = 2, 5  # the second layer's gradient comes from the third step on


class Late(Method):
    phases = ("only",)
    optimizers = ("sgd", "lars", "adamw")

    def __init__(self) -> None:
        nn.Module.__init__(self)
        torch.manual_seed(0)
        self.layers = nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 2)).double()

    def parameter_groups(self) -> list[ParameterGroup]:
        return [ParameterGroup(self.layers, "only")]


def trained(name: str, *, fused: bool, stop: int | None = None) -> list[Tensor]:
    """The weights after five steps; `stop`: the optimiser is saved and loaded after so many."""
    method, settings = Late(), OptimizerSettings(name=name, lr=0.1, weight_decay=0.01)
    (optimizer,) = build_optimizers(method, settings, fused=fused).values()
    rows = torch.randn(STEPS, 6, 3, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    for step in range(STEPS):
        if step == stop:
            state = optimizer.state_dict()
            (optimizer,) = build_optimizers(method, settings, fused=fused).values()
            optimizer.load_state_dict(state)
        method.layers(rows[step]).square().mean().backward()
        if step < START:
            for parameter in method.layers[1].parameters():
                parameter.grad = None
        set_schedules(optimizer, settings, 256, Clock(step, STEPS, STEPS))
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
    return [parameter.detach() for parameter in method.parameters()]


@pytest.mark.parametrize("name", NAMES)
def test_a_gradient_that_starts_late_is_trained_as_by_the_plain_optimiser(name: str) -> None:
    for found, expected in zip(trained(name, fused=True), trained(name, fused=False), strict=True):
        assert torch.allclose(found, expected, rtol=1e-12)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("stop", range(1, STEPS))
def test_an_optimiser_saved_before_or_after_the_first_gradient_goes_on_to_the_bit(name: str, stop: int) -> None:
    for found, expected in zip(trained(name, fused=True, stop=stop), trained(name, fused=True), strict=True):
        assert torch.equal(found, expected)


def test_sgd_s_first_late_step_is_a_step_without_momentum() -> None:
    """By hand: the buffer of a new parameter is its gradient and decay, as in torch's plain SGD."""
    weight, late = nn.Parameter(torch.tensor([1.0])), nn.Parameter(torch.tensor([2.0]))
    method = Late()
    method.layers = nn.ParameterList([weight, late])  # type: ignore[assignment]
    settings = OptimizerSettings(lr=0.1, lr_batch_size=None, schedule="constant", momentum=0.5, weight_decay=0.0)
    (optimizer,) = build_optimizers(method, settings, fused=True).values()
    for step, grads in enumerate([(1.0, None), (1.0, 3.0), (1.0, 3.0)]):
        for parameter, grad in zip((weight, late), grads, strict=True):
            parameter.grad = None if grad is None else torch.tensor([grad])
        set_schedules(optimizer, settings, 8, Clock(step, 3, 3))
        optimizer.step()
    assert weight.item() == pytest.approx(1 - 0.1 * (1 + 1.5 + 1.75))
    assert late.item() == pytest.approx(2 - 0.1 * (3 + 4.5))


def images() -> MemorySource:
    shapes = open_source("shapes")
    return MemorySource("few", torch.stack([shapes[number].image for number in range(33)]), None, None)


_ALIKE = [pytest.param(name, marks=pytest.mark.slow) for name in ("esvit", "patchwise_dino")]


@pytest.mark.parametrize("method", ["dino", *_ALIKE])
def test_dino_s_family_trains_on_with_sgd_where_its_last_layer_wakes(method: str, tmp_path: Path) -> None:
    vit = {"patch_size": 8, "embed_dim": 32, "depth": 1, "num_heads": 2}
    overrides = {
        "method.name": method,
        "method.prototypes": 32,
        "method.hidden_dim": 32,
        "model.name": "vit_tiny",
        "model.options": vit,
        "optimizer.name": "sgd",
        "data.color": "exact",
        "train.epochs": 3,
        "train.batch_size": 11,  # three steps an epoch
        "train.checkpoint_steps": 1,
        "train.keep_checkpoints": 20,
    }
    pretrain(images(), tmp_path / "a", overrides=overrides, progress=False)
    whole = load_checkpoint(checkpoint_files(tmp_path / "a" / "checkpoints")[0])
    for stop in (2, 5):  # before and after the last layer's first gradient
        shutil.copytree(tmp_path / "a", tmp_path / f"b{stop}")
        for path in checkpoint_files(tmp_path / f"b{stop}" / "checkpoints")[:-stop]:
            path.unlink()
        pretrain(images(), tmp_path / f"b{stop}", overrides=overrides, progress=False)
        again = load_checkpoint(checkpoint_files(tmp_path / f"b{stop}" / "checkpoints")[0])
        assert again["step"] == whole["step"] == 9
        for name, tensor in whole["method"].items():
            assert not isinstance(tensor, Tensor) or torch.equal(tensor, again["method"][name]), name
