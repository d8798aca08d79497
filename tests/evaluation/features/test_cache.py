"""Features are computed once for each backbone and set of images, by content."""

import json
import math
import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from PIL import Image

from glocal.data.sources.base import MemorySource, Subset
from glocal.data.sources.fingerprint import fingerprint
from glocal.data.sources.folder import ImageFolder
from glocal.errors import GlocalError
from glocal.evaluation import Bench, IncompleteError, Readout, evaluate, results
from glocal.evaluation.features.cache import _DTYPES, FeatureCache
from glocal.evaluation.protocols import linear
from glocal.models.architecture import ModelSettings
from glocal.models.building import build_backbone


class Counting:
    """A backbone that counts the images it was shown."""

    size, dim, label = 32, 3, "counting"

    def __init__(self, scale: float = 1.0) -> None:
        self.scale = scale
        self.images = 0

    def features(self, images: torch.Tensor) -> torch.Tensor:
        self.images += len(images)
        return self.scale * images.float().mean(dim=(2, 3))

    def fingerprint(self) -> str:
        return f"scale {self.scale}"


def test_features_are_computed_once_for_all_protocols_and_calls(
    image_folder: Callable[..., Path], tmp_path: Path
) -> None:
    folder, backbone = image_folder(32), Counting()
    options = {"train": folder, "test": folder, "protocols": ["knn", "linear"], "k": [3], "progress": False}
    settings = {"linear.epochs": 2}
    first = evaluate(backbone, cache=tmp_path / "cache", settings=settings, **options)
    assert backbone.images == 32  # train and test are the same images
    again = evaluate(backbone, cache=tmp_path / "cache", settings=settings, **options)
    assert backbone.images == 32
    assert again["protocols"]["knn"]["results"] == first["protocols"]["knn"]["results"]
    evaluate(backbone, cache=False, settings=settings, **options)
    assert backbone.images == 3 * 32


def test_other_weights_images_or_readouts_are_computed_anew(image_folder: Callable[..., Path], tmp_path: Path) -> None:
    folder, cache = image_folder(16), FeatureCache(tmp_path / "cache")

    def computed(scale: float, readout: Readout | None = None) -> int:
        backbone = Counting(scale)
        bench = Bench(backbone, cache=cache, progress=False, workers=0)
        bench.features(ImageFolder(folder), *([readout] if readout else []))
        return backbone.images

    assert [computed(1.0), computed(1.0), computed(2.0)] == [16, 0, 16]
    other = Readout("twice", lambda backbone, images: 2 * backbone.features(images))
    assert [computed(1.0, other), computed(1.0, other)] == [16, 0]
    Image.new("RGB", (32, 32), "red").save(folder / "class0" / "0000.png")
    assert computed(1.0) == 16


def test_a_backbones_fingerprint_is_that_of_its_weights_and_images() -> None:
    torch.manual_seed(0)
    settings = ModelSettings(name="resnet18", options={"channels": [4, 4, 8, 8]})
    backbone = build_backbone(settings, size=32)
    before = backbone.fingerprint()
    assert backbone.fingerprint() == before
    with torch.no_grad():
        next(backbone.parameters()).view(-1)[0] += 1e-3
    changed = backbone.fingerprint()
    assert changed != before
    backbone.size = 64
    assert backbone.fingerprint() != changed


def test_what_shows_in_no_weight_is_in_the_fingerprint() -> None:
    options = {"patch_size": 8, "depth": 1, "embed_dim": 48}
    prints = []
    for more in ({"num_heads": 3}, {"num_heads": 6}, {"num_heads": 3, "global_pool": "avg", "fc_norm": False}):
        torch.manual_seed(0)
        prints.append(build_backbone(ModelSettings(name="vit_tiny", options=options | more), size=32).fingerprint())
    assert len(set(prints)) == 3


def test_fingerprints_of_sources() -> None:
    images = torch.zeros(4, 3, 8, 8, dtype=torch.uint8)
    one, other = (MemorySource(name, images.clone(), None, None) for name in ("a", "b"))
    assert fingerprint(one) == fingerprint(other)  # by content, not by name
    assert fingerprint(Subset(one, torch.tensor([0, 1]))) != fingerprint(Subset(one, torch.tensor([0, 2])))
    other.images()[3, 0, 0, 0] = 1
    assert fingerprint(one) != fingerprint(other)


def test_skipped_images_are_remembered(image_folder: Callable[..., Path], tmp_path: Path) -> None:
    folder, cache = image_folder(16), FeatureCache(tmp_path / "cache")
    (folder / "class3" / "0003.png").write_bytes(b"no image")
    for _ in range(2):
        bench = Bench(Counting(), cache=cache, progress=False, workers=0)
        found = bench.features(ImageFolder(folder))
        assert [(error.key, error.reason) for error in found.skipped] == [
            ("class3/0003.png", "no image in a format that Pillow reads")
        ]
        assert found.index.tolist() == [
            number for number in range(16) if found_key(folder, number) != "class3/0003.png"
        ]


def found_key(folder: Path, number: int) -> str:
    return ImageFolder(folder).keys[number]


def test_every_shape_and_dtype_comes_back(tmp_path: Path) -> None:
    tensors = {
        "features": torch.randn(5, 3),
        "tokens": torch.randn(2, 3, 4).transpose(1, 2),
        "index": torch.arange(7),
        **{str(dtype): torch.randn(3).mul(9).abs().to(dtype) for dtype in _DTYPES},
        "mask": torch.tensor([True, False]),
        "bytes": torch.arange(5, dtype=torch.uint8),
        "scalar": torch.tensor(3.0),
        "none": torch.empty(0, 4),
    }
    FeatureCache(tmp_path).remember({"key": "ä"}, lambda: (tensors, {"beside": "µ"}))
    found, beside = FeatureCache(tmp_path).remember({"key": "ä"}, lambda: ({}, None))
    assert beside == {"beside": "µ"}
    assert set(found) == set(tensors)
    for name, tensor in tensors.items():
        assert found[name].dtype == tensor.dtype
        assert torch.equal(found[name], tensor)


def test_a_flipped_bit_is_noticed(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    cache, right = FeatureCache(tmp_path), {"x": torch.arange(9.0), "none": torch.empty(0, 3), "one": torch.tensor(2)}
    cache.remember({"key": 1}, lambda: (right, [1]))
    (path,) = tmp_path.iterdir()
    assert cache.remember({"key": 1}, lambda: ({}, None))[1] == [1]
    content = bytearray(path.read_bytes())
    content[-20] ^= 1
    path.write_bytes(content)
    assert torch.equal(cache.remember({"key": 1}, lambda: (right, [1]))[0]["x"], right["x"])
    assert "is damaged (it has other bytes than were written)" in capfd.readouterr().err
    assert torch.equal(cache.remember({"key": 1}, lambda: ({}, None))[0]["x"], right["x"])


def test_features_are_forced_to_the_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    forced: list[int] = []
    monkeypatch.setattr(os, "fsync", lambda handle: forced.append(handle))
    FeatureCache(tmp_path).remember({"key": 1}, lambda: ({"x": torch.ones(1)}, None))
    assert len(forced) == 2  # the file and its name


def test_a_damaged_file_is_computed_anew(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    cache, calls = FeatureCache(tmp_path), []

    def compute() -> tuple[dict[str, torch.Tensor], list[str]]:
        calls.append(1)
        return {"x": torch.arange(3.0)}, ["beside"]

    cache.remember({"key": 1}, compute)
    [path] = tmp_path.glob("*.safetensors")
    path.write_bytes(path.read_bytes()[:20])
    tensors, beside = cache.remember({"key": 1}, compute)
    assert len(calls) == 2
    assert tensors["x"].tolist() == [0, 1, 2]
    assert beside == ["beside"]
    assert "is damaged" in capfd.readouterr().err
    assert cache.remember({"key": 1}, compute)[0]["x"].tolist() == [0, 1, 2]
    assert len(calls) == 2


def test_what_was_used_least_recently_goes_first(tmp_path: Path) -> None:
    cache = FeatureCache(tmp_path, gigabytes=25e-6)  # two files of 10 kB

    def compute() -> tuple[dict[str, torch.Tensor], None]:
        return {"x": torch.zeros(2500)}, None

    paths = []
    for key in range(3):
        cache.remember({"key": key}, compute)
        paths.append(*(set(tmp_path.glob("*.safetensors")) - set(paths)))
        os.utime(paths[-1], (key, key))
        if key == 1:
            cache.remember({"key": 0}, compute)  # used again: now the newest
    assert [path.exists() for path in paths] == [True, False, True]


def test_a_folder_that_cannot_be_written_costs_only_time(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "file").write_text("no folder")
    found = FeatureCache(tmp_path / "file" / "cache").remember({"key": 1}, lambda: ({"x": torch.ones(1)}, None))
    assert found[0]["x"].tolist() == [1]
    assert "cannot be kept there" in capfd.readouterr().err


def test_protocols_of_one_backbone_add_up(tmp_path: Path) -> None:
    source = coloured()
    options = {"train": source, "test": source, "out": tmp_path, "cache": False, "progress": False}
    evaluate(Counting(), protocols="knn", k=[3], **options)
    evaluate(Counting(), protocols="structure", **options)
    assert list(results.load(tmp_path)["protocols"]) == ["knn", "structure"]


def test_another_backbones_results_are_moved_aside(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    source = coloured()
    options = {"train": source, "test": source, "out": tmp_path, "cache": False, "progress": False, "k": [3]}
    first = evaluate(Counting(), protocols="knn", **options)
    evaluate(Counting(2.0), protocols="knn", **options)
    assert "is of another backbone (counting): it is moved to evaluation-before.json" in capfd.readouterr().err
    assert json.loads((tmp_path / "evaluation-before.json").read_text()) == first


def test_what_says_something_else_has_rows_of_its_own_and_what_is_replaced_is_told(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    def save(**settings: object) -> None:
        found = {"protocol": "distil", "data": "c", "settings": settings, "results": []}
        results.save({"backbone": "a", "fingerprint": "1", "protocols": {"distil": found}}, tmp_path)

    half = {"name": "resnet18", "options": {"channels": [8]}}
    save(student=None, epochs=3)
    save(student=half, epochs=3)
    save(student=half, epochs=3, fractions=[0.1])
    assert capfd.readouterr().err == ""
    save(student=half, epochs=5)
    said = " ".join(capfd.readouterr().err.split())
    assert "distil had been measured with other settings (epochs 3 → 5): this replaces it" in said
    kept = results.load(tmp_path)["protocols"].values()
    assert [found["settings"] for found in kept] == [
        {"student": None, "epochs": 3},
        {"student": half, "epochs": 3, "fractions": [0.1]},
        {"student": half, "epochs": 5},
    ]


def test_other_images_and_styles_have_rows_of_their_own(tmp_path: Path) -> None:
    source = coloured()
    options = {"train": source, "out": tmp_path, "cache": False, "progress": False}
    evaluate(Counting(), protocols="knn", k=[3], test=source, **options)
    evaluate(Counting(), protocols="knn", k=[5], test=source, **options)
    evaluate(Counting(), protocols="knn", k=[3], test=coloured("other"), **options)
    evaluate(Counting(), protocols="linear", settings={"linear.epochs": 1}, test=source, **options)
    found = results.load(tmp_path)
    rows = [(row.protocol, row.images, row.setting) for row in results.rows(found) if row.metric == "top1"]
    assert rows[:4] == [
        ("knn", "c → c", "k=5"),
        ("knn", "c → c", "k=5, unweighted"),
        ("knn", "c → other", "k=3"),
        ("knn", "c → other", "k=3, unweighted"),
    ]
    assert list(found["protocols"]) == ["knn", "knn-2", "linear"]
    assert found["protocols"]["knn"]["settings"]["k"] == [5]


def coloured(name: str = "c") -> MemorySource:
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(0, 255, (40, 3, 32, 32), dtype=torch.uint8, generator=generator)
    return MemorySource(name, images, torch.arange(40) % 4, list("abcd"))


@pytest.mark.parametrize("kind", [GlocalError, RuntimeError])
def test_a_protocol_that_fails_takes_nothing_with_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: type[Exception]
) -> None:
    def fail(bench: Bench, settings: object) -> None:
        raise kind("it went wrong")

    monkeypatch.setattr(linear, "PROTOCOL", replace(linear.PROTOCOL, measure=fail))
    options = {"train": coloured(), "test": coloured(), "out": tmp_path, "cache": False, "progress": False}
    with pytest.raises(IncompleteError, match="linear: .*it went wrong") as caught:
        evaluate(Counting(), protocols=["linear", "knn"], k=[3], **options)
    assert list(results.load(tmp_path)["protocols"]) == ["knn"]
    assert list(caught.value.result["protocols"]) == ["knn"]
    with pytest.raises(kind, match="it went wrong"):
        evaluate(Counting(), protocols="linear", **options)


def test_features_that_are_no_numbers_are_refused_and_not_kept(tmp_path: Path) -> None:
    options = {"train": coloured(), "test": coloured(), "protocols": "knn", "cache": tmp_path, "progress": False}
    with pytest.raises(GlocalError, match="counting gives features that are infinite or no numbers for images of c"):
        evaluate(Counting(math.nan), **options)
    assert not list(tmp_path.glob("*.safetensors"))


def test_what_a_protocol_made_of_null_is_in_the_record(tmp_path: Path) -> None:
    found = evaluate(Counting(), train=coloured(), test=coloured(), protocols="knn", cache=False, progress=False)
    assert found["protocols"]["knn"]["settings"]["k"] == [10, 20, 40]


def test_out_that_is_a_file_is_refused_before_the_work(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    backbone = Counting()
    with pytest.raises(GlocalError, match="file is a file; out must be a folder"):
        evaluate(backbone, train=coloured(), test=coloured(), out=tmp_path / "file", progress=False)
    assert backbone.images == 0


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"protocols": "knn"}, "protocol knn needs labelled images"),
        ({}, "nothing to measure: give --train and --test"),
        ({"protocols": "dense"}, "protocol dense needs --data dense=PATH: a folder with images/ and masks/"),
        ({"data": {"dence": "x"}}, "no protocol 'dence'; did you mean dense"),
        ({"train": "digits", "test": "digits:test", "settings": {"knn.temprature": 1}}, "did you mean temperature"),
        ({"train": "digits", "test": "digits:test", "settings": {"knn.temperature": 0}}, "temperature must be greater"),
        ({"train": "digits", "test": "digits:test", "settings": {"kn.k": [1]}}, "no protocol 'kn' to set"),
        ({"train": "digits", "test": "digits:test", "settings": {"temperature": 1}}, "did you mean knn.temperature"),
        ({"train": "digits", "test": "digits:test", "settings": {"svm.folds": 2}}, "svm is set, but .*--protocol svm"),
        ({"train": "digits", "test": "digits:test", "settings": {"knn": 3}}, "knn is a protocol; set .* knn.k"),
        ({"train": "digits", "test": "digits:test", "protocols": "KNN"}, "no protocol 'KNN'; did you mean knn"),
        ({"protocols": "knn,linear"}, "one --protocol for each"),
        ({"data": {"knn": "x"}}, "protocol knn has no folder of its own: it takes --train and --test"),
    ],
)
def test_wrong_requests_are_refused_before_anything_is_computed(arguments: dict[str, object], message: str) -> None:
    backbone = Counting()
    with pytest.raises(GlocalError, match=message):
        evaluate(backbone, progress=False, cache=False, **arguments)
    assert backbone.images == 0
