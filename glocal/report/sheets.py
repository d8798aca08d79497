"""Sheets of small pictures with captions: a page that needs no network, or one picture."""

from __future__ import annotations

import base64
import html
import io
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

from glocal.errors import GlocalError
from glocal.files import printable, write_atomically, write_text

_SIDE = 128  # of a picture, in pixels
_GAP, _LINE = 8, 13

_STYLE = """
:root { color-scheme: light dark; }
body { font: 15px/1.5 system-ui, sans-serif; margin: 2rem auto; max-width: 84rem; padding: 0 1rem; }
h1 { font-size: 1.5rem; } h2 { font-size: 1.1rem; margin: 2rem 0 0; } p { margin: .3rem 0; max-width: 46rem; }
.tiles { display: flex; flex-wrap: wrap; gap: .8rem; margin-top: .6rem; }
figure { margin: 0; width: 8.5rem; overflow-wrap: anywhere; font-size: .78rem; line-height: 1.3; }
figure.marked { outline: 2px solid #3a7; outline-offset: 3px; }
img { width: 8.5rem; height: 8.5rem; object-fit: contain; background: #8883; display: block; }
.none { height: 8.5rem; display: grid; place-items: center; background: #8883; }
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


def write_sheet(path: str | Path, title: str, sections: Sequence[Section], text: Sequence[str] = ()) -> None:
    """Writes sections of pictures as a page (.html) that holds all that it shows, or as one picture (.png).

    Args:
        path: the file; its ending decides.
        title: of the whole.
        sections: in order.
        text: paragraphs below the title.

    Raises:
        GlocalError: another ending, or a folder that is not there.
    """
    path = Path(path)
    if path.suffix.lower() not in (".html", ".png"):
        raise GlocalError(f"{path}: write a sheet to a .html or a .png file")
    path.parent.mkdir(parents=True, exist_ok=True)
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
        kind = "png" if tile.picture.startswith(b"\x89PNG") else "jpeg"
        shown = f'<img loading="lazy" alt="" src="data:image/{kind};base64,{base64.b64encode(tile.picture).decode()}">'
    if tile.link:
        target = Path(tile.link).as_uri() if tile.link.startswith("/") else tile.link
        shown = f'<a href="{html.escape(target)}">{shown}</a>'
    caption = "<br>".join(html.escape(printable(line)) for line in tile.caption)
    mark = ' class="marked"' if tile.marked else ""
    return f"<figure{mark}>{shown}<figcaption>{caption}</figcaption></figure>"


def _picture(title: str, sections: Sequence[Section], text: Sequence[str]) -> Image.Image:
    font = ImageFont.load_default(11)
    columns = max([1, *(min(len(section.tiles), 12) for section in sections)])
    width = max(columns * (_SIDE + _GAP) + _GAP, 640)
    captions = [max([0, *(len(tile.caption) for tile in section.tiles)]) for section in sections]
    rows = [-(-len(section.tiles) // columns) for section in sections]
    heights = [
        _LINE * (1 + len(section.text)) + _GAP + count * (_SIDE + lines * _LINE + _GAP)
        for section, count, lines in zip(sections, rows, captions, strict=True)
    ]
    sheet = Image.new("RGB", (width, _GAP + _LINE * (2 + len(text)) + sum(heights) + _GAP), "white")
    draw = ImageDraw.Draw(sheet)

    def write(place: tuple[int, int], line: str, room: int) -> None:
        line = printable(line)
        while line and draw.textlength(line, font) > room:
            line = line[:-2] + "…" if len(line) > 2 else ""
        draw.text(place, line, "black", font)

    top = _GAP
    for line in (title, *text):
        write((_GAP, top), line, width - 2 * _GAP)
        top += _LINE
    top += _LINE
    for section, lines in zip(sections, captions, strict=True):
        for line in (section.title, *section.text):
            write((_GAP, top), line, width - 2 * _GAP)
            top += _LINE
        for number, tile in enumerate(section.tiles):
            left = _GAP + number % columns * (_SIDE + _GAP)
            high = top + _GAP // 2 + number // columns * (_SIDE + lines * _LINE + _GAP)
            if tile.picture is not None:
                small = Image.open(io.BytesIO(tile.picture)).convert("RGB")
                small.thumbnail((_SIDE, _SIDE))
                sheet.paste(small, (left + (_SIDE - small.width) // 2, high + (_SIDE - small.height) // 2))
            if tile.marked:
                draw.rectangle(
                    (left - 2, high - 2, left + _SIDE + 1, high + _SIDE + 1), outline=(51, 170, 119), width=2
                )
            for place, line in enumerate(tile.caption):
                write((left, high + _SIDE + place * _LINE), line, _SIDE)
        top += -(-len(section.tiles) // columns) * (_SIDE + lines * _LINE + _GAP) + _GAP
    return sheet
