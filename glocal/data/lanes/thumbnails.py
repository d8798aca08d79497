"""Small pictures of images, made where these are decoded."""

from __future__ import annotations

import io

from PIL import Image
from torch import Tensor
from torch.nn.functional import interpolate

from glocal.views.pictures import as_picture

_QUALITY = 80  # about 2 KB for 96 pixels of a photograph


def thumbnail_of(image: Tensor, side: int) -> bytes:
    """A small picture of an image as a JPEG file in memory; small images keep their size.

    Args:
        image: (3, H, W) uint8, or (C, H, W) float values, of which `as_picture` makes colours.
        side: the longer side of the picture in pixels, at most.
    """
    image = as_picture(image)
    height, width = image.shape[1:]
    share = side / max(height, width)
    if share < 1:  # in a quarter of the time that Pillow takes
        sides = max(1, round(height * share)), max(1, round(width * share))
        image = interpolate(image[None], sides, mode="bicubic", antialias=True)[0]
    file = io.BytesIO()
    Image.fromarray(image.permute(1, 2, 0).numpy()).save(file, "JPEG", quality=_QUALITY, optimize=True)
    return file.getvalue()
