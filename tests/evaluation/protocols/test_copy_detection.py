"""Copy detection on a folder as Copydays is extracted."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
import torch
from PIL import Image, ImageEnhance, ImageFilter
from sklearn.decomposition import PCA
from sklearn.metrics import average_precision_score
from torch.nn.functional import interpolate, normalize

from glocal.data.sources.classes import read_class_list
from glocal.data.sources.folder import ImageFolder
from glocal.errors import GlocalError
from glocal.evaluation import RawPixels, evaluate
from glocal.evaluation.features.extraction import POOLED
from glocal.evaluation.features.gem import gem, gem_readout
from glocal.evaluation.features.scales import size_step
from glocal.evaluation.protocols.copy_detection import CopyDetectionSettings, drawn_images, originals_of
from glocal.models import loading
from glocal.models.architecture import ModelSettings
from glocal.models.backbone import Backbone
from glocal.models.building import build_backbone
from glocal.models.loading import load_backbone


def noise(seed: int, size: tuple[int, int] = (48, 36)) -> Image.Image:
    """Soft spots of colour."""
    draw = torch.Generator().manual_seed(seed)
    spots = interpolate(torch.rand(1, 3, 5, 7, generator=draw), size[::-1], mode="bicubic").clamp(0, 1)[0]
    return Image.fromarray((255 * spots).byte().permute(1, 2, 0).numpy())


def copydays(root: Path, blocks: int = 6, *, strong: bool = True) -> Path:
    """original/2000BB00.jpg, and of each one copy that is the same and, if `strong`, two that are altered."""
    for folder in ("original", "strong"):
        (root / folder).mkdir(parents=True)
    for block in range(blocks):
        image, name = noise(block), f"2{block:03d}"
        image.save(root / "original" / f"{name}00.jpg")
        (root / "strong" / f"{name}01.jpg").write_bytes((root / "original" / f"{name}00.jpg").read_bytes())
        if strong:
            image.filter(ImageFilter.GaussianBlur(4)).rotate(8).save(root / "strong" / f"{name}02.jpg", quality=20)
            ImageEnhance.Brightness(image.crop((12, 4, 48, 30))).enhance(0.5).save(root / "strong" / f"{name}03.jpg")
    return root


def others(folder: Path, count: int, first: int = 1000) -> Path:
    folder.mkdir()
    for number in range(count):
        noise(first + number).save(folder / f"{number}.jpg")
    return folder


def pixels(paths: list[Path]) -> torch.Tensor:
    """The features of RawPixels(6), (N, 108) float64."""
    images = [torch.from_numpy(np.array(Image.open(path))).permute(2, 0, 1)[None] for path in paths]
    small = [interpolate(image, (6, 6), mode="bicubic", antialias=True) for image in images]
    return torch.cat(small).flatten(1).double() / 255


def run(backbone: Any, data: Path, **settings: Any) -> tuple[str, dict[str, float]]:
    found = evaluate(
        backbone,
        data={"copy_detection": str(data)},
        settings={f"copy_detection.{key}": value for key, value in settings.items()},
        device="cpu",
        workers=0,
        progress=False,
    )
    [entry] = found["protocols"]["copy_detection"]["results"]
    return entry["setting"], entry["metrics"]


def network(name: str, size: int = 32, **options: Any) -> Backbone:
    torch.manual_seed(0)
    if name == "vit_tiny":
        options = {"patch_size": 8, "embed_dim": 32, "depth": 2, "num_heads": 2, **options}
    return build_backbone(ModelSettings(name=name, stem="standard", options=options), size=size).eval()


BACKBONES = {
    "CLS + GeM of patches, 32 px squares": lambda: network("vit_tiny"),
    "CLS + GeM of patches, 32 px squares ": lambda: network("vit_tiny", reg_tokens=2),
    "GeM of the last map, 32 px squares": lambda: network("resnet10t"),
    "GeM of the last map, 32 px squares ": lambda: network("vit_tiny", class_token=False, global_pool="avg"),
    "pooled features, 16 px squares": lambda: RawPixels(16),
}


@pytest.mark.parametrize("what", BACKBONES)
def test_every_kind_of_network_finds_identical_copies(what: str, tmp_path: Path) -> None:
    backbone = BACKBONES[what]()
    found = run(backbone, copydays(tmp_path / "copydays", strong=False), distractors=str(others(tmp_path / "far", 9)))
    setting, metrics = found
    assert setting == f"strong, 9 distractors, not whitened, {what.strip()}"
    assert metrics == {"mAP": pytest.approx(100), "uAP": pytest.approx(100)}


def test_numbers_equal_a_loop_and_scikit_learn_on_all_pairs(tmp_path: Path) -> None:
    folder, far = copydays(tmp_path / "copydays"), others(tmp_path / "far", 40)
    setting, metrics = run(RawPixels(6), folder, distractors=str(far))
    assert setting == "strong, 40 distractors, not whitened, pooled features, 6 px squares"

    queries, originals = sorted((folder / "strong").iterdir()), sorted((folder / "original").iterdir())
    scores = normalize(pixels(queries), dim=1) @ normalize(pixels([*originals, *sorted(far.iterdir())]), dim=1).mT
    right = torch.zeros_like(scores, dtype=torch.bool)
    precision = {None: 0.0, 1: 0.0}
    for row, query in enumerate(queries):
        block = next(place for place, path in enumerate(originals) if path.name[:4] == query.name[:4])
        right[row, block] = True
        place = int((scores[row] > scores[row, block]).sum())  # from 0
        for depth in precision:
            if depth is None or place < depth:
                precision[depth] += (int(place == 0) + 1 / (place + 1)) / 2 / len(queries)
    assert 0.3 < precision[None] < 0.99
    assert metrics["mAP"] == pytest.approx(100 * precision[None])
    assert metrics["uAP"] == pytest.approx(100 * average_precision_score(right.flatten(), scores.flatten()), abs=1e-4)
    setting, cut = run(RawPixels(6), folder, distractors=str(far), depth=1)
    assert setting.endswith(", first 1")
    assert cut["mAP"] == pytest.approx(100 * precision[1])


def test_whitening_is_learned_on_a_third_set_alone(tmp_path: Path) -> None:
    folder, third = copydays(tmp_path / "copydays"), others(tmp_path / "third", 60, first=5000)
    setting, metrics = run(RawPixels(6), folder, whiten=str(third), whiten_dim=20)
    assert setting == "strong, no distractors, whitened on 60 images, pooled features, 6 px squares"
    model = PCA(20, whiten=True).fit(pixels(sorted(third.iterdir())).numpy())
    queries, originals = sorted((folder / "strong").iterdir()), sorted((folder / "original").iterdir())
    one, other = (normalize(torch.from_numpy(model.transform(pixels(paths).numpy()))) for paths in (queries, originals))
    right = torch.tensor([[query.name[:4] == path.name[:4] for path in originals] for query in queries])
    expected = average_precision_score(right.flatten(), (one @ other.mT).flatten())
    assert metrics["uAP"] == pytest.approx(100 * expected, abs=1e-3)
    assert metrics["uAP"] != pytest.approx(run(RawPixels(6), folder)[1]["uAP"], abs=1)


def by_class(root: Path, counts: dict[str, int]) -> Path:
    """Images in folders of classes, which are told by their first letters."""
    first = 7000
    for name, count in counts.items():
        root.mkdir(exist_ok=True)
        others(root / name, count, first)
        first += count
    return root


def drawn(**settings: Any) -> tuple[list[str], list[str]]:
    found = drawn_images(CopyDetectionSettings(**settings))
    return tuple([] if source is None else list(source.keys) for source in found)  # type: ignore[return-value]


def test_distractors_and_whitening_images_are_drawn_apart_outside_the_classes(tmp_path: Path) -> None:
    """Patch-wise DINO, section 4.3.1: two distinct sets from ImageNet without the images of ImageNet-100."""
    root = by_class(tmp_path / "set", {"n1": 12, "n2": 10, "n3": 14, "n4": 9})
    both = {"distractors": str(root), "whiten": str(root), "distractor_images": 7, "whiten_images": 15}
    far, third = drawn(**both, leave_out=("n2", "n4"))
    assert (len(set(far)), len(set(third))) == (7, 15)
    assert not set(far) & set(third)
    assert {key.split("/")[0] for key in far + third} == {"n1", "n3"}
    assert drawn(**both, leave_out=("n2", "n4")) == (far, third)
    assert drawn(**both, leave_out=("n2", "n4"), seed=1) != (far, third)
    (tmp_path / "some.txt").write_text("# left out\nn2\nn4\n")
    assert drawn(**both, leave_out=str(tmp_path / "some.txt")) == (far, third)
    every = drawn(**{**both, "distractor_images": 11, "whiten_images": 15}, leave_out=("n2", "n4"))
    assert {*every[0], *every[1]} == {key for key in ImageFolder(root).keys if key[:2] in ("n1", "n3")}
    whole = drawn(distractors=str(root), whiten=str(root), distractor_images=7)
    assert len(whole[1]) == 45  # for ImageNet-1K the whole of it trains the whitening
    assert set(whole[0]) <= set(whole[1])


def test_draws_are_even_and_apart_for_folders_that_overlap(tmp_path: Path) -> None:
    root = by_class(tmp_path / "set", {"n1": 3, "n2": 17})
    count = torch.zeros(2)
    for seed in range(200):
        far, third = drawn(
            distractors=str(root), whiten=str(root / "n2"), distractor_images=5, whiten_images=12, seed=seed
        )
        files = {(root / key).resolve() for key in far}, {(root / "n2" / key).resolve() for key in third}
        assert not files[0] & files[1]
        count += torch.tensor([sum(key.startswith(name) for key in far) for name in ("n1", "n2")])
    assert float(count[0] / count.sum()) == pytest.approx(3 / 20, abs=0.04)


def test_imagenet_100_can_be_left_out_by_its_name(tmp_path: Path) -> None:
    listed = read_class_list("imagenet100")
    counts = {**dict.fromkeys(listed, 1), "n01440764": 4, "n01443537": 4}  # the last two are not in the list
    root = by_class(tmp_path / "imagenet", counts)
    far, third = drawn(
        distractors=str(root), whiten=str(root), distractor_images=3, whiten_images=5, leave_out="imagenet100"
    )
    assert {key.split("/")[0] for key in far + third} == {"n01440764", "n01443537"}
    folder = copydays(tmp_path / "copydays")
    setting, metrics = run(
        RawPixels(6),
        folder,
        distractors=str(root),
        distractor_images=3,
        whiten=str(root),
        whiten_images=5,
        leave_out="imagenet100",
        whiten_dim=3,
    )
    assert setting == "strong, 3 distractors, whitened on 5 images, pooled features, 6 px squares"
    one, other = (by_hand(tmp_path, root, keys) for keys in (far, third))
    same = run(RawPixels(6), folder, distractors=str(one), whiten=str(other), whiten_dim=3)[1]
    assert metrics == pytest.approx(same)


def by_hand(place: Path, root: Path, keys: list[str]) -> Path:
    """A folder with these images alone."""
    folder = place / f"{len(keys)} images"
    folder.mkdir()
    for key in keys:
        (folder / key.replace("/", "-")).write_bytes((root / key).read_bytes())
    return folder


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"distractor_images": 14}, "distractor_images=14: .*set has 13 images; give more images or a smaller number"),
        ({"distractor_images": 7, "leave_out": ["n1"]}, "has 6 images of its 13 that are neither left out nor drawn"),
        ({"distractor_images": 5, "whiten_images": 9}, "whiten_images=9: .* has 8 images of its 13"),
        ({"leave_out": ["n7"]}, "there is no class n7 to leave out; choose from n1, n2"),
        ({"leave_out": "imagenet10"}, "leave_out=imagenet10 is no list of classes; did you mean imagenet100"),
        ({"leave_out": ["n1"], "distractors": "flat"}, "has no classes to leave out; give the folder whose folders"),
        (
            {"distractor_images": 1, "distractors": None},
            "distractor_images needs images to draw from: set .*distractors",
        ),
        ({"whiten_images": 1, "whiten": None}, "whiten_images needs images to draw from: set copy_detection.whiten"),
        ({"leave_out": ["n1"], "distractors": None, "whiten": None}, "leave_out is of copy_detection.distractors"),
    ],
)
def test_what_cannot_be_drawn_is_named(settings: dict[str, Any], message: str, tmp_path: Path) -> None:
    root = by_class(tmp_path / "set", {"n1": 7, "n2": 6})
    given: dict[str, Any] = {"distractors": str(root), "whiten": str(root), **settings}
    if given["distractors"] == "flat":
        given["distractors"] = str(root / "n1")
    with pytest.raises(GlocalError, match=message):
        drawn_images(CopyDetectionSettings(**given))


def test_size_is_rounded_to_patches_and_networks_of_one_size_get_theirs(tmp_path: Path) -> None:
    folder = copydays(tmp_path / "copydays", strong=False)
    assert run(network("vit_tiny", 28, patch_size=14), folder, size=50)[0].endswith("56 px squares")
    setting, metrics = run(network("vit_tiny", dynamic_img_size=False), folder, size=50)
    assert setting.endswith("CLS + GeM of patches, 32 px squares")
    assert metrics["mAP"] == pytest.approx(100)
    assert run(network("resnet10t", 96), folder)[0].endswith("320 px squares")


def test_gem_lies_between_mean_and_maximum_and_equals_the_pooling_of_the_papers() -> None:
    features = torch.randn(2, 12, 5, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    grid = features.mT.reshape(2, 5, 3, 4).clamp(min=1e-6)
    pooled = torch.nn.functional.avg_pool2d(grid.pow(4), (3, 4)).pow(1 / 4).flatten(1)
    assert torch.allclose(gem(features), pooled)
    assert torch.allclose(gem(features.abs(), 1), features.abs().mean(dim=1))
    assert torch.allclose(gem(features.abs(), 200), features.abs().amax(dim=1), rtol=2e-2)


def test_features_are_the_class_token_beside_the_patches_after_the_last_norm() -> None:
    images = torch.randint(0, 256, (2, 3, 32, 48), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    vit = network("vit_tiny")
    readout, _ = gem_readout(vit)
    with torch.no_grad():
        tokens = vit.network.forward_features(vit.prepare(images))  # type: ignore[operator]
    assert tokens.shape == (2, 1 + 4 * 6, 32)
    assert torch.allclose(readout.compute(vit, images), torch.cat([tokens[:, 0], gem(tokens[:, 1:])], 1), atol=1e-6)
    resnet = network("resnet10t")
    readout, _ = gem_readout(resnet, 1.0)
    assert torch.allclose(readout.compute(resnet, images), resnet.features(images), atol=1e-5)  # p = 1 is the mean
    assert gem_readout(RawPixels(8)) == (POOLED, "pooled features")
    assert gem_readout(network("small_alexnet"))[1] == "pooled features"


def test_timm_transformers_take_any_size(monkeypatch: pytest.MonkeyPatch) -> None:
    create = timm.create_model
    small = {"embed_dim": 24, "depth": 1, "num_heads": 1}
    monkeypatch.setattr(loading, "check_weights_at_hand", lambda *_: None)
    monkeypatch.setattr(
        timm, "create_model", lambda name, pretrained, **options: create(name, pretrained=False, **options, **small)
    )
    assert size_step(load_backbone("timm:vit_tiny_patch16_224.augreg_in21k")) == 16
    assert size_step(load_backbone("timm:deit_tiny_distilled_patch16_224")) == 16


def test_originals_are_told_by_the_first_letters_of_the_name() -> None:
    found = originals_of(["strong/200102.jpg", "200001.jpg", "200503.jpg"], ["200000.jpg", "200100.jpg"])
    assert [each.tolist() for each in found] == [[1], [0], []]
    with pytest.raises(GlocalError, match="IMG_1.jpg and IMG_2.jpg begin with the same 4 letters.*prefix"):
        originals_of(["IMG_1.jpg"], ["IMG_1.jpg", "IMG_2.jpg"])
    assert originals_of(["IMG_2b.jpg"], ["IMG_1.jpg", "IMG_2.jpg"], prefix=5)[0].tolist() == [1]


def test_a_copy_without_an_original_counts_for_the_threshold_only(tmp_path: Path) -> None:
    folder = copydays(tmp_path / "copydays", strong=False)
    (folder / "strong" / "999901.jpg").write_bytes((folder / "original" / "200000.jpg").read_bytes())
    metrics = run(RawPixels(8), folder)[1]
    assert metrics["mAP"] == pytest.approx(100)
    assert metrics["uAP"] < 99


def test_broken_images_are_left_out_with_a_warning(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = copydays(tmp_path / "copydays", strong=False)
    (folder / "original" / "200000.jpg").write_bytes(b"broken")
    (folder / "strong" / "200101.jpg").write_bytes(b"broken")
    metrics = run(RawPixels(8), folder)[1]
    assert metrics["mAP"] == pytest.approx(100 * (4 + 1 / 12) / 5)  # 5 copies left; one is ranked sixth
    assert capsys.readouterr().err.count("cannot be read") == 2


def test_missing_folders_and_names_that_do_not_fit_are_named(tmp_path: Path) -> None:
    folder = copydays(tmp_path / "copydays")
    with pytest.raises(GlocalError, match=r"no folder .*jpegqual: put Copydays as extracted: original/ and strong/"):
        run(RawPixels(8), folder, copies="jpegqual")
    with pytest.raises(GlocalError, match=r"no folder .*nothing.original: put Copydays .*https://"):
        run(RawPixels(8), tmp_path / "nothing")
    with pytest.raises(GlocalError, match="no name begins with the same 6 letters as one in"):
        run(RawPixels(8), folder, prefix=6)
    with pytest.raises(GlocalError, match="there is no folder"):
        run(RawPixels(8), folder, distractors=str(tmp_path / "nothing"))
    with pytest.raises(GlocalError, match="whitening: .*1 images"):
        run(RawPixels(8), folder, whiten=str(others(tmp_path / "one", 1)))
    with pytest.raises(GlocalError, match="copy_detection needs --data copy_detection=PATH: Copydays as extracted"):
        evaluate(RawPixels(8), protocols="copy_detection", progress=False)
