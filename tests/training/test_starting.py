"""A training that begins with weights: the network is theirs, they are not forgotten at once, it resumes exactly."""

import json
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from safetensors.torch import save_file
from timm.layers import resample_abs_pos_embed
from torch import nn
from typer.testing import CliRunner

import glocal
from glocal.cli import app
from glocal.config import build_recipe, load_mapping
from glocal.errors import GlocalError
from glocal.exports import export
from glocal.methods.building import build_method
from glocal.models.architecture import ModelSettings, found_stem, statistics_in_timm
from glocal.models.backbone import Backbone
from glocal.models.building import build_backbone
from glocal.models.loading import load_backbone
from glocal.models.momentum import MomentumTeacher
from glocal.plain import write_yaml
from glocal.schedules import Clock
from glocal.training import loop, starting
from glocal.training.freezing import Freeze
from glocal.training.log import monitor_series
from glocal.training.optimizers import OptimizerSettings, build_optimizers, layer_scales, set_schedules, usual_settings
from glocal.training.resolving import resolve
from tests.methods.cases import cases, make, views
from tests.methods.test_own_file import OWN
from tests.training.test_runs import DATA, TINY, assert_equal, final_state, run

pytestmark = pytest.mark.usefixtures("no_pictures")

CASES = cases()
SHORT = {"data.size": 32, "train.batch_size": 16, "train.epochs": 1}
PLAIN = {"model.options": TINY["model.options"], "model.name": "resnet18"}


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """Weights of the small ResNet, in a file that does not say so."""
    torch.manual_seed(7)
    save_file({f"module.{k}": v for k, v in tiny().network.state_dict().items()}, tmp_path / "own.safetensors")
    return tmp_path / "own.safetensors"


def tiny() -> Backbone:
    return build_backbone(ModelSettings(stem="standard", options=TINY["model.options"]), size=32)


def backbone_of(out: Path) -> dict[str, torch.Tensor]:
    state = final_state(out)
    prefix = f"{state['evaluated']}.network."
    return {k.removeprefix(prefix): v for k, v in state["method"].items() if k.startswith(prefix)}


def test_a_run_begins_with_the_weights_of_a_file_and_says_so(
    tmp_path: Path, file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    settings = {"optimizer__lr": 0.0, "optimizer__weight_decay": 0.0}
    run(tmp_path / "a", model__init=str(file), model__name="resnet18", **settings)
    found = backbone_of(tmp_path / "a")
    for name, tensor in glocal.load_backbone(f"untrained:{tmp_path / 'a'}").network.state_dict().items():
        assert torch.equal(found[name], tensor), name
    said = capsys.readouterr().err.replace("\n", "")
    assert f"65 of 65 tensors of resnet18 come from {file}, whose names begin with module." in said
    about = json.loads((tmp_path / "a" / "environment.json").read_text())
    assert about["init_sha256"] == sha256(file.read_bytes()).hexdigest()


def test_nothing_reads_the_weights_again_when_a_run_goes_on(tmp_path: Path, file: Path) -> None:
    settings = {"model__init": str(file), "model__name": "resnet18"}
    run(tmp_path / "a", train__epochs=1, **settings)
    file.unlink()
    settings["optimizer__lr"] = 0.006  # the same as was found for it
    glocal.pretrain(
        DATA,
        tmp_path / "a",
        overrides={**TINY, "train.epochs": 2, "model.init": str(file), "model.name": "resnet18"},
        extend=True,
        progress=False,
    )
    assert final_state(tmp_path / "a")["step"] == 12
    with pytest.raises(GlocalError, match=r"there are no weights .*own.safetensors"):
        run(tmp_path / "b", **settings)
    assert not (tmp_path / "b").exists()


def test_the_same_seed_draws_the_same_heads_with_and_without_weights(file: Path) -> None:
    overrides = {**PLAIN, "model.stem": "standard"}
    heads = []
    for more in ({}, {"model.init": str(file)}):
        recipe = build_recipe({}, {**overrides, **more}, data_size=32)
        torch.manual_seed(3)
        method = build_method(recipe)
        heads.append({k: v for k, v in method.state_dict().items() if "projector" in k})
    assert_equal(heads[0], heads[1])


@pytest.mark.parametrize("name", CASES)
def test_momentum_teachers_begin_as_copies_of_the_weights(name: str, tmp_path: Path) -> None:
    overrides = {**CASES[name].run, "method.name": name}
    mapping: dict[str, Any] = {"method": {"name": name, "images": 64}}
    if "images" not in make(name).settings.__class__.model_fields:  # type: ignore[union-attr]
        mapping = {}
    recipe = build_recipe(mapping, overrides, data_size=32)
    if name == "supervised":
        recipe = recipe.model_copy(update={"method": recipe.method.fit_to_classes(4)})
    recipe = recipe.model_copy(update={"method": recipe.method.fit_to(64)})
    torch.manual_seed(1)
    network = build_backbone(recipe.model, size=32).network
    torch.save(network.state_dict(), tmp_path / "own.pth")
    init = recipe.model.model_copy(update={"init": str(tmp_path / "own.pth")})
    torch.manual_seed(2)
    method = build_method(recipe.model_copy(update={"model": init}))
    backbones = [method.backbone]
    teachers = [module for module in method.modules() if isinstance(module, MomentumTeacher)]
    backbones += [module for teacher in teachers for module in teacher.modules() if isinstance(module, Backbone)]
    for backbone in backbones:
        assert_equal(dict(backbone.network.state_dict()), dict(network.state_dict()))


def test_the_network_of_a_run_goes_on_in_another(tmp_path: Path) -> None:
    first = run(tmp_path / "a", data__mean=[0.1, 0.2, 0.3], train__epochs=1)
    settings = {"train.epochs": 1, "train.batch_size": 32, "monitor.knn_epochs": 0, "optimizer.lr": 0.0}
    second = glocal.pretrain(DATA, tmp_path / "b", init=tmp_path / "a", overrides=settings, progress=False)
    changes = {"init": str(tmp_path / "a"), "keep_statistics": True}
    assert second.recipe.model == first.recipe.model.model_copy(update=changes)
    assert second.recipe.data.mean == (0.1, 0.2, 0.3)
    assert second.recipe.data.size == 32
    begun = glocal.load_backbone(f"untrained:{tmp_path / 'b'}").network.state_dict()
    assert_equal(dict(begun), backbone_of(tmp_path / "a"))


def test_the_network_of_a_run_of_an_own_method_goes_on_without_the_methods_file(tmp_path: Path) -> None:
    (tmp_path / "own.py").write_text(OWN)
    own = {key: value for key, value in TINY.items() if not key.startswith("method.")}
    settings = {**own, "train.epochs": 1, "method.name": f"{tmp_path / 'own.py'}:Own"}
    glocal.pretrain("shapes:train:32", tmp_path / "a", overrides=settings, progress=False)
    (tmp_path / "own.py").write_text("raise SystemError('it was executed')")
    found = starting.begin({}, {"model.init": str(tmp_path / "a")}, tmp_path / "b")
    assert found.mapping["model"]["options"] == TINY["model.options"]


def test_codes_of_positions_in_an_exported_file_are_resampled_to_the_size_of_the_images(tmp_path: Path) -> None:
    options = {"patch_size": 8, "embed_dim": 16, "depth": 1, "num_heads": 2}
    stored = build_backbone(ModelSettings(name="vit_tiny", options=options), size=32)
    export(stored, "safetensors", tmp_path / "vit.safetensors")
    overrides = {"model.init": str(tmp_path / "vit.safetensors"), "data.size": 64}
    start = starting.begin({}, overrides, tmp_path / "run")
    recipe = build_recipe(start.mapping, start.overrides, statistics=start.statistics)
    start.check(recipe)
    found: Any = build_method(recipe).backbone.network
    expected = resample_abs_pos_embed(stored.network.state_dict()["pos_embed"], [8, 8], num_prefix_tokens=1)
    torch.testing.assert_close(found.pos_embed.detach(), expected)


def test_of_a_run_the_newest_checkpoint_that_can_be_read_is_taken_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run(tmp_path / "a", train__epochs=2, train__checkpoint_steps=6, train__keep_checkpoints=2)
    before, newest = sorted((tmp_path / "a" / "checkpoints").glob("step-*"))
    newest.write_bytes(newest.read_bytes()[:1000])
    stored, real = before.read_bytes(), resolve

    def rotates(*args: Any, **more: Any) -> Any:
        found = real(*args, **more)
        before.unlink()
        return found

    monkeypatch.setattr("glocal.training.run.resolve", rotates)
    settings = {"train.epochs": 1, "train.batch_size": 32, "monitor.knn_epochs": 0, "optimizer.lr": 0.0}
    glocal.pretrain(DATA, tmp_path / "b", init=tmp_path / "a", overrides=settings, progress=False)
    assert json.loads((tmp_path / "b" / "environment.json").read_text())["init"] == str(before)
    before.write_bytes(stored)
    newest.unlink()
    kept = {name: tensor for name, tensor in backbone_of(tmp_path / "a").items() if "num_batches" not in name}
    found = backbone_of(tmp_path / "b")
    assert_equal({name: found[name] for name in kept}, kept)


def test_a_recipes_network_gives_way_to_that_of_the_weights(tmp_path: Path) -> None:
    run(tmp_path / "a", train__epochs=1)
    mapping = {"model": {"name": "resnet50", "stem": "small"}}
    found = starting.begin(mapping, {"model.init": str(tmp_path / "a")}, tmp_path / "b")
    assert found.mapping["model"]["name"] == "resnet18"
    assert found.mapping["model"]["stem"] == "standard"
    found = starting.begin({"model": {"name": "resnet50"}}, {"model.init": "timm:resnet10t"}, tmp_path)
    assert found.mapping["model"] == {"name": "resnet10t", "init": "timm:resnet10t", "keep_statistics": True}
    with pytest.raises(GlocalError, match="model.name=resnet50 does not go with model.init=timm:resnet10t"):
        starting.begin({}, {"model.init": "timm:resnet10t", "model.name": "resnet50"}, tmp_path)
    found = starting.begin({}, {"model.init": "timm:vit_small", "model.name": "vit_small_patch16_224"}, tmp_path)
    assert build_recipe(found.mapping, found.overrides, data_size=224).model.name == "vit_small_patch16_224"
    assert starting.begin({}, {"model.init": "timm:vit_small"}, tmp_path).mapping["model"]["name"] == "vit_small"
    with pytest.raises(GlocalError, match="did you mean timm:resnet10t"):
        starting.begin({}, {"model.init": "timm:resnet10tt"}, tmp_path)


def test_without_a_method_named_weights_are_trained_by_one_that_gains_from_them(
    tmp_path: Path, file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    init = {"model.init": str(file), **PLAIN}
    assert starting.begin({}, init, tmp_path / "a").mapping["method"] == {"name": "sce"}
    assert "method.name is sce, which gains from weights sooner than glocal" in capsys.readouterr().err
    pretrained = starting.begin({}, {"model.pretrained": True, "model.name": "resnet18"}, tmp_path / "a")
    assert pretrained.mapping["method"] == {"name": "sce"}
    for mapping, said in (
        ({}, {"method.name": "glocal"}),
        ({}, {"method": {"name": "byol"}}),
        ({"method": {"name": "moco"}}, {}),
    ):
        start = starting.begin(mapping, {**init, **said}, tmp_path / "a")
        assert start.mapping.get("method") == mapping.get("method")
    with pytest.raises(GlocalError, match="method must be a section with a name"):
        starting.begin({"method": "byol"}, init, tmp_path / "a")
    start = starting.begin({}, {**init, "method.queue_size": 64}, tmp_path / "a")
    assert start.mapping["method"] == {"name": "sce"}
    assert "method" not in starting.begin({}, PLAIN, tmp_path / "a").mapping
    older = tmp_path / "older"  # begun when weights had the same default as no weights
    glocal.pretrain(DATA, older, overrides={**SHORT, **init, "method.name": "glocal"}, progress=False)
    capsys.readouterr()
    glocal.pretrain(DATA, older, overrides={**SHORT, **init}, progress=False)
    assert "is finished" in capsys.readouterr().err


def test_images_are_as_the_architectures_weights_expect_them(tmp_path: Path, file: Path) -> None:
    name = "tf_efficientnet_lite0"
    state = timm.create_model(name, num_classes=0).state_dict()
    torch.save(state, tmp_path / "lite.pth")
    overrides = {"model.init": str(tmp_path / "lite.pth"), "model.name": name}
    start = starting.begin({}, overrides, tmp_path / "run")
    recipe = build_recipe(start.mapping, start.overrides, data_size=64, statistics=start.statistics)
    start.check(recipe)
    assert recipe.data.mean == (0.5, 0.5, 0.5)
    assert {view.interpolation for view in recipe.views or []} == {"bicubic"}
    assert statistics_in_timm(ModelSettings(name=name)).interpolation == "bicubic"


def test_a_folder_of_timms_says_all_of_its_network(tmp_path: Path) -> None:
    save_file(tiny().network.state_dict(), tmp_path / "model.safetensors")
    beside = {"architecture": "resnet18", "model_args": TINY["model.options"]}
    beside["pretrained_cfg"] = {"mean": [0.1, 0.2, 0.3], "std": [0.4, 0.5, 0.6], "interpolation": "bilinear"}
    (tmp_path / "config.json").write_text(json.dumps(beside))
    settings = {"train.epochs": 1, "train.batch_size": 32, "monitor.knn_epochs": 0, "train.precision": "fp32"}
    found = glocal.pretrain(DATA, tmp_path / "a", init=tmp_path, overrides=settings, progress=False).recipe
    assert found.model.name == "resnet18"
    assert found.model.options == TINY["model.options"]
    assert (found.data.mean, found.data.std) == ((0.1, 0.2, 0.3), (0.4, 0.5, 0.6))
    assert {view.interpolation for view in found.views or []} == {"bilinear"}


def test_a_file_that_does_not_name_its_network_is_told_what_it_may_be(tmp_path: Path) -> None:
    state = timm.create_model("resnet18", num_classes=0).state_dict()
    torch.save(state, tmp_path / "own.pth")
    with pytest.raises(GlocalError, match=r"own.pth does not say of which network .*--set model.name=resnet18"):
        starting.begin({}, {"model.init": str(tmp_path / "own.pth")}, tmp_path / "run")
    state["conv1.weight"] = torch.zeros(64, 3, 3, 3)
    torch.save(state, tmp_path / "small.pth")
    start = starting.begin({}, {"model.init": str(tmp_path / "small.pth"), "model.name": "resnet18"}, tmp_path / "run")
    assert start.mapping["model"]["stem"] == "small"
    with pytest.raises(GlocalError, match="conv1.weight, the first convolution of resnet18"):
        start.check(build_recipe(start.mapping, {"model.name": "resnet18", "model.stem": "standard"}, data_size=64))


def test_a_run_with_a_medium_stem_gives_its_weights_to_another(tmp_path: Path) -> None:
    run(tmp_path / "a", train__epochs=1, model__stem="medium")
    own = load_backbone(tmp_path / "a")
    assert found_stem(own.network) == "medium"
    done = export(own, "safetensors", tmp_path / "a.safetensors")
    for place in (tmp_path / "a", done.path):
        start = starting.begin({"model": {"stem": "small"}}, {"model.init": str(place)}, tmp_path / "b")
        assert start.mapping["model"]["stem"] == "medium"
        again = load_backbone("timm:resnet18", place)
        assert again.fingerprint() == own.fingerprint()
        assert found_stem(again.network) == "medium"


def test_a_file_that_names_no_stem_leaves_a_medium_one_to_the_recipe(tmp_path: Path) -> None:
    torch.save(build_backbone(ModelSettings(stem="medium"), size=32).network.state_dict(), tmp_path / "own.pth")
    chosen = {"model.init": str(tmp_path / "own.pth"), "model.name": "resnet18"}
    for recipes, expected in (({"stem": "medium"}, "medium"), ({}, "small")):
        start = starting.begin({"model": recipes}, chosen, tmp_path / "run")
        assert start.mapping["model"]["stem"] == expected


def test_a_number_in_print_is_not_that_of_a_training_from_weights(
    tmp_path: Path, file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    mapping = load_mapping("sce-cifar10")
    mapping["data"]["source"] = "shapes:train:512"
    mapping["method"]["queue_size"] = 512
    (tmp_path / "own.yaml").write_text(write_yaml(mapping))
    monkeypatch.setattr(starting.Start, "check", lambda *_: None)
    rate = {f"optimizer.{key}": mapping["optimizer"][key] for key in ("lr", "warmup_epochs")}
    for init, expected in (({}, mapping["row"]), ({"model.init": str(file)}, "")):
        resolved, *_ = resolve(None, tmp_path / "own.yaml", {**rate, **init}, tmp_path / "a", progress=False)
        assert resolved.row == expected


def test_the_small_alexnet_takes_weights(tmp_path: Path) -> None:
    torch.manual_seed(1)
    stored = build_backbone(ModelSettings(name="small_alexnet"), size=64).network.state_dict()
    torch.save({"state_dict": {f"encoder.{name}": tensor for name, tensor in stored.items()}}, tmp_path / "own.pth")
    overrides = {"model.init": str(tmp_path / "own.pth"), "model.name": "small_alexnet"}
    start = starting.begin({}, overrides, tmp_path / "run")
    recipe = build_recipe(start.mapping, start.overrides, data_size=64, statistics=start.statistics)
    start.check(recipe)
    assert_equal(dict(build_method(recipe).backbone.network.state_dict()), dict(stored))


def test_of_a_run_of_dino_the_teacher_goes_on(tmp_path: Path) -> None:
    overrides = {"train.epochs": 1, "train.batch_size": 32, "monitor.knn_epochs": 0, "train.precision": "fp32"}
    own = {**overrides, **CASES["dino"].run, "method.name": "dino", "optimizer.lr": 0.1}
    glocal.pretrain("shapes:train:64", tmp_path / "a", overrides=own, progress=False)
    backbone = build_method(
        resolve("shapes:train:64", None, {"model.init": str(tmp_path / "a")}, tmp_path / "b", progress=False)[0]
    ).backbone
    assert_equal(dict(backbone.network.state_dict()), backbone_of(tmp_path / "a"))
    student = final_state(tmp_path / "a")["method"]
    assert any(not torch.equal(student[f"backbone.network.{k}"], v) for k, v in backbone_of(tmp_path / "a").items())


def test_init_and_pretrained_exclude_each_other() -> None:
    with pytest.raises(GlocalError, match="init and pretrained both name weights"):
        build_recipe({"model": {"name": "resnet18", "init": "a.pth", "pretrained": True}})


def test_the_rate_is_a_tenth_unless_it_was_chosen_for_weights(tmp_path: Path, file: Path) -> None:
    init = {"model.init": str(file), "model.name": "resnet18"}

    def rate(mapping: dict[str, Any], overrides: dict[str, Any]) -> float:
        start = starting.begin(mapping, overrides, tmp_path / "run")
        return build_recipe(start.mapping, start.overrides).optimizer.lr

    scratch = {"optimizer": {"lr": 0.5}}
    assert rate({"method": {"name": "sce"}}, {}) == 0.06
    assert rate({}, init) == 0.006
    assert rate({}, {"model.pretrained": True}) == 0.006
    assert rate({"model": {"pretrained": True}}, {}) == 0.006
    assert rate({}, {"model.init": "timm:vit_tiny_patch16_224"}) == usual_settings("adamw")["lr"] / 10
    assert rate({}, {"model.init": "timm:vit_tiny_patch16_224", "optimizer.name": "sgd"}) == 0.006
    assert rate({"method": {"name": "logo"}}, {"model.init": "timm:vit_tiny_patch16_224"}) == 0.006  # by SGD alone
    assert rate({}, {"model.init": "timm:vit_tiny_patch16_224", "method": {"name": "logo"}}) == 0.006
    assert (
        rate({"method": {"name": "dino"}}, {"model.pretrained": True}) == usual_settings("adamw")["lr"] / 10
    )  # its ViT
    assert rate({}, {**init, "optimizer.name": "adamw"}) == usual_settings("adamw")["lr"] / 10
    assert rate(scratch, init) == 0.05
    assert rate(scratch, {**init, "optimizer.lr": 0.2}) == 0.2
    assert rate({"model": {"name": "resnet18", "init": str(file)}, **scratch}, {}) == 0.5


def test_all_rates_are_a_tenth_and_of_a_recipe_for_weights_none(tmp_path: Path, file: Path) -> None:
    init = {"model.init": str(file), "model.name": "resnet18"}

    def rates(mapping: dict[str, Any], overrides: dict[str, Any]) -> tuple[float, float, float | None]:
        start = starting.begin(mapping, overrides, tmp_path / "run")
        found = build_recipe(start.mapping, start.overrides).optimizer
        return found.lr, found.final_lr, found.norm_and_bias_lr

    twins = load_mapping("barlow-twins-imagenet")
    usual = rates(twins, {})
    assert all(usual)
    assert rates(twins, init) == pytest.approx([rate / 10 for rate in usual if rate])
    assert rates(twins, {**init, "optimizer.final_lr": 0.5})[1] == 0.5
    assert rates(twins, {**init, "optimizer.lr": 0.5}) == (0.5, *usual[1:])
    begun = {"model": {"name": "resnet18", "init": "other.pth"}, "optimizer": {"lr": 0.006}}
    assert rates(begun, init) == (0.006, 0.0, None)
    assert rates({"optimizer": {"lr": 0.0}}, init)[0] == 0.0


def test_a_section_given_whole_is_as_its_settings(tmp_path: Path, file: Path) -> None:
    network = {"name": "resnet18", "options": TINY["model.options"]}

    def begun(mapping: dict[str, Any], overrides: dict[str, Any]) -> starting.Start:
        return starting.begin(mapping, overrides, tmp_path / "run")

    expected = begun({}, {"model.init": str(file), **{f"model.{key}": value for key, value in network.items()}})
    for overrides in (
        {"model": {**network, "init": str(file)}},
        {"model": network, "model.init": str(file)},
        {"model.name": "resnet50", "model": {**network, "init": str(file)}},
    ):
        found = begun({"model": {"name": "resnet50", "stem": "small"}}, overrides)
        assert found.weights is not None
        recipe = build_recipe(found.mapping, found.overrides)
        assert recipe == build_recipe(expected.mapping, expected.overrides)
        assert (recipe.optimizer.lr, recipe.model.keep_statistics, recipe.model.init) == (0.006, True, str(file))
    whole = {"model": {**network, "init": str(file)}, "optimizer": {"lr": 0.2}}
    assert begun({}, whole).overrides["optimizer.lr"] == 0.2


def test_init_beside_a_whole_section_is_not_lost_where_the_file_names_its_network(tmp_path: Path) -> None:
    header = {"architecture": "resnet18", "model_args": json.dumps(TINY["model.options"])}
    save_file(tiny().network.state_dict(), tmp_path / "own.safetensors", header)
    overrides = {"model": {"name": "resnet18"}, "model.init": str(tmp_path / "own.safetensors")}
    start = starting.begin({}, overrides, tmp_path / "run")
    assert build_recipe(start.mapping, start.overrides).model.init == str(tmp_path / "own.safetensors")


def test_statistics_are_kept_unless_it_is_said_otherwise(tmp_path: Path, file: Path) -> None:
    def kept(mapping: dict[str, Any], overrides: dict[str, Any]) -> bool:
        start = starting.begin(mapping, overrides, tmp_path / "run")
        return build_recipe(start.mapping, start.overrides).model.keep_statistics

    init = {"model.init": str(file), "model.name": "resnet18"}
    assert not kept({}, {})
    assert kept({}, init)
    assert kept({"model": {"name": "resnet18", "pretrained": True}}, {})
    assert not kept({}, {**init, "model.keep_statistics": False})
    assert not kept({"model": {"name": "resnet18", "keep_statistics": False}}, init)


def test_a_stopped_run_with_a_frozen_backbone_and_layers_of_their_own_ends_in_the_same_weights(
    tmp_path: Path, file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings: dict[str, Any] = {
        "model__init": str(file),
        "model__name": "resnet18",
        "train__freeze_backbone_epochs": 1,  # 6 of 12 steps
        "optimizer__layer_decay": 0.7,
        "monitor__knn_epochs": 1,
    }
    run(tmp_path / "whole", **settings)
    real = loop._optimise

    class Killed(BaseException):
        pass

    for out, at in (("inside", 3), ("after", 8)):

        def stop(*given: Any, at: int = at) -> Any:
            if given[5].step == at:
                raise Killed
            return real(*given)

        monkeypatch.setattr(loop, "_optimise", stop)
        with pytest.raises(Killed):
            run(tmp_path / out, **settings)
        monkeypatch.setattr(loop, "_optimise", real)
        run(tmp_path / out, **settings)
        ended = final_state(tmp_path / out)
        assert_equal(ended["method"], final_state(tmp_path / "whole")["method"])
        assert_equal(ended["optimizers"], final_state(tmp_path / "whole")["optimizers"])
        for name in ("knn", "spread", "effective_rank"):
            assert monitor_series(tmp_path / out, name) == monitor_series(tmp_path / "whole", name)
    assert [step for step, _ in monitor_series(tmp_path / "whole", "knn")] == [0, 6, 12]
    assert [step for step, _ in monitor_series(tmp_path / "whole", "spread")] == [0, 6, 12]


def test_a_measurement_before_the_first_step_changes_no_weights(tmp_path: Path, file: Path) -> None:
    init = {"model__init": str(file), "model__name": "resnet18", "model__options": {**TINY["model.options"]}}
    run(tmp_path / "a", monitor__knn_epochs=0, monitor__collapse_epochs=0, **init)
    run(tmp_path / "b", monitor__knn_epochs=1, monitor__collapse_epochs=1, **init)
    assert_equal(final_state(tmp_path / "a")["method"], final_state(tmp_path / "b")["method"])
    assert torch.equal(final_state(tmp_path / "a")["rng"], final_state(tmp_path / "b")["rng"])


def test_a_measurement_before_the_first_step_is_said_and_is_no_step(
    tmp_path: Path, file: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    told: list[str | int] = []

    class Watcher:
        def __init__(self, *_: Any) -> None: ...

        def apart(self, what: str) -> AbstractContextManager[None]:
            told.append(what)
            return nullcontext()

        def step(self, done: int) -> None:
            told.append(done)

    monkeypatch.setattr("glocal.training.run.Forecast", Watcher)
    settings = {**TINY, **PLAIN, "model.init": str(file), "monitor.knn_epochs": 1, "monitor.collapse_epochs": 0}
    glocal.pretrain(DATA, tmp_path / "a", overrides=settings)
    assert told[:3] == ["knn", "checkpoint", 1]
    assert capsys.readouterr().err.count("measuring k-NN before the first step …") == 1


def test_a_run_from_random_weights_measures_no_neighbours_before_it_begins(tmp_path: Path) -> None:
    run(tmp_path / "a", train__epochs=1, monitor__knn_epochs=1)
    assert [step for step, _ in monitor_series(tmp_path / "a", "knn")] == [6]


def test_forgetting_is_said(tmp_path: Path, file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    class Falling:
        about = "k-NN accuracy is measured"
        found = iter((70.0, 69.5, 60.0))

        def measure(self, _: Backbone, device: torch.device) -> float:
            return next(self.found)

    monkeypatch = pytest.MonkeyPatch()
    with monkeypatch.context() as patched:
        patched.setattr("glocal.training.run.knn_monitor", lambda *_: Falling())
        run(tmp_path / "a", model__init=str(file), model__name="resnet18", monitor__knn_epochs=1)
    said = capsys.readouterr().err
    assert said.count("warning: epoch 2: k-NN accuracy is 60.0 %, below the 70.0 % before the first step") == 1
    assert "epoch 1: k-NN accuracy" not in said


@pytest.mark.parametrize("name", CASES)
def test_while_the_backbone_stands_still_the_heads_learn(name: str) -> None:
    method = make(name)
    settings = OptimizerSettings(lr=0.1, lr_batch_size=None, name="sgd" if "sgd" in method.optimizers else "adamw")
    optimizers = build_optimizers(method, settings)
    still = [parameter.clone() for parameter in method.backbone.parameters()]
    free = {id(p) for p in method.backbone.parameters() if p.requires_grad}
    heads = {n: p.clone() for n, p in method.named_parameters() if p.requires_grad and id(p) not in free}
    freeze = Freeze(method, 1)
    batch = views(method)
    if method.refresh_epochs:
        with torch.no_grad():
            method.refresh(method.eval().embed(torch.randn(64, 3, 16, 16)), 0)
        method.train()

    def step(number: int) -> None:
        clock = Clock(number, 1, 4)
        method.before_step(clock)
        freeze.at(number)
        for phase in method.phases:
            set_schedules(optimizers[phase], settings, 8, clock)
            method(batch, phase).backward()
            trained = [p for group in optimizers[phase].param_groups for p in group["params"]]
            method.before_update(phase, [p.grad for p in trained if p.grad is not None])
            optimizers[phase].step()
            optimizers[phase].zero_grad()
        method.after_step()

    step(0)
    assert all(torch.equal(a, b) for a, b in zip(still, method.backbone.parameters(), strict=True))
    assert any(not torch.equal(heads[n], p) for n, p in method.named_parameters() if n in heads)
    step(1)
    assert any(not torch.equal(a, b) for a, b in zip(still, method.backbone.parameters(), strict=True))
    assert {id(p) for p in method.backbone.parameters() if p.requires_grad} == free


def test_a_backbone_that_would_never_learn_is_refused() -> None:
    with pytest.raises(GlocalError, match=r"train.freeze_backbone_epochs.*nothing in a training of 2 epochs"):
        build_recipe({"train": {"epochs": 2, "freeze_backbone_epochs": 2}})


@pytest.mark.parametrize("name", ["resnet18", "vit_tiny_patch16_224", "convnext_atto", "tf_efficientnet_lite0"])
def test_layers_learn_at_timms_rates(name: str) -> None:
    network = timm.create_model(name, num_classes=0)
    backbone = Backbone(network, size=64)
    expected: dict[nn.Parameter, float] = {}
    for group in timm.optim.param_groups_layer_decay(network, layer_decay=0.8):
        expected |= dict.fromkeys(group["params"], group["lr_scale"])
    assert layer_scales(backbone, 0.8) == pytest.approx(expected)
    assert min(expected.values()) < 0.5


@pytest.mark.parametrize("optimizer", ["sgd", "adamw", "lars"])
def test_the_rate_of_a_layer_is_its_share_of_the_schedule(optimizer: str) -> None:
    method = make("simclr")
    changes = {"decay_norm_and_bias": False, "norm_and_bias_lr": 0.02}
    settings = OptimizerSettings.model_validate({"name": optimizer, "lr": 0.1, "layer_decay": 0.5, **changes})
    [built] = build_optimizers(method, settings).values()
    set_schedules(built, settings, 256, Clock(0, 10, 100))
    rates = {parameter: group["lr"] for group in built.param_groups for parameter in group["params"]}
    scales = layer_scales(method.backbone, 0.5)
    for parameter in method.parameters():
        rate = 0.02 if parameter.ndim <= 1 else 0.1
        assert rates[parameter] == pytest.approx(rate * scales.get(parameter, 1.0))
    assert loop._leading(built.param_groups)["lr"] == pytest.approx(0.1)


def test_layers_that_timm_does_not_know_are_told() -> None:
    backbone = build_backbone(ModelSettings(name="small_alexnet"), size=64)
    with pytest.raises(GlocalError, match="timm knows no layers of small_alexnet"):
        layer_scales(backbone, 0.5)


def test_statistics_that_are_kept_stay_and_those_of_the_teacher_too(tmp_path: Path, file: Path) -> None:
    run(tmp_path / "a", model__init=str(file), model__name="resnet18")
    begun = glocal.load_backbone(f"untrained:{tmp_path / 'a'}").network.state_dict()
    state = final_state(tmp_path / "a")["method"]
    for owner in ("backbone.network", "teacher.chain.0.network"):
        for name in (name for name in begun if "running_" in name or "num_batches" in name):
            assert torch.equal(state[f"{owner}.{name}"], begun[name]), f"{owner}.{name}"
    assert not torch.equal(state["backbone.network.conv1.weight"], begun["conv1.weight"])


def test_the_command_takes_weights(tmp_path: Path, file: Path, image_folder: Callable[..., Path]) -> None:
    command = ["pretrain", "--data", str(image_folder(32)), "--out", str(tmp_path / "a"), "--init", str(file)]
    settings = ["model.name=resnet18", "train.epochs=1", "train.batch_size=16", "train.precision=fp32"]
    options = f"model.options={json.dumps(TINY['model.options'])}"
    sets = [word for setting in [*settings, options] for word in ("--set", setting)]
    result = CliRunner().invoke(app, [*command, *sets, "--quiet"])
    assert result.exit_code == 0, result.output
    assert f"init: {file}" in (tmp_path / "a" / "recipe.yaml").read_text()


def test_few_photographs_are_told_of_weights(
    tmp_path: Path, image_folder: Callable[..., Path], file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for place, more, told in (("a", {}, True), ("b", {"model.init": str(file)}, False)):
        glocal.pretrain(image_folder(16), tmp_path / place, overrides={**SHORT, **PLAIN, **more})
        assert ("16 images are few to learn from nothing; --init timm:resnet50" in capsys.readouterr().err) is told
        glocal.pretrain(image_folder(16), tmp_path / place, overrides={**SHORT, **PLAIN, **more})
        assert "are few" not in capsys.readouterr().err  # it goes on
