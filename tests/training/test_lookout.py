"""Collapse, divergence and overflow are named, healthy trainings are not accused, and what is infinite is not saved."""

import math
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import glocal
from glocal.checkpoints import checkpoint_files
from glocal.data.sources.base import MemorySource
from glocal.errors import GlocalError
from glocal.evaluation.metrics.structure import effective_rank
from glocal.losses.redundancy import arb
from glocal.training import lookout, loop
from glocal.training.finite import NonFiniteLossError, check_state, not_finite
from glocal.training.lookout import EVERY, Lookout
from glocal.training.optimizers import OptimizerSettings, build_optimizers
from tests.methods.cases import cases, make, views
from tests.training.test_every_method import SETTINGS
from tests.training.test_runs import run

pytestmark = pytest.mark.usefixtures("no_pictures")


class Watched(nn.Module):
    """What a lookout asks of a method."""

    def __init__(self, embedding: Tensor, assigned: Tensor | None = None, chance: float | None = None) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(1))
        self.embedding, self.assigned, self.chance = embedding, assigned, chance
        self.now = SimpleNamespace(teacher_temperature=0.04, center_momentum=0.9)

    def assignments(self) -> Tensor | None:
        return self.assigned


def watch(*seen: Any, chance: float | None = None) -> Lookout:
    method: Any = Watched(*seen, chance=chance)
    return Lookout(method, {})


def told(watching: Lookout, steps: int = 100) -> list[str]:
    return [text for step in range(1, steps + 1) for text in watching.after(step)]


ROWS, IMAGES = 64, 64
ONE = torch.eye(ROWS)[torch.zeros(IMAGES, dtype=torch.int64)]
ALIKE = torch.full((IMAGES, ROWS), 1 / ROWS)
OWN = torch.eye(ROWS)[torch.arange(IMAGES)]


@pytest.mark.parametrize(
    ("assigned", "expected"),
    [
        (ONE, "1.0 of 64 prototypes are in use, and 0 nats .* a smaller method.center_momentum"),
        (ALIKE, "64.0 of 64 prototypes are in use, and .* try a smaller method.teacher_temperature"),
        (OWN, None),
        (0.9 * ALIKE + 0.1 * OWN, None),
        (None, None),
    ],
)
def test_targets_that_are_the_same_for_all_images_are_told_once_within_100_steps(
    assigned: Tensor | None, expected: str | None
) -> None:
    found = told(watch(torch.randn(IMAGES, 16), assigned), 300)
    assert len(found) == (expected is not None)
    if expected is not None:
        with pytest.raises(GlocalError, match=f"^step {2 * EVERY}: the targets are collapsing: {expected}"):
            raise GlocalError(found[0])


def test_embeddings_that_fall_to_one_point_are_told_and_narrow_ones_from_the_start_are_not() -> None:
    narrow = torch.ones(IMAGES, 16) + 0.01 * torch.randn(IMAGES, 16)
    assert told(watch(narrow)) == []
    method: Any = Watched(torch.randn(IMAGES, 16))
    watching = Lookout(method, {})
    assert list(watching.after(1)) == []
    method.embedding = narrow
    assert list(watching.after(EVERY)) == []
    [text] = watching.after(2 * EVERY)
    assert text.startswith(f"step {2 * EVERY}: the embeddings are collapsing to one point (spread 0.0")


def test_a_loss_far_above_blind_guessing_is_told_once() -> None:
    watching = watch(torch.randn(IMAGES, 16), chance=math.log(4097))
    assert watching.loss(10, 80.0) is None
    assert "the loss is 41,000, where blind guessing would cost 8.3" in str(watching.loss(20, 41000.0))
    assert watching.loss(30, 41000.0) is None
    watching = watch(torch.randn(IMAGES, 16))
    assert watching.loss(10, 40.0) is None
    assert "the loss is 40,001, and was 40 at first" in str(watching.loss(20, 40001.0))


BRIEF = {"train.epochs": 1, "train.log_steps": 8}
PAIR = {
    "views": [{"name": "global", "count": 2, "size": 32, "scale": [0.4, 1.0]}],
    "optimizer.schedule": "constant",
    "optimizer.warmup_epochs": 0,  # in so few steps a slow start would leave no time to collapse
}
CERTAIN = "where blind guessing would cost .*: predictions are certain and wrong; try a larger method.temperature"


@pytest.mark.parametrize(
    ("name", "settings", "expected"),
    [
        ("dino", {**PAIR, "method.center_momentum": 1.0, "optimizer.lr": 0.01}, "nearly all images have the same"),
        ("dino", {**PAIR, "method.teacher_temperature": 10.0}, "for all images have nearly the same"),
        ("sce", {"method.temperature": 1e-6}, CERTAIN),
        ("simclr", {"method.temperature": 1e-6}, CERTAIN),
    ],
)
def test_runs_made_to_collapse_are_told_so(
    name: str,
    settings: dict[str, Any],
    expected: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(lookout, "EVERY", 20)
    overrides = {**SETTINGS, **cases()[name].run, **BRIEF, **settings, "method.name": name}
    steps = 40 if name == "dino" else 8
    glocal.pretrain(f"shapes:train:{32 * steps}", tmp_path / "a", overrides=overrides, progress=False)
    with pytest.raises(GlocalError, match=f"warning: step {steps}: .*{expected}"):
        raise GlocalError(capsys.readouterr().err)


def momentum(method: Any, optimizers: Any) -> Tensor:
    return optimizers["loss"].state[method.projector[0].weight]["momentum_buffer"]  # type: ignore[no-any-return]


@pytest.mark.parametrize(
    ("part", "name"),
    [
        (lambda method, _: method.queue.keys, "queue.keys"),
        (lambda method, _: method.backbone.network.bn1.running_var, "backbone.network.bn1.running_var"),
        (momentum, "the optimiser's momentum_buffer of projector.0.weight"),
    ],
)
def test_what_is_infinite_makes_no_checkpoint(part: Callable[[Any, Any], Tensor], name: str) -> None:
    method = make("sce")
    optimizers = build_optimizers(method, OptimizerSettings())
    method(views(method)).backward()
    optimizers["loss"].step()
    check_state(method, optimizers, 1, "step-1.pt")
    for value in (math.inf, math.nan):
        part(method, optimizers).view(-1)[0] = value
        assert not_finite(method, optimizers) == [name]
        with pytest.raises(NonFiniteLossError, match=f"{name} is infinite or no number after step 1; .* step-1.pt"):
            check_state(method, optimizers, 1, "step-1.pt")
        check_state(method, optimizers, 1, "step-1.pt", {name})  # a bound that a network keeps


def test_what_overflows_is_told_long_before_the_next_checkpoint(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = loop._optimise

    def overflow(method: Any, *args: Any) -> Tensor:
        method.backbone.network.bn1.running_var.fill_(torch.inf)
        return real(method, *args)

    monkeypatch.setattr(loop, "_optimise", overflow)
    monkeypatch.setattr(lookout, "EVERY", 2)
    with pytest.raises(NonFiniteLossError, match=r"bn1.running_var is infinite or no number after step 1; .* none yet"):
        run(tmp_path / "a", train__checkpoint_steps=None, train__log_steps=100)
    assert not checkpoint_files(tmp_path / "a" / "checkpoints")


def test_an_image_whose_loss_alone_is_no_number_is_named(tmp_path: Path) -> None:
    images = torch.rand(64, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    images[17] = 1e38
    values = {
        "train__checkpoint_steps": None,
        "data__channels": 3,
        "data__rgb": False,
        "data__mean": [0.5] * 3,
        "data__std": [0.25] * 3,
    }
    expected = r"nan at step [12]; of the images in the batch, the loss of grey/17 alone is no number; the last good"
    with pytest.raises(NonFiniteLossError, match=expected):
        run(tmp_path / "a", MemorySource("grey", images, None, None), **values, train__log_steps=10)
    assert "grey/17" in (tmp_path / "a" / "failed.txt").read_text()


def test_measures_of_what_is_no_number_are_none_and_no_error() -> None:
    for value in (math.inf, math.nan):
        features = torch.randn(8, 4)
        features[3, 2] = value
        assert math.isnan(effective_rank(features))
        assert math.isnan(effective_rank(features.T))
        assert arb(features, torch.randn(8, 4)).isnan()
