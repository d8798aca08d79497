"""Segmentation by the nearest patches: its parts against loops and scikit-learn, its data in the real formats."""

import csv
import math
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image, ImageOps
from sklearn.metrics import accuracy_score, balanced_accuracy_score, jaccard_score

from glocal.data.annotated.masks import UNKNOWN, Masked, central_masks, open_masked, read_mask
from glocal.data.lanes.central import images_of
from glocal.errors import BrokenImageError, GlocalError
from glocal.evaluation import RawPixels, evaluate
from glocal.evaluation.metrics.segmentation import (
    confusion,
    intersection_over_union,
    patch_counts,
    patch_labels,
    segmentation_scores,
    upsampled,
    vote,
)
from glocal.models.architecture import ModelSettings
from glocal.models.backbone import Backbone
from glocal.models.building import build_backbone
from glocal.report.mask_pictures import draw_segmentation

COLOURS = torch.tensor([[250, 10, 10], [10, 250, 10], [10, 10, 250]], dtype=torch.uint8)


class ColourPatches:
    """A backbone whose patches are mean colours, 4 × 4 of them."""

    size, dim, label = 32, 3, "colour patches"

    def features(self, images: torch.Tensor) -> torch.Tensor:
        return images.float().mean(dim=(2, 3))

    def feature_map(self, images: torch.Tensor) -> torch.Tensor:
        return torch.nn.functional.adaptive_avg_pool2d(images.float(), 4)


def quarters(seed: int, side: int = 32) -> torch.Tensor:
    """A mask of class 0 to 2 in each quarter, (side, side) uint8."""
    chosen = torch.randint(0, 3, (2, 2), generator=torch.Generator().manual_seed(seed))
    return chosen.repeat_interleave(side // 2, 0).repeat_interleave(side // 2, 1).byte()


def save_pair(image: Path, mask: Path, classes: torch.Tensor, *, palette: bool = True) -> None:
    for path in (image, mask):
        path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(COLOURS[classes.long() % 3].numpy()).save(image, quality=95)
    picture = Image.fromarray(classes.numpy())
    if palette:
        picture.putpalette([value for number in range(256) for value in (number, 255 - number, 7)])
        assert picture.mode == "P"
    picture.save(mask)


def folder_of(root: Path, images: str = "images/{part}", masks: str = "masks/{part}", *, count: int = 6) -> Path:
    for part in ("train", "val"):
        for number in range(count):
            names = [root / place.format(part=part) / f"{part}{number}" for place in (images, masks)]
            save_pair(names[0].with_suffix(".jpg"), names[1].with_suffix(".png"), quarters(number), palette=number > 1)
    return root


def voc_of(root: Path) -> Path:
    folder_of(root, "JPEGImages", "SegmentationClass")
    lists = root / "ImageSets" / "Segmentation"
    lists.mkdir(parents=True)
    for part in ("train", "val"):
        (lists / f"{part}.txt").write_text("".join(f"{part}{number}\n" for number in range(5)))
    return root


def measured(data: Path | str, backbone: object | None = None, out: Path | None = None, **settings: object) -> dict:  # type: ignore[type-arg]
    found = evaluate(
        backbone or ColourPatches(),  # type: ignore[arg-type]
        data={"dense": data},
        settings={f"dense.{name}": value for name, value in settings.items()},
        out=out,
        progress=False,
    )
    [entry] = found["protocols"]["dense"]["results"]
    return {"setting": entry["setting"], **entry["metrics"]}


@pytest.mark.parametrize("grid", [(4, 4), (2, 5)])
def test_pixels_are_counted_in_the_patch_in_which_they_lie(grid: tuple[int, int]) -> None:
    masks = torch.randint(0, 4, (3, 12, 12), generator=torch.Generator().manual_seed(0)).byte()
    masks[masks == 3] = UNKNOWN
    counts = patch_counts(masks, *grid)
    assert counts.shape == (3, grid[0] * grid[1], 256)
    expected = torch.zeros_like(counts)
    for image in range(3):
        for y in range(12):
            for x in range(12):
                if masks[image, y, x] != UNKNOWN:
                    patch = int(y * grid[0] / 12) * grid[1] + int(x * grid[1] / 12)
                    expected[image, patch, int(masks[image, y, x])] += 1
    assert torch.equal(counts, expected)


def test_labels_of_patches_are_shares_or_the_most_frequent_class() -> None:
    counts = torch.tensor([[3, 1, 0], [2, 2, 0], [0, 0, 0]])
    assert patch_labels(counts, "soft").tolist() == [[0.75, 0.25, 0], [0.5, 0.5, 0], [0, 0, 0]]
    assert patch_labels(counts, "majority").tolist() == [[1, 0, 0], [1, 0, 0], [0, 0, 0]]


def test_votes_equal_a_loop_over_sorted_neighbours() -> None:
    generator = torch.Generator().manual_seed(0)
    queries, bank = torch.randn(9, 5, generator=generator), 3 * torch.randn(40, 5, generator=generator)
    labels = torch.rand(40, 3, generator=generator)
    found = vote(queries, bank, labels, k=7, temperature=0.05)
    for query, row in zip(queries, found, strict=True):
        near = sorted(((float(query @ b / query.norm() / b.norm()), n) for n, b in enumerate(bank)), reverse=True)[:7]
        weights = [math.exp(similarity / 0.05) for similarity, _ in near]
        for number in range(3):
            expected = sum(w * float(labels[n, number]) for w, (_, n) in zip(weights, near, strict=True)) / sum(weights)
            assert float(row[number]) == pytest.approx(expected, rel=1e-4)


def test_votes_become_pixels() -> None:
    votes = torch.rand(5, 4, 4, 3, generator=torch.Generator().manual_seed(0))
    expected = votes.argmax(dim=3).repeat_interleave(8, 1).repeat_interleave(8, 2)
    assert torch.equal(upsampled(votes, 32, "nearest"), expected)
    smooth = upsampled(votes, 32, "bilinear")
    assert smooth.shape == (5, 32, 32)
    # At the four pixels around a patch's centre, 0.5 pixels away from it, its own votes have weight (1 - 0.5/8)².
    clear = torch.nn.functional.one_hot(votes.argmax(dim=3)).float()
    centre = upsampled(clear, 32, "bilinear")[:, 4::8, 4::8]
    assert torch.equal(centre, votes.argmax(dim=3))
    # Two patches in a row with votes 1 : 0 and 0.5 : 0.5 + 2ε: the border lies where both have half.
    pair = torch.tensor([[[[1.0, 0.0], [0.0, 1.0]]] * 2])
    assert upsampled(pair, 8, "bilinear")[0, 0].tolist() == [0] * 4 + [1] * 4


def test_scores_equal_scikit_learns() -> None:
    generator = torch.Generator().manual_seed(0)
    truth = torch.randint(0, 5, (4, 20, 20), generator=generator)
    said = torch.where(
        torch.rand(4, 20, 20, generator=generator) < 0.6, truth, (truth * 3 + 1) % 7
    )  # 5 and 6: never true
    truth[:, :3] = UNKNOWN
    kept = truth != UNKNOWN
    counts = sum(confusion(truth[part].byte(), said[part]) for part in (slice(0, 1), slice(1, 4)))
    assert isinstance(counts, torch.Tensor)
    y, p = truth[kept].numpy(), said[kept].numpy()
    found = segmentation_scores(counts)
    assert found["mIoU"] == pytest.approx(100 * jaccard_score(y, p, average="macro", labels=np.unique(y)))
    assert found["pixel_accuracy"] == pytest.approx(100 * accuracy_score(y, p))
    with pytest.warns(UserWarning, match="classes not in y_true"):
        assert found["mean_per_class"] == pytest.approx(100 * balanced_accuracy_score(y, p))
    each = intersection_over_union(counts)
    assert each[:5].tolist() == pytest.approx((100 * jaccard_score(y, p, average=None, labels=range(5))).tolist())
    assert each[5:].isnan().all()


@pytest.mark.parametrize("size", [32, 96])  # the whole central square, and 7/8 of it
@pytest.mark.parametrize("shape", [(61, 100), (90, 47)])
def test_masks_are_cropped_like_their_images(tmp_path: Path, size: int, shape: tuple[int, int]) -> None:
    blocks = torch.randint(0, 2, (1, 1, 6, 6), generator=torch.Generator().manual_seed(1)).float()
    classes = torch.nn.functional.interpolate(blocks, shape, mode="nearest-exact")[0, 0].byte()
    (tmp_path / "images").mkdir()
    (tmp_path / "masks").mkdir()
    for number in range(5):
        Image.fromarray((classes * 255).numpy()).save(tmp_path / "images" / f"{number}.png")
        Image.fromarray(classes.numpy()).save(tmp_path / "masks" / f"{number}.png")
    _, data = open_masked(str(tmp_path))
    [(index, images)] = list(images_of(data.images, size, workers=0))
    masks = data.masks(index, size)
    assert masks.shape == (1, size, size)
    clear = (images[:, 0] < 5) | (images[:, 0] > 250)  # off the blocks' borders, where the image is interpolated
    assert clear.float().mean() > 0.5
    assert torch.equal((images[:, 0] > 127)[clear], (masks == 1)[clear])


def test_shapes_have_exact_masks() -> None:
    train, test = open_masked("shapes", images=64)
    assert (len(train.images), len(test.images)) == (64, 64)
    index = torch.arange(64)
    masks = test.masks(index, 32)
    assert test.images.labels is not None
    for number, label in enumerate(test.images.labels.tolist()):
        assert set(masks[number].unique().tolist()) == {0, label + 1}
    # The shape's lightness differs from the ground's by 0.3 or more, up to light, textures and noise.
    [(_, images)] = list(images_of(test.images, 32))
    grey = (images.float() / 255 * torch.tensor([0.299, 0.587, 0.114])[:, None, None]).sum(dim=1)
    inside = torch.stack([grey[number][masks[number] > 0].median() for number in range(64)])
    outside = torch.stack([grey[number][masks[number] == 0].median() for number in range(64)])
    assert ((inside - outside).abs() > 0.15).float().mean() > 0.95


@pytest.mark.parametrize("size", [32, 96])
@pytest.mark.parametrize("orientation", range(2, 9))
@pytest.mark.parametrize("drawn", ["stored", "upright", "said"])
def test_masks_are_turned_like_their_images(tmp_path: Path, size: int, orientation: int, drawn: str) -> None:
    blocks = torch.randint(0, 2, (1, 1, 6, 6), generator=torch.Generator().manual_seed(1)).float()
    classes = torch.nn.functional.interpolate(blocks, (60, 90), mode="nearest-exact")[0, 0].byte()
    stored, exif = Image.fromarray((classes * 255).numpy()), Image.Exif()
    exif[0x0112] = orientation
    (tmp_path / "images").mkdir()
    (tmp_path / "masks").mkdir()
    for number in range(2):
        stored.save(tmp_path / "images" / f"{number}.jpg", exif=exif, quality=98)
        mask = Image.fromarray(classes.numpy())
        if drawn == "upright":
            mask.getexif()[0x0112] = orientation
            mask = ImageOps.exif_transpose(mask)
        mask.save(tmp_path / "masks" / f"{number}.png", **({"exif": exif} if drawn == "said" else {}))
    _, data = open_masked(str(tmp_path))
    [(index, images)] = list(images_of(data.images, size, workers=0))
    if drawn != "said" and orientation < 5:  # of one size, either way
        with pytest.raises(GlocalError, match=rf"images/[01]\.jpg is .*EXIF orientation {orientation}.*mogrify"):
            data.masks(index, size)
        return
    masks = data.masks(index, size)
    clear = (images[:, 0] < 30) | (images[:, 0] > 225)
    assert clear.float().mean() > 0.5
    assert torch.equal((images[:, 0] > 127)[clear], (masks == 1)[clear])


def test_a_turned_square_needs_a_mask_that_says_how_it_is_turned(tmp_path: Path) -> None:
    root, exif = folder_of(tmp_path), Image.Exif()
    exif[0x0112] = 6
    path = root / "images" / "val" / "val3.jpg"
    Image.open(path).save(path, exif=exif)
    with pytest.raises(GlocalError, match=r"val3\.jpg is to be turned \(EXIF orientation 6\).*val3\.png was drawn on"):
        measured(root)
    mask = root / "masks" / "val" / "val3.png"
    Image.open(mask).save(mask, exif=exif)
    assert measured(root, upsample="nearest", k=3)["pixel_accuracy"] == 100


@pytest.mark.parametrize("year", [2007, 2012])
def test_the_year_that_is_named_is_taken(tmp_path: Path, year: int) -> None:
    for each in (2007, 2012):
        voc_of(tmp_path / "VOCdevkit" / f"VOC{each}")
    images = open_masked(str(tmp_path / "VOCdevkit" / f"VOC{year}"))[0].images
    assert images.name.startswith(str(tmp_path / "VOCdevkit" / f"VOC{year}"))
    assert "VOC2012" in open_masked(str(tmp_path))[0].images.name


LAYOUTS: dict[str, Callable[[Path], Path]] = {
    "images/train": folder_of,
    "train/images": lambda root: folder_of(root, "{part}/images", "{part}/masks"),
    "ade20k": lambda root: rename(folder_of(root, masks="annotations/{part}")),
    "voc": lambda root: voc_of(root / "VOCdevkit" / "VOC2012").parents[1],
}


def rename(root: Path) -> Path:
    for kind in ("images", "annotations"):
        (root / kind / "train").rename(root / kind / "training")
        (root / kind / "val").rename(root / kind / "validation")
    return root


@pytest.mark.parametrize("layout", LAYOUTS)
def test_patches_of_one_colour_are_segmented_without_an_error(tmp_path: Path, layout: str) -> None:
    root = LAYOUTS[layout](tmp_path / "data")
    train, test = open_masked(str(root))
    assert len(train.images) == len(test.images) == (5 if layout == "voc" else 6)
    assert not set(train.images.keys) & set(test.images.keys)
    found = measured(root, upsample="nearest", k=3)
    assert found == {"setting": "k=3", "mIoU": 100, "pixel_accuracy": 100, "mean_per_class": 100}


def test_a_folder_without_parts_is_split_by_a_seed(tmp_path: Path) -> None:
    root = folder_of(tmp_path, "images", "masks")
    train, test = open_masked(str(root))
    assert sorted([*train.images.keys, *test.images.keys]) == sorted(
        f"images/{part}{number}.jpg" for part in ("train", "val") for number in range(6)
    )
    assert len(test.images) == 2  # 0.2 of 12
    assert open_masked(str(root))[1].images.keys == test.images.keys
    assert any(open_masked(str(root), seed=seed)[1].images.keys != test.images.keys for seed in (1, 2, 3))
    assert len(open_masked(str(root), images=3)[0].images) == 3


def test_ignored_classes_neither_vote_nor_count(tmp_path: Path) -> None:
    root = folder_of(tmp_path)
    mask = torch.zeros(32, 32, dtype=torch.uint8)  # wrong everywhere; unknown but for one patch
    mask[8:] = UNKNOWN
    mask[:8, 8:] = UNKNOWN
    picture = root / "images/train/train0.jpg"
    Image.fromarray(COLOURS[torch.full((32, 32), 1)].numpy()).save(picture, quality=95)
    Image.fromarray(mask.numpy()).save(root / "masks/train/train0.png")
    found = measured(root, upsample="nearest", k=3, temperature=1e-4)
    assert found["pixel_accuracy"] > 60
    assert measured(root, upsample="nearest", k=3, ignore=[0, 255])["mIoU"] == 100


def test_the_bank_is_bounded_and_a_seeded_sample(tmp_path: Path) -> None:
    root = folder_of(tmp_path)
    assert measured(root, bank_patches=13)["setting"] == "k=12"  # two of each of six images
    assert measured(root, bank_patches=4)["setting"] == "k=4"
    assert measured(root)["setting"] == "k=30"
    assert measured(root, bank_patches=13) == measured(root, bank_patches=13)


def test_pictures_and_scores_of_classes_are_written(tmp_path: Path) -> None:
    root = folder_of(tmp_path / "data")
    (root / "classes.txt").write_text("sky\n\n_sea\n")
    measured(root, out=tmp_path / "out", upsample="nearest")
    rows = list(csv.DictReader((tmp_path / "out" / "dense.csv").open()))
    assert [row["name"] for row in rows] == ["sky", "class 1", "_sea"]
    assert sum(int(row["pixels"]) for row in rows) == 6 * 32 * 32
    assert {row["IoU"] for row in rows} == {"100.00"}
    assert Image.open(tmp_path / "out" / "dense.png").size[0] > 800
    assert measured(root, out=tmp_path / "none", picture_images=0)["mIoU"] > 50
    assert not (tmp_path / "none" / "dense.png").exists()


def test_many_classes_and_unknown_pixels_can_be_drawn(tmp_path: Path) -> None:
    mask = torch.arange(1024).view(32, 32) // 20
    mask[0] = UNKNOWN
    draw_segmentation([(torch.zeros(3, 32, 32).byte(), mask, mask)], None, "title", tmp_path / "picture.png")
    assert (tmp_path / "picture.png").stat().st_size > 10_000


MODELS = ModelSettings(name="resnet18"), ModelSettings(name="vit_tiny", options={"patch_size": 8, "depth": 1})


@pytest.mark.parametrize("model", MODELS, ids=lambda model: model.name)
def test_real_backbones_have_patches(model: ModelSettings) -> None:
    torch.manual_seed(0)
    backbone: Backbone = build_backbone(model, size=32).train()
    images = torch.randint(0, 256, (2, 3, 32, 32)).byte()
    found = backbone.feature_map(images)
    assert found.shape == (2, backbone.dim, 4, 4)
    assert not found.requires_grad
    if model.name == "vit_tiny":
        assert torch.allclose(found.flatten(2).mT, backbone.tokens(images)[:, 1:], atol=1e-5)
    else:
        assert torch.allclose(found.mean(dim=(2, 3)), backbone.features(images), atol=1e-5)
    small = measured("shapes", backbone, images=16, picture_images=0)
    large = measured("shapes", backbone, images=16, picture_images=0, size=64)
    assert 0 < small["pixel_accuracy"] < 100
    assert small != large


def test_backbones_that_cannot_do_it_say_so(tmp_path: Path) -> None:
    root = folder_of(tmp_path)
    with pytest.raises(GlocalError, match="raw pixels has one feature for an image"):
        measured(root, RawPixels(8))

    class Stiff(ColourPatches):
        def feature_map(self, images: torch.Tensor) -> torch.Tensor:
            assert images.shape[-1] == 32, "Input height doesn't match model"
            return super().feature_map(images)

    with pytest.raises(GlocalError, match=r"colour patches does not take images of 40 pixels \(dense.size\): Input"):
        measured(root, Stiff(), size=40)
    assert measured(root, Stiff())["mIoU"] > 50
    vit = build_backbone(MODELS[1], size=32)
    for size, nearest in ((100, "96 or 104"), (7, "8")):
        with pytest.raises(
            GlocalError,
            match=rf"^dense\.size={size} .* patches of 8 pixels; the nearest sizes are {nearest}$",
        ):
            measured(root, vit, size=size)


def test_what_is_missing_is_named(tmp_path: Path) -> None:
    with pytest.raises(GlocalError, match="needs --data dense=PATH: a folder with images/ and masks/"):
        evaluate(ColourPatches(), protocols="dense", progress=False)
    with pytest.raises(GlocalError, match="there is no folder .*nowhere; --data dense=PATH names a folder with images"):
        open_masked(str(tmp_path / "nowhere"))
    with pytest.raises(GlocalError, match="has no folder images;"):
        open_masked(str(tmp_path))
    (tmp_path / "images").mkdir()
    with pytest.raises(GlocalError, match="has no folder masks;"):
        open_masked(str(tmp_path))
    root = folder_of(tmp_path / "data")
    (root / "masks" / "val" / "val3.png").unlink()
    with pytest.raises(GlocalError, match=r"there is no .*masks/val/val3.png; each image needs a mask of its name"):
        open_masked(str(root))
    (root / "masks" / "val").rename(root / "masks" / "elsewhere")
    with pytest.raises(GlocalError, match="has only one of train/ and val/"):
        open_masked(str(root))
    voc = voc_of(tmp_path / "voc")
    (voc / "ImageSets" / "Segmentation" / "val.txt").write_text("")
    with pytest.raises(GlocalError, match=r"val.txt names no image"):
        open_masked(str(voc))
    (voc / "ImageSets" / "Segmentation" / "val.txt").unlink()
    with pytest.raises(GlocalError, match=r"there is no .*Segmentation/val.txt; it comes from http://host"):
        open_masked(str(voc))
    alone = tmp_path / "alone"
    save_pair(alone / "images" / "a.png", alone / "masks" / "a.png", quarters(0))
    with pytest.raises(GlocalError, match="holds one image; two or more are needed"):
        open_masked(str(alone))


def test_masks_that_are_none_are_refused(tmp_path: Path) -> None:
    root = folder_of(tmp_path / "data")
    path = root / "masks" / "train" / "train2.png"
    Image.new("RGB", (32, 32)).save(path)
    with pytest.raises(GlocalError, match=r"train2.png holds RGB pixels; a mask is a PNG with class numbers"):
        measured(root)
    Image.new("L", (32, 30)).save(path)
    with pytest.raises(GlocalError, match=r"train2.png has 32×30 pixels, its image .*train2.jpg 32×32"):
        measured(root)
    Image.fromarray(np.full((32, 32), 300, dtype=np.uint16)).save(path)
    with pytest.raises(GlocalError, match="holds class number 300"):
        measured(root)
    Image.fromarray(np.full((32, 32), 2, dtype=np.uint16)).save(path)
    assert read_mask(path).unique().tolist() == [2]
    with pytest.raises(GlocalError, match=r"no image can be read in which a pixel has a class"):
        measured(root, ignore=[0, 1, 2])
    with pytest.raises(GlocalError, match="dense.*ignore"):
        measured(root, ignore=[300])


def test_broken_files_are_left_out_and_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root = folder_of(tmp_path)
    (root / "images" / "val" / "val1.jpg").write_bytes(b"")
    (root / "masks" / "train" / "train1.png").write_bytes(b"no image")
    with pytest.raises(BrokenImageError):
        read_mask(root / "masks" / "train" / "train1.png")
    assert measured(root, upsample="nearest")["pixel_accuracy"] > 80
    said = "".join(capsys.readouterr().err.split())  # lines break anywhere
    assert "(train):1ofits6imagescannotbereadanddonotcount;thefirst:/" in said
    assert "train1.png(" in said
    assert "(val):1ofits6imagescannotbereadanddonotcount;thefirst:images/val/val1.jpg(empty" in said


def test_masks_of_a_batch_are_those_of_its_images(tmp_path: Path) -> None:
    data: Masked = open_masked(str(folder_of(tmp_path)))[0]
    index = torch.tensor([4, 1])
    expected = torch.stack([quarters(4), quarters(1)])
    assert torch.equal(data.masks(index, 32), expected)
    assert torch.equal(central_masks(expected, 16), expected[:, 1::2, 1::2])
    before = data.fingerprint()
    save_pair(tmp_path / "images/train/train0.jpg", tmp_path / "masks/train/train0.png", quarters(9))
    assert open_masked(str(tmp_path))[0].fingerprint() != before
