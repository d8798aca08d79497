"""Bad images, each kind twice: read as Pillow reads them or named, by every reader the same; nothing escapes."""

import io
import os
import random
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from glocal.curation.measuring import measure_all
from glocal.curation.selection import write_list
from glocal.data.annotated.masks import _read
from glocal.data.decoding.channels import _is_one_grey_picture
from glocal.data.decoding.headers import image_orientation, image_size, stored_values
from glocal.data.decoding.images import read_image
from glocal.data.decoding.reading import open_picture
from glocal.data.decoding.rules import Decoding
from glocal.data.lanes.skipped import SkippedImages, read_skipped
from glocal.data.ranges import sample_values
from glocal.data.sources.fingerprint import fingerprint
from glocal.data.sources.folder import ImageFolder
from glocal.data.sources.listed import _lines
from glocal.data.sources.opening import open_source
from glocal.errors import BrokenImageError, GlocalError
from glocal.files import write_csv

ROOT = Path(__file__).parents[3]
Look = Callable[[str, Path], dict[str, Any]]


@pytest.fixture
def bad(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    import bad_images_made

    return bad_images_made


@pytest.fixture
def look_by(bad: ModuleType) -> Look:
    """Reads a corpus by one of the readers."""
    import bad_images

    return bad_images.look_by  # type: ignore[no-any-return]


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no pipes here")
def test_every_kind_is_read_as_pillow_reads_it_or_named(bad: ModuleType, look_by: Look, tmp_path: Path) -> None:
    heavy = {"large", "scans", "bombs-beside-pixels", "headers-without-end"}  # a test of their own below, or seconds
    kinds = {name: make for name, make in bad.KINDS.items() if name not in heavy}
    bad.KINDS.clear()
    bad.KINDS.update(kinds)
    inside = tmp_path / "corpus"
    bad.write_corpus(inside, 2, 7)
    found = look_by("source", inside)
    assert found["otherwise"] == []
    read = sum(counts.get("read", 0) for counts in found["kinds"].values())
    assert read + len(found["named"]) == len(ImageFolder(inside))
    assert read > 20
    assert len(found["named"]) > 15
    for kind in ("empty", "no-images", "programs", "bombs", "huge-files"):
        assert found["kinds"][kind] == {"named": 2}, kind
    for kind in ("animated", "colors-for-print", "deep", "exif-lies", "narrow", "transparent", "wrong-endings"):
        assert found["kinds"][kind] == {"read": 2}, kind
    assert "that cannot be opened: links that lead nowhere, pipes, devices (links/0000.png" in found["passed over"]
    named = {key for key, _ in found["named"]}
    for reader in ("streaming", "resident"):
        assert {key for key, _ in look_by(reader, inside)["named"]} == named, reader
    values = look_by("values", inside)
    assert values["read"] > 0
    assert {"arrays", "scanners"} <= {key.partition("/")[0] for key, _ in values["named"]}
    assert not list(tmp_path.rglob("escaped*"))
    assert not Path("escaped").exists()


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no pipes here")
def test_a_pipe_in_the_place_of_a_file_is_not_waited_for(tmp_path: Path) -> None:
    place = tmp_path / "a.png"
    Image.new("RGB", (4, 4)).save(place)
    source = open_source(tmp_path)
    place.unlink()
    os.mkfifo(place)
    with pytest.raises(BrokenImageError, match="no file but a pipe or a device"):
        source[0]
    with pytest.raises(BrokenImageError, match="no file but a pipe or a device"):
        image_size(place)
    with pytest.raises(
        GlocalError, match=r"1 that cannot be opened: links that lead nowhere, pipes, devices \(a.png\)"
    ):
        open_source(tmp_path)


def test_files_that_no_image_can_fill_are_not_read(tmp_path: Path) -> None:
    (tmp_path / "a.jpg").write_bytes(b"\xff\xd8\xff")
    os.truncate(tmp_path / "a.jpg", 1 << 36)
    with pytest.raises(BrokenImageError, match="68,719,476,736 bytes, more than an image of data.max_pixels=178956970"):
        read_image(tmp_path / "a.jpg", "a.jpg")
    with pytest.raises(BrokenImageError, match="more than an image of data.max_pixels=1000 has"):
        read_image(tmp_path / "a.jpg", "a.jpg", Decoding(max_pixels=1000))


def test_files_that_no_image_can_fill_are_not_read_for_their_header_either(tmp_path: Path) -> None:
    (tmp_path / "a.jpg").write_bytes(b"\xff\xd8\xff")
    os.truncate(tmp_path / "a.jpg", 1 << 36)
    for look in (image_size, image_orientation, _read):
        with pytest.raises(BrokenImageError, match="68,719,476,736 bytes, more than an image"):
            look(tmp_path / "a.jpg")
    assert stored_values(tmp_path / "a.jpg") is None
    Image.new("L", (4, 4)).save(tmp_path / "b.png")
    assert sample_values(ImageFolder(tmp_path)) == (0.0, 0.0, False, False)


@pytest.mark.parametrize("number", range(8))
def test_a_header_that_does_not_come_is_not_searched_for_long(
    number: int, bad: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("glocal.data.decoding.reading._READS", 2000)
    bad.headers_without_end(tmp_path, number, random.Random(1))
    (place,) = tmp_path.iterdir()
    for look in (image_size, lambda path: read_image(path, "a")):
        with pytest.raises(BrokenImageError, match="its header is not found within 2,000 reads: the file is damaged"):
            look(place)
    assert stored_values(place) is None


def test_zeros_between_the_parts_of_a_jpeg_are_passed_over(tmp_path: Path) -> None:
    image = Image.new("RGB", (4, 6), (9, 90, 200))
    file = io.BytesIO()
    image.save(file, "JPEG")
    content = file.getvalue()
    (tmp_path / "a.jpg").write_bytes(content[:20] + bytes(1 << 16) + content[20:])
    assert image_size(tmp_path / "a.jpg") == (6, 4)
    assert read_image(tmp_path / "a.jpg", "a").shape == (3, 6, 4)


def test_a_grey_jpeg_of_thousands_of_scans_is_left_out_of_a_sample(bad: ModuleType, tmp_path: Path) -> None:
    content = bad.encoded(Image.new("L", (64, 64)), "JPEG", progressive=True)
    last = content.rindex(b"\xff\xda")
    (tmp_path / "a.jpg").write_bytes(content)
    assert stored_values(tmp_path / "a.jpg") is not None
    (tmp_path / "a.jpg").write_bytes(content[:last] + content[last:-2] * 5000 + b"\xff\xd9")
    assert stored_values(tmp_path / "a.jpg") is None


def test_pages_of_a_tiff_are_not_counted(bad: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    page = (bad.grey_tiff(20, 10, 4000, 200), -1)
    one, many = bad.tiff((page[0], 0)), bad.tiff(*[page] * 20, (page[0], 0))
    for content, alone in ((one, True), (many, False)):
        image = open_picture(io.BytesIO(content.ljust(4000, b"\0") + bytes(200)))
        if not alone:
            monkeypatch.setattr("PIL.TiffImagePlugin.TiffImageFile.n_frames", property(lambda _: 1 / 0))
        assert _is_one_grey_picture(image) is alone


def test_postscript_is_never_executed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def execute(*_: Any, **__: Any) -> None:
        raise AssertionError("Ghostscript was called")

    monkeypatch.setattr("PIL.EpsImagePlugin.Ghostscript", execute)
    text = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\n{} loop\n%%EOF\n"
    for name in ("a.jpg", "b.eps"):
        (tmp_path / name).write_bytes(text)
        with pytest.raises(BrokenImageError, match="PostScript, a program, which is not executed; save it as PNG"):
            read_image(tmp_path / name, name)
    Image.new("L", (4, 4)).save(tmp_path / "c.png")
    assert ImageFolder(tmp_path).passed_over == "1 .eps (save them as PNG)"


def test_dicom_that_is_compressed_as_a_whole_is_refused(bad: ModuleType, tmp_path: Path) -> None:
    pytest.importorskip("pydicom")
    grey, values = np.arange(6, dtype=np.uint16).reshape(2, 3), Decoding(channels=1)
    (tmp_path / "a.dcm").write_bytes(bad.dicom(grey, "1.2.840.10008.1.2.1"))
    assert read_image(tmp_path / "a.dcm", "a.dcm", values)[0].tolist() == grey.tolist()
    (tmp_path / "b.dcm").write_bytes(bad.dicom(grey, "1.2.840.10008.1.2.1.99"))
    with pytest.raises(BrokenImageError, match="DICOM of the deflated transfer syntax"):
        read_image(tmp_path / "b.dcm", "b.dcm", values)


def test_more_channels_may_have_fewer_pixels_where_no_limit_is_set() -> None:
    assert Decoding().most_pixels == Decoding(channels=3).most_pixels == 178_956_970
    assert Decoding(channels=12).most_pixels == 178_956_970 // 4
    assert Decoding(channels=12, max_pixels=500_000_000).most_pixels == 500_000_000


def test_a_file_that_went_away_changes_what_a_set_is_known_by(tmp_path: Path) -> None:
    for name in ("a.png", "b.png"):
        Image.new("L", (4, 4)).save(tmp_path / name)
    source = ImageFolder(tmp_path)
    before = fingerprint(source)
    (tmp_path / "a.png").unlink()
    assert fingerprint(source) not in (before, None)


def test_an_orientation_that_there_is_not_is_none(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 65_535
    Image.new("RGB", (6, 4)).save(tmp_path / "a.jpg", exif=exif)
    assert image_orientation(tmp_path / "a.jpg") == 1
    assert measure_all(ImageFolder(tmp_path), workers=0, hashed=False).column("orientation").to_pylist() == [1]


def test_a_list_does_not_take_names_that_do_not_fit_a_line(tmp_path: Path) -> None:
    embeddings: Any = SimpleNamespace(paths=["/a.png", "/b\nc.png"], keys=["a.png", "b\nc.png"])
    with pytest.raises(GlocalError, match="no line of a list can be /b"):
        write_list(SimpleNamespace(rows=torch.tensor([0, 1])), embeddings, tmp_path / "a.txt")  # type: ignore[arg-type]
    write_list(SimpleNamespace(rows=torch.tensor([0])), embeddings, tmp_path / "a.txt")  # type: ignore[arg-type]
    assert (tmp_path / "a.txt").read_text() == "/a.png\n"


def test_a_jpeg_of_thousands_of_scans_is_refused(bad: ModuleType, tmp_path: Path) -> None:
    content = bad.encoded(Image.new("RGB", (64, 64)), "JPEG", progressive=True)
    last = content.rindex(b"\xff\xda")
    (tmp_path / "a.jpg").write_bytes(content[:last] + content[last:-2] * 5000 + b"\xff\xd9")
    with pytest.raises(BrokenImageError, match="a JPEG file of 5,0.. scans, which would take minutes to decode"):
        read_image(tmp_path / "a.jpg", "a.jpg")


PEAK = """
import resource, sys
from glocal.data.decoding.images import read_image
from glocal.data.decoding.rules import Decoding
from PIL import Image
import numpy as np
read_image(sys.argv[1], "small")
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
image = read_image(sys.argv[2], "large")
assert image.shape == (3, 5000, 5000)
print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * 1024 / 5000**2)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="other systems count memory in other ways")
@pytest.mark.parametrize("mode", ["RGBA", "F"])
def test_an_image_takes_little_more_memory_than_its_pixels(mode: str, tmp_path: Path) -> None:
    for name, side in (("small", 8), ("large", 5000)):
        image = Image.new(mode, (side, side))
        image.save(tmp_path / f"{name}.tif", compression="tiff_deflate")
    names = [str(tmp_path / f"{name}.tif") for name in ("small", "large")]
    # forked, a process would begin with the peak of this one
    said = subprocess.run([sys.executable, "-c", PEAK, *names], capture_output=True, text=True, check=True).stdout
    assert float(said) < 4 + 3 + 3  # what Pillow has decoded, the result, strips (before: 20 and 36)


def test_names_of_every_kind_stay_in_their_line(
    bad: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for number, name in enumerate(bad.NAMES):
        Path(os.fsdecode(os.path.join(os.fsencode(tmp_path), name[:240] + b"%d.png" % number))).write_bytes(b"")
    source, file = ImageFolder(tmp_path), tmp_path / "skipped.txt"
    skipped = SkippedImages(source, 1.0, file)
    for index in range(len(source)):
        with pytest.raises(BrokenImageError) as caught:
            source[index]
        skipped.record([caught.value])
    assert len(read_skipped(file)) == len(source) == len(bad.NAMES)
    assert not [byte for byte in file.read_bytes() if byte < 32 and byte not in b"\n\t"]
    said = capsys.readouterr().err
    assert said.count("\n") == 1
    assert "\x1b" not in said
    assert list(SkippedImages(source, 1.0, file).reasons) == list(source.keys)
    assert all(line.count("\t") == 1 for line in read_skipped(file))
    write_csv(tmp_path / "names.csv", ("path", "label"), [(key, "a") for key in source.keys], opened=True)
    assert [sample.path for sample in _lines(tmp_path / "names.csv")] == [key.strip() for key in source.keys]
