"""Patch-wise DINO beside the other methods; its loss is tested in tests/losses/test_distillation.py."""

import pytest

from glocal.config import build_recipe, load_mapping
from tests.methods.cases import VIT, VIT_RUN, MethodCase, make

HEAD = {"prototypes": 256, "hidden_dim": 64, "bottleneck_dim": 32, "momentum": 0.98, "frozen_prototype_epochs": 0}
CASE = MethodCase(
    trained={"loss": {"backbone", "distiller.head"}},
    model=VIT,
    small={"prototypes": 64, "hidden_dim": 32, "bottleneck_dim": 16, "frozen_prototype_epochs": 0},
    run={**VIT_RUN, **{f"method.{key}": value for key, value in HEAD.items()}},
    falls={"method.center_momentum": 1.0},  # the loss rises while the centre spreads the targets
)


@pytest.mark.parametrize("data", ["cifar10", "imagenet100", "imagenet"])
def test_the_recipes_have_the_one_centre_of_algorithm_1(data: str) -> None:
    assert build_recipe(load_mapping(f"patchwise-dino-{data}")).method.center == "shared"


@pytest.mark.parametrize(("center", "rows"), [("shared", 1), ("position", 17)])
def test_a_centre_is_kept_for_all_positions_or_for_each(center: str, rows: int) -> None:
    method = make("patchwise_dino", center=center)  # 16 patches and the CLS token
    assert method.distiller.center.shape == (rows, 64)
