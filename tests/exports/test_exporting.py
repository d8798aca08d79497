"""Exports give what the backbone gives, or leave nothing."""

import ast
import json
import resource
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
import torch
import torchvision
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from glocal.cli import main
from glocal.errors import GlocalError
from glocal.exports import TARGETS, export
from glocal.exports import onnx as onnx_target
from glocal.exports import timm as timm_target
from glocal.exports.preprocessing import Preprocessing
from glocal.exports.pushing import for_repository
from glocal.exports.staging import staged
from glocal.exports.subject import Subject, architecture_from
from glocal.models.architecture import Architecture, set_stem
from glocal.models.backbone import Backbone
from glocal.models.loading import load_backbone
from glocal.training.run import pretrain
from tests.exports.made import NARROW, VIT, backbone, narrow, vit

onnxruntime = pytest.importorskip("onnxruntime")


def images(size: int = 32, count: int = 5) -> Tensor:
    return torch.randint(0, 256, (count, 3, size, size), generator=torch.Generator().manual_seed(1), dtype=torch.uint8)


def by_hand(its: Tensor, mean: Any, std: Any) -> Tensor:
    """Normalised without this package's help."""
    numbers = its.numpy().astype(np.float64) / 255
    found = (numbers - np.array(mean)[:, None, None]) / np.array(std)[:, None, None]
    return torch.from_numpy(found.astype(np.float32))


def out_for(folder: Path, to: str, ending: str | None = None) -> Path:
    endings = TARGETS[to].endings
    return folder / ("exported" + (ending or (endings[0] if endings else "")))


def far(a: Tensor, b: Tensor) -> float:
    return float(((a - b).norm(dim=-1) / b.norm(dim=-1)).max())


def _small_and_narrow() -> Backbone:
    return backbone(stem="small", options=NARROW)


def _medium_and_narrow() -> Backbone:
    return backbone(stem="medium", options=NARROW)


@pytest.mark.parametrize("make", [narrow, vit, lambda: vit(global_pool="avg", class_token=False)])
@pytest.mark.parametrize("precision", ["fp32", "fp16"])
@torch.no_grad()
def test_timm_loads_its_folder_and_prepares_images_alike(
    tmp_path: Path, make: Callable[[], Backbone], precision: Any
) -> None:
    made = make()
    done = export(made, "timm", tmp_path / "t", precision=precision)
    assert {path.name for path in (tmp_path / "t").iterdir()} == {"config.json", "model.safetensors"}
    network = timm.create_model(f"local-dir:{tmp_path / 't'}", pretrained=True).eval()
    its = timm.data.resolve_model_data_config(network)
    assert tuple(its["input_size"]) == (3, 32, 32)
    assert (its["crop_pct"], its["interpolation"]) == (1.0, "bilinear")
    given = network(by_hand(images(), its["mean"], its["std"]))
    assert far(given, made.features(images())) < (1e-5 if precision == "fp32" else 5e-3)
    assert done.bytes == sum(path.stat().st_size for path in (tmp_path / "t").iterdir())
    new = timm.create_model(f"local-dir:{tmp_path / 't'}", pretrained=True, num_classes=10)  # for fine-tuning
    assert all(torch.equal(new.state_dict()[name], value) for name, value in network.state_dict().items())
    assert new.eval()(torch.zeros(1, 3, 32, 32)).shape == (1, 10)


@pytest.mark.parametrize("stem", ["standard", "medium", "small"])
@pytest.mark.parametrize("ending", [".pth", ".safetensors"])
@torch.no_grad()
def test_resnets_load_into_torchvision(tmp_path: Path, stem: str, ending: str) -> None:
    made = backbone(stem=stem)
    done = export(made, "torchvision", out_for(tmp_path, "torchvision", ending))
    network = torchvision.models.resnet18()
    network.fc = nn.Identity()
    if stem != "standard":
        stride = {"medium": 2, "small": 1}[stem]
        network.conv1, network.maxpool = nn.Conv2d(3, 64, 3, stride, padding=1, bias=False), nn.Identity()
    state = load_file(done.path) if ending == ".safetensors" else torch.load(done.path)  # weights_only by default
    network.load_state_dict(state)
    given = network.eval()(by_hand(images(), (0.4, 0.5, 0.6), (0.2, 0.3, 0.25)))
    assert far(given, made.features(images())) < 1e-5
    said = (done.path.suffix == ".safetensors" and safe_open(done.path, "pt").metadata()) or state._metadata["glocal"]
    assert json.loads(said["mean"]) == [0.4, 0.5, 0.6]


@torch.no_grad()
def test_vision_transformers_load_into_torchvision(tmp_path: Path) -> None:
    made = vit()
    done = export(made, "torchvision", tmp_path / "v.pth")
    network = torchvision.models.VisionTransformer(32, 8, 2, 2, 32, 128)
    network.heads = nn.Identity()
    network.load_state_dict(torch.load(done.path))
    assert far(network.eval()(made.prepare(images())), made.features(images())) < 1e-5


@pytest.mark.parametrize("make", [narrow, _small_and_narrow, _medium_and_narrow, vit, lambda: vit(reg_tokens=2)])
@torch.no_grad()
def test_the_header_of_safetensors_says_what_to_build(tmp_path: Path, make: Callable[[], Backbone]) -> None:
    made = make()
    done = export(made, "safetensors", tmp_path / "w.safetensors")
    with safe_open(done.path, "pt") as file:
        said = file.metadata()
    network = timm.create_model(said["architecture"], num_classes=0, **json.loads(said["model_args"]))
    if said["stem"] != "standard":
        width, stride = network.conv1.out_channels, {"medium": 2, "small": 1}[said["stem"]]
        network.conv1, network.maxpool = nn.Conv2d(3, width, 3, stride, padding=1, bias=False), nn.Identity()
    network.load_state_dict(load_file(done.path))
    prepared = by_hand(images(), json.loads(said["mean"]), json.loads(said["std"]))
    assert far(network.eval()(prepared), made.features(images())) < 1e-5
    assert json.loads(said["input_size"]) == [3, 32, 32]
    assert said["fingerprint"] == made.fingerprint()


def test_a_header_with_another_stem_is_refused() -> None:
    said = {"architecture": "resnet18", "model_args": "{}", "stem": "tiny"}
    with pytest.raises(GlocalError, match="header: stem is 'tiny'; standard, medium, small are known"):
        architecture_from(said)
    assert architecture_from({**said, "stem": "small"}).stem == "small"


def test_a_network_built_by_hand_keeps_its_medium_stem(tmp_path: Path) -> None:
    network = timm.create_model("resnet18", num_classes=0, **NARROW)
    set_stem(network, "medium")
    made = Backbone(network.eval(), size=32)
    done = export(made, "safetensors", tmp_path / "w.safetensors")
    found = load_backbone("timm:resnet18", done.path)
    assert torch.equal(found.features(images()), made.features(images()))


@pytest.fixture(scope="module")
def graphs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[Backbone, Path]]:
    """ONNX files, which take seconds to make."""
    folder = tmp_path_factory.mktemp("onnx")
    found = {}
    for name, made, precision in (("resnet", narrow(), "fp32"), ("vit", vit(), "fp32"), ("half", vit(), "fp16")):
        done = export(made, "onnx", folder / f"{name}.onnx", precision=precision)  # type: ignore[arg-type]
        found[name] = (made, done.path)
    return found


@pytest.mark.parametrize(("name", "limit"), [("resnet", 1e-5), ("vit", 1e-5), ("half", 5e-3)])
@torch.no_grad()
def test_onnx_takes_any_number_of_images(graphs: dict[str, tuple[Backbone, Path]], name: str, limit: float) -> None:
    made, path = graphs[name]
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    said = session.get_modelmeta().custom_metadata_map
    assert {output.type for output in [*session.get_inputs(), *session.get_outputs()]} == {"tensor(float)"}
    for count in (1, 2, 7):
        prepared = by_hand(images(count=count), json.loads(said["mean"]), json.loads(said["std"])).numpy()
        given = dict(zip(json.loads(said["outputs"]), session.run(None, {"images": prepared}), strict=True))
        assert far(torch.from_numpy(given["features"]), made.features(images(count=count))) < limit
        if name != "resnet":
            assert far(torch.from_numpy(given["tokens"]), made.tokens(images(count=count))) < 2 * limit
        else:
            assert set(given) == {"features"}


def test_onnx_holds_float16_where_asked_and_nothing_of_the_machine(
    graphs: dict[str, tuple[Backbone, Path]],
) -> None:
    import onnx

    half = onnx.load(graphs["half"][1])
    kinds = {one.data_type for one in half.graph.initializer if np.prod(one.dims) > 16}
    assert kinds == {onnx.TensorProto.FLOAT16}
    for _, path in graphs.values():
        assert b"site-packages" not in path.read_bytes()
        assert b".py" not in path.read_bytes()
        assert {one.version for one in onnx.load(path).opset_import if not one.domain} == {onnx_target.OPSET}


@pytest.mark.parametrize("stem", ["medium", "small"])
def test_networks_that_timm_cannot_name_go_to_the_hub_as_onnx(tmp_path: Path, stem: str) -> None:
    made = backbone(stem=stem, options=NARROW)
    done = export(made, "hub-folder", tmp_path / "h")
    assert {one.name for one in done.path.iterdir()} == {"README.md", "model.onnx", "model.safetensors"}
    assert {one.name for one in done.checks} == {"onnx", "safetensors"}
    card = (done.path / "README.md").read_text()
    assert "library_name: onnx" in card
    assert 'InferenceSession("h/model.onnx")' in card
    assert ("3, stride=2, padding=1" in card, "network.maxpool" in card) == (stem == "medium", True)
    pushed = for_repository(card, "anna/net")
    assert 'InferenceSession(hf_hub_download("anna/net", "model.onnx"))' in pushed
    assert 'load_file(hf_hub_download("anna/net", "model.safetensors"))' in pushed
    assert pushed.count("from huggingface_hub import hf_hub_download\n") == 2
    assert '"h/' not in pushed


@pytest.mark.parametrize(
    ("make", "to", "message"),
    [
        (lambda: backbone(stem="small"), "timm", "small stem"),
        (_medium_and_narrow, "timm", r"the medium stem \(model.stem=medium\); --to safetensors"),
        (_medium_and_narrow, "torchvision", r"conv1.*torchvision's resnet18 has"),
        (lambda: backbone("small_alexnet", 32), "torchvision", "not small_alexnet; --to onnx and hub-folder"),
        (narrow, "torchvision", r"conv1|layer1.*torchvision's resnet18 has"),
        (lambda: vit(reg_tokens=2), "torchvision", "a class token alone before its patches; --to timm"),
        (lambda: vit(global_pool="avg"), "torchvision", "the class token as its feature"),
        (lambda: vit(img_size=16), "torchvision", r"for the size of their images \(32, not 16\); --to timm, onnx"),
        (lambda: vit(init_values=1e-5), "torchvision", "blocks.0.ls1.gamma|ls1"),
        (lambda: vit(qkv_bias=False), "torchvision", "in_proj_bias"),
        (lambda: Backbone(Hand(), size=32), "safetensors", "it is not known how Hand is built again; --to onnx"),
        (lambda: Backbone(Hand(), size=32), "timm", "not built by timm"),
    ],
)
def test_networks_that_a_target_cannot_hold_are_refused(
    tmp_path: Path, make: Callable[[], Backbone], to: str, message: str
) -> None:
    with pytest.raises(GlocalError, match=message):
        export(make(), to, out_for(tmp_path, to))
    assert list(tmp_path.iterdir()) == []


class Hand(nn.Module):
    """A network that no package builds."""

    num_features = 1024

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Conv2d(3, 1024, 3)

    def forward(self, its: Tensor) -> Tensor:
        return self.layer(its).mean(dim=(2, 3))


def _flip_weight(path: Path) -> None:
    """The sign of one number of the first convolution, in a file that is otherwise whole."""
    weights = load_file(path)
    with safe_open(path, "pt") as file:
        said = file.metadata()
    first = next(name for name in weights if weights[name].ndim == 4)
    flat = weights[first].view(-1)
    flat[flat.abs().argmax()] *= -1
    save_file(weights, path, metadata=said)


@pytest.mark.parametrize("to", ["timm", "safetensors", "hub-folder"])
@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_a_file_with_one_wrong_weight_is_not_left(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, to: str, precision: Any
) -> None:
    target = TARGETS[to]

    def wrongly(subject: Any, place: Path) -> None:
        target.write(subject, place)
        _flip_weight(place if place.is_file() else place / "model.safetensors")

    monkeypatch.setitem(TARGETS, to, replace(target, write=wrongly))
    with pytest.raises(GlocalError, match="differ from the backbone's by .* nothing was left"):
        export(narrow(), to, out_for(tmp_path, to), precision=precision)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("stopped", [KeyboardInterrupt, MemoryError])
def test_an_export_that_is_stopped_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stopped: type[BaseException]
) -> None:
    target = TARGETS["timm"]

    def half(subject: Any, place: Path) -> None:
        target.write(subject, place)
        raise stopped

    monkeypatch.setitem(TARGETS, "timm", replace(target, write=half))
    with pytest.raises(stopped):
        export(narrow(), "timm", tmp_path / "t")
    assert list(tmp_path.iterdir()) == []


def test_an_earlier_export_survives_a_wrong_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    done = export(narrow(), "timm", tmp_path / "t")
    before = {path.name: path.read_bytes() for path in done.path.iterdir()}
    config = timm_target.config

    def wrongly(subject: Any) -> dict[str, Any]:
        said = config(subject)
        said["pretrained_cfg"]["mean"] = [0.5, 0.5, 0.5]
        return said

    monkeypatch.setattr(timm_target, "config", wrongly)
    with pytest.raises(GlocalError, match="prepares images as"):
        export(narrow(), "timm", tmp_path / "t")
    assert {path.name: path.read_bytes() for path in done.path.iterdir()} == before
    assert [path.name for path in tmp_path.iterdir()] == ["t"]


def test_a_wrong_graph_is_not_left(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, graphs: dict[str, tuple[Backbone, Path]]
) -> None:
    import onnx

    made, path = graphs["vit"]

    def wrongly(_: Any, place: Path) -> None:
        model = onnx.load(path)
        weight = max(model.graph.initializer, key=lambda one: np.prod(one.dims))
        numbers = onnx.numpy_helper.to_array(weight).copy()
        numbers.flat[0] += 1
        weight.CopyFrom(onnx.numpy_helper.from_array(numbers, weight.name))
        onnx.save(model, place)

    monkeypatch.setitem(TARGETS, "onnx", replace(TARGETS["onnx"], write=wrongly))
    with pytest.raises(GlocalError, match=r"onnx: the file's \w+ differ from the backbone's by"):
        export(made, "onnx", tmp_path / "m.onnx")
    monkeypatch.setitem(TARGETS, "onnx", replace(TARGETS["onnx"], write=lambda _, place: place.write_bytes(b"x" * 99)))
    with pytest.raises(GlocalError, match="what was written is no valid file"):
        export(made, "onnx", tmp_path / "m.onnx")
    assert list(tmp_path.iterdir()) == []


def test_what_is_in_the_way_is_refused_or_replaced(tmp_path: Path) -> None:
    made = narrow()
    out = tmp_path / "w.safetensors"
    out.write_bytes(b"mine")
    with pytest.raises(GlocalError, match="no export of glocal; choose another place, or add --overwrite"):
        export(made, "safetensors", out)
    assert out.read_bytes() == b"mine"
    export(made, "safetensors", out, overwrite=True)
    made.network.bn1.bias.data += 1
    export(made, "safetensors", out)  # an earlier export
    assert torch.equal(load_file(out)["bn1.bias"], made.network.bn1.bias)

    folder = tmp_path / "folder"
    (tmp_path / ".folder.k1lled_8.part" / "folder").mkdir(parents=True)  # of an export that was killed
    folder.mkdir()
    export(made, "timm", folder)  # an empty one
    export(made, "timm", folder)
    (folder / "thesis.txt").write_text("mine")
    for overwrite in (False, True):
        with pytest.raises(GlocalError, match=r"holds thesis.txt, which no export to timm writes"):
            export(made, "timm", folder, overwrite=overwrite)
    (folder / "thesis.txt").unlink()
    save_file({"a": torch.zeros(1)}, folder / "model.safetensors")  # of another program
    with pytest.raises(GlocalError, match="no export of glocal"):
        export(made, "timm", folder)
    export(made, "timm", folder, overwrite=True)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["folder", "w.safetensors"]


@pytest.mark.parametrize(
    ("to", "out", "message"),
    [
        ("onxn", "m.onnx", "--to onxn: did you mean onnx"),
        ("onnx", "m.onx", "ends in .onnx"),
        ("torchvision", "m", "ends in .pth or .pt or .safetensors"),
        ("safetensors", ".", "is a folder; --to safetensors writes a file|ends in .safetensors"),
        ("timm", "there.txt", "is a file; --to timm writes a folder"),
        ("safetensors", "there.txt/w.safetensors", "cannot be written: "),
    ],
)
def test_wrong_places_are_named(tmp_path: Path, to: str, out: str, message: str) -> None:
    (tmp_path / "there.txt").write_text("x")
    with pytest.raises(GlocalError, match=message):
        export(narrow(), to, tmp_path / out)
    assert [path.name for path in tmp_path.iterdir()] == ["there.txt"]


def test_what_another_running_export_writes_stays(tmp_path: Path) -> None:
    for name in ("m.onnx", "m.of.eight.le"):
        with staged(tmp_path / name) as other:
            other.write_text("theirs")
            with staged(tmp_path / "m") as own:
                own.write_text("ours")
            assert other.read_text() == "theirs"


def test_a_wrong_precision_and_wrong_weights_are_named(tmp_path: Path) -> None:
    with pytest.raises(GlocalError, match="--precision half: choose from fp16, fp32"):
        export(narrow(), "timm", tmp_path / "t", precision="half")  # type: ignore[arg-type]
    made = narrow()
    made.network.bn1.weight.data[0] = 1e5
    for to in ("safetensors", "torchvision", "onnx"):
        with pytest.raises(GlocalError, match="bn1.weight has values beyond 65,504|conv1"):
            export(made, to, out_for(tmp_path, to), precision="fp16")
    made.network.bn1.weight.data[0] = float("nan")
    with pytest.raises(GlocalError, match="has its training diverged"):
        export(made, "timm", tmp_path / "t")
    assert list(tmp_path.iterdir()) == []


@pytest.fixture
def small_disk() -> Iterator[None]:
    """Files may grow to 64 KB, as if the disk ended there."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (65_536, hard))
    yield
    resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@pytest.mark.parametrize("to", ["safetensors", "torchvision", "onnx", "timm"])
def test_a_full_disk_leaves_nothing(tmp_path: Path, small_disk: None, to: str) -> None:
    made = Backbone(Hand(), size=32) if to == "onnx" else backbone(stem="standard")
    with pytest.raises(GlocalError, match="cannot be written: .*File too large"):
        export(made, to, out_for(tmp_path, to))
    assert list(tmp_path.iterdir()) == []


def test_a_backbone_that_trains_elsewhere_is_left_as_it_is(tmp_path: Path) -> None:
    made = narrow().train()
    before = {name: value.clone() for name, value in made.state_dict().items()}
    export(made, "timm", tmp_path / "t")
    assert made.training
    assert all(torch.equal(before[name], value) for name, value in made.state_dict().items())


def test_weights_of_a_file_are_exported_and_read_back(tmp_path: Path) -> None:
    torch.manual_seed(3)
    network = timm.create_model("mobilenetv3_small_050", num_classes=10)
    save_file(network.state_dict(), tmp_path / "theirs.safetensors")
    name = "timm:mobilenetv3_small_050"
    done = export(name, "safetensors", tmp_path / "w.safetensors", weights=tmp_path / "theirs.safetensors")
    ours, theirs = (load_backbone(name, path) for path in (done.path, tmp_path / "theirs.safetensors"))
    assert torch.equal(ours.features(images(224, 2)), theirs.features(images(224, 2)))
    config = json.loads(safe_open(done.path, "pt").metadata()["model_args"])
    assert config == {}


@pytest.mark.parametrize(
    ("make", "to", "ending"),
    [
        *((make, "safetensors", None) for make in (narrow, vit, backbone, _small_and_narrow, _medium_and_narrow)),
        *((make, "timm", None) for make in (narrow, vit)),
        *((make, "torchvision", ".pth") for make in (vit, backbone, lambda: backbone(stem="medium"))),
    ],
)
def test_what_a_file_says_of_network_and_images_is_taken_with_its_weights(
    tmp_path: Path, make: Callable[[], Backbone], to: str, ending: str | None
) -> None:
    made = make()
    made.interpolation = "bicubic"
    done = export(made, to, out_for(tmp_path, to, ending))
    assert made.architecture is not None
    found = load_backbone(f"timm:{made.architecture.name}", done.path)
    assert (found.size, found.interpolation) == (32, "bicubic")
    assert torch.equal(found.mean, made.mean)
    assert torch.equal(found.std, made.std)
    assert torch.equal(found.features(images()), made.features(images()))
    again = export(found, "safetensors", tmp_path / "again.safetensors")  # so that it is known what built it
    assert torch.equal(
        load_backbone("timm:" + made.architecture.name, again.path).features(images()), made.features(images())
    )


@pytest.mark.usefixtures("no_pictures")
def test_the_weights_of_a_run_bring_its_network_and_images(tmp_path: Path) -> None:
    settings = {
        **{"model.name": "vit_tiny", "model.options": VIT, "data.size": 32, "data.mean": [0.1, 0.2, 0.3]},
        **{"train.epochs": 1, "train.batch_size": 16, "train.precision": "fp32"},
        **{"monitor.knn_epochs": 0, "train.device": "cpu"},
    }
    pretrain("shapes:train:32", tmp_path / "run", overrides=settings, progress=False)
    own = load_backbone(tmp_path / "run")
    for place in (tmp_path / "run", next((tmp_path / "run" / "checkpoints").glob("*.pt"))):
        found = load_backbone("timm:vit_tiny_patch16_224", place)
        assert found.fingerprint() == own.fingerprint()
        assert torch.equal(found.features(images()), own.features(images()))
        assert (found.decoding, found.learned_from) == (own.decoding, ("shapes:train:32",))
    with pytest.raises(GlocalError, match="is of vit_tiny, not of timm:resnet18"):
        load_backbone("timm:resnet18", tmp_path / "run")


def test_what_a_file_says_of_another_network_is_not_taken_and_that_is_told(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    weights = timm.create_model("resnet18", num_classes=0).state_dict()
    save_file(weights, tmp_path / "w.safetensors", {"architecture": "resnet34", "mean": "[0.1, 0.2, 0.3]"})
    found = load_backbone("timm:resnet18", tmp_path / "w.safetensors")
    assert found.mean.flatten().tolist() == pytest.approx([0.485, 0.456, 0.406])
    assert "says that it is of resnet34" in " ".join(capsys.readouterr().err.split())
    for header, message in (({"mean": "0.5"}, "its mean is 0.5"), ({"model_args": '{"x": 1}'}, "does not build")):
        save_file(weights, tmp_path / "w.safetensors", {"architecture": "resnet18", **header})
        with pytest.raises(GlocalError, match=message):
            load_backbone("timm:resnet18", tmp_path / "w.safetensors")


@pytest.mark.parametrize("to", ["timm", "torchvision", "safetensors", "onnx"])
def test_lines_name_any_path(tmp_path: Path, to: str) -> None:
    out = out_for(tmp_path / 'a "b" \\ é', to)
    subject = Subject(narrow(), Architecture("resnet18", {}), Preprocessing.of(narrow()), "fp32", out)
    words = [node.value for node in ast.walk(ast.parse(TARGETS[to].lines(subject))) if isinstance(node, ast.Constant)]
    assert str(out) in [str(word).removeprefix("local-dir:") for word in words]


def test_the_folder_in_which_one_stands_is_filled_and_keeps_its_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "net").mkdir()
    monkeypatch.chdir(tmp_path / "net")
    for made in (backbone(stem="small", options=NARROW), narrow()):
        done = export(made, "hub-folder", ".")
        files = {path.name: path.stat().st_size for path in Path.cwd().iterdir()}
        assert done.bytes == sum(files.values()) > 0
        assert "\n# net\n" in Path("README.md").read_text()
    assert set(files) == {"README.md", "config.json", "model.safetensors"}
    assert [path.name for path in tmp_path.iterdir()] == ["net"]


def test_a_pushed_card_loads_the_repository_whatever_the_folders_name() -> None:
    card = '```python\ntimm.create_model("local-dir:a \\"b\\"", pretrained=True)\n```'
    assert 'create_model("hf-hub:anna/net", pretrained' in for_repository(card, "anna/net")
    card = '```python\nInferenceSession("a \\"b\\"/model.onnx")\n```'
    assert 'InferenceSession(hf_hub_download("anna/net", "model.onnx"))' in for_repository(card, "anna/net")


def test_the_command_prints_the_difference(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "w.safetensors"
    monkeypatch.setattr(
        sys,
        "argv",
        ["glocal", "export", "untrained:timm:mobilenetv3_small_050", "--to", "safetensors", "--out", str(out)],
    )
    with pytest.raises(SystemExit) as end:
        main()
    said = capsys.readouterr().out
    assert not end.value.code
    assert "largest difference of features 0.0e+00, 0.0e+00 of their length (tolerance 1e-06)" in said
    assert f'load_file("{out}")' in said
