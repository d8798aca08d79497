"""Pictures with texture for tests of copies, and what is done to them."""

import io
from collections.abc import Callable

import numpy as np
from PIL import Image, ImageEnhance, ImageOps

SIZE = (192, 144)


def picture(seed: int, size: tuple[int, int] = SIZE) -> Image.Image:
    """Coloured clouds with detail, unlike those of any other seed."""
    rng = np.random.default_rng(seed)
    total = np.zeros((size[1], size[0], 3))
    for cells, weight in ((4, 1.0), (9, 0.6), (24, 0.3)):
        noise = rng.integers(0, 256, (cells, cells, 3), dtype=np.uint8)
        total += weight * np.asarray(Image.fromarray(noise).resize(size, Image.Resampling.BICUBIC), float)
    total = (total - total.min()) / (total.max() - total.min())
    return Image.fromarray((30 + 170 * total).astype(np.uint8))


def compressed(image: Image.Image) -> Image.Image:
    file = io.BytesIO()
    image.save(file, "JPEG", quality=20)
    return Image.open(file).convert("RGB")


def captioned(image: Image.Image) -> Image.Image:
    framed = Image.new("RGB", (image.width, round(1.15 * image.height)))
    framed.paste(image)
    return framed


def cropped(image: Image.Image) -> Image.Image:
    """70 % of either side, from 20 % left and 10 % top."""
    width, height = image.size
    left, top = round(0.2 * width), round(0.1 * height)
    return image.crop((left, top, left + round(0.7 * width), top + round(0.7 * height)))


KINDS: dict[str, Callable[[Image.Image], Image.Image]] = {
    "resized": lambda image: image.resize((image.width // 2, image.height // 2), Image.Resampling.LANCZOS),
    "cropped": cropped,
    "compressed": compressed,
    "mirrored": ImageOps.mirror,
    "grey": lambda image: image.convert("L").convert("RGB"),
    "rotated": lambda image: image.rotate(5, Image.Resampling.BICUBIC),
    "captioned": captioned,
    "brightened": lambda image: ImageEnhance.Brightness(image).enhance(1.25),
}
HASH_STAYS = ("resized", "compressed", "mirrored", "grey", "brightened")
