"""What a check finds: every fault planted once, and nothing where there is none."""

import csv
import io
import os
import shutil
import signal
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image, ImageFilter, ImageOps

from glocal.curation import checking, measuring
from glocal.curation.check_report import _tiles, table, write_page, write_table
from glocal.curation.checking import check
from glocal.curation.faults import BLURRED
from glocal.curation.findings import Report
from glocal.curation.measures import sharpness, small_picture, tones_of
from glocal.data.sources.base import MemorySource
from glocal.errors import GlocalError
from tests.preloaded import Preloaded


def picture(seed: int, size: tuple[int, int] = (128, 96)) -> Image.Image:
    """A made photograph: soft colours with sharp edges in it."""
    generator = np.random.default_rng(seed)
    soft = Image.fromarray(generator.integers(0, 256, (5, 5, 3), dtype=np.uint8)).resize(size, Image.Resampling.BICUBIC)
    for _ in range(12):
        left, top = generator.integers(0, size[0] - 20), generator.integers(0, size[1] - 20)
        box = (int(left), int(top), int(left + generator.integers(8, 40)), int(top + generator.integers(8, 40)))
        soft.paste(tuple(int(v) for v in generator.integers(0, 256, 3)), box)
    return soft


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Twelve good images of two classes."""
    for number in range(12):
        place = tmp_path / "images" / "ab"[number % 2]
        place.mkdir(parents=True, exist_ok=True)
        picture(number).save(place / f"{number:02d}.png")
    return tmp_path / "images"


def found(folder: Path, test: Path | None = None) -> Report:
    return check(folder, test, cache=False, workers=0)


def test_nothing_is_found_where_nothing_is_wrong(folder: Path) -> None:
    report = found(folder)
    assert [finding.name for finding in report.findings] == []
    assert report.clean
    assert report.summary == [f"{folder}: 12 images, 2 classes, median 128 × 96 pixels"]


def jpeg_with_orientation(path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    picture(50).save(path, exif=exif)


def cmyk(path: Path) -> None:
    picture(51).convert("CMYK").save(path)


def animated(path: Path) -> None:
    picture(52).save(path, save_all=True, append_images=[picture(53)], duration=100)


def transparent(path: Path) -> None:
    made = picture(54)
    made.putalpha(Image.linear_gradient("L").resize(made.size))
    made.save(path)


def deep(path: Path) -> None:
    Image.fromarray(np.asarray(picture(55).convert("L")).astype(np.uint16) * 257).save(path)


def one_tone(path: Path) -> None:
    Image.new("RGB", (128, 96), (90, 120, 200)).save(path)


PLANTED: dict[str, tuple[str, Callable[[Path], object]]] = {
    "unreadable": ("x.png", lambda path: path.write_bytes(b"no image")),
    "small": ("x.png", lambda path: picture(60).resize((40, 30)).save(path)),
    "long": ("x.png", lambda path: picture(61, (400, 100)).save(path)),
    "odd size": ("x.png", lambda path: picture(62, (800, 700)).save(path)),
    "blank": ("x.png", one_tone),
    "dark": ("x.png", lambda path: picture(63).point(lambda value: value // 6).save(path)),
    "overexposed": ("x.png", lambda path: picture(64).point(lambda value: 200 + value // 5).save(path)),
    "blurred": ("x.png", lambda path: picture(65, (256, 192)).filter(ImageFilter.GaussianBlur(3)).save(path)),
    "grey": ("x.jpg", lambda path: picture(66).convert("L").save(path)),
    "turned": ("x.jpg", jpeg_with_orientation),
    "CMYK": ("x.jpg", cmyk),
    "animated": ("x.gif", animated),
    "transparent": ("x.png", transparent),
    "deep": ("x.png", deep),
}


@pytest.mark.parametrize("name", PLANTED)
def test_each_fault_is_found_once_and_no_other(folder: Path, name: str) -> None:
    file, plant = PLANTED[name]
    plant(folder / "a" / file)
    report = found(folder)
    assert [image.key for image in report[name].images] == [f"a/{file}"], [f.name for f in report.findings]
    expected = {name, "grey"} if name == "deep" else {name}
    assert {finding.name for finding in report.findings} == expected
    assert report.clean == (report[name].severity == "note")


def test_files_that_end_early_are_unreadable(folder: Path) -> None:
    picture(1, (600, 400)).save(folder / "a" / "cut.jpg")
    content = (folder / "a" / "cut.jpg").read_bytes()
    (folder / "a" / "cut.jpg").write_bytes(content[: len(content) // 2])
    (folder / "a" / "empty.png").write_bytes(b"")
    report = found(folder)
    assert [image.key for image in report["unreadable"].images] == ["a/cut.jpg", "a/empty.png"]
    assert report["unreadable"].images[1].detail == "empty file"


def test_copies_and_what_is_nearly_one(folder: Path) -> None:
    shutil.copy(folder / "a" / "00.png", folder / "a" / "copy.png")
    shutil.copy(folder / "a" / "02.png", folder / "b" / "other class.png")
    picture(1).resize((100, 75)).save(folder / "b" / "resized.jpg", quality=60)
    ImageOps.mirror(picture(3)).save(folder / "b" / "turned over.png")
    report = found(folder)
    groups = [(image.key, image.group) for image in report["copies"].images]
    assert groups == [("a/00.png", 0), ("a/copy.png", 0), ("a/02.png", 1), ("b/other class.png", 1)]
    near = {image.key for image in report["near copies"].images}
    assert near == {"b/01.png", "b/resized.jpg", "b/03.png", "b/turned over.png"}
    torn = report["copies of two classes"]
    assert [(image.key, image.detail) for image in torn.images] == [("a/02.png", "a"), ("b/other class.png", "b")]
    assert report.findings[0] is torn  # the worst first
    exact = check(folder, near=False, cache=False, workers=0)
    assert "near copies" not in exact
    assert len(exact["copies"].images) == 4


def test_test_images_that_are_learned_from(folder: Path, tmp_path: Path) -> None:
    test = tmp_path / "test"
    for name in "ac":
        (test / name).mkdir(parents=True)
    for number in range(4):
        picture(100 + number).save(test / "a" / f"{number}.png")
    shutil.copy(folder / "a" / "04.png", test / "a" / "leaked.png")
    picture(5).save(test / "c" / "near.jpg", quality=70)
    report = found(folder, test)
    leaked, near = report["leaked"].images, report["nearly leaked"].images
    assert [(one.part, one.key, one.detail) for one in leaked] == [
        ("test", "a/leaked.png", "the same bytes as a/04.png")
    ]
    assert [one.key for one in near] == ["c/near.jpg"]
    assert near[0].detail.endswith("of 64 from b/05.png")
    assert report["unknown classes"].examples == ["c"]
    assert "copies" not in report
    assert not report.clean
    assert "leaked" not in found(test)
    write_page(report, tmp_path / "found.html")
    page = (tmp_path / "found.html").read_text()
    assert page.count("learned from</") == 2  # each beside its twin
    assert page.count("<img") == 4


def test_copies_without_number_take_no_more_memory_than_images(tmp_path: Path) -> None:
    for number in range(200):
        picture(number % 2, (32, 32)).save(tmp_path / f"{number}.png")
    report = found(tmp_path)
    assert report["copies"].amount == "200 in 2 groups"
    assert "near copies" not in report


def test_classes_and_empty_folders(folder: Path) -> None:
    (folder / "c").mkdir()
    (folder / ".hidden").mkdir()
    for number in range(50):
        picture(200 + number, (48, 32)).resize((128, 96)).save(folder / "a" / f"more {number}.png")
    report = found(folder)
    assert report["empty folders"].examples == ["c"]
    assert "unequal classes" not in report  # 56 to 6
    for path in list((folder / "b").iterdir())[1:]:
        path.unlink()
    assert found(folder)["unequal classes"].amount == "1 to 56 images"


def test_images_in_memory_are_checked_too() -> None:
    pixels = torch.from_numpy(np.stack([np.asarray(picture(n, (64, 64))) for n in range(6)])).permute(0, 3, 1, 2)
    pixels = torch.cat([pixels, pixels[:1], torch.full((1, 3, 64, 64), 7, dtype=torch.uint8)])
    report = check(MemorySource("made", pixels.contiguous(), None, None), workers=0)
    assert [image.key for image in report["copies"].images] == ["made/0", "made/6"]
    assert [image.key for image in report["blank"].images] == ["made/7"]
    assert report["blank"].images[0].path is None


def test_nothing_readable_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(b"x")
    with pytest.raises(GlocalError, match="none of its 1 images can be read"):
        found(tmp_path)


def test_without_imagehash_exact_copies_alone_are_told(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checking.importlib.util, "find_spec", lambda _: None)
    report = found(folder)
    assert "pip install 'glocal[duplicates]'" in report.notes[0]


def test_what_is_written(folder: Path, tmp_path: Path) -> None:
    shutil.copy(folder / "a" / "00.png", folder / "a" / "copy.png")
    one_tone(folder / "b" / "blank.png")
    (folder / "c").mkdir()
    report = found(folder)
    write_table(report, tmp_path / "found.csv")
    with open(tmp_path / "found.csv", newline="") as file:
        rows = [(row["finding"], row["part"], row["key"], row["group"]) for row in csv.DictReader(file)]
    assert sorted(rows) == [
        ("blank", "data", "b/blank.png", ""),
        ("copies", "data", "a/00.png", "1"),
        ("copies", "data", "a/copy.png", "1"),
        ("empty folders", "", "", ""),
    ]
    write_page(report, tmp_path / "found.html")
    assert (tmp_path / "found.html").read_text().count("<img") == 3
    assert table(report).row_count == 3


def test_files_are_measured_again_only_when_they_change(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    measured: list[int] = []
    usual = measuring.measure_image

    def counted(source: object, hashed: bool, index: int) -> object:
        measured.append(index)
        return usual(source, hashed, index)  # type: ignore[arg-type]

    monkeypatch.setattr(measuring, "measure_image", counted)
    cache = tmp_path / "cache"

    def again() -> list[int]:
        measured.clear()
        check(folder, cache=cache, workers=0)
        return sorted(measured)

    assert again() == list(range(12))
    assert again() == []
    one_tone(folder / "a" / "04.png")  # the third: a/00, a/02, a/04
    (folder / "a" / "new.png").write_bytes(b"broken")
    (folder / "b" / "11.png").unlink()
    assert again() == [2, 6]
    report = check(folder, cache=cache, workers=0)
    assert [image.key for image in report["blank"].images] == ["a/04.png"]
    assert [image.key for image in report["unreadable"].images] == ["a/new.png"]
    [kept] = cache.glob("*/*.parquet")  # one file in place of many, without the image that is gone
    assert pq.read_metadata(kept).num_rows == 12
    kept.write_bytes(kept.read_bytes()[:100])
    assert again() == list(range(12))
    assert check(folder, near=False, cache=cache, workers=0).clean is False


def test_a_check_that_was_killed_or_stopped_goes_on(tmp_path: Path, preloaded: Preloaded) -> None:
    for place in range(120):
        picture(place, (40, 40)).save(tmp_path / f"{place:03d}.png")
    slow = (
        "import time\nimport glocal.curation.measuring as m\nm._KEPT_AFTER = 0.2\nusual = m.measure_image\n"
        "def slowly(*a):\n    time.sleep(0.02)\n    return usual(*a)\nm.measure_image = slowly\n"
    )
    environment = {"GLOCAL_CACHE": str(tmp_path / ".cache")}
    kept = 0
    for number in (signal.SIGKILL, signal.SIGINT):
        command = preloaded.start("check", str(tmp_path), "--workers", "0", before=slow, environment=environment)
        deadline = time.monotonic() + 60
        while measured_in(tmp_path / ".cache") == kept and time.monotonic() < deadline:
            time.sleep(0.02)
        os.kill(command.pid, number)
        done = command.finish()
        assert done.returncode in (-signal.SIGKILL, 128 + signal.SIGINT)
        if number == signal.SIGINT:
            assert b"of 120 images; the same command continues it" in done.stderr
        before, kept = kept, measured_in(tmp_path / ".cache")
        assert before < kept < 120
    counting = (
        "import glocal.curation.measuring as m\nusual = m.measure_image\n"
        "def told(*a):\n    print('MEASURED')\n    return usual(*a)\nm.measure_image = told\n"
    )
    again = preloaded.start("check", str(tmp_path), "--workers", "0", before=counting, environment=environment).finish()
    assert again.returncode == 0, again.stderr
    assert again.stdout.count(b"MEASURED") == 120 - kept


def measured_in(cache: Path) -> int:
    return sum(pq.read_metadata(path).num_rows for path in cache.glob("checks/*/[!.]*.parquet"))


def test_sharpness_knows_blur_from_low_contrast_and_darkness() -> None:
    sharp = picture(0, (256, 192))
    assert sharpness(sharp) > 0.6
    assert sharpness(sharp.point(lambda value: 100 + value // 4)) == pytest.approx(sharpness(sharp), rel=0.15)
    levels = [sharpness(sharp.filter(ImageFilter.GaussianBlur(radius))) for radius in (0, 1, 2, 4)]
    assert levels == sorted(levels, reverse=True)
    assert levels[2] < BLURRED
    # against a plain loop
    grey = np.asarray(sharp.convert("L"), np.float64)
    edges = [
        abs(4 * grey[y, x] - grey[y - 1, x] - grey[y + 1, x] - grey[y, x - 1] - grey[y, x + 1])
        for y in range(1, 191)
        for x in range(1, 255)
    ]
    expected = np.percentile(edges, 99.9) / (np.percentile(grey, 99) - np.percentile(grey, 1))
    assert sharpness(sharp) == pytest.approx(expected, rel=1e-5)


def test_large_files_are_measured_as_their_small_pictures(tmp_path: Path) -> None:
    from glocal.data.decoding.images import open_image

    large = picture(7, (1600, 1200))
    large.save(tmp_path / "large.jpg", quality=95)
    reduced = small_picture(open_image(tmp_path / "large.jpg", "large.jpg"))
    assert reduced.size == (256, 192)
    exact = large.resize((256, 192), Image.Resampling.BILINEAR)
    for one, other in zip(tones_of(reduced), tones_of(exact), strict=True):
        assert one == pytest.approx(other, rel=0.05, abs=4)
    assert small_picture(torch.zeros(3, 2, 900, dtype=torch.uint8)).size == (256, 1)
    assert np.isnan(sharpness(Image.new("RGB", (2, 9))))


def test_an_animation_with_a_damaged_second_frame_is_still_one(folder: Path) -> None:
    path = folder / "a" / "damaged.gif"
    animated(path)
    content = path.read_bytes()
    second = content.index(b"\x21\xf9\x04", content.index(b"\x21\xf9\x04") + 1)  # its graphic control extension
    path.write_bytes(content[: second + 20])
    with Image.open(path) as image, pytest.raises(IndexError):
        _ = image.is_animated  # type: ignore[attr-defined]
    assert [image.key for image in found(folder)["animated"].images] == ["a/damaged.gif"]


def test_the_page_shows_deep_images_as_they_are_decoded(tmp_path: Path) -> None:
    (tmp_path / "images").mkdir()
    pixels = np.linspace(0, 4095, 64 * 64).reshape(64, 64).astype(np.uint16)
    for number in range(2):
        Image.fromarray(np.roll(pixels, 20 * number, axis=1)).save(tmp_path / "images" / f"{number}.png")
    report = found(tmp_path / "images")
    for tile in _tiles(report["deep"], report.decoding):
        with Image.open(io.BytesIO(tile.picture or b"")) as shown:
            assert np.asarray(shown).mean() == pytest.approx(128, abs=8)
