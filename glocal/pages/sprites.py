"""Thumbnails of many images in a few files: a browser opens one sheet of a thousand as fast as one picture."""

from __future__ import annotations

import io
from collections.abc import Sequence
from typing import NamedTuple

from PIL import Image

from glocal.report.sheets import data_address

SIDE = 48  # of a thumbnail, in pixels
_ACROSS = 32
_ON_A_SHEET = _ACROSS * _ACROSS
_QUALITY = 60


class Sprites(NamedTuple):
    """Sheets of thumbnails.

    Attributes:
        sheets: WebP files, as addresses that hold their content.
        places: of each image, its sheet and the left and upper edge of its square there.
    """

    sheets: list[str]
    places: list[tuple[int, int, int]]

    def style(self, number: int) -> str:
        """What shows one image in an element of `SIDE` by `SIDE` pixels."""
        sheet, left, top = self.places[number]
        return f"background-image:var(--sheet-{sheet});background-position:-{left}px -{top}px"

    def css(self) -> str:
        """The sheets as properties that any element of the page can use, those in shadow roots as well."""
        return ":root{" + "".join(f"--sheet-{number}:url({sheet});" for number, sheet in enumerate(self.sheets)) + "}"


def make_sprites(thumbnails: Sequence[bytes | None]) -> Sprites:
    """Puts thumbnails side by side, each in the middle of a square; None leaves the square empty."""
    sheets: list[str] = []
    places: list[tuple[int, int, int]] = []
    for start in range(0, len(thumbnails), _ON_A_SHEET):
        some = thumbnails[start : start + _ON_A_SHEET]
        sheet = Image.new("RGB", (SIDE * min(_ACROSS, len(some)), SIDE * -(-len(some) // _ACROSS)), "#888888")
        for number, file in enumerate(some):
            top, left = (SIDE * place for place in divmod(number, _ACROSS))
            places.append((len(sheets), left, top))
            if file is not None:
                image = Image.open(io.BytesIO(file)).convert("RGB")
                image.thumbnail((SIDE, SIDE))
                if max(image.size) < SIDE:  # images smaller than a square fill it: pixels are what they have
                    grow = SIDE / max(image.size)
                    image = image.resize([max(1, round(side * grow)) for side in image.size], Image.Resampling.NEAREST)
                sheet.paste(image, (left + (SIDE - image.width) // 2, top + (SIDE - image.height) // 2))
        file_ = io.BytesIO()
        sheet.save(file_, "WEBP", quality=_QUALITY, method=4)
        sheets.append(data_address(file_.getvalue()))
    return Sprites(sheets, places)
