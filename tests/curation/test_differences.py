"""What differs between two files, in words, for all that is done to copies."""

import re
from pathlib import Path

import pytest
from PIL import Image, ImageEnhance, ImageOps

from glocal.curation.differences import Comparison, Stored, compare, difference
from tests.curation.pictures import KINDS, SIZE, captioned, cropped, picture

EXPECTED = {
    "resized": ["96×72 instead of 192×144 pixels"],
    "cropped": ["cropped to 70% × 70%, from 20% left and 10% top"],
    "compressed": [],
    "mirrored": ["mirrored"],
    "grey": ["grey"],
    "rotated": ["rotated by about 5° counter-clockwise"],
    "captioned": ["with a border or bar: the image is 100% × 90% of it, from 0% left and 0% top"],
    "brightened": ["brighter", "more contrast"],
}


def differs(one: Image.Image, other: Image.Image) -> list[str]:
    return difference(one, other, one.size, other.size)


def about(words: list[str]) -> list[str]:
    """Words whose shares are rounded to tens of percent."""
    return [re.sub(r"\d+%", lambda found: f"{round(int(found[0][:-1]), -1)}%", word) for word in words]


@pytest.mark.parametrize("kind", KINDS)
def test_what_was_done_is_said(kind: str) -> None:
    image = picture(1)
    assert about(differs(image, KINDS[kind](image))) == EXPECTED[kind]


def test_several_things_at_once_are_all_said() -> None:
    image = picture(2)
    part = cropped(image)
    small = ImageOps.mirror(part).resize((part.width // 2, part.height // 2), Image.Resampling.LANCZOS)
    found = differs(image, ImageEnhance.Brightness(small.convert("L").convert("RGB")).enhance(0.7))
    assert found[:2] == ["resized to 50%", "mirrored"]
    assert found[2].startswith("cropped to 7")
    assert {"grey", "darker"} <= set(found[3:])


def test_the_other_way_round_it_is_said_the_other_way_round() -> None:
    image = picture(3)
    assert about(differs(captioned(image), image)) == ["cropped to 100% × 90%, from 0% left and 0% top"]
    assert differs(image.convert("L").convert("RGB"), image) == ["in colour"]


@pytest.mark.parametrize("size", [(9, 200), (1, 1), (40, 3)])
def test_odd_sizes_and_blank_images_are_no_errors(size: tuple[int, int]) -> None:
    for image in (picture(4, size), Image.new("RGB", size)):
        assert isinstance(differs(picture(5), image), list)
        assert isinstance(differs(Image.new("RGB", SIZE), image), list)


def test_images_that_have_nothing_in_common_are_not_explained() -> None:
    assert differs(picture(6), picture(7)) == ["doubtful: no place found where one lies upon the other"]


def test_files_are_compared_by_their_bytes_too(tmp_path: Path) -> None:
    picture(8).save(tmp_path / "fine.jpg", quality=95)
    picture(8).save(tmp_path / "coarse.jpg", quality=20)
    (tmp_path / "broken.jpg").write_bytes(b"no image")
    fine, coarse, broken = (Stored(str(tmp_path / f"{name}.jpg")) for name in ("fine", "coarse", "broken"))
    found = compare(Comparison(fine, coarse, 1000, 200))
    assert found.words == ["compressed more: 20% of the bytes"]
    assert found.picture is not None
    assert compare(Comparison(coarse, fine, 200, 1000)).words == ["compressed less: 5.0 times the bytes"]
    assert compare(Comparison(fine, fine, 1, 1, same=True)).words == ["same bytes"]
    assert compare(Comparison(None, fine)).words == []
    assert compare(Comparison(fine, broken)).words == ["cannot be read: no image in a format that Pillow reads"]
    assert compare(Comparison(broken, fine)).words == ["the largest file cannot be read"]
    assert compare(Comparison(fine, Stored(None))).picture is None
