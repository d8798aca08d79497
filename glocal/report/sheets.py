"""Sheets of small pictures with captions: a page that needs no network, or one picture."""

from __future__ import annotations

import base64
import html
import io
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path

import matplotlib
from PIL import Image, ImageDraw, ImageFont

from glocal.files import check_output, printable, write_atomically, write_text

_SIDE = 160  # of a picture, in pixels
_GAP, _LINE = 14, 16
_MOST_COLUMNS, _LEAST_WIDTH = 12, 720
_GREY, _GROUND, _MARK = "#666666", "#f0f0f0", "#33aa77"

_STYLE = """
:root { color-scheme: light dark; }
body { font: 15px/1.5 system-ui, sans-serif; margin: 2rem auto; max-width: 84rem; padding: 0 1rem; }
h1 { font-size: 1.5rem; } h2 { font-size: 1.1rem; margin: 2rem 0 0; } p { margin: .3rem 0; max-width: 46rem; }
.tiles { display: flex; flex-wrap: wrap; gap: 1rem; margin-top: .7rem; }
figure { margin: 0; width: 10rem; overflow-wrap: anywhere; font-size: .78rem; line-height: 1.35; }
figcaption { margin-top: .3rem; color: #777; } figcaption b { font-weight: 500; color: CanvasText; }
img, .none { width: 10rem; height: 10rem; background: #8882; border-radius: 4px; }
img { object-fit: contain; display: block; } .none { display: grid; place-items: center; color: #777; }
.marked img, .marked .none { outline: 3px solid #3a7; }
"""


@dataclass(frozen=True)
class Tile:
    """A small picture.

    Attributes:
        picture: a JPEG or PNG file in memory; None leaves the place empty.
        caption: lines below it; the whole text in a page, cut to the width in a picture.
        link: where a click leads, in a page; a file's absolute path or an address.
        marked: it has a frame: the query, the file to keep.
    """

    picture: bytes | None
    caption: Sequence[str] = ()
    link: str | None = None
    marked: bool = False


@dataclass(frozen=True)
class Section:
    """A row of pictures that belong together, under a title and a sentence or two."""

    title: str
    tiles: Sequence[Tile]
    text: Sequence[str] = field(default_factory=tuple)


def jpeg(image: Image.Image, side: int = _SIDE) -> bytes:
    """A small picture of an image as a JPEG file in memory, its longer side `side` pixels at most."""
    small = image.convert("RGB")
    small.thumbnail((side, side))
    file = io.BytesIO()
    small.save(file, "JPEG", quality=85)
    return file.getvalue()


def data_address(file: bytes) -> str:
    """An address that holds a JPEG, PNG or WebP file itself."""
    kind = "png" if file.startswith(b"\x89PNG") else "webp" if file[8:12] == b"WEBP" else "jpeg"
    return f"data:image/{kind};base64,{base64.b64encode(file).decode()}"


def write_sheet(path: str | Path, title: str, sections: Sequence[Section], text: Sequence[str] = ()) -> None:
    """Writes sections of pictures as a page (.html) that holds all that it shows, or as one picture (.png).

    Args:
        path: the file; its ending decides.
        title: of the whole.
        sections: in order.
        text: paragraphs below the title.

    Raises:
        GlocalError: another ending, or no file can be written there.
    """
    path = Path(path)
    check_output(path, (".html", ".png"), option="")
    if path.suffix.lower() == ".html":
        write_text(path, _page(title, sections, text))
        return
    drawn = _picture(title, sections, text)
    write_atomically(path, lambda file: drawn.save(file, "PNG"))


def _page(title: str, sections: Sequence[Section], text: Sequence[str]) -> str:
    lines = [
        '<!doctype html><html lang="en"><head><meta charset="utf-8">',
        '<meta name="viewport" content="width=device-width, initial-scale=1">',
        f"<title>{html.escape(title)}</title><style>{_STYLE}</style></head><body><h1>{html.escape(title)}</h1>",
        *(f"<p>{html.escape(paragraph)}</p>" for paragraph in text),
    ]
    for section in sections:
        lines.append(f"<h2>{html.escape(section.title)}</h2>")
        lines += [f"<p>{html.escape(paragraph)}</p>" for paragraph in section.text]
        lines.append('<div class="tiles">')
        lines += [_figure(tile) for tile in section.tiles]
        lines.append("</div>")
    return "\n".join([*lines, "</body></html>", ""])


def _figure(tile: Tile) -> str:
    if tile.picture is None:
        shown = '<div class="none">no picture</div>'
    else:
        shown = f'<img loading="lazy" alt="" src="{data_address(tile.picture)}">'
    if tile.link:
        target = Path(tile.link).as_uri() if tile.link.startswith("/") else tile.link
        shown = f'<a href="{html.escape(target)}">{shown}</a>'
    first, *others = [html.escape(printable(line)) for line in tile.caption] or [""]
    caption = "<br>".join([f"<b>{first}</b>", *others])
    mark = ' class="marked"' if tile.marked else ""
    return f"<figure{mark}>{shown}<figcaption>{caption}</figcaption></figure>"


def _picture(title: str, sections: Sequence[Section], text: Sequence[str]) -> Image.Image:
    """All sections one below the other. What is drawn is measured first: the canvas has to be made whole."""
    columns = _columns([len(section.tiles) for section in sections])
    width = max(columns * (_SIDE + _GAP) + _GAP, _LEAST_WIDTH)
    pen = _Pen(width)
    pen.headings(title, sections, text, columns)
    sheet = Image.new("RGB", (width, pen.top), "white")
    pen = _Pen(width, ImageDraw.Draw(sheet), sheet)
    pen.headings(title, sections, text, columns)
    return sheet


def _columns(tiles: Sequence[int]) -> int:
    """Pictures in a row: at most 12, and so that the last row of the longest section is not nearly empty."""
    longest = max([1, *tiles])
    return -(-longest // -(-longest // _MOST_COLUMNS))


class _Pen:
    """Draws from the top down; without a sheet it only moves, which tells how high the sheet has to be.

    Args:
        width: of the sheet.
        draw, sheet: what it draws on.
    """

    def __init__(self, width: int, draw: ImageDraw.ImageDraw | None = None, sheet: Image.Image | None = None) -> None:
        self.width = width
        self.draw = draw
        self.sheet = sheet
        self.top = _GAP

    def headings(self, title: str, sections: Sequence[Section], text: Sequence[str], columns: int) -> None:
        """Everything: the title, the text, and each section's title, text and pictures."""
        self.line(title, _font(20, bold=True), 28)
        for paragraph in text:
            self.line(paragraph, _font(13), _LINE, _GREY)
        for section in sections:
            self.top += _GAP
            self.line(section.title, _font(14, bold=True), 20)
            for paragraph in section.text:
                self.line(paragraph, _font(13), _LINE, _GREY)
            self.top += _GAP // 2
            for first in range(0, len(section.tiles), columns):
                self.row(section.tiles[first : first + columns])
        self.top += _GAP

    def line(self, text: str, font: ImageFont.FreeTypeFont, height: int, colour: str = "black") -> None:
        """A line over the whole width."""
        self.write((_GAP, self.top), text, self.width - 2 * _GAP, font, colour)
        self.top += height

    def row(self, tiles: Sequence[Tile]) -> None:
        """Pictures side by side, with their captions."""
        for number, tile in enumerate(tiles):
            left = _GAP + number * (_SIDE + _GAP)
            self.tile(tile, left)
            for place, caption in enumerate(tile.caption):
                at = (left, self.top + _SIDE + 4 + place * _LINE)
                self.write(at, caption, _SIDE, _font(12), _GREY if place else "black")
        self.top += _SIDE + 4 + _LINE * max(len(tile.caption) for tile in tiles) + _GAP

    def tile(self, tile: Tile, left: int) -> None:
        """One picture in the middle of a grey square."""
        if self.draw is None or self.sheet is None:
            return
        square = (left, self.top, left + _SIDE - 1, self.top + _SIDE - 1)
        self.draw.rectangle(square, fill=_GROUND)
        if tile.picture is None:
            self.draw.text((left + _SIDE // 2, self.top + _SIDE // 2), "no picture", _GREY, _font(12), anchor="mm")
        else:
            small = Image.open(io.BytesIO(tile.picture)).convert("RGB")
            share = _SIDE / max(small.size)
            small = small.resize([max(1, round(side * share)) for side in small.size], Image.Resampling.LANCZOS)
            self.sheet.paste(small, (left + (_SIDE - small.width) // 2, self.top + (_SIDE - small.height) // 2))
        if tile.marked:
            self.draw.rectangle([left - 3, self.top - 3, left + _SIDE + 2, self.top + _SIDE + 2], None, _MARK, 3)

    def write(self, at: tuple[int, int], text: str, room: int, font: ImageFont.FreeTypeFont, colour: str) -> None:
        """Text that is cut in its middle where it is too long: names differ at their ends as well."""
        if self.draw is None:
            return
        text = printable(text)
        keep = len(text)
        shown = text
        while keep > 1 and self.draw.textlength(shown, font) > room:
            keep -= 1
            shown = f"{text[: -(-keep // 2)].rstrip()}…{text[len(text) - keep // 2 :].lstrip()}"
        self.draw.text(at, shown, colour, font)


@cache
def _font(size: int, *, bold: bool = False) -> ImageFont.FreeTypeFont:
    """DejaVu, which comes with matplotlib and has letters of many scripts."""
    name = f"DejaVuSans{'-Bold' if bold else ''}.ttf"
    return ImageFont.truetype(str(Path(matplotlib.get_data_path()) / "fonts" / "ttf" / name), size)
