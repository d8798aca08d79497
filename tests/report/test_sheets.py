"""Sheets of pictures: a page that holds all that it shows, and one picture."""

import re
from pathlib import Path

import pytest
from PIL import Image

from glocal.errors import GlocalError
from glocal.report.sheets import Section, Tile, jpeg, write_sheet


def test_a_page_holds_its_pictures_and_escapes_what_names_hold(tmp_path: Path) -> None:
    red = jpeg(Image.new("RGB", (300, 100), "red"))
    tiles = [Tile(red, ["<b>a & b</b>", "0.91"], link=str(tmp_path / "a b.png"), marked=True), Tile(None, ["gone"])]
    write_sheet(
        tmp_path / "new" / "sheet.html", "nearest of <x>", [Section("query", tiles, ["one sentence"])], ["intro"]
    )
    page = (tmp_path / "new" / "sheet.html").read_text()
    assert "nearest of &lt;x&gt;" in page
    assert "&lt;b&gt;a &amp; b&lt;/b&gt;" in page
    assert page.count("data:image/jpeg;base64,") == 1
    assert "a%20b.png" in page
    assert not re.findall(r'(?:src|href)="https?:', page)


def test_a_picture_shows_every_tile(tmp_path: Path) -> None:
    colours = ["red", "lime", "blue"]
    tiles = [Tile(jpeg(Image.new("RGB", (64, 64), colour)), ["a long name " * 9]) for colour in colours]
    write_sheet(tmp_path / "sheet.png", "title", [Section("one", tiles[:2]), Section("two", tiles[2:] * 13)])
    with Image.open(tmp_path / "sheet.png") as sheet:
        found = {colour for count, colour in sheet.convert("RGB").getcolors(1 << 20) if count > 2000}
    assert len(found) >= 4  # white, and the three


def test_another_ending_is_refused(tmp_path: Path) -> None:
    with pytest.raises(GlocalError, match=r"the name must end in .html or .png"):
        write_sheet(tmp_path / "sheet.htm", "title", [])


def test_rows_are_filled_and_long_names_keep_their_ends(tmp_path: Path) -> None:
    tile = Tile(jpeg(Image.new("RGB", (64, 64), "red")), ["0.9"])
    widths = []
    for count in (12, 13, 21):
        write_sheet(tmp_path / "sheet.png", "title", [Section("one", [tile] * count)])
        with Image.open(tmp_path / "sheet.png") as sheet:
            widths.append(sheet.width)
    assert widths[0] > widths[2] > widths[1]  # 12, 7 and 11 in a row
    for names in (["a" * 60 + "b", "a" * 60 + "c"], ["b" + "a" * 60, "c" + "a" * 60]):
        drawn = []
        for name in names:
            write_sheet(tmp_path / "sheet.png", "title", [Section("one", [Tile(None, [name])])])
            drawn.append((tmp_path / "sheet.png").read_bytes())
        assert drawn[0] != drawn[1]
