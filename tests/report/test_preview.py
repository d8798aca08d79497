"""The picture of matched patches: pairs are told by colour and number."""

import torch

from glocal.report.preview import _NUMBERS, _colors_of, _numbered


def places(rows: int, columns: int) -> torch.Tensor:
    return torch.cartesian_prod(torch.arange(rows) * 2 + 3, torch.arange(columns))


def test_every_place_has_a_colour_of_its_own() -> None:
    colors = _colors_of(places(9, 13))
    assert len(set(colors)) == 9 * 13
    assert all(0 <= channel <= 1 for color in colors for channel in color)
    assert len(_colors_of(places(1, 4))) == 4
    assert _colors_of(places(0, 3)) == []


def test_few_patches_are_all_numbered_and_many_in_even_steps() -> None:
    assert _numbered(places(5, 6)) == {place: place + 1 for place in range(30)}
    found = _numbered(places(13, 7))
    assert len(found) == 7 * 4 <= _NUMBERS
    rows, columns = places(13, 7)[list(found)].unbind(1)
    assert rows.unique().tolist() == [3, 7, 11, 15, 19, 23, 27]
    assert columns.unique().tolist() == [0, 2, 4, 6]
    assert _numbered(places(0, 3)) == {}
