"""Smaller and shorter trainings: what changes with them, in proportion, and what the user has fixed."""

from itertools import pairwise
from typing import Any

import pytest

from glocal.config import AnyRecipe, build_recipe, load_mapping
from glocal.errors import GlocalError
from glocal.plain import read_yaml
from glocal.schedules import Schedule
from glocal.training.ladder import fixed_by, ladder, matching, with_epochs
from glocal.training.rehearsal import rehearse


def recipe(overrides: dict[str, Any] | None = None, name: str | None = None) -> AnyRecipe:
    mapping = load_mapping(name) if name else {}
    return build_recipe(mapping, {"train.device": "cpu", **(overrides or {})}, data_size=224)


def words(
    overrides: dict[str, Any], side: int = 300, given: tuple[str, ...] = (), name: str | None = None
) -> list[str]:
    return [rung.words for rung in ladder(recipe(overrides, name), given, side)]


SMALL_RESNET = [f"96 pixels with resnet18 of {first} to {8 * first} channels" for first in (32, 16)]
SIZES = [f"{size} pixels with resnet18" for size in (224, 192, 160, 128, 96)]


def test_views_become_smaller_first_then_the_network() -> None:
    assert words({}) == [*SIZES, *SMALL_RESNET]
    fifty = [line.replace("resnet18", "resnet50") for line in SIZES]
    assert words({"model.name": "resnet50"}) == [*fifty, SIZES[-1], *SMALL_RESNET]
    assert words({"model.name": "vit_base", "data.size": 128}) == [
        "128 pixels with vit_base",
        "96 pixels with vit_base",
        "96 pixels with vit_small",
        "96 pixels with vit_tiny",
    ]
    assert words({"model.name": "mobilenetv3_small_050", "data.size": 96}) == ["96 pixels with mobilenetv3_small_050"]


def test_patches_that_overlap_are_no_grid() -> None:
    sizes = [line.partition(" ")[0] for line in words({"model.name": "pvt_v2_b0"})]
    assert sizes == ["224", "192", "160", "128", "96"]


def test_views_do_not_become_smaller_than_small_images() -> None:
    assert words({"data.size": 32}, side=32)[0] == "32 pixels with resnet18"
    assert all(line.startswith("32 ") for line in words({"data.size": 32}, side=32))
    assert words({"data.size": 128}, side=64)[:3] == [f"{size} pixels with resnet18" for size in (128, 96, 64)]


@pytest.mark.parametrize(
    ("given", "sizes", "networks"),
    [
        (["data.size"], 1, 3),
        (["views.0.size"], 1, 3),
        (["views"], 1, 3),
        (["views.0.grey", "method.temperature", "train.batch_size"], 5, 3),
        (["model.name"], 5, 1),
        (["model.options.zero_init_last"], 5, 1),
        (["model.name", "data.size"], 1, 1),
    ],
)
def test_what_the_user_has_given_stays(given: list[str], sizes: int, networks: int) -> None:
    rungs = ladder(recipe(), given, 300)
    assert len({rung.recipe.data.size for rung in rungs}) == sizes
    assert len({rung.network for rung in rungs}) == networks
    assert set(fixed_by(given)) == {
        path for path in given if path.startswith(("data", "model", "views.0.size")) or path == "views"
    }


def test_a_network_that_begins_with_weights_stays() -> None:
    assert words({"model.pretrained": True, "model.name": "resnet50"})[-1] == "96 pixels with resnet50"


@pytest.mark.parametrize("method", ["patchwise_dino", "swav", "clim", "logo"])
def test_every_rung_is_less_work_and_works(method: str) -> None:
    overrides: dict[str, Any] = {"method.name": method}
    if method == "clim":
        overrides["method.resolutions"] = [160]
    rungs = ladder(recipe(overrides), [], 300)
    assert len(rungs) >= 5
    wanted = rungs[0].recipe
    for before, rung in pairwise(rungs):
        assert rung.arithmetic < before.arithmetic
        views = zip(wanted.views or [], rung.recipe.views or [], strict=True)
        share = (rung.recipe.data.size or 0) / 224
        for large, small in views:
            for old, new in zip((large.size, *large.resolutions), (small.size, *small.resolutions), strict=True):
                assert new == pytest.approx(old * share, abs=8.01)  # whole patches of 16
            assert small.model_copy(update={"size": 1, "resolutions": ()}) == large.model_copy(
                update={"size": 1, "resolutions": ()}
            )
        assert build_recipe(read_yaml(rung.recipe.to_yaml(), "written")) == rung.recipe
    rehearse(rungs[-1].recipe, progress=False)
    assert rungs[-1].arithmetic < rungs[0].arithmetic / 4.5


def test_a_network_that_does_not_take_the_views_is_told() -> None:
    wrong = recipe({"data.size": 32}).model_copy(
        update={"model": recipe({"model.name": "swin_tiny_patch4_window7_224"}).model}
    )
    with pytest.raises(GlocalError, match="model.name=swin_tiny_patch4_window7_224 cannot be planned with"):
        ladder(wrong, [], 32)


def test_a_run_finds_its_rung_again() -> None:
    rungs = ladder(recipe(), [], 300)
    again = ladder(recipe(), [], 300)
    for rung in rungs:
        written = build_recipe(read_yaml(with_epochs(rung.recipe, 7).to_yaml(), "written"))
        assert matching(again, written) == rung
    assert matching(ladder(recipe(), ["model.name"], 300), rungs[-1].recipe) is None


def test_a_shorter_training_has_all_that_is_counted_in_epochs_in_proportion() -> None:
    long = recipe(
        {
            "method.name": "dino",
            "train.epochs": 100,
            "optimizer.warmup_epochs": 10.0,
            "optimizer.schedule": "step",
            "optimizer.milestones": [60.0, 80.0],
            "optimizer.weight_decay": {"start": 0.04, "end": 0.4, "warmup_epochs": 2.0},
        }
    )
    short = with_epochs(long, 25)
    assert short.train.epochs == 25
    assert short.optimizer.warmup_epochs == 2.5
    assert short.optimizer.milestones == (15.0, 20.0)
    assert short.optimizer.weight_decay == Schedule(start=0.04, end=0.4, warmup_epochs=0.5)
    assert short.method.teacher_temperature.epochs == 7.5
    assert build_recipe(read_yaml(short.to_yaml(), "written")) == short
    longer = with_epochs(long, 400)
    assert longer.optimizer.milestones == (240.0, 320.0)
    assert (longer.optimizer.warmup_epochs, longer.method) == (10.0, long.method)
    assert with_epochs(long, 100) == long


def test_a_warm_up_of_a_shorter_training_takes_a_tenth_at_most_unless_it_was_given() -> None:
    long = recipe({"train.epochs": 40, "optimizer.warmup_epochs": 20.0})
    assert with_epochs(long, 20).optimizer.warmup_epochs == 2.0
    assert with_epochs(long, 20, ["optimizer.warmup_epochs"]).optimizer.warmup_epochs == 20.0


@pytest.mark.parametrize(
    ("method", "key", "expected"),
    [("pcl", "first_epoch", 2), ("local_aggregation", "first_epoch", 1), ("swav", "queue_first_epoch", 1.5)],
)
def test_what_a_method_begins_later_begins_in_a_shorter_training_too(method: str, key: str, expected: float) -> None:
    long = recipe({"method.name": method})
    assert getattr(with_epochs(long, 20).method, key) == expected
    assert with_epochs(long, 20, [f"method.{key}"]).method == long.method
    assert with_epochs(long, 300).method == long.method


def test_a_number_in_print_is_not_that_of_another_length() -> None:
    printed = recipe(name="byol-imagenet")
    assert printed.published
    assert with_epochs(printed, 20).published == with_epochs(printed, 20).row == ""
    assert with_epochs(printed, printed.train.epochs).published
