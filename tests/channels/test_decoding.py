"""Files of any number of channels: values come as they are stored, and what is wrong is said in one line."""

import gc
import io
import struct
import time
import zlib
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from glocal.data.decoding.images import open_stored, read_image
from glocal.data.decoding.rules import Decoding
from glocal.data.ranges import decode_as
from glocal.data.sources.folder import ImageFolder
from glocal.errors import BrokenImageError, GlocalError

tifffile = pytest.importorskip("tifffile")
DRAW = np.random.default_rng(0)
GREY16 = DRAW.integers(0, 65_536, (9, 7), dtype=np.uint16)
FLOAT5 = DRAW.normal(size=(9, 7, 5)).astype(np.float32)


def read(path: Path, channels: int, **options: object) -> torch.Tensor:
    return read_image(path, path.name, Decoding(channels=channels, **options))  # type: ignore[arg-type]


def reason(path: Path, channels: int, **options: object) -> str:
    with pytest.raises(BrokenImageError) as caught:
        read(path, channels, **options)
    assert "\n" not in str(caught.value)
    assert caught.value.key == path.name
    return caught.value.reason


def test_arrays_are_read_in_several_threads(tmp_path: Path) -> None:
    """Python 3.11 loses count when the collector gives way to another thread while a header is parsed (gh-106905)."""
    np.save(tmp_path / "a.npy", FLOAT5)
    threshold, give_way = gc.get_threshold(), lambda *_: time.sleep(0)
    gc.callbacks.append(give_way)
    gc.set_threshold(10)
    try:
        with ThreadPoolExecutor(4) as pool:
            found = list(pool.map(lambda _: read(tmp_path / "a.npy", 5), range(2000)))
    finally:
        gc.set_threshold(*threshold)
        gc.callbacks.remove(give_way)
    assert len(found) == 2000


def write_png16(path: Path, image: np.ndarray) -> None:
    """A PNG of 16 bits by the format's own rules, without Pillow: (H, W), or (H, W, 3) for colours."""
    height, width = image.shape[:2]
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in image)

    def chunk(kind: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    header = struct.pack(">IIBBBBB", width, height, 16, 0 if image.ndim == 2 else 2, 0, 0, 0)
    parts = [chunk(b"IHDR", header), chunk(b"IDAT", zlib.compress(rows)), chunk(b"IEND", b"")]
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + b"".join(parts))


def test_sixteen_bits_of_grey_come_from_every_format(tmp_path: Path) -> None:
    write_png16(tmp_path / "a.png", GREY16)
    Image.fromarray(GREY16).save(tmp_path / "b.tif")
    tifffile.imwrite(tmp_path / "c.tif", GREY16, compression="zlib")
    np.save(tmp_path / "d.npy", GREY16)
    np.save(tmp_path / "e.npy", GREY16[..., None])
    np.save(tmp_path / "f.npy", np.asfortranarray(GREY16.astype(">u2")))
    expected = torch.from_numpy(GREY16.astype(np.float32))[None]
    for path in sorted(tmp_path.iterdir()):
        found = read(path, 1)
        assert found.dtype == torch.float32, path
        assert torch.equal(found, expected), path
        assert open_stored(path, "a", Decoding(channels=1)).size == (9, 7)


@pytest.mark.parametrize("ending", ["tif", "png"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_an_image_is_upright_and_has_the_size_that_was_said(ending: str, orientation: int, tmp_path: Path) -> None:
    path, exif = tmp_path / f"a.{ending}", Image.Exif()
    exif[0x0112] = orientation
    Image.fromarray(GREY16).save(path, exif=exif)
    turn = {
        1: lambda x: x,
        2: np.fliplr,
        3: lambda x: np.rot90(x, 2),
        4: np.flipud,
        5: np.transpose,
        6: lambda x: np.rot90(x, -1),
        7: lambda x: np.rot90(np.transpose(x), 2),
        8: np.rot90,
    }[orientation]
    expected = turn(GREY16.astype(np.float32))
    stored = open_stored(path, "a", Decoding(channels=1))
    assert stored.size == expected.shape
    np.testing.assert_array_equal(stored.read()[0], expected)


def test_eight_bits_and_float_stay_as_they_are(tmp_path: Path) -> None:
    grey, colors = (GREY16 >> 8).astype(np.uint8), DRAW.integers(0, 256, (9, 7, 4), dtype=np.uint8)
    Image.fromarray(grey).save(tmp_path / "grey.png")
    Image.fromarray(colors, "RGBA").save(tmp_path / "rgba.png")
    tifffile.imwrite(tmp_path / "float.tif", FLOAT5[..., 0])
    assert torch.equal(read(tmp_path / "grey.png", 1)[0], torch.from_numpy(grey).float())
    assert torch.equal(read(tmp_path / "rgba.png", 4), torch.from_numpy(colors).permute(2, 0, 1).float())
    assert torch.equal(read(tmp_path / "float.tif", 1)[0], torch.from_numpy(FLOAT5[..., 0]))


def test_channels_are_found_first_and_last_in_arrays_and_tiff(tmp_path: Path) -> None:
    first = np.ascontiguousarray(FLOAT5.transpose(2, 0, 1))
    np.save(tmp_path / "last.npy", FLOAT5)
    np.save(tmp_path / "first.npy", first)
    np.save(tmp_path / "double.npy", FLOAT5.astype(np.float64))
    tifffile.imwrite(tmp_path / "pages.tif", first)
    tifffile.imwrite(tmp_path / "pages_named.tif", first, metadata={"axes": "CYX"})
    tifffile.imwrite(tmp_path / "planes.tif", first, planarconfig="separate", photometric="minisblack")
    tifffile.imwrite(tmp_path / "pixels.tif", FLOAT5, planarconfig="contig", photometric="minisblack")
    with tifffile.TiffWriter(tmp_path / "single_pages.tif") as file:
        for page in first:
            file.write(page, contiguous=False, metadata=None)
    for path in sorted(tmp_path.iterdir()):
        assert torch.equal(read(path, 5), torch.from_numpy(first)), path
        assert open_stored(path, "a", Decoding(channels=5)).size == (9, 7), path


def test_an_array_that_may_be_read_in_two_ways_asks_which(tmp_path: Path) -> None:
    image = DRAW.normal(size=(5, 9, 5)).astype(np.float32)
    np.save(tmp_path / "a.npy", image)
    assert "set data.channel_axis" in reason(tmp_path / "a.npy", 5)
    assert torch.equal(read(tmp_path / "a.npy", 5, channel_axis="first"), torch.from_numpy(image))
    assert torch.equal(read(tmp_path / "a.npy", 5, channel_axis="last"), torch.from_numpy(image).permute(2, 0, 1))


def test_an_array_of_objects_is_never_unpickled(tmp_path: Path) -> None:
    class Bomb:
        def __reduce__(self) -> tuple[object, tuple[str]]:
            return (exec, ("raise AssertionError",))  # not sys.exit, which wandb replaces

    np.save(tmp_path / "a.npy", np.array([[Bomb()]], dtype=object), allow_pickle=True)
    assert "Python objects" in reason(tmp_path / "a.npy", 1)
    with pytest.raises(BrokenImageError, match="Python objects"):
        read_image(tmp_path / "a.npy", "a")  # as RGB, too


def test_values_that_are_no_numbers_are_refused(tmp_path: Path) -> None:
    broken = FLOAT5[..., 0].copy()
    broken[0, :3] = np.nan, np.inf, -np.inf
    np.save(tmp_path / "nan.npy", broken)
    np.save(tmp_path / "large.npy", np.full((4, 4), 1e300))
    np.save(tmp_path / "complex.npy", broken.astype(np.complex64))
    np.save(tmp_path / "text.npy", np.full((4, 4), "a"))
    tifffile.imwrite(tmp_path / "nan.tif", broken)
    assert reason(tmp_path / "nan.npy", 1) == "3 of its 63 values are infinite or no numbers"
    assert reason(tmp_path / "nan.tif", 1) == "3 of its 63 values are infinite or no numbers"
    assert "16 of its 16 values" in reason(tmp_path / "large.npy", 1)
    assert "complex64" in reason(tmp_path / "complex.npy", 1)
    assert "not real numbers" in reason(tmp_path / "text.npy", 1)


def test_other_numbers_of_channels_are_named_with_what_was_found(tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", FLOAT5)
    Image.new("RGB", (7, 9)).save(tmp_path / "b.jpg")
    write_png16(tmp_path / "c.png", GREY16)
    np.save(tmp_path / "d.npy", np.zeros((2, 3, 4, 5)))
    assert reason(tmp_path / "a.npy", 4) == "5 channels (9 × 7 × 5), not data.channels=4"
    assert reason(tmp_path / "b.jpg", 1) == "3 channels (9 × 7 × 3), not data.channels=1"
    assert reason(tmp_path / "c.png", 12) == "1 channel (9 × 7), not data.channels=12"
    assert "shape (2 × 3 × 4 × 5)" in reason(tmp_path / "d.npy", 3)


def test_sixteen_bit_colours_of_png_are_refused_for_they_would_lose_half_of_their_bits(tmp_path: Path) -> None:
    write_png16(tmp_path / "a.png", DRAW.integers(0, 65_536, (9, 7, 3), dtype=np.uint16))
    assert "Pillow reads 8 bits" in reason(tmp_path / "a.png", 3)


def test_headers_that_promise_too_much_take_no_memory(tmp_path: Path) -> None:
    def header(shape: tuple[int, ...], extra: str = "") -> bytes:
        file = io.BytesIO()
        np.lib.format.write_array_header_1_0(file, {"descr": "<f4" + extra, "fortran_order": False, "shape": shape})
        return file.getvalue()

    (tmp_path / "huge.npy").write_bytes(header((10**9, 10**9)))
    (tmp_path / "short.npy").write_bytes(header((10_000, 10_000)) + b"\0" * 64)
    (tmp_path / "negative.npy").write_bytes(header((-4, -4)) + b"\0" * 64)
    (tmp_path / "long.npy").write_bytes(b"\x93NUMPY\x02\x00" + struct.pack("<I", 1 << 30) + b"{" * 100_000)
    (tmp_path / "cut.npy").write_bytes(b"\x93NUMPY\x01\x00")
    (tmp_path / "empty.npy").write_bytes(b"")
    np.save(tmp_path / "nothing.npy", np.zeros((0, 5)))
    np.save(tmp_path / "scalar.npy", np.float32(1))
    np.save(tmp_path / "fine.npy", GREY16)
    tifffile.imwrite(tmp_path / "fine.tif", np.zeros((3, 100, 100), np.float32), compression="zlib")
    assert "more than data.max_pixels=178956970" in reason(tmp_path / "huge.npy", 1)
    assert "the file ends before" in reason(tmp_path / "short.npy", 1)
    for name in ("negative", "long", "cut", "scalar"):
        reason(tmp_path / f"{name}.npy", 1)
    assert reason(tmp_path / "empty.npy", 1) == "empty file"
    assert reason(tmp_path / "nothing.npy", 1) == "no pixels"
    assert "7 × 9 pixels, more than data.max_pixels=62" in reason(tmp_path / "fine.npy", 1, max_pixels=62)
    assert "100 × 100 pixels, more than" in reason(tmp_path / "fine.tif", 3, max_pixels=9_999)
    assert read(tmp_path / "fine.npy", 1, max_pixels=63).shape == (1, 9, 7)


def test_damaged_tiff_is_a_broken_image(tmp_path: Path) -> None:
    tifffile.imwrite(tmp_path / "a.tif", np.zeros((5, 64, 64), np.float32), compression="zlib")
    content = (tmp_path / "a.tif").read_bytes()
    for length in (4, 20, len(content) // 2, len(content) - 100):
        (tmp_path / "a.tif").write_bytes(content[:length])
        reason(tmp_path / "a.tif", 5)


def test_tiff_without_tifffile_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tifffile.imwrite(tmp_path / "a.tif", FLOAT5.transpose(2, 0, 1))
    Image.fromarray(GREY16).save(tmp_path / "b.tif")
    monkeypatch.setattr("glocal.data.decoding.channels.find_spec", lambda name: None)
    assert "pip install 'glocal[channels]'" in reason(tmp_path / "a.tif", 5)
    assert read(tmp_path / "b.tif", 1).shape == (1, 9, 7)  # one grey picture, Pillow reads by itself


def test_a_photograph_is_turned_upright(tmp_path: Path) -> None:
    picture = Image.fromarray((GREY16 >> 8).astype(np.uint8))
    exif = Image.Exif()
    exif[0x0112] = 6
    picture.save(tmp_path / "a.png", exif=exif)
    stored = open_stored(tmp_path / "a.png", "a", Decoding(channels=1))
    assert stored.size == (7, 9)
    assert torch.equal(stored.read()[0], torch.from_numpy(np.rot90(np.asarray(picture), -1).copy()).float())


def test_a_folder_of_arrays_is_told_which_setting_reads_it(tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", FLOAT5)
    with pytest.raises(GlocalError, match=r"a.npy has 5 channels of float32, no RGB image; set data.channels=5"):
        ImageFolder(tmp_path)
    source = ImageFolder(tmp_path, values=True)
    decode_as(source, Decoding(channels=5))
    assert source[0].image.shape == (5, 9, 7)
    assert source.sizes_of([0]) == [(9, 7)]


def test_images_of_several_channels_read_as_rgb_say_which_setting_reads_them(tmp_path: Path) -> None:
    tifffile.imwrite(
        tmp_path / "a.tif",
        DRAW.normal(size=(12, 9, 7)).astype(np.float32),
        photometric="minisblack",
        planarconfig="separate",
    )
    with pytest.raises(BrokenImageError, match=r"12 channels of float32, no RGB image; set data.channels=12"):
        read_image(tmp_path / "a.tif", "a")
