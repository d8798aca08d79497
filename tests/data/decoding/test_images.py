"""Every mode and format becomes RGB as a person would see it; what cannot be read says why."""

import io
import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image, ImageOps

from glocal.data.decoding.headers import image_size
from glocal.data.decoding.images import read_image
from glocal.errors import BrokenImageError


def save(tmp_path: Path, image: Image.Image, name: str, **options: object) -> Path:
    path = tmp_path / name
    image.save(path, **options)
    return path


def pixel(path: Path) -> list[int]:
    return read_image(path, path.name)[:, 1, 1].tolist()


def palette() -> Image.Image:
    image = Image.new("P", (4, 4), 1)
    image.putpalette([0, 0, 0, 10, 20, 30])
    return image


MODES: dict[str, tuple[Callable[[], Image.Image], str, list[int]]] = {
    "1": (lambda: Image.new("1", (4, 4), 1), "a.png", [255, 255, 255]),
    "L": (lambda: Image.new("L", (4, 4), 77), "a.png", [77, 77, 77]),
    "RGB": (lambda: Image.new("RGB", (4, 4), (9, 8, 7)), "a.bmp", [9, 8, 7]),
    "half transparent": (lambda: Image.new("RGBA", (4, 4), (255, 0, 0, 128)), "a.png", [255, 127, 127]),
    "transparent grey": (lambda: Image.new("LA", (4, 4), (0, 0)), "a.png", [255, 255, 255]),
    "palette": (palette, "a.gif", [10, 20, 30]),
    "CMYK": (lambda: Image.new("CMYK", (4, 4), (255, 0, 0, 0)), "a.tif", [0, 255, 255]),
    "YCbCr": (lambda: Image.new("RGB", (4, 4), (0, 200, 0)).convert("YCbCr"), "a.tif", [0, 200, 0]),
    "LAB": (lambda: Image.new("LAB", (4, 4), (136, 128, 128)), "a.tif", [127, 127, 127]),
    "big-endian 16 bit": (lambda: Image.frombytes("I;16B", (4, 4), b"\x64\x64" * 16), "a.tif", [100, 100, 100]),
    "16 bit": (lambda: Image.fromarray(np.full((4, 4), 257 * 100, np.uint16)), "a.png", [100, 100, 100]),
    "16 bit tiff": (lambda: Image.fromarray(np.full((4, 4), 257 * 33, np.uint16)), "a.tif", [33, 33, 33]),
    "32 bit": (lambda: Image.fromarray(np.full((4, 4), 257 * 60, np.int32)), "a.tif", [60, 60, 60]),
    "float in 0 to 1": (lambda: Image.fromarray(np.full((4, 4), 0.2, np.float32)), "a.tif", [51, 51, 51]),
    "float in 0 to 255": (
        lambda: Image.fromarray(np.full((4, 4), 200.0, np.float32)),
        "a.tif",
        [200, 200, 200],
    ),
    "webp": (lambda: Image.new("RGBA", (4, 4), (0, 0, 0, 0)), "a.webp", [255, 255, 255]),
}


@pytest.mark.parametrize("name", MODES)
def test_modes_become_what_a_person_sees(name: str, tmp_path: Path) -> None:
    make, file, expected = MODES[name]
    found = pixel(save(tmp_path, make(), file))
    assert all(abs(a - b) <= 1 for a, b in zip(found, expected, strict=True)), found


def test_transparency_of_palettes_shows_white(tmp_path: Path) -> None:
    path = save(tmp_path, palette(), "a.png", transparency=1)
    assert pixel(path) == [255, 255, 255]


def test_values_without_a_usual_range_go_from_the_smallest_to_the_largest(tmp_path: Path) -> None:
    signed = save(tmp_path, Image.fromarray(np.array([[-1000, 0], [500, 1000]], np.int32)), "a.tif")
    assert read_image(signed, "a")[0].tolist() == [[0, 128], [191, 255]]
    values = np.array([[-1, 0.5], [np.inf, np.nan]], np.float32)  # a depth map with sky and holes
    assert read_image(save(tmp_path, Image.fromarray(values), "b.tif"), "b")[0].tolist() == [[0, 255], [255, 0]]
    flat = save(tmp_path, Image.fromarray(np.full((2, 2), -7.0, np.float32)), "c.tif")
    assert read_image(flat, "c").unique().tolist() == [0]


@pytest.mark.parametrize("format", ["png", "jpg", "tif", "webp"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_rotation_is_applied(orientation: int, format: str, tmp_path: Path) -> None:
    pixels = np.arange(6 * 4 * 3, dtype=np.uint8).reshape(6, 4, 3) * 3
    image = Image.fromarray(pixels)
    exif = Image.Exif()
    exif[0x0112] = orientation
    path = save(tmp_path, image, f"a.{format}", exif=exif)
    with Image.open(path) as opened:
        expected = torch.from_numpy(np.array(ImageOps.exif_transpose(opened))).permute(2, 0, 1)
    assert torch.equal(read_image(path, "a"), expected)
    assert image_size(path) == tuple(expected.shape[1:])


@pytest.mark.parametrize("exif", [b"Exif\0\0garbage", b"Exif\0\0MM\0*\xff\xff\xff\xff"])
def test_damaged_metadata_do_not_cost_the_image(exif: bytes, tmp_path: Path) -> None:
    path = save(tmp_path, Image.new("RGB", (6, 4)), "a.jpg", exif=exif)
    assert read_image(path, "a").shape == (3, 4, 6)
    assert image_size(path) == (4, 6)


def test_a_size_is_read_without_the_pixels(tmp_path: Path) -> None:
    path = save(tmp_path, Image.effect_noise((64, 48), 60).convert("RGB"), "a.png")
    path.write_bytes(path.read_bytes()[:200])
    assert image_size(path) == (48, 64)
    path.write_bytes(b"no header")
    with pytest.raises(BrokenImageError, match=r"a\.png"):
        image_size(path)


def test_the_first_frame_of_an_animation_is_taken(tmp_path: Path) -> None:
    frames = [Image.new("RGB", (4, 4), colour) for colour in ((255, 0, 0), (0, 255, 0))]
    path = save(tmp_path, frames[0], "a.gif", save_all=True, append_images=frames[1:])
    assert pixel(path) == [255, 0, 0]


def test_images_are_bytes_in_rows_of_pixels(tmp_path: Path) -> None:
    image = read_image(save(tmp_path, Image.new("RGB", (5, 3)), "a.jpg"), "a")
    assert image.dtype == torch.uint8
    assert image.shape == (3, 3, 5)
    assert image.stride() == (1, 15, 3)


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "empty file"),
        (b"<html>not an image</html>", "no image in a format that Pillow reads"),
        (None, "truncated"),
    ],
)
def test_broken_files_say_why(content: bytes | None, reason: str, tmp_path: Path) -> None:
    path = save(tmp_path, Image.effect_noise((64, 64), 50).convert("RGB"), "x.jpg")
    path.write_bytes(path.read_bytes()[:700] if content is None else content)
    with pytest.raises(BrokenImageError, match=reason) as caught:
        read_image(path, "the/key.jpg")
    assert caught.value.key == "the/key.jpg"
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("error", [RuntimeError("of a plugin\n" + "long " * 100), MemoryError(), AssertionError()])
def test_whatever_a_decoder_raises_is_a_broken_image(
    error: Exception, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def load(image: Image.Image) -> None:
        raise error

    path = save(tmp_path, Image.new("RGB", (4, 4)), "a.bmp")
    monkeypatch.setattr("PIL.ImageFile.ImageFile.load", load)
    with pytest.raises(BrokenImageError) as caught:
        read_image(path, "a.bmp")
    assert 0 < len(caught.value.reason) <= 120
    assert "\n" not in caught.value.reason


def test_open_files_and_files_without_permission(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    content = io.BytesIO()
    Image.new("RGB", (4, 4), (1, 2, 3)).save(content, "PNG")
    content.seek(0)
    assert read_image(content, "a")[:, 0, 0].tolist() == [1, 2, 3]

    def deny(*_: object, **__: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(os, "open", deny)
    with pytest.raises(BrokenImageError, match="a: Permission denied"):
        read_image(tmp_path / "a.png", "a")


def test_a_missing_file_and_a_bomb_are_broken_images(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(BrokenImageError, match="No such file"):
        read_image(tmp_path / "gone.png", "gone.png")
    path = save(tmp_path, Image.new("L", (50, 50)), "a.png")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)
    with pytest.raises(BrokenImageError, match="decompression bomb"):
        read_image(path, "a.png")
