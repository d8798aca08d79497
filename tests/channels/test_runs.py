"""Runs on images that are not RGB: they learn, go on bit for bit, and everything after a training works on them."""

import shutil
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

import glocal
from glocal.checkpoints import newest_checkpoint
from glocal.config import build_recipe, load_mapping
from glocal.data.sources.base import MemorySource
from glocal.embeddings.searching import search
from glocal.errors import GlocalError
from glocal.evaluation import evaluate
from glocal.exports import export
from glocal.models.architecture import ModelSettings
from glocal.models.building import build_backbone
from glocal.models.fitting import load_into
from glocal.models.loading import load_backbone
from glocal.models.weights import read_weights
from glocal.report.preview import preview
from tests.channels.made import save, spectra, stripes

TINY: dict[str, Any] = {
    "method.name": "simclr",
    "model.options": {"channels": [8, 8, 16, 16], "layers": [1, 1, 1, 1]},
    "model.stem": "standard",
    "train.epochs": 2,
    "train.batch_size": 16,
    "monitor.knn_epochs": 0,
    "data.workers": 0,
}


def pretrain(data: Any, out: Path, **overrides: Any) -> glocal.Run:
    settings = {**TINY, **{key.replace("__", "."): value for key, value in overrides.items()}}
    return glocal.pretrain(data, out, overrides=settings, progress=False)


@pytest.fixture(scope="module")
def cubes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """48 images of 12 channels in float, by class."""
    return save(tmp_path_factory.mktemp("cubes"), *spectra(48, 0), ".npy")


@pytest.fixture(scope="module")
def run(cubes: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run on them."""
    return pretrain(cubes, tmp_path_factory.mktemp("runs") / "a", data__channels=12, data__lane="streaming").folder


def neighbours(backbone: str, train: Path, test: Path) -> float:
    """k-NN accuracy in percent."""
    found = evaluate(
        backbone, train=str(train), test=str(test), protocols="knn", k=[10], progress=False, workers=0, cache=False
    )
    return float(found["protocols"]["knn"]["results"][0]["metrics"]["top1"])


@pytest.mark.parametrize("kind", [pytest.param("16-bit grey", marks=pytest.mark.slow), "12 channels in float"])
def test_a_run_learns_more_than_its_untrained_network_knows(kind: str, no_pictures: None, tmp_path: Path) -> None:
    make, ending, channels = (stripes, ".tif", 1) if kind == "16-bit grey" else (spectra, ".npy", 12)
    train, test = (
        save(tmp_path / name, *make(number, seed), ending)
        for name, number, seed in (("train", 320, 0), ("test", 240, 1))
    )
    learned = glocal.pretrain(
        train,
        tmp_path / "run",
        overrides={
            **TINY,
            "data.channels": channels,
            "model.options": {"channels": [8, 16, 16, 32], "layers": [1, 1, 1, 1]},
            "model.stem": "small" if channels == 1 else "medium",
            "train.epochs": 20 if channels == 1 else 6,
            "train.batch_size": 64,
            "optimizer.warmup_epochs": 0,
            "views.0.flip": 0,  # which would turn stripes into those of another class
            "views.0.scale": [0.3, 1.0],  # and smaller crops would make them as wide as those of another
        },
        progress=False,
    )
    before, after = (neighbours(name, train, test) for name in (f"untrained:{learned.folder}", str(learned.folder)))
    assert after > before + 8


def test_the_recipe_keeps_what_was_measured_and_repeats_the_run(run: Path, cubes: Path, tmp_path: Path) -> None:
    written = build_recipe(load_mapping(run / "recipe.yaml")).data
    values = np.concatenate([np.load(file).reshape(-1, 12) for file in sorted(cubes.rglob("*.npy"))]).astype(np.float64)
    assert np.allclose(written.mean, values.mean(axis=0), rtol=1e-5)
    assert np.allclose(written.std, values.std(axis=0), rtol=1e-5)
    assert (run / "views.png").is_file()
    again = glocal.pretrain(cubes, tmp_path / "b", recipe=run / "recipe.yaml", progress=False)
    one, other = (newest_checkpoint(folder / "checkpoints") for folder in (run, again.folder))
    assert one is not None
    assert other is not None
    assert all(torch.equal(one["method"][name], value) for name, value in other["method"].items())


class Stop:
    """Ends a training after some steps, as a crash would."""

    def __init__(self, steps: int) -> None:
        self.steps = steps

    def step(self, done: int) -> None:
        if done == self.steps:
            raise RuntimeError("enough")

    def apart(self, what: str) -> AbstractContextManager[None]:
        return nullcontext()


@pytest.mark.parametrize("lane", ["resident", "streaming"])
def test_a_stopped_run_goes_on_bit_for_bit_with_the_statistics_that_it_began_with(
    lane: str, cubes: Path, no_pictures: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    view = {"count": 2, "size": 16, "jitter": {"probability": 0.8}, "noise": {"probability": 0.5}, "channel_drop": 0.2}
    settings = {**TINY, "data.channels": 12, "data.lane": lane, "train.checkpoint_steps": 1, "views": [view]}
    glocal.pretrain(cubes, tmp_path / "whole", overrides=settings, progress=False)
    with pytest.raises(RuntimeError, match="enough"):
        glocal.pretrain(cubes, tmp_path / "cut", overrides=settings, progress=False, watch=Stop(3))
    monkeypatch.setattr("glocal.data.statistics.measure_channels", None)  # nothing is measured again
    glocal.pretrain(cubes, tmp_path / "cut", overrides=settings, progress=False)
    one, other = (newest_checkpoint(tmp_path / name / "checkpoints") for name in ("whole", "cut"))
    assert one is not None
    assert other is not None
    assert one["step"] == other["step"] == 6
    assert all(torch.equal(one["method"][name], value) for name, value in other["method"].items())


def test_wrong_channels_and_files_are_told_in_one_line(cubes: Path, tmp_path: Path) -> None:
    with pytest.raises(GlocalError, match=r"\.npy has 12 channels of float32, no RGB image; set data.channels=12"):
        pretrain(cubes, tmp_path / "a")
    with pytest.raises(GlocalError, match=r"none of 48 images .* 12 channels \(16 × 16 × 12\), not data.channels=4"):
        pretrain(cubes, tmp_path / "a", data__channels=4)
    with pytest.raises(GlocalError, match=r"shapes:train:64: its images are RGB|its images have 3 channels"):
        pretrain("shapes:train:64", tmp_path / "a", data__channels=4)
    with pytest.raises(GlocalError, match=r"data.channels must be a whole number, not 'many'"):
        pretrain(cubes, tmp_path / "a", data__channels="many")
    assert not (tmp_path / "a").exists()
    mixed = shutil.copytree(cubes, tmp_path / "mixed")
    np.save(mixed / "class0" / "0000.npy", np.zeros((16, 16, 3), np.float32))
    done = pretrain(mixed, tmp_path / "b", data__channels=12, data__broken_limit=0.1, train__epochs=1)
    assert "class0/0000.npy\t3 channels" in (done.folder / "skipped.txt").read_text()


def test_three_channels_may_be_values_too(tmp_path: Path) -> None:
    images, labels = spectra(32, 0)
    folder = save(tmp_path / "images", images[..., :3], labels, ".npy")
    with pytest.raises(GlocalError, match="set data.rgb=false"):
        pretrain(folder, tmp_path / "a")
    done = pretrain(folder, tmp_path / "a", data__rgb=False, train__epochs=1)
    assert done.backbone().channels == 3
    assert done.recipe.data.mean[0] == pytest.approx(images[..., 0].mean(), rel=1e-4)


@pytest.mark.parametrize(
    "method", ["sce", pytest.param("dino", marks=pytest.mark.slow), "clim", "logo", "glocal", "swav"]
)
def test_methods_of_every_kind_train(method: str, cubes: Path, no_pictures: None, tmp_path: Path) -> None:
    overrides = {
        **TINY,
        "model.name": "resnet18",
        "method.name": method,
        "data.channels": 12,
        "train.epochs": 1,
        "optimizer.warmup_epochs": 0,
    }
    glocal.pretrain(cubes, tmp_path / "a", overrides=overrides, progress=False)


def test_a_loaded_backbone_takes_values_as_files_hold_them(run: Path, cubes: Path) -> None:
    backbone = load_backbone(run)
    arrays = [np.load(file) for file in sorted(cubes.rglob("*.npy"))[:4]]
    images = torch.from_numpy(np.stack(arrays)).permute(0, 3, 1, 2)
    found = backbone.features(images)
    assert torch.allclose(found, backbone.features(arrays), atol=1e-5)
    assert torch.allclose(found, backbone.features(backbone.squares(arrays)), atol=1e-5)
    mean, std = (
        torch.tensor(value)[:, None, None]
        for value in (backbone.mean.flatten().tolist(), backbone.std.flatten().tolist())
    )
    assert torch.allclose(found, backbone.network((images - mean) / std), atol=1e-5)
    with pytest.raises(GlocalError, match=r"shape \(B, 12, height, width\), not \(4, 3, 16, 16\)"):
        backbone.features(images[:, :3])
    with pytest.raises(GlocalError, match="infinite or no numbers"):
        backbone.features(images * torch.nan)
    with pytest.raises(GlocalError, match="5 channels"):
        backbone.features([array[..., :5] for array in arrays])


def test_embeddings_have_pictures_and_are_searched_by_files_and_arrays(run: Path, cubes: Path, tmp_path: Path) -> None:
    found = glocal.embed(run, cubes, tmp_path / "e", device="cpu", workers=0, progress=False)
    assert len(found) == 48
    assert all(picture.startswith(b"\xff\xd8") for picture in found.thumbnails(range(48)) if picture is not None)
    file = cubes / "class3" / "0003.npy"
    shutil.copy(file, tmp_path / "query.npy")
    for query in (str(tmp_path / "query.npy"), torch.from_numpy(np.load(file)).permute(2, 0, 1)):
        result = search(tmp_path / "e", query, 3, device="cpu", progress=False)
        assert result.keys[0][0] == "class3/0003.npy"
        assert float(result.similarities[0, 0]) > 0.999
    assert found.source is not None
    assert found.source[3].image.shape[0] == 12
    with pytest.raises(GlocalError, match=r"\(B, 12, height, width\)"):
        search(tmp_path / "e", torch.zeros(3, 16, 16), 3, device="cpu", progress=False)


def test_probes_train_on_views_of_such_images_and_protocols_of_colours_are_refused(run: Path, cubes: Path) -> None:
    asked: dict[str, Any] = {"train": str(cubes), "test": str(cubes), "progress": False, "workers": 0, "device": "cpu"}
    names = ["knn", "linear", "logistic", "finetune"]
    settings = {
        "linear.style": "sce",
        "linear.epochs": 1,
        "finetune.epochs": 1,
        "finetune.fractions": [1.0],
        "finetune.seeds": 1,
    }
    found = evaluate(run, protocols=names, settings=settings, **asked)
    assert set(found["protocols"]) == set(names)
    with pytest.raises(GlocalError, match="protocol structure is for RGB images.* data.channels=12"):
        evaluate(run, protocols="structure", **asked)


@pytest.mark.parametrize("target", [pytest.param("onnx", marks=pytest.mark.slow), "timm", "safetensors", "hub-folder"])
def test_exports_are_read_back_as_they_were(target: str, run: Path, tmp_path: Path) -> None:
    if target == "onnx":
        pytest.importorskip("onnxruntime")
    out = tmp_path / {"onnx": "a.onnx", "safetensors": "a.safetensors"}.get(target, "a")
    done = export(run, target, out, progress=False)
    assert all(one.worst.relative <= one.tolerance for one in done.checks)
    if target == "onnx":
        return
    again = load_backbone("timm:resnet18", out)
    own = load_backbone(run)
    images = own.mean + own.std * torch.randn(3, 12, 16, 16)
    assert again.channels == 12
    assert torch.allclose(again.features(images), own.features(images), atol=1e-5)


def test_torchvision_has_no_such_network(run: Path, tmp_path: Path) -> None:
    with pytest.raises(GlocalError, match="torchvision: its networks take 3 channels, not 12"):
        export(run, "torchvision", tmp_path / "a.pth", progress=False)


def test_the_report_shows_them(run: Path, tmp_path: Path) -> None:
    page = glocal.write_report(run, tmp_path / "a.html", progress=False).read_text()
    assert "t-SNE of all 48 images" in page
    assert page.count("data:image/jpeg") >= 6  # images and their crops


def test_the_preview_shows_them(cubes: Path, tmp_path: Path) -> None:
    file = next(cubes.rglob("*.npy"))
    for data in (cubes, file):
        preview(data, tmp_path / "a.png", overrides={"data.channels": 12})
    assert (tmp_path / "a.png").stat().st_size > 1000


@pytest.mark.parametrize(
    ("name", "stem"),
    [
        ("resnet18", "standard"),
        ("resnet18", "small"),
        ("resnet18", "medium"),
        ("vit_tiny", "auto"),
        ("small_alexnet", "auto"),
    ],
)
@pytest.mark.parametrize("channels", [1, 5])
def test_networks_have_as_many_inputs_as_there_are_channels(name: str, stem: str, channels: int) -> None:
    settings = ModelSettings.model_validate({"name": name, "stem": stem})
    backbone = build_backbone(settings, size=32, channels=channels)
    assert backbone.features(torch.rand(2, channels, 32, 32) * 60_000).shape == (2, backbone.dim)
    with pytest.raises(GlocalError, match="model.options.in_chans=4: all images come with data.channels=1"):
        build_backbone(ModelSettings(options={"in_chans": 4}), size=32, channels=1)


@pytest.mark.parametrize("channels", [1, 5])
@pytest.mark.parametrize("name", ["resnet18", "vit_tiny"])
def test_weights_of_rgb_are_made_for_other_channels_as_timm_makes_its_own(
    name: str, channels: int, tmp_path: Path
) -> None:
    torch.manual_seed(0)
    rgb = build_backbone(ModelSettings(name=name), size=32)
    save_file(rgb.network.state_dict(), tmp_path / "rgb.safetensors")
    own = build_backbone(ModelSettings(name=name), size=32, channels=channels)
    said = load_into(own.network, read_weights(tmp_path / "rgb.safetensors"), label=name)
    first = "conv1.weight" if name == "resnet18" else "patch_embed.proj.weight"
    assert f"made for other channels than RGB: {first}" in said
    kernel, found = rgb.network.state_dict()[first], own.network.state_dict()[first]
    if channels == 1:
        assert torch.allclose(found, kernel.sum(dim=1, keepdim=True), atol=1e-6)
    else:
        assert torch.allclose(found, kernel[:, [0, 1, 2, 0, 1]] * 3 / 5, atol=1e-6)


def test_a_run_begins_with_another_ones_weights_whatever_its_channels_were(
    run: Path, cubes: Path, no_pictures: None, tmp_path: Path
) -> None:
    same = glocal.pretrain(
        cubes,
        tmp_path / "same",
        init=run,
        progress=False,
        overrides={"train.epochs": 1, "train.batch_size": 16, "method.name": "simclr"},
    )
    assert same.recipe.data.channels == 12
    assert same.recipe.data.mean == build_recipe(load_mapping(run / "recipe.yaml")).data.mean
    rgb = pretrain("shapes:train:48", tmp_path / "rgb", train__epochs=1)
    other = glocal.pretrain(
        cubes,
        tmp_path / "other",
        init=rgb.folder,
        progress=False,
        overrides={"train.epochs": 1, "train.batch_size": 16, "data.channels": 12, "method.name": "simclr"},
    )
    assert len(other.recipe.data.mean) == 12
    assert other.recipe.data.mean == same.recipe.data.mean


def test_images_in_memory_train(tmp_path: Path) -> None:
    images, labels = spectra(32, 0)
    source = MemorySource(
        "made", torch.from_numpy(images).permute(0, 3, 1, 2), torch.from_numpy(labels), list("abcdef")
    )
    done = pretrain(source, tmp_path / "a", data__channels=12, monitor__knn_epochs=1)
    assert done.recipe.data.mean[0] == pytest.approx(images[..., 0].mean(), rel=1e-4)
