"""What a recipe's views look like, before any training: a sheet, or two of them with matched patches in one colour."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import count
from pathlib import Path
from typing import Any, TypeGuard

import torch
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from matplotlib.patheffects import Normal, Stroke
from torch import Tensor

from glocal.config import AnyRecipe, build_recipe, load_mapping
from glocal.data.decoding.rules import Decoding
from glocal.data.lanes.choice import Lane, natural_size, open_lane
from glocal.data.lanes.order import BatchOrder
from glocal.data.ranges import open_by, settle_decoding, unchecked
from glocal.data.sources.base import Source, Subset
from glocal.data.sources.folder import ImageFiles
from glocal.data.sources.listed import is_list
from glocal.data.sources.opening import Images
from glocal.data.sources.resized import resized
from glocal.errors import GlocalError
from glocal.models.building import build_backbone
from glocal.report.pictures import save_picture, shown_views
from glocal.report.plots import draw_views
from glocal.views.batch import Views
from glocal.views.geometry import MatchRule, PatchMatches, match_patches
from glocal.views.pictures import as_picture
from glocal.views.plan import ViewPlan

_SHEET = 8
_NUMBERS = 30  # of matched patches that are numbered


def preview(
    data: Images,
    out: str | Path,
    *,
    recipe: str | Path | None = None,
    overrides: Mapping[str, Any] | None = None,
    match: tuple[int, int] | None = None,
    index: int = 0,
) -> int:
    """Draws the views of some images to a PNG file.

    Args:
        data: a source, the path of one image, or several of these.
        out: the PNG file.
        recipe: whose views; None takes those of `glocal`, with `match` those of patch-wise DINO.
        overrides: settings by dotted path; `seed` draws other crops.
        match: two views, counted from 0, that are drawn side by side, matched patches in one colour.
        index: with `match`, the image's number in the source.

    Returns:
        How many patches match; 0 without `match`.

    Raises:
        GlocalError: no such image, view or recipe, or `match` for a network without patches.
    """
    mapping: dict[str, Any] = {"name": "views"} if recipe is None else load_mapping(recipe)
    images = unchecked(mapping.get("data"), overrides or {})
    decoding = Decoding() if images is None else images.decoding
    several = [_one_image(one, decoding) if _is_image(one) else one for one in _several(data)]
    source = open_by(several, mapping.get("data"), overrides or {})
    if recipe is None and match is not None:
        mapping["method"] = {"name": "patchwise_dino"}
    resolved = build_recipe(mapping, overrides, data_size=natural_size(source))
    resolved = resolved.model_copy(update={"data": settle_decoding(resolved.data, source)})
    out = Path(out)
    check_picture(out)
    if match is None:
        draw_views(open_views(source, resolved, min(_SHEET, len(source))), resolved, out)
        return 0
    if not 0 <= index < len(source):
        raise GlocalError(f"--index {index}: {source.name} has the images 0 to {len(source) - 1}")
    chosen = Subset(source, torch.tensor([index]))
    lane = open_views(chosen, resolved, 1)
    if not all(0 <= view < len(lane.plan) for view in match) or match[0] == match[1]:
        raise GlocalError(f"--pair {match[0]},{match[1]}: choose two of the views 0 to {len(lane.plan) - 1}")
    views = next(lane.batches(0, 1))
    assert resolved.data.size is not None  # resolved
    untrained = resolved.model.untrained()  # only its patches are asked for
    backbone = build_backbone(untrained, size=resolved.data.size, channels=resolved.data.stored_channels)
    grids = [backbone.grid(views.images[view].shape[-1]) for view in match]
    rule: MatchRule = getattr(resolved.method, "matching", "spread")
    matches = match_patches(views.geometry[match[0]], views.geometry[match[1]], *grids, rule=rule)
    _draw_match(resized(chosen, resolved.data.resize)[0].image, views, match, grids, matches, resolved, lane, out)
    return int(matches.valid.sum())


def _several(data: Images) -> Sequence[str | Path | Source]:
    return [data] if isinstance(data, str | Path | Source) else data


def _is_image(data: str | Path | Source) -> TypeGuard[str | Path]:
    return isinstance(data, str | Path) and Path(data).is_file() and not is_list(data)


def _one_image(path: str | Path, decoding: Decoding) -> Source:
    image = ImageFiles("", [str(path)], name=str(path))
    image.decoding = decoding
    image.open(0)  # is it one?
    return image


def check_picture(path: Path) -> None:
    """Raises GlocalError where no picture can be written to `path`: no .png file, or no such folder."""
    if path.suffix.lower() != ".png":
        raise GlocalError(f"--out {path}: the picture is a .png file")
    if not path.parent.is_dir():
        raise GlocalError(f"there is no folder {path.parent} for {path.name}")


def open_views(source: Source, recipe: AnyRecipe, images: int) -> Lane:
    """A lane whose batches hold the recipe's views of `images` images, on the CPU."""
    settings = recipe.data.model_copy(update={"workers": 0, "lane": "streaming"})
    plan = ViewPlan(recipe.views or [], shared_geometry=recipe.data.shared_geometry)
    order = BatchOrder(len(source), images, recipe.seed)
    return open_lane(source, settings, plan, order, torch.device("cpu"), progress=False)


def _draw_match(
    image: Tensor,
    views: Views,
    pair: tuple[int, int],
    grids: list[int],
    matches: PatchMatches,
    recipe: AnyRecipe,
    lane: Lane,
    path: Path,
) -> None:
    figure = Figure(figsize=(14, 5), layout="constrained")
    source, *sides = figure.subplots(1, 3)
    source.imshow(as_picture(image).permute(1, 2, 0).numpy())
    source.set_title("image", fontsize=9)
    for axes, view, grid, style in zip(sides, pair, grids, ("-", "--"), strict=True):
        pixels = shown_views(views.images[view][0], recipe.data).permute(1, 2, 0)
        size = pixels.shape[0]
        axes.imshow(pixels.numpy(), extent=(0, grid, grid, 0), interpolation="nearest")
        geometry = views.geometry[view]
        flipped = ", mirrored" if geometry.flipped[0] else ""
        name = lane.plan.views[view].name
        axes.set_title(f"view {view}: {name}, {size} px, {grid} × {grid} patches{flipped}", fontsize=9)
        left, top, right, bottom = geometry.box[0].tolist()
        source.add_patch(
            Rectangle((left, top), right - left, bottom - top, fill=False, color="white", linewidth=3, linestyle=style)
        )
        source.add_patch(
            Rectangle((left, top), right - left, bottom - top, fill=False, color="black", linewidth=1, linestyle=style)
        )
        source.text(left + 3, top + 3, str(view), va="top", fontsize=9, bbox={"facecolor": "white", "pad": 1})
    for axes in (source, *sides):
        axes.set_xticks([])
        axes.set_yticks([])
    valid = matches.valid[0]
    joined = list(zip(matches.index_a[0][valid].tolist(), matches.index_b[0][valid].tolist(), strict=True))
    places = torch.tensor([divmod(a, grids[0]) for a, _ in joined]).view(-1, 2)  # (M, 2) row and column in the first
    numbers = _numbered(places)
    for number, ((a, b), color) in enumerate(zip(joined, _colors_of(places), strict=True)):
        for axes, patch, grid in zip(sides, (a, b), grids, strict=True):
            row, column = divmod(patch, grid)
            axes.add_patch(Rectangle((column, row), 1, 1, facecolor=(*color, 0.3), edgecolor=color, linewidth=1.2))
            if number in numbers:
                text = axes.text(column + 0.5, row + 0.5, str(numbers[number]), ha="center", va="center", fontsize=8)
                text.set_path_effects([Stroke(linewidth=2, foreground="white"), Normal()])
    figure.suptitle(f"{len(joined)} matched patches: those of one colour, or number, are a pair", fontsize=10)
    save_picture(figure, path, dpi=110)


_CORNERS = (
    (0.9, 0.1, 0.1),
    (1.0, 0.8, 0.0),
    (0.1, 0.2, 0.9),
    (0.0, 0.7, 0.3),
)  # top left and right, bottom left, right


def _colors_of(places: Tensor) -> list[tuple[float, float, float]]:
    """A colour for each place (M, 2), between those of the corners, so that neighbours look alike and others do not."""
    if len(places) == 0:
        return []
    first, last = places.amin(dim=0), places.amax(dim=0)
    down, right = ((places - first) / (last - first).clamp(min=1)).unsqueeze(2).unbind(1)  # (M, 1) each, in [0, 1]
    corners = torch.tensor(_CORNERS)
    colors = torch.lerp(torch.lerp(corners[0], corners[1], right), torch.lerp(corners[2], corners[3], right), down)
    return [(red, green, blue) for red, green, blue in colors.tolist()]


def _numbered(places: Tensor) -> dict[int, int]:
    """The numbers of some of the places (M, 2): at most `_NUMBERS`, spread over rows and columns evenly."""
    if len(places) == 0:
        return {}
    rows, columns = (len(places[:, axis].unique()) for axis in (0, 1))
    every = next(step for step in count(1) if -(-rows // step) * -(-columns // step) <= _NUMBERS)
    _, row = places[:, 0].unique(return_inverse=True)
    _, column = places[:, 1].unique(return_inverse=True)
    chosen = ((row % every == 0) & (column % every == 0)).nonzero()[:, 0].tolist()
    return {place: number for number, place in enumerate(chosen, start=1)}
