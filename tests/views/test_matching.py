"""Which patches of two views show the same part of the image."""

import json
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from glocal.errors import GlocalError
from glocal.views.geometry import PatchMatches, ViewGeometry, match_patches
from glocal.views.plan import View, ViewPlan

GOLDEN = json.loads((Path(__file__).parents[1] / "golden" / "match.json").read_text())


def geometry(side: str) -> ViewGeometry:
    boxes = torch.tensor([case[f"box_{side}"] for case in GOLDEN], dtype=torch.float64)
    return ViewGeometry(boxes, torch.tensor([case[f"flip_{side}"] for case in GOLDEN]))


def pairs(matches: PatchMatches, number: int) -> tuple[list[int], list[int]]:
    valid = matches.valid[number]
    return matches.index_a[number][valid].tolist(), matches.index_b[number][valid].tolist()


def grids(side: str) -> torch.Tensor:
    return torch.tensor([case[f"grid_{side}"] for case in GOLDEN])


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_all_golden_pairs_match_exactly_in_one_call(dtype: torch.dtype) -> None:
    a, b = geometry("a"), geometry("b")
    a, b = ViewGeometry(a.box.to(dtype), a.flipped), ViewGeometry(b.box.to(dtype), b.flipped)
    matches = match_patches(a, b, grids("a"), grids("b"))
    assert len(GOLDEN) == 120
    for number, case in enumerate(GOLDEN):
        assert pairs(matches, number) == (case["a"], case["b"])


def test_the_longer_list_keeps_numpys_floor_of_linspace() -> None:
    for longer in range(1, 31):  # from 31 on, numpy's own rounding puts a few whole numbers just below themselves
        for shorter in range(1, longer + 1):
            box = torch.tensor([[0.0, 0.0, 1.0, 1.0]])
            view = ViewGeometry(box, torch.tensor([False]))
            matches = match_patches(view, view, longer, shorter)
            columns = matches.index_a[0][matches.valid[0]][:shorter]
            expected = np.floor(np.linspace(0, longer - 1, shorter)).astype(int)
            assert columns.tolist() == expected.tolist()


def test_many_pairs_of_views_are_one_call_that_equals_single_ones() -> None:
    plan = ViewPlan([View(count=2, size=224, scale=(0.4, 1.0)), View(count=8, size=96, scale=(0.05, 0.4))])
    geometry = plan.draw_geometry(torch.tensor([375, 500]), 0, 0, torch.arange(16))
    teacher = [(0, v) for v in range(1, 10)] + [(1, v) for v in range(10) if v != 1]
    first, second = (torch.tensor(side) for side in zip(*teacher, strict=True))
    grid = torch.tensor([14, 14] + [6] * 8)
    a = ViewGeometry(geometry.box[:, first], geometry.flipped[:, first])
    b = ViewGeometry(geometry.box[:, second], geometry.flipped[:, second])
    together = match_patches(a, b, grid[first], grid[second])
    assert together.valid.shape == (16, 18, 14 * 14)
    assert together.valid.any(dim=-1).double().mean() > 0.5
    for column, (g, v) in enumerate(teacher):
        single = match_patches(geometry.view(g), geometry.view(v), int(grid[g]), int(grid[v]))
        for row in range(16):
            apart = PatchMatches(together.index_a[:, column], together.index_b[:, column], together.valid[:, column])
            assert pairs(apart, row) == pairs(single, row)


def _centre(box: list[float], flipped: bool, grid: int, patch: int) -> tuple[float, float]:
    row, column = divmod(patch, grid)
    column = grid - 1 - column if flipped else column
    left, top, right, bottom = box
    return left + (column + 0.5) / grid * (right - left), top + (row + 0.5) / grid * (bottom - top)


def test_nearest_is_the_exhaustive_search_over_centres() -> None:
    matches = match_patches(geometry("a"), geometry("b"), grids("a"), grids("b"), rule="nearest")
    for number, case in enumerate(GOLDEN[:40]):
        found = dict(zip(*reversed(pairs(matches, number)), strict=True))
        left, top, right, bottom = case["box_a"]
        for patch in range(case["grid_b"] ** 2):
            x, y = _centre(case["box_b"], case["flip_b"], case["grid_b"], patch)
            assert (patch in found) == (left <= x < right and top <= y < bottom)
            if patch in found:
                centres = [
                    _centre(case["box_a"], case["flip_a"], case["grid_a"], p) for p in range(case["grid_a"] ** 2)
                ]
                distances = [(x - u) ** 2 + (y - v) ** 2 for u, v in centres]
                assert distances[found[patch]] == pytest.approx(min(distances), abs=1e-9)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_nearest_knows_what_lies_on_a_border(dtype: torch.dtype) -> None:
    """In whole numbers: a centre on a's left or top edge is inside, one on its right or bottom edge is not."""
    plan = ViewPlan([View(count=2, size=32, scale=(0.1, 1.0))])
    drawn = plan.draw_geometry(torch.tensor([32, 32]), 0, 0, torch.arange(300))
    a, b = (ViewGeometry(drawn.box[:, n].to(dtype), drawn.flipped[:, n]) for n in (0, 1))
    matches = match_patches(a, b, 7, 6, rule="nearest")
    for image in range(300):
        (left, top, right, bottom), own = drawn.box[image, 0].int().tolist(), drawn.box[image, 1].int().tolist()
        valid = matches.valid[image].tolist()
        for patch in range(36):
            row, column = divmod(patch, 6)
            column = 5 - column if drawn.flipped[image, 1] else column
            x = 12 * own[0] + (2 * column + 1) * (own[2] - own[0])  # in twelfths of a pixel
            y = 12 * own[1] + (2 * row + 1) * (own[3] - own[1])
            assert valid[patch] == (12 * left <= x < 12 * right and 12 * top <= y < 12 * bottom)


def _covered(box: list[float], overlap: tuple[float, float, float, float], grid: int) -> tuple[list[int], list[int]]:
    """The rows and columns of a crop of which more than half lies in the overlap, as seen in the source image."""
    kept: list[list[int]] = []
    for low, high, first, last in ((1, 3, overlap[1], overlap[3]), (0, 2, overlap[0], overlap[2])):
        side = Fraction(box[high]) - Fraction(box[low])
        kept.append([])
        for patch in range(grid):
            start, end = (Fraction(box[low]) + side * edge / grid for edge in (patch, patch + 1))
            inside = min(end, Fraction(last)) - max(start, Fraction(first))
            if inside > (end - start) / 2:
                kept[-1].append(patch)
    return kept[0], kept[1]


def _printed(case: dict[str, Any]) -> tuple[list[int], list[int]]:
    """Section 3.3 in its own words, patch by patch and in fractions."""
    boxes = case["box_a"], case["box_b"]
    overlap = tuple(choose(boxes[0][n], boxes[1][n]) for n, choose in enumerate((max, max, min, min)))
    if overlap[0] >= overlap[2] or overlap[1] >= overlap[3]:
        return [], []
    rows, columns = zip(*(_covered(case[f"box_{side}"], overlap, case[f"grid_{side}"]) for side in "ab"), strict=True)
    for lists in (rows, columns):
        longer, shorter = sorted(lists, key=len, reverse=True)
        if shorter:
            longer[:] = longer[:: len(longer) // len(shorter)][: len(shorter)]
        else:
            longer.clear()
    found: list[list[int]] = []
    for number, side in enumerate("ab"):
        grid = case[f"grid_{side}"]
        across = [grid - 1 - column if case[f"flip_{side}"] else column for column in columns[number]]
        found.append([row * grid + column for row in rows[number] for column in across])
    return found[0], found[1]


def _drawn_cases() -> list[dict[str, Any]]:
    plan = ViewPlan([View(count=2, size=32, scale=(0.02, 1.0))])
    drawn = plan.draw_geometry(torch.tensor([60, 80]), 0, 0, torch.arange(200))
    return [
        {
            **{f"box_{side}": drawn.box[n, view].tolist() for view, side in enumerate("ab")},
            **{f"flip_{side}": bool(drawn.flipped[n, view]) for view, side in enumerate("ab")},
            "grid_a": 14,
            "grid_b": 6,
        }
        for n in range(200)
    ]


@pytest.mark.parametrize("cases", [GOLDEN, _drawn_cases()], ids=["golden", "drawn"])
def test_printed_is_the_rule_in_the_words_of_the_paper(cases: list[dict[str, Any]]) -> None:
    a, b = (
        ViewGeometry(
            torch.tensor([case[f"box_{side}"] for case in cases], dtype=torch.float64),
            torch.tensor([case[f"flip_{side}"] for case in cases]),
        )
        for side in "ab"
    )
    grid_a, grid_b = (torch.tensor([case[f"grid_{side}"] for case in cases]) for side in "ab")
    matches = match_patches(a, b, grid_a, grid_b, rule="printed")
    for number, case in enumerate(cases):
        assert pairs(matches, number) == _printed(case)


def test_the_papers_figure_shows_spread_and_not_its_words() -> None:
    """Figure 2: of four rows for three the first, second and fourth; of six columns for four also the sixth."""
    whole = ViewGeometry(torch.tensor([[0.0, 0.0, 120.0, 120.0]]), torch.tensor([False]))
    rows, columns = [0, 1, 3], [0, 1, 3, 5]
    for rule, wanted in (("spread", True), ("printed", False)):
        for longer, shorter, kept in ((4, 3, rows), (6, 4, columns)):
            matches = match_patches(whole, whole, longer, shorter, rule=rule)
            found = matches.index_a[0][matches.valid[0]][:shorter].tolist()
            assert (found == kept) == wanted


def test_the_same_view_matches_itself_under_every_rule() -> None:
    view = ViewGeometry(torch.tensor([[10.0, 20.0, 110.0, 90.0]]), torch.tensor([True]))
    for rule in ("spread", "printed", "nearest"):
        matches = match_patches(view, view, 5, 5, rule=rule)
        assert matches.valid.all()
        assert torch.equal(matches.index_a, matches.index_b)
        assert sorted(matches.index_a[0].tolist()) == list(range(25))


def test_views_that_do_not_overlap_match_nothing() -> None:
    a = ViewGeometry(torch.tensor([[0.0, 0.0, 50.0, 50.0]]), torch.tensor([False]))
    b = ViewGeometry(torch.tensor([[50.0, 0.0, 90.0, 50.0]]), torch.tensor([False]))
    for rule in ("spread", "printed", "nearest"):
        assert not match_patches(a, b, 7, 3, rule=rule).valid.any()


def test_an_unknown_rule_is_named() -> None:
    view = geometry("a")
    with pytest.raises(GlocalError, match="rule='neares': choose spread, printed or nearest"):
        match_patches(view, view, 7, 7, rule="neares")  # type: ignore[arg-type]
