"""What benchmarks/pretext.py compares, and what it refuses."""

from pathlib import Path
from typing import Any

import pytest
import torch

import glocal
from glocal.config import build_recipe, load_mapping
from tests.methods.cases import cases

FEW = {"train.epochs": 1, "train.batch_size": 32, "monitor.knn_epochs": 0}


@pytest.fixture
def pretext(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.syspath_prepend(str(Path(__file__).parents[2] / "benchmarks"))
    return pytest.importorskip("pretext")


@pytest.mark.parametrize("name", ["deepcluster_v2", "sela", "npid"])
def test_a_method_that_knows_its_training_images_alone_is_refused(pretext: Any, name: str) -> None:
    settings = {"method.name": name, **cases()[name].run}
    if name == "npid":
        settings["method.images"] = 8
    with pytest.raises(SystemExit, match=f"method {name} asks about images of its training only"):
        pretext.prepared(build_recipe({}, settings))


def test_both_networks_of_colorization_are_measured_by_the_same_weights(pretext: Any, tmp_path: Path) -> None:
    settings = {**cases()["colorization"].run, **FEW, "method.name": "colorization"}
    glocal.pretrain("shapes:train:64", tmp_path, overrides=settings, progress=False, report=False)
    recipe = build_recipe(load_mapping(tmp_path / "recipe.yaml"))
    methods = pretext.both(recipe, tmp_path)
    untrained, trained = methods["untrained"], methods["trained"]
    assert torch.equal(untrained.prior, trained.prior)
    assert not torch.equal(pretext.prepared(recipe).prior, trained.prior)
    assert not torch.equal(untrained.decoder.state_dict().popitem()[1], trained.decoder.state_dict().popitem()[1])
    found = pretext.measure(untrained, recipe, "shapes:test:48", 48, torch.device("cpu"))
    assert (found["images"], found["held_out"]) == (32, 48)  # whole batches
    assert found["solved"] is None
