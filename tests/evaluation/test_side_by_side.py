"""Maps of several backbones: the same images, the same colours, each under its name."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from sklearn.metrics import silhouette_score

from glocal.data.sources.base import MemorySource
from glocal.data.sources.opening import open_source
from glocal.errors import GlocalError
from glocal.evaluation import RawPixels
from glocal.evaluation.side_by_side import SideBySide, draw_side_by_side
from glocal.report import maps
from glocal.report.maps import choose_classes


class Colour:
    """A backbone of the mean colour."""

    size, dim, label = 8, 3, "mean colour"

    def features(self, images: torch.Tensor) -> torch.Tensor:
        return images.float().mean(dim=(2, 3))


def colours(count: int, classes: int) -> MemorySource:
    """Images of one colour for each class, a little noisy."""
    labels = torch.arange(count) % classes
    palette = torch.randint(30, 220, (classes, 3), generator=torch.Generator().manual_seed(3))
    noise = torch.randint(0, 9, (count, 3, 8, 8), generator=torch.Generator().manual_seed(4))
    images = palette[labels][:, :, None, None] + noise
    return MemorySource("colours", images.byte(), labels, [f"class {number}" for number in range(classes)])


def draw(backbones: list[Any], data: Any, out: Path, **settings: Any) -> SideBySide:
    return draw_side_by_side(backbones, data, out, cache=False, workers=0, progress=False, device="cpu", **settings)


def test_classes_are_drawn_by_seed_and_evenly() -> None:
    labels = torch.arange(400) % 20
    labels = labels[labels != 7]  # class 7 has no image
    count = torch.zeros(20)
    for seed in range(300):
        rows = choose_classes(labels, 10, 1000, seed)
        classes = labels[rows].unique()
        assert len(classes) == 10
        assert len(rows) == 200  # all of theirs
        count[classes] += 1
    assert count[7] == 0
    assert float(count[count > 0].min()) > 300 * 10 / 19 * 0.75
    assert torch.equal(choose_classes(labels, 10, 50, 5), choose_classes(labels, 10, 50, 5))
    few = choose_classes(labels, 10, 50, 5)
    assert len(few) == 50
    assert set(labels[few].tolist()) <= set(labels[choose_classes(labels, 10, 1000, 5)].tolist())
    assert len(choose_classes(labels[:5], 10, 50, 0)) == 5  # no more classes than there are


def test_every_map_shows_the_same_images_of_the_same_classes(tmp_path: Path) -> None:
    source = colours(480, 16)
    found = draw([Colour(), RawPixels(8)], source, tmp_path / "m.png", classes=4, images=100, perplexity=10)
    assert found.names == ["mean colour", "raw pixels"]
    assert len(found.classes) == 4
    assert [points.shape for points in found.maps] == [(100, 2)] * 2
    numbers = [int(key.split("/")[1]) for key in found.keys]
    assert source.labels is not None
    assert source.labels[numbers].tolist() == found.labels.tolist()
    for points in found.maps:  # each class lies by itself
        assert silhouette_score(points.numpy(), found.labels.numpy()) > 0.4
    again = draw([Colour()], source, tmp_path / "n.png", classes=4, images=100, perplexity=10)
    assert again.keys == found.keys
    assert torch.equal(again.maps[0], found.maps[0])
    other = draw([Colour()], source, tmp_path / "n.png", classes=4, images=100, perplexity=10, seed=1)
    assert other.classes != found.classes


def test_a_class_has_one_colour_in_all_panels(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    figures: list[Any] = []
    monkeypatch.setattr(maps, "save_picture", lambda figure, path: figures.append(figure))
    found = draw([Colour(), RawPixels(8)], colours(120, 12), tmp_path / "m.png", classes=11, perplexity=10)
    [panels], [legend] = ([figure.axes for figure in figures], figures[0].legends)
    assert [panel.get_title() for panel in panels] == ["mean colour", "raw pixels"]
    looks = []
    for panel, points in zip(panels, found.maps, strict=True):
        number_at = {tuple(point): number for point, number in zip(points.tolist(), found.labels.tolist(), strict=True)}
        look: dict[int, set[tuple[Any, ...]]] = {}
        for dots in panel.collections:
            marker = len(dots.get_paths()[0].vertices)
            for place in dots.get_offsets().tolist():
                look.setdefault(number_at[tuple(place)], set()).add((*dots.get_facecolor()[0][:3], marker))
        looks.append(look)
    assert looks[0] == looks[1]
    assert all(len(each) == 1 for each in looks[0].values())  # one look for a class …
    assert len({next(iter(each)) for each in looks[0].values()}) == 11  # … that no other class has
    assert [text.get_text().strip() for text in legend.get_texts()] == found.classes


def test_backbones_of_one_name_are_told_apart_and_rows_are_full(tmp_path: Path) -> None:
    found = draw(["pixels", RawPixels(32), RawPixels(16), Colour()], colours(40, 4), tmp_path / "m.png", perplexity=5)
    assert found.names == ["raw pixels (pixels)", "raw pixels (2)", "raw pixels (3)", "mean colour"]
    tall, wide = Image.open(tmp_path / "m.png"), tmp_path / "n.png"
    draw([Colour()] * 3, colours(40, 4), wide, perplexity=5)
    assert tall.size[1] == 2 * Image.open(wide).size[1]


def test_unreadable_and_unlabelled_images_are_left_out(image_folder: Callable[..., Path], tmp_path: Path) -> None:
    folder = image_folder(48)
    (folder / "class3" / "0003.png").write_bytes(b"")
    found = draw([RawPixels(8), Colour()], folder, tmp_path / "m.png", classes=8, perplexity=5)
    assert len(found.keys) == 47
    assert "class3/0003.png" not in found.keys
    some = colours(60, 3)
    some.labels[:30] = -1  # type: ignore[index]
    assert len(draw([Colour()], some, tmp_path / "m.png", perplexity=5).keys) == 30


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"backbones": []}, "name one backbone or more"),
        ({"classes": 21}, "21 classes cannot be told apart; choose 1 to 20"),
        ({"data": MemorySource("bare", torch.zeros(9, 3, 8, 8).byte(), None, None)}, "bare has no labels"),
        ({"data": colours(9, 3)}, "a map of 9 images shows nothing; give 10 or more"),
        ({"out": "maps.jpg"}, "maps.jpg: the name must end in .png"),
        ({"out": f"{__file__}/maps.png"}, "test_side_by_side.py is a file and no folder"),
    ],
)
def test_what_cannot_be_drawn_is_named(settings: dict[str, Any], message: str, tmp_path: Path) -> None:
    given = {"backbones": [Colour()], "data": open_source("shapes:test:40"), "out": tmp_path / "m.png", **settings}
    with pytest.raises(GlocalError, match=message):
        draw(given.pop("backbones"), given.pop("data"), given.pop("out"), **given)
