"""Grey values beyond 8 bits: one range for a set, measured where it is not given, kept and used everywhere."""

import struct
import sys
import zlib
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import yaml
from PIL import Image

import glocal
from glocal.config import build_recipe
from glocal.data.decoding.images import read_image
from glocal.data.decoding.reading import register_formats
from glocal.data.decoding.rules import Decoding
from glocal.data.ranges import (
    StoredValues,
    decode_as,
    sample_values,
    settle_decoding,
    suitable_range,
)
from glocal.data.settings import DataSettings
from glocal.data.sources.fingerprint import fingerprint
from glocal.data.sources.opening import open_source
from glocal.errors import BrokenImageError, GlocalError
from glocal.evaluation import evaluate
from glocal.models.loading import load_backbone

SMALL = {
    "data.size": 16,
    "model.options": {"channels": [8, 8, 8, 8], "layers": [1, 1, 1, 1]},
    "train.epochs": 1,
    "train.batch_size": 8,
    "train.device": "cpu",
    "data.workers": 0,
}


def folder_of(path: Path, images: Sequence[np.ndarray], ending: str) -> Path:
    for number, image in enumerate(images):
        place = path / str(number % 2)
        place.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image).save(place / f"{number:03d}.{ending}")
    return path


def ramps(top: float, kind: type, count: int = 24) -> list[np.ndarray]:
    """Images of which only the last reaches the top; the n-th goes to (n + 1) / count of it."""
    ramp = np.linspace(0, 1, 256).reshape(16, 16)
    return [(ramp * top * (number + 1) / count).astype(kind) for number in range(count)]


CASES = {
    "16 bits": (ramps(60000, np.uint16), "png", (0.0, 65535.0)),
    "12 in 16 bits": (ramps(4000, np.uint16), "png", (0.0, 4095.0)),
    "float a little above 1": (ramps(1.001, np.float32), "tif", (0.0, 1.0)),
    "float to 255": (ramps(250, np.float32), "tif", (0.0, 255.0)),
    "tomography": ([image - 1024 for image in ramps(3000, np.int32)], "tif", (-1024.0, 1976.0)),
}


@pytest.mark.parametrize("name", CASES)
def test_a_range_is_measured_and_the_same_for_all_images(name: str, tmp_path: Path) -> None:
    images, ending, expected = CASES[name]
    source = open_source(folder_of(tmp_path / "set", images, ending))
    assert settle_decoding(DataSettings(), source).range == expected
    low, high = expected
    for index, key in enumerate(source.keys):
        stored = images[int(Path(key).stem)].astype(np.float64)
        wanted = np.rint((stored.clip(low, high) - low) / (high - low) * 255)
        assert np.abs(source[index].image[0].numpy() - wanted).max() <= 1
        assert np.array_equal(source.open(index).read()[1].numpy(), source[index].image[1].numpy())  # type: ignore[attr-defined]


def test_eight_bits_need_no_range_and_few_levels_are_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    wide = open_source(folder_of(tmp_path / "wide", ramps(250, np.uint8), "png"))
    assert settle_decoding(DataSettings(), wide).range is None
    assert capsys.readouterr().err == ""
    dark = open_source(folder_of(tmp_path / "dark", ramps(20, np.uint8), "png"))
    assert settle_decoding(DataSettings(), dark).range is None
    assert "lie in [0, 20], 8% of 8 bits [0, 255]: the network sees few levels" in " ".join(
        capsys.readouterr().err.split()
    )
    deep = open_source(folder_of(tmp_path / "deep", ramps(4000, np.uint16), "png"))
    assert settle_decoding(DataSettings(range=(0, 65535)), deep).range == (0, 65535)
    assert "6% of data.range" in " ".join(capsys.readouterr().err.split())
    with pytest.raises(GlocalError, match=r"data.range.*first number must be smaller"):
        build_recipe({}, {"data.range": [5, 5]})
    found = sample_values(open_source("shapes:train:10"))
    assert found is None


def test_few_levels_of_colours_are_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    draws = np.random.default_rng(0)
    for top, told in ((256, False), (25, True)):
        for ending in ("png", "jpg"):
            images = [draws.integers(0, top, (32, 32, 3)).astype(np.uint8) for _ in range(4)]
            images[0][:16] = top - 1  # what an eighth of the size still shows
            images[0][16:] = 0
            source = open_source(folder_of(tmp_path / f"{top}{ending}", images, ending))
            assert settle_decoding(DataSettings(), source).range is None
            assert ("of 8 bits [0, 255]: the network sees few levels" in told_of(capsys)) == told
    found = sample_values(source, deep=True)
    assert found is None  # nothing beyond 8 bits


def told_of(capsys: pytest.CaptureFixture[str]) -> str:
    return " ".join(capsys.readouterr().err.split())


def test_large_colours_are_not_decoded_for_a_sample(tmp_path: Path) -> None:
    source = open_source(folder_of(tmp_path, [np.zeros((1025, 1024, 3), np.uint8)], "png"))
    assert sample_values(source) is None
    small = open_source(folder_of(tmp_path / "jpeg", [np.zeros((1025, 1024, 3), np.uint8)], "jpg"))
    assert sample_values(small) == StoredValues(0, 0, deep=False, real=False)


def png_of_48_bits(path: Path, pixels: np.ndarray) -> None:
    """Written by hand: Pillow writes no such files."""
    height, width = pixels.shape[:2]
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in pixels)
    header = struct.pack(">IIBBBBB", width, height, 16, 2, 0, 0, 0)
    chunks = [(b"IHDR", header), (b"IDAT", zlib.compress(rows)), (b"IEND", b"")]
    whole = [
        struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data)) for kind, data in chunks
    ]
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + b"".join(whole))


@pytest.mark.parametrize("top", [65535, 4095])
def test_colours_of_48_bits_keep_their_upper_8(top: int, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pixels = np.linspace(0, top, 16 * 16 * 3).reshape(16, 16, 3).astype(np.uint16)
    for name, factor in (("a", 1.0), ("b", 0.3)):  # no guess for each image: b is darker than a
        png_of_48_bits(tmp_path / f"{name}.png", (pixels * factor).astype(np.uint16))
    source = open_source(tmp_path)
    assert settle_decoding(DataSettings(), source).range is None
    for index, factor in ((0, 1.0), (1, 0.3)):
        expected = (pixels * factor).astype(np.uint16) >> 8
        assert np.array_equal(source[index].image.permute(1, 2, 0).numpy(), expected)
    assert ("few levels" in told_of(capsys)) == (top == 4095)


def test_joined_sources_share_one_range(tmp_path: Path) -> None:
    parts = [folder_of(tmp_path / name, ramps(top, np.uint16), "png") for name, top in (("a", 200), ("b", 4000))]
    source = open_source([str(part) for part in parts])
    chosen = settle_decoding(DataSettings(), source)
    assert chosen.range == (0, 4095)
    assert [int(source[index].image.max()) for index in (23, 47)] == [round(200 / 4095 * 255), round(4000 / 4095 * 255)]


def test_the_range_is_kept_with_the_run_and_used_to_evaluate_it(tmp_path: Path) -> None:
    images = folder_of(tmp_path / "set", ramps(4000, np.uint16), "png")
    run = glocal.pretrain(images, tmp_path / "run", overrides=SMALL, progress=False)
    written = yaml.safe_load((tmp_path / "run/recipe.yaml").read_text(encoding="utf-8"))
    assert written["data"]["range"] == [0.0, 4095.0]
    assert load_backbone(run.folder).decoding == Decoding((0.0, 4095.0), None)
    train = open_source(images)
    assert train[23].image.max() <= 16  # guessed for the image: 16 bits
    evaluate(
        run.folder,
        train=train,
        test=open_source(images),
        protocols="knn",
        device="cpu",
        workers=0,
        cache=False,
        progress=False,
    )
    assert train[23].image.max() > 230
    before = fingerprint(train)
    decode_as(train, Decoding((0.0, 1000.0)))
    assert fingerprint(train) != before  # features in the cache are those of other pixels


def test_the_limit_of_pixels_is_a_setting(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    Image.new("L", (40, 30)).save(tmp_path / "a.png")
    with pytest.raises(BrokenImageError, match=r"40 × 30 pixels, more than data.max_pixels=1199"):
        read_image(tmp_path / "a.png", "a.png", Decoding(max_pixels=1199))
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 500)
    with pytest.raises(BrokenImageError, match=r"decompression bomb\); data.max_pixels allows more"):
        read_image(tmp_path / "a.png", "a.png")
    assert read_image(tmp_path / "a.png", "a.png", Decoding(max_pixels=1200)).shape == (3, 30, 40)


def test_heif_is_registered_where_its_package_is(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[str] = []
    monkeypatch.setitem(sys.modules, "pillow_heif", SimpleNamespace(register_heif_opener=lambda: calls.append("heif")))
    register_formats.cache_clear()
    try:
        register_formats()
        register_formats()
    finally:
        register_formats.cache_clear()
    assert calls == ["heif"]


def test_avif_is_read(tmp_path: Path) -> None:
    from PIL import features

    if not features.check("avif"):
        pytest.skip("this Pillow was built without AVIF")
    Image.new("RGB", (32, 32), (200, 100, 50)).save(tmp_path / "a.avif", quality=100)
    [found] = [open_source(tmp_path)[0].image]
    assert np.abs(found[:, 5, 5].numpy().astype(int) - [200, 100, 50]).max() <= 6


def test_suitable_ranges_hold_the_sample() -> None:
    assert suitable_range(StoredValues(7, 7, deep=True, real=True)) == (7, 8)
    assert suitable_range(StoredValues(0, 70000, deep=True, real=False)) == (0, 70000)
