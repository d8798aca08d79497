"""The page itself: one file that needs nothing else, in plain HTML with Bokeh's script in it."""

from __future__ import annotations

import html
import json
from collections.abc import Mapping, Sequence
from functools import cache
from importlib.resources import files
from typing import Any, NamedTuple

from bokeh.embed import components
from bokeh.resources import Resources

from glocal.files import printable
from glocal.pages.scatter import OTHERS
from glocal.pages.verdict import Sentence


class Part(NamedTuple):
    """A section of a page.

    Attributes:
        title: its heading, and its entry in the list on top.
        body: HTML; `{{name}}` stands for the figure of that name.
    """

    title: str
    body: str


def escaped(text: object) -> str:
    """Text for HTML; bytes of file names that are no UTF-8 are escapes, and nothing stands for a figure."""
    return html.escape(printable(str(text))).replace("{", "&#123;")


def write_page(
    title: str,
    head: str,
    parts: Sequence[Part],
    figures: Mapping[str, Any],
    *,
    style: str = "",
    data: Mapping[str, Any] | None = None,
    ending: str = "",
    library: str = "",
) -> str:
    """A whole page as text.

    Args:
        title: of the page.
        head: HTML below the title.
        parts: sections in order.
        figures: Bokeh figures by the names that parts have for them.
        style: more CSS.
        data: what the script of maps needs; None where there is no map.
        ending: HTML at the end, scripts for example.
        library: address of Bokeh's script, where it shall not be in the page.
    """
    script, places = components(dict(figures)) if figures else ("", {})
    loaded = ""
    if figures:
        own = f"<script>{bokeh_script(maps=data is not None)}</script>"
        loaded = f'<script src="{library}"></script>' if library else own
    sections = []
    for part in parts:
        body = part.body
        for name, place in places.items():
            body = body.replace(f"{{{{{name}}}}}", place)
        sections.append(f'<section id="{_anchor(part.title)}"><h2>{escaped(part.title)}</h2>{body}</section>')
    links = "".join(f'<a href="#{_anchor(part.title)}">{escaped(part.title)}</a>' for part in parts)
    if data is not None:
        # An element of a script ends at "</script", and begins another one at "<!--", wherever that stands.
        text = json.dumps({**data, "others": OTHERS}, ensure_ascii=False, separators=(",", ":"))
        text = printable(text.replace("<", "\\u003c"))
        ending += f'<script type="application/json" id="data">{text}</script><script>{packaged("page.js")}</script>'
    return "\n".join(
        [
            '<!doctype html><html lang="en"><head><meta charset="utf-8">',
            '<meta name="viewport" content="width=device-width, initial-scale=1"><link rel="icon" href="data:,">',
            f"<title>{escaped(title)}</title><style>{packaged('page.css')}{style}</style>{loaded}</head>",
            f"<body><h1>{escaped(title)}</h1>{head}{f'<nav>{links}</nav>' if len(parts) > 1 else ''}",
            *sections,
            script,
            ending,
            "</body></html>",
            "",
        ]
    )


def verdict_list(sentences: Sequence[Sentence]) -> str:
    """A verdict as HTML, commands in the letters of commands."""
    lines = []
    for mood, text, command in sentences:
        typed = f" <code>{escaped(command)}</code>" if command else ""
        lines.append(f'<li class="{mood}">{escaped(text)}{typed}</li>')
    return f'<ul class="verdict">{"".join(lines)}</ul>'


def table(header: Sequence[str], rows: Sequence[Sequence[object]], *, numbers_from: int) -> str:
    """A table as HTML, the cells from one column on right-aligned; it scrolls sideways where it is too wide."""

    def line(cells: Sequence[object], kind: str) -> str:
        return "".join(
            f"<{kind}{' class=number' if place >= numbers_from else ''}>{escaped(cell)}</{kind}>"
            for place, cell in enumerate(cells)
        )

    body = "".join(f"<tr>{line(row, 'td')}</tr>" for row in rows)
    return f'<div class="scroll"><table><thead><tr>{line(header, "th")}</tr></thead><tbody>{body}</tbody></table></div>'


def _anchor(title: str) -> str:
    return "".join(letter if letter.isalnum() else "-" for letter in title.lower())


def packaged(name: str) -> str:
    """A script or style of this folder."""
    return files("glocal.pages").joinpath(name).read_text(encoding="utf-8")


@cache
def bokeh_script(*, maps: bool = False) -> str:
    """Bokeh's own script; with what draws the points of maps by the graphics card."""
    return "\n".join(Resources(mode="inline", components=["bokeh", *(["bokeh-gl"] if maps else [])]).js_raw)
