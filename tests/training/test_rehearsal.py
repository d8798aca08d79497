"""What would fail in the first step is told in one line, before a folder is made; parts of a batch are spoken of."""

from pathlib import Path

import pytest
import torch

from glocal.config import build_recipe
from glocal.errors import GlocalError
from glocal.methods import method_names
from glocal.methods.building import build_method
from glocal.training import machine
from glocal.training.rehearsal import notes_on, rehearse, shadow
from glocal.training.run import pretrain
from tests.methods.cases import make, views

TINY = {"channels": [8, 8, 8, 8], "layers": [1, 1, 1, 1]}
SELFPATCH = {
    "name": "vit_tiny",
    "options": {
        "patch_size": 8,
        "embed_dim": 32,
        "depth": 1,
        "num_heads": 2,
        "class_token": False,
        "global_pool": "avg",
    },
}


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ({"model.name": "small_alexnet", "optimizer.layer_decay": 0.8}, "timm knows no layers of small_alexnet"),
        ({"model.name": "swin_tiny_patch4_window7_224"}, r"model.name=swin_tiny.* of 32 pixels \(data.size=32\)"),
        (
            {"model.name": "swin_tiny_patch4_window7_224", "data.size": 224},
            r"of 96 pixels \(views.1.size=96\).*it takes those of 224: leave the others out \(views, method.locals=0\)",
        ),
        (
            {"train.batch_size": 10, "train.accumulate": 4},
            r"train.batch_size=10 must be a multiple of train.devices=1 x train.accumulate=4: take 8 or 12",
        ),
        ({"train.batch_size": 4, "train.accumulate": 4}, r"leaves 1 image at a time.*raise train.batch_size to 8"),
        ({"model.name": "resnet18d", "model.stem": "small"}, "the small stem is for ResNets"),
        ({"model.name": "resnet18d", "model.stem": "medium"}, "the medium stem is for ResNets"),
        (
            {"model.name": "resnet18", "model.pretrained": True, "model.stem": "medium"},
            "model.stem=medium does not go with model.pretrained",
        ),
        (
            {"method.name": "logo", "views": [{"count": 2, "size": 32}], "train.batch_size": 8},
            "two global and two local views are needed, but there are 2 views of each image",
        ),
        ({"method.name": "simclr", "views": [{"count": 3, "size": 32}], "train.batch_size": 8}, "two views .*, not 3"),
        (
            {"method.name": "w_mse", "method.output_dim": 24, "method.sub_batch": 32, "train.batch_size": 24},
            r"w_mse whitens 24 embeddings .* raise train.batch_size, set method.output_dim below 24",
        ),
        (
            {"method.name": "myow", "method.neighbors": 8, "train.batch_size": 8},
            r"method.neighbors=8: .* the 7 others of its batch .*; set it to 7 or less",
        ),
        (
            {"method.name": "selfpatch", "model": SELFPATCH, "train.batch_size": 8},
            r"views.2.size=16 has 2 × 2 patches of 8 pixels; .*; set it to 24 or more",
        ),
        (
            {"method.name": "jigsaw", "method.permutations": 8, "data.size": 8, "train.batch_size": 8},
            "views of 8 pixels with method.gap=0.25 give 3 × 3 patches of 2 pixels.* to 15 or more",
        ),
        ({"data.test": "shapez", "train.batch_size": 8}, "there is no folder shapez; did you mean shapes?"),
    ],
)
def test_what_cannot_be_trained_makes_no_folder(overrides: dict[str, object], message: str, tmp_path: Path) -> None:
    with pytest.raises(GlocalError, match=message) as caught:
        pretrain("shapes:train:40", tmp_path / "run", overrides={"data.size": 32, **overrides}, progress=False)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "run").exists()


VIT = {"model.name": "vit_tiny", "model.options": {"embed_dim": 32, "depth": 1, "num_heads": 2, "patch_size": 4}}


@pytest.mark.parametrize(
    ("overrides", "parts"),
    [
        ({"method.name": "simclr"}, ["compares an image with the 4 of its part", "normalisation sees 4 images"]),
        ({"method.name": "simsiam"}, ["normalisation sees 4 images"]),
        ({"method.name": "logo", "method.base.name": "simsiam"}, ["normalisation sees 4 images"]),
        ({"method.name": "dino", **VIT}, []),
    ],
)
def test_parts_of_a_batch_are_spoken_of_where_they_change_something(
    overrides: dict[str, object], parts: list[str]
) -> None:
    common = {"data.size": 16, "train.batch_size": 8, "train.device": "cpu"}
    model = {} if "model.name" in overrides else {"model.options": TINY}
    whole = build_recipe({}, {**common, **model, **overrides})
    assert notes_on(build_method(whole), whole) == []
    parted = build_recipe({}, {**common, **model, **overrides, "train.accumulate": 2})
    found = notes_on(build_method(parted), parted)
    assert len(found) == bool(parts)
    assert all(part in found[0] for part in parts)


def test_statistics_of_weights_are_told_of_weights_only() -> None:
    common = {"data.size": 16, "train.device": "cpu", "model.options": TINY, "model.keep_statistics": True}
    recipe = build_recipe({}, common)
    assert notes_on(build_method(recipe), recipe) == []
    recipe = build_recipe({}, {**common, "model.init": "own.pth", "model.stem": "small"})
    assert "model.keep_statistics is true" in notes_on(build_method(recipe, weights=False), recipe)[0]


def test_large_patches_of_small_images_are_told() -> None:
    tiny = {"embed_dim": 32, "depth": 1, "num_heads": 2}
    for patch, told in ((16, "only 2 × 2 patches of 16; --set model.options.patch_size=4 gives 8 × 8"), (8, None)):
        options = {**tiny, "patch_size": patch}
        recipe = build_recipe({}, {"model.name": "vit_tiny", "model.options": options}, data_size=32)
        found = notes_on(build_method(recipe), recipe)
        assert len(found) == (told is not None)
        assert told is None or told in found[0]
    recipe = build_recipe({}, {"model.name": "xcit_nano_12_p16_224"}, data_size=64)
    assert not any("patches" in line for line in notes_on(shadow(recipe), recipe))  # timm gives its side as a number


@pytest.mark.parametrize("name", method_names())
def test_processes_look_for_unused_parameters_only_where_there_are_some(name: str) -> None:
    """The loss of a method with one update reaches every parameter, so that torch need not look and does not warn."""
    recipe = build_recipe({}, {"method.name": "sce", "train.devices": 2, "train.device": "cpu"}, data_size=32)
    method = make(name)
    several = len(method.phases) > 1
    strategy = machine._fabric(recipe, several).strategy
    assert strategy._ddp_kwargs.get("find_unused_parameters", False) is several  # type: ignore[attr-defined]
    if several:
        return
    if method.refresh_epochs:
        with torch.no_grad():
            method.refresh(method.eval().embed(torch.randn(64, 3, 16, 16)), 0)
    method.train()(views(method)).backward()
    assert [name for name, one in method.named_parameters() if one.requires_grad and one.grad is None] == []


def test_a_recipe_that_works_is_rehearsed_in_silence(capsys: pytest.CaptureFixture[str]) -> None:
    rehearse(build_recipe({}, {"data.size": 16, "model.options": TINY, "train.batch_size": 8}))
    assert capsys.readouterr().err == ""
