"""The drawn image that the pictures of the pages are about, their colours, and how the image and its views are shown.
The image is a house with a tree before hills; its views and their boxes are the package's own, from a method's recipe.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from matplotlib import pyplot
from matplotlib.patches import Rectangle
from PIL import Image, ImageDraw, ImageFilter

from glocal.config import build_recipe
from glocal.data.sources.base import MemorySource
from glocal.report.preview import open_views
from glocal.settings import IMAGENET_MEAN, IMAGENET_STD
from glocal.views.batch import Views

WIDTH, HEIGHT, FINE = 400, 300, 4
COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9")
INK, PALE = "#333333", "#eef2f6"


def scene(season: int = 0) -> Image.Image:
    """A house, a tree and hills; each `season` is another picture of the same kind."""
    sky = ((133, 193, 233), (245, 203, 167), (174, 214, 241))[season]
    hill = ((82, 150, 76), (176, 137, 66), (214, 226, 232))[season]
    crown = ((39, 110, 56), (199, 92, 33), (150, 170, 180))[season]
    wall, roof = (
        ((250, 229, 205), (214, 222, 240), (240, 214, 180))[season],
        ((176, 58, 46), (91, 74, 120), (60, 90, 110))[season],
    )
    shift = (0, 60, -45)[season]
    picture = Image.new("RGB", (WIDTH * FINE, HEIGHT * FINE), sky)
    draw = ImageDraw.Draw(picture)

    def at(*points: float) -> list[float]:
        return [value * FINE for value in points]

    draw.ellipse(at(320 - shift, 26, 372 - shift, 78), fill=(250, 215, 90))
    for left, top in ((60, 40), (86, 32), (110, 44), (210, 62), (232, 56)):
        draw.ellipse(at(left, top, left + 46, top + 24), fill=(255, 255, 255))
    draw.ellipse(at(-120, 170, 260, 420), fill=tuple(int(value * 0.85) for value in hill))
    draw.ellipse(at(140, 190, 560, 460), fill=hill)
    draw.rectangle(at(0, 262, 400, 300), fill=tuple(int(value * 0.75) for value in hill))
    edge = 60 + shift / 2
    draw.rectangle(at(edge, 150, edge + 110, 240), fill=wall)
    draw.polygon(at(edge - 14, 152, edge + 55, 98, edge + 124, 152), fill=roof)
    draw.rectangle(at(edge + 14, 190, edge + 40, 240), fill=(110, 70, 40))
    draw.rectangle(at(edge + 60, 172, edge + 92, 204), fill=(90, 140, 190), outline=(255, 255, 255), width=3 * FINE)
    draw.line(at(edge + 76, 172, edge + 76, 204), fill=(255, 255, 255), width=2 * FINE)
    trunk = 290 - shift / 3
    draw.rectangle(at(trunk, 190, trunk + 16, 262), fill=(96, 66, 40))
    for x, y in ((-30, 130), (2, 106), (20, 142), (-12, 152)):
        draw.ellipse(at(trunk + x, y, trunk + x + 58, y + 56), fill=crown)
    for x, y in ((-8, 140), (24, 128), (34, 170), (-16, 166)):
        draw.ellipse(at(trunk + x, y, trunk + x + 9, y + 9), fill=(200, 30, 40))
    for x in range(12, 400, 26):
        draw.rectangle(at(x, 250, x + 8, 284), fill=(236, 228, 214))
    draw.rectangle(at(0, 258, 400, 263), fill=(236, 228, 214))
    picture = picture.resize((WIDTH, HEIGHT), Image.Resampling.LANCZOS)
    grain = torch.randint(0, 26, (HEIGHT, WIDTH, 1), generator=torch.Generator().manual_seed(season))
    pixels = torch.from_numpy(np.array(picture)).int() + grain - 13
    return Image.fromarray(pixels.clamp(0, 255).to(torch.uint8).numpy()).filter(ImageFilter.GaussianBlur(0.5))


def views_of(method: str, seed: int, *, count: int = 1, **settings: Any) -> Views:
    """The views that a method's recipe makes of the first scenes, in the package's own lane."""
    pixels = torch.stack([torch.from_numpy(np.array(scene(number))).permute(2, 0, 1) for number in range(count)])
    source = MemorySource("scenes", pixels, None, [])
    recipe = build_recipe({"method": {"name": method, **settings}, "data": {"size": 128}, "seed": seed})
    lane = open_views(source, recipe, count)
    return next(lane.batches(0, 1))


def pixels_of(view: torch.Tensor) -> np.ndarray:
    """A normalised view (3, H, W) as a picture."""
    mean, std = (torch.tensor(values)[:, None, None] for values in (IMAGENET_MEAN, IMAGENET_STD))
    return (view.cpu() * std + mean).clamp(0, 1).permute(1, 2, 0).numpy()


def show(axes: Any, picture: Any, title: str = "", colour: str = INK, width: float = 1) -> None:
    """A picture in a frame of a colour."""
    axes.imshow(picture)
    axes.set_xticks([])
    axes.set_yticks([])
    axes.set_title(title, fontsize=9, color=INK)
    for side in axes.spines.values():
        side.set_color(colour)
        side.set_linewidth(width)


def frame(axes: Any, box: torch.Tensor, colour: str, text: str) -> None:
    """A crop's box (4,) on the image that it comes from."""
    left, top, right, bottom = box.tolist()
    axes.add_patch(Rectangle((left, top), right - left, bottom - top, fill=False, color=colour, linewidth=2.5))
    label = {"facecolor": colour, "edgecolor": "none", "pad": 2}
    axes.text(left + 5, top + 14, text, color="white", fontsize=9, fontweight="bold", bbox=label)


def crops(views: Views, names: list[str], titles: list[str], columns: int = 3) -> Any:
    """The image with the boxes of some of its views, and these views beside it, in the colours of their boxes."""
    rows = -(-len(names) // columns)
    figure = pyplot.figure(figsize=(9.6, 3.1), layout="constrained")
    parts: Any = figure.subfigures(1, 2, width_ratios=(1.25, 1))
    left, right = parts
    axes = left.subplots()
    show(axes, scene(), "the image and where its views lie")
    grid = np.atleast_1d(right.subplots(rows, columns)).ravel()
    for number, (name, title) in enumerate(zip(names, titles, strict=True)):
        box, flipped = views.geometry[number].box[0], bool(views.geometry[number].flipped[0])
        frame(axes, box, COLOURS[number], name)
        mirrored = ", mirrored" if flipped else ""
        show(grid[number], pixels_of(views.images[number][0]), f"{name}: {title}{mirrored}", COLOURS[number], 3)
    for empty in grid[len(names) :]:
        empty.set_axis_off()
    return figure
