"""How an image file's rows and columns lie beside the image as a person would see it: EXIF's orientation."""

from __future__ import annotations

import numpy as np
from PIL import Image, TiffImagePlugin

_ORIENTATION = 0x0112  # EXIF tag
_UPRIGHT = {  # what turns an image of that orientation upright
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
_EXCHANGES_SIDES = {5, 6, 7, 8}
REVERSES_ACROSS, REVERSES_DOWN = {2, 3, 6, 7}, {3, 4, 7, 8}  # axes of the upright image that run backwards in the file


def orientation_of(image: Image.Image) -> int:
    """EXIF orientation, 1 (upright) where there is none or the metadata are damaged."""
    try:
        # the base class's method: that of PNG files decodes the pixels in search of more metadata
        found = int(Image.Image.getexif(image).get(_ORIENTATION, 1))
        return found if found in range(1, 9) else 1  # others mean nothing
    except Exception:  # pixels are worth having without their metadata
        return 1


def exchanges_sides(orientation: int) -> bool:
    """Whether turning an image of that EXIF orientation upright makes its width its height."""
    return orientation in _EXCHANGES_SIDES


def turned_upright(image: Image.Image, orientation: int) -> Image.Image:
    """An image of that EXIF orientation as a person would see it."""
    turn = _UPRIGHT.get(orientation)
    return image if turn is None else image.transpose(turn)


def stored_size(image: Image.Image) -> tuple[int, int]:
    """Width and height before rotation; of TIFF files, newer versions of Pillow give those after it as the size."""
    if isinstance(image, TiffImagePlugin.TiffImageFile):
        return int(image.tag_v2[TiffImagePlugin.IMAGEWIDTH]), int(image.tag_v2[TiffImagePlugin.IMAGELENGTH])
    return image.size


def as_stored(upright: np.ndarray, orientation: int) -> np.ndarray:
    """A view of an upright image (H, W, 3) in which its rows and columns lie as in a file of that orientation."""
    down = slice(None, None, -1 if orientation in REVERSES_DOWN else 1)
    across = slice(None, None, -1 if orientation in REVERSES_ACROSS else 1)
    turned = upright[down, across]
    return turned.transpose(1, 0, 2) if exchanges_sides(orientation) else turned
