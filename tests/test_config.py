"""Recipes: every wrong key, type, range or name is one line with the nearest valid choice."""

import copy
import math
from importlib import resources
from pathlib import Path
from typing import Any

import pytest

from glocal.config import TrainSettings, build_recipe, load_mapping, method_options, recipe_names
from glocal.errors import GlocalError
from glocal.evaluation.protocols.transfer import TransferSettings
from glocal.methods import method_names
from glocal.plain import read_yaml, write_yaml
from glocal.schedules import Schedule
from glocal.settings import parse_overrides, setting_rows
from glocal.training.optimizers import usual_settings

RATE = usual_settings("adamw")["lr"]


@pytest.mark.parametrize("name", recipe_names())
def test_every_recipe_loads_and_survives_the_round_trip(name: str) -> None:
    recipe = build_recipe(load_mapping(name))
    assert recipe.reproduces
    assert recipe.views
    assert build_recipe(read_yaml(recipe.to_yaml(), "recipe")) == recipe


@pytest.mark.parametrize("name", method_names())
def test_every_method_can_be_chosen_without_a_recipe(name: str) -> None:
    recipe = build_recipe({}, {"method.name": name}, data_size=32)
    assert recipe.method.name == name
    assert recipe.model.stem == ("standard" if recipe.model.name == "vit_tiny" else "small")
    assert max(view.size for view in recipe.views or []) == 32


def test_sce_cifar10_has_the_papers_settings() -> None:
    recipe = build_recipe(load_mapping("sce-cifar10"))
    method, optimizer = recipe.method, recipe.optimizer
    assert (method.temperature, method.target_temperature, method.coefficient) == (0.2, 0.1, 0.5)
    assert (method.hidden_dim, method.output_dim, method.queue_size, method.momentum) == (
        512,
        256,
        4096,
        0.99,
    )
    assert (optimizer.lr, optimizer.momentum, optimizer.weight_decay, optimizer.warmup_epochs) == (
        0.06,
        0.9,
        5e-4,
        5,
    )
    weak, strong = recipe.views or []
    assert weak.jitter.probability == weak.grey == weak.blur.probability == 0
    assert (strong.jitter.brightness, strong.jitter.hue, strong.grey, strong.blur.probability) == (
        0.4,
        0.1,
        0.2,
        0.5,
    )


@pytest.mark.parametrize(
    ("name", "network", "epochs"),
    [
        ("patchwise-dino-cifar10", "vit_tiny", 200),
        ("patchwise-dino-imagenet100", "vit_small", 200),
        ("patchwise-dino-imagenet", "vit_base", 50),
    ],
)
def test_patchwise_dino_has_the_papers_settings(name: str, network: str, epochs: int) -> None:
    """Sections 4.1.2 and 4.2; the resizing and the clipping are those of the authors' code."""
    recipe = build_recipe(load_mapping(name))
    assert (recipe.model.name, recipe.train.epochs) == (network, epochs)
    assert recipe.model.options == {"patch_size": 16, "drop_path_rate": 0.1}
    assert 10 <= recipe.train.batch_size <= 40
    assert recipe.data.resize == 256
    assert (recipe.optimizer.name, recipe.optimizer.warmup_epochs) == ("adamw", 10)
    assert recipe.optimizer.weight_decay == Schedule(start=0.04, end=0.4)
    assert recipe.method.temperature == 0.1
    assert recipe.method.teacher_temperature == Schedule(start=0.04, end=0.07, kind="linear", epochs=30)


@pytest.mark.parametrize(
    "name", ["dino-imagenet", "esvit-imagenet", *(name for name in recipe_names() if name.startswith("patchwise-dino"))]
)
def test_the_dino_family_clips_each_gradient_at_3(name: str) -> None:
    recipe = build_recipe(load_mapping(name))
    assert (recipe.train.clip_norm, recipe.optimizer.clip) == (3.0, "parameter")


@pytest.mark.parametrize(
    ("name", "global_scale", "local_scale", "local_size"),
    [
        ("logo-moco-cifar10", (0.4, 1.0), (0.08, 0.6), 32),
        ("logo-simsiam-cifar10", (0.4, 1.0), (0.08, 0.6), 32),
        ("logo-moco-stl10", (0.4, 1.0), (0.08, 0.4), 64),
        ("logo-simsiam-stl10", (0.4, 1.0), (0.08, 0.4), 64),
        ("logo-moco-imagenet100-resnet34", (0.4, 1.0), (0.05, 0.4), 96),
        ("logo-moco-imagenet100-resnet50", (0.4, 1.0), (0.05, 0.4), 96),
        ("logo-simsiam-imagenet100", (0.4, 1.0), (0.05, 0.4), 96),
    ],
)
def test_logo_has_the_crops_of_its_supplement(
    name: str, global_scale: tuple[float, float], local_scale: tuple[float, float], local_size: int
) -> None:
    first, second = build_recipe(load_mapping(name)).views or []
    assert (first.scale, second.scale, second.size) == (global_scale, local_scale, local_size)
    assert (first.count, second.count) == (2, 2)


@pytest.mark.parametrize(
    "name", [name for name in recipe_names() if name.startswith("logo-") and "imagenet100" in name]
)
def test_four_crops_are_those_of_equation_1(name: str) -> None:
    recipe = build_recipe(load_mapping(name), {"method.variant": "multi_crop"})
    assert [view.scale for view in recipe.views or []] == [(0.3, 1.0), (0.05, 0.3)]


@pytest.mark.parametrize(
    ("name", "milestones"),
    [
        ("moco-v1-imagenet", (120, 160)),
        ("npid-imagenet", (120, 160)),
        ("npid-cifar10", (120, 160)),
        ("local-aggregation-imagenet", (160, 190)),
        ("supervised-imagenet", (30, 60)),
    ],
)
def test_rates_that_fell_in_steps_do_so(name: str, milestones: tuple[float, ...]) -> None:
    optimizer = build_recipe(load_mapping(name)).optimizer
    assert (optimizer.schedule, optimizer.milestones, optimizer.factor) == ("step", milestones, 0.1)


@pytest.mark.parametrize(
    "name",
    [
        "logo-moco-coco",
        "logo-moco-imagenet100-resnet34",
        "logo-moco-imagenet100-resnet50",
        "moco-coco",
        "moco-imagenet100",
    ],
)
def test_logos_recipes_name_the_steps_of_its_code_beside_their_cosine(name: str) -> None:
    written = resources.files("glocal.recipes").joinpath(f"{name}.yaml").read_text(encoding="utf-8")
    given = ["optimizer.schedule=step", "optimizer.milestones=[120, 160]"]
    assert all(setting in written for setting in given)
    optimizer = build_recipe(load_mapping(name)).optimizer
    assert (optimizer.schedule, optimizer.milestones) == ("cosine", ())
    optimizer = build_recipe(load_mapping(name), parse_overrides(given)).optimizer
    assert (optimizer.schedule, optimizer.milestones, optimizer.factor) == ("step", (120, 160), 0.1)


def test_swav_as_logos_baseline_has_four_crops() -> None:
    views = build_recipe(load_mapping("swav-imagenet100")).views or []
    assert [(view.count, view.size) for view in views] == [(2, 224), (2, 96)]


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ({"train.epoch": 3}, "train.epoch is not a setting; did you mean train.epochs?"),
        ({"trian.epochs": 3}, "trian is not a setting; did you mean train?"),
        ({"train.epochs": "many"}, "train.epochs must be a whole number, not 'many'"),
        ({"train.epochs": 1.5}, "train.epochs must be a whole number, not 1.5"),
        ({"train.compile": "abc"}, "train.compile must be true or false, not 'abc'"),
        ({"optimizer.lr": "abc"}, "optimizer.lr must be a number, not 'abc'"),
        ({"train.epochs": 0}, "train.epochs must be greater than or equal to 1, not 0"),
        ({"train.precision": "bf8"}, "train.precision must be 'auto', 'fp32', 'bf16' or 'fp16', not 'bf8'"),
        ({"method.name": "simclear"}, "no method 'simclear'"),
        ({"method.temprature": 0.1}, "method.temprature is not a setting; did you mean method.temperature?"),
        ({"method.temperature": -1}, "method.temperature must be greater than 0, not -1"),
        ({"method.momentum": {"start": 0.9, "end": 1, "shape": 1}}, "method.momentum"),
        ({"views.1.jitter.hue": 0.7}, "views.1.jitter.hue must be less than or equal to 0.5, not 0.7"),
        ({"optimizer.learning_rate": 0.1}, r"optimizer.learning_rate is not a setting; did you mean optimizer.lr\?"),
        ({"optimizer.learningrate": 0.1}, r"did you mean optimizer.lr\?"),
        ({"optimizer.LR": 0.1}, r"did you mean optimizer.lr\?"),
        ({"optimizer.wd": 0.1}, r"did you mean optimizer.weight_decay\?"),
        ({"optimizer.decay": 0.1}, r"did you mean optimizer.weight_decay\?"),
        ({"train.batch": 8}, r"did you mean train.batch_size\?"),
        ({"train.batchsize": 8}, r"did you mean train.batch_size\?"),
        ({"method.temp": 0.1}, r"did you mean method.temperature\?"),
        ({"method.tau": 0.1}, r"did you mean method.temperature\?"),
        ({"train.lr": 0.1}, r"did you mean optimizer.lr\?"),
        ({"lr": 0.1}, r"lr is not a setting; did you mean optimizer.lr\?"),
        ({"epochs": 3}, r"did you mean train.epochs\?"),
        ({"data.batch_size": 3}, r"did you mean train.batch_size\?"),
        ({"model.temperature": 3}, r"did you mean method.temperature\?"),
        ({"train.zzz": 3}, r"choose from train.accumulate, train.batch_size"),
        ({"views.0.gray": 1}, "views.0.gray is not a setting; did you mean views.0.grey?"),
        ({"views.0.scale": [0.5, 0.2]}, r"views.0.scale must be a range within \(0, 1\], not \[0.5, 0.2\]"),
        ({"views.7.grey": 1}, "'7' is no position in a list of 2"),
        ({"views.²": 1}, "'²' is no position in a list of 2"),
        ({f"views.{'1' * 5000}": 1}, "is no position in a list of 2"),
        ({"views.0.scale.1.0": 1}, "--set views.0.scale.1.0: views.0.scale.1 is 1.0, which has no parts"),
        ({"views": []}, r"views must be a list of at least 1, not \[\]"),
        ({"views": 5}, "views must be a valid list, not 5"),
        ({"views.0.count": 2**63}, "views.0.count must be less than or equal to 1000, not 9223372036854775808"),
        ({"views": [{"count": 600}, {"count": 600}]}, "views: 1,200 of each image are more than 1,000"),
        ({"data": 5}, "data must be a section of settings, not 5"),
        ({"model": "resnet50"}, r"model must be a section of settings, not 'resnet50'; write model=\{name: resnet50\}"),
        ({"data": "hello"}, "data must be a section of settings, not 'hello'"),
        ({"data": 5, "data.source": "shapes"}, "--set data.source: data is 5, which has no parts"),
        ({"seed": 2**64}, "seed must be less than 4294967296, not 18446744073709551616"),
        ({"train.epochs": 10**5000}, "train.epochs must be .*, not a number of thousands of digits"),
        ({"train.log_steps": 10**13}, "train.log_steps must be at most 1,000,000,000,000, not 10000000000000"),
        ({"method.momentum": {"start": 0, "end": 2}}, "method.momentum: end must be less than or equal to 1, not 2"),
        ({"method.momentum": {"start": -1, "end": 1}}, "method.momentum: start must be greater than or equal to 0"),
        ({"method.temperature": {"start": 1, "end": 0}}, "method.temperature: end must be greater than 0, not 0"),
        (
            {"method.temperature": {"start": 1, "end": 1, "warmup_epochs": 1}},
            "method.temperature: warmup_start must be greater than 0, not 0",
        ),
        ({"optimizer.weight_decay": {"start": 0, "end": -1}}, "optimizer.weight_decay: end must be greater than or eq"),
        ({"optimizer.weight_decay": -1}, "optimizer.weight_decay must be greater than or equal to 0, not -1"),
        ({"optimizer.betas": [0.9, 1.0]}, "optimizer.betas.1 must be less than 1, not 1.0"),
        ({"data.source": ["a"] * 10**5 + [5]}, "data.source"),
        ({".".join("a" * 100_000): 1}, "there are no settings so deep"),
        ({"a\nb": 1}, "a b is not a setting"),
        ({"model.name.x": 1}, "model.name"),
        ({"seed": -1}, "seed must be greater than or equal to 0"),
        ({"train.clip_norm": float("inf")}, "train.clip_norm"),
    ],
)
def test_wrong_settings_are_named_with_the_mend(overrides: dict[str, object], message: str) -> None:
    with pytest.raises(GlocalError, match=message) as caught:
        build_recipe({"name": "mine", "method": {"name": "sce"}}, overrides, data_size=32)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "override",
    [{"method.scale": [0.9, 0.2]}, {"method.locals": 2, "method.local_scale": [0, 1]}, {"method.locals": 1001}],
)
def test_what_a_method_makes_its_views_of_is_checked_as_its_own_setting(override: dict[str, object]) -> None:
    with pytest.raises(GlocalError, match=list(override)[-1]):
        build_recipe({}, override, data_size=32)


def test_nothing_that_was_given_is_changed() -> None:
    views = [{"size": 32}, {"size": 32}]
    mapping = {"method": {"name": "sce"}, "train": {"epochs": 3}, "views": views}
    overrides = {"train": {"epochs": 4}, "train.batch_size": 8, "model": {"options": {}}, "model.options.a": 1}
    before = copy.deepcopy((mapping, overrides))
    build_recipe(mapping, {**overrides, "views.0.grey": 0.5})
    assert build_recipe(mapping, {"views": views, "views.0.grey": 0.5}).views[1].grey == 0  # type: ignore[index]
    assert (mapping, overrides) == before


def test_what_an_anchor_stands_for_is_changed_in_one_place(tmp_path: Path) -> None:
    (tmp_path / "own.yaml").write_text("views: [&v {size: 32, jitter: &j {hue: 0.2}}, *v, {jitter: *j}]\n")
    recipe = build_recipe(load_mapping(tmp_path / "own.yaml"), {"views.0.grey": 0.5, "views.0.jitter.hue": 0.3})
    assert [(view.grey, view.jitter.hue) for view in recipe.views or []] == [(0.5, 0.3), (0.0, 0.2), (0.0, 0.2)]


def test_overrides_are_yaml_and_reach_lists() -> None:
    overrides = parse_overrides(["train.epochs=3", "views.1.grey=0.5", "method.momentum={start: 0.9, end: 1.0}"])
    recipe = build_recipe({"method": {"name": "sce"}}, overrides, data_size=48)
    assert recipe.train.epochs == 3
    assert recipe.views is not None
    assert recipe.views[1].grey == 0.5
    assert recipe.views[1].size == 48
    assert recipe.method.momentum == Schedule(start=0.9, end=1.0)


def test_without_a_method_it_is_the_default_one_at_its_rate() -> None:
    recipe = build_recipe({}, {"train.epochs": 3}, data_size=32)
    assert (recipe.method.name, recipe.optimizer.lr) == ("glocal", 0.24)
    assert build_recipe({}, {"optimizer.lr": 0.1}, data_size=32).optimizer.lr == 0.1
    assert build_recipe({}, {"method.name": "sce"}, data_size=32).optimizer.lr == 0.06
    assert build_recipe({"method": {"locals": 2}}, data_size=32).method.locals == 2
    assert build_recipe({}, {"method.name": "glocal"}, data_size=32).optimizer.lr == 0.24
    assert build_recipe({}, {"optimizer.name": "sgd"}, data_size=32).optimizer.lr == 0.24
    for wrong, words in (({"optimizer": 5}, "optimizer"), ({"method": 0}, "method must be a section with a name")):
        with pytest.raises(GlocalError, match=words):
            build_recipe(wrong, data_size=32)


@pytest.mark.parametrize(
    ("settings", "optimizer"),
    [
        ({"model.name": "vit_tiny"}, ("adamw", RATE, 0.04)),
        ({"method.name": "patchwise_dino"}, ("adamw", RATE, 0.04)),  # its own network
        ({"model.name": "swin_tiny_patch4_window7_224", "optimizer.lr": 0.02}, ("adamw", 0.02, 0.04)),
        ({"model.name": "vit_tiny", "optimizer.name": "sgd"}, ("sgd", 0.24, 5e-4)),
        ({"model.name": "vit_tiny", "method.name": "logo"}, ("sgd", 0.06, 5e-4)),  # which cuts gradients itself
        ({"model.name": "vit_tiny", "method": {"name": "logo", "variant": "multi_crop"}}, ("sgd", 0.06, 5e-4)),
        ({"optimizer.name": "adamw", "optimizer.weight_decay": 0.1}, ("adamw", RATE, 0.1)),
        ({"model.name": "resnet50"}, ("sgd", 0.24, 5e-4)),
    ],
)
def test_transformers_are_trained_by_adamw_unless_an_optimizer_is_named(
    settings: dict[str, Any], optimizer: tuple[Any, ...]
) -> None:
    found = build_recipe({}, settings, data_size=224).optimizer
    assert (found.name, found.lr, found.weight_decay) == optimizer
    of_recipe = build_recipe(load_mapping("moco-cifar10"), {**settings, "model": {"name": "vit_tiny"}}).optimizer
    assert of_recipe.name == settings.get("optimizer.name", "sgd")  # as the recipe says


@pytest.mark.parametrize("setting", ["train.epochs", "=3", "train.epochs=", "train.epochs=[1"])
def test_malformed_overrides_are_refused(setting: str) -> None:
    with pytest.raises(GlocalError, match="--set"):
        parse_overrides([setting])


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1e-1", 0.1),
        ("1E5", 1e5),
        ("1.e+2", 100.0),
        (".5e1", 5.0),
        ("-2e-3", -0.002),
        ("+.5", 0.5),
        ("0.06", 0.06),
        ("10", 10),
        ("010", 10),  # YAML 1.1: 8
        ("0x1F", 31),
        ("0o17", 15),
        ("1_000", 1000),
        (".inf", float("inf")),
        ("true", True),
        ("null", None),
        ("1:30", "1:30"),  # YAML 1.1: 90
        ("2026-01-02", "2026-01-02"),  # YAML 1.1: a date
        ("1e", "1e"),
        ("e1", "e1"),
        ("1.2.3", "1.2.3"),
        ("'1e-1'", "1e-1"),
    ],
)
def test_numbers_are_those_of_yaml_1_2(text: str, value: object, tmp_path: Path) -> None:
    recipe = tmp_path / "own.yaml"
    recipe.write_text(f"model: {{options: {{rate: {text}}}}}\n")
    for found in (parse_overrides([f"a={text}"])["a"], load_mapping(recipe)["model"]["options"]["rate"]):
        assert found == value
        assert type(found) is type(value)
    again = read_yaml(write_yaml({"value": value, "name": text}), "test")
    assert again == {"value": value, "name": text}  # text that looks like a number comes back as text


def test_free_form_options_get_numbers_and_keep_them(tmp_path: Path) -> None:
    recipe = build_recipe({}, parse_overrides(["model.options={drop_path_rate: 1e-1}"]), data_size=32)
    assert recipe.model.options == {"drop_path_rate": 0.1}
    (tmp_path / "own.yaml").write_text(recipe.to_yaml())
    assert build_recipe(load_mapping(tmp_path / "own.yaml")) == recipe


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("train: {epochs: 3}\ndata: {}\ntrain:\n  batch_size: 8\n", "train is written twice, in lines 1 and 3"),
        ("train:\n  epochs: 3\n  epochs: 4\n", "epochs is written twice, in lines 2 and 3"),
        ("views: [{size: 8, size: 9}]\n", "size is written twice, in lines 1 and 1"),
        ('train: {}\n"train": {}\n', "train is written twice"),
    ],
)
def test_a_section_or_key_that_is_written_twice_is_refused(text: str, message: str, tmp_path: Path) -> None:
    (tmp_path / "own.yaml").write_text(text)
    with pytest.raises(GlocalError, match=message) as caught:
        load_mapping(tmp_path / "own.yaml")
    assert "own.yaml" in str(caught.value)
    with pytest.raises(GlocalError, match="size is written twice"):
        parse_overrides(["views=[{size: 8, size: 9}]"])


def test_merged_sections_may_say_a_key_again() -> None:
    found = read_yaml("a: &a {x: 1, y: 2}\nb: {<<: *a, x: 3}\n", "test")
    assert found["b"] == {"x": 3, "y": 2}


def test_yaml_makes_no_objects() -> None:
    with pytest.raises(GlocalError, match="the tag tag:yaml.org,2002:python/object/apply:os.getcwd in line 1 is not"):
        parse_overrides(["a=!!python/object/apply:os.getcwd []"])


def test_missing_and_malformed_recipes_are_refused(tmp_path: Path) -> None:
    with pytest.raises(GlocalError, match="no recipe 'sce-cifar'; did you mean sce-cifar10"):
        load_mapping("sce-cifar")
    for near in ("rotation", "rotatoin"):
        with pytest.raises(GlocalError, match=rf"'{near}'; did you mean rotation-cifar10 or rotation-imagenet\?"):
            load_mapping(near)
    with pytest.raises(GlocalError, match=r"did you mean w-mse-cifar10 or w-mse-imagenet\?"):
        load_mapping("w_mse")
    with pytest.raises(GlocalError, match="cannot be read"):
        load_mapping(tmp_path / "absent.yaml")
    broken = tmp_path / "broken.yaml"
    broken.write_text("train: [1\n")
    with pytest.raises(GlocalError, match="no valid YAML"):
        load_mapping(broken)
    broken.write_text("- 1\n")
    with pytest.raises(GlocalError, match="must be a mapping"):
        load_mapping(broken)


def test_the_options_of_a_method_are_written_as_they_are_set() -> None:
    options = {row[0]: row[1:3] for row in method_options(build_recipe({}, {"method.name": "pirl"}))}
    assert options["method.patch_size"] == ("null", "null")
    options = {row[0]: row[1:3] for row in method_options(build_recipe({}, {"method.name": "obow", "method.kappa": 3}))}
    assert options["method.momentum"][0] == "{start: 0.99, end: 1.0}"
    assert options["method.kappa"] == ("3.0", "8.0")
    options = {row[0]: row[1:3] for row in method_options(build_recipe({}, {"method.name": "cpc"}))}
    assert options["method.steps"][0] == "[3]"


def test_another_method_leaves_the_settings_of_the_recipes_own_behind() -> None:
    recipe = build_recipe(load_mapping("sce-cifar10"), {"method.name": "byol", "method.output_dim": 64})
    assert recipe.method.name == "byol"
    assert (recipe.method.output_dim, recipe.method.hidden_dim) == (64, 4096)
    assert recipe.optimizer.warmup_epochs == 5
    same = build_recipe(load_mapping("sce-cifar10"), {"method.name": "sce", "method.output_dim": 64})
    assert (same.method.output_dim, same.method.queue_size) == (64, 4096)


def test_what_is_written_behind_a_setting_of_several_lines_is_its_comment() -> None:
    comments = {name: comment for name, _, _, comment in setting_rows(TrainSettings())}
    assert comments["batch_size"].startswith("images in an optimiser step")
    assert comments["recompute"].endswith("blocks: all of a block")
    comments = {name: comment for name, _, _, comment in setting_rows(TransferSettings())}
    assert comments["logistic"].startswith("held_out does not count")


@pytest.mark.parametrize(
    ("path", "value", "said"),
    [
        ("method.name", 7**6000, "no method .*thousands of digits"),
        ("method.base.name", 7**6000, "method.base: .*thousands of digits"),
        ("method.base.queue_size", 7**6000, "method.base: queue_size: .*thousands of digits"),
        ("model.options", {"drop_rate": math.nan}, "model: options.drop_rate must be finite, not nan"),
    ],
    ids=["a method", "LoGo's method", "a setting of it", "an option"],
)
def test_numbers_that_are_no_names_and_no_numbers_are_one_line(path: str, value: Any, said: str) -> None:
    base = {"method": {"name": "logo", "base": {"name": "sce"}}} if ".base" in path else {}
    with pytest.raises(GlocalError, match=said):
        build_recipe(base, {path: value}, data_size=32)
