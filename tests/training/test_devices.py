"""A training that goes on has its optimisers' states where its parameters are."""

from dataclasses import replace
from pathlib import Path
from typing import cast

import pytest
import torch
from lightning.fabric import Fabric
from torch import nn

from glocal.checkpoints import newest_checkpoint
from glocal.config import load_mapping, written_recipe
from glocal.data.sources.opening import open_source
from glocal.training.building import batch_order, build
from glocal.training.saving import restore
from tests.training.test_runs import run

pytestmark = pytest.mark.usefixtures("no_pictures")


class Elsewhere:
    """The devices of a training that is not on the CPU."""

    device = torch.device("meta")

    def __init__(self, fabric: Fabric) -> None:
        self.strategy = fabric.strategy


@pytest.mark.parametrize("optimizer", ["sgd", "adamw", "lars"])
def test_a_state_is_restored_to_where_the_parameters_will_be(
    optimizer: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing moves it afterwards: Fabric and `method.to` move parameters alone.

    bf16 stands for a GPU, which is not here: parameters go there in place, and states are cast to what they are.
    """
    folder = run(tmp_path / "a", train__epochs=1, optimizer__name=optimizer).folder
    state = newest_checkpoint(folder / "checkpoints")
    assert state is not None
    recipe = written_recipe(load_mapping(folder / "recipe.yaml"))
    fabric = Fabric(accelerator="cpu", devices=1)
    source = open_source(str(recipe.data.source))
    order = batch_order(recipe, source, fabric)
    training = build(recipe, source, order, fabric, folder, weights=False, progress=False)
    training = replace(training, fabric=cast(Fabric, Elsewhere(fabric)))

    def move(device: torch.device) -> nn.Module:
        assert device == Elsewhere.device
        return nn.Module.to(training.method, torch.bfloat16)

    monkeypatch.setattr(training.method, "to", move)
    restore(state, training)
    [its] = training.optimizers.values()
    found = [value for of_one in its.state.values() for key, value in of_one.items() if key != "step"]
    assert {value.dtype for value in found} == {torch.bfloat16}
