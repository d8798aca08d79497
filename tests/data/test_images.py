"""Every mode and format becomes RGB as a person would see it; what cannot be read says why."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image, ImageOps

from glocal.data.images import image_size, read_image
from glocal.errors import BrokenImageError


def save(tmp_path: Path, image: Image.Image, name: str, **options: object) -> Path:
    path = tmp_path / name
    image.save(path, **options)
    return path


def pixel(path: Path, tolerance: int = 0) -> list[int]:
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
    "HSV": (lambda: Image.new("RGB", (4, 4), (0, 200, 0)).convert("YCbCr"), "a.tif", [0, 200, 0]),
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


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_rotation_is_applied(orientation: int, tmp_path: Path) -> None:
    pixels = np.arange(6 * 4 * 3, dtype=np.uint8).reshape(6, 4, 3) * 3
    image = Image.fromarray(pixels)
    exif = Image.Exif()
    exif[0x0112] = orientation
    path = save(tmp_path, image, "a.png", exif=exif)
    with Image.open(path) as opened:
        expected = torch.from_numpy(np.array(ImageOps.exif_transpose(opened))).permute(2, 0, 1)
    assert torch.equal(read_image(path, "a"), expected)
    assert image_size(path) == tuple(expected.shape[1:])


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


def test_a_missing_file_and_a_bomb_are_broken_images(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(BrokenImageError, match="No such file"):
        read_image(tmp_path / "gone.png", "gone.png")
    path = save(tmp_path, Image.new("L", (50, 50)), "a.png")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)
    with pytest.raises(BrokenImageError, match="decompression bomb"):
        read_image(path, "a.png")
