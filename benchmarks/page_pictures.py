"""The pictures of docs/concepts/ and docs/methods/: what the package does to an image that is drawn here.

    python benchmarks/page_pictures.py [NAME …] [--out docs/images]

Views, boxes, mixing and matched patches are the package's own. The killed run of `resume` is a real one: two trainings
of half a minute, of which one is killed and goes on.
"""

from __future__ import annotations

import argparse
import csv
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np

matplotlib.use("Agg")
import torch
from matplotlib import pyplot
from matplotlib.patches import FancyArrowPatch, FancyBboxPatch, Rectangle
from PIL import Image, ImageDraw, ImageFilter

from glocal.config import build_recipe
from glocal.data.sources.base import MemorySource
from glocal.losses import barlow_twins
from glocal.report.preview import open_views, preview
from glocal.settings import IMAGENET_MEAN, IMAGENET_STD
from glocal.views.batch import Views
from glocal.views.mixing import cutmix

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
    left = 60 + shift / 2
    draw.rectangle(at(left, 150, left + 110, 240), fill=wall)
    draw.polygon(at(left - 14, 152, left + 55, 98, left + 124, 152), fill=roof)
    draw.rectangle(at(left + 14, 190, left + 40, 240), fill=(110, 70, 40))
    draw.rectangle(at(left + 60, 172, left + 92, 204), fill=(90, 140, 190), outline=(255, 255, 255), width=3 * FINE)
    draw.line(at(left + 76, 172, left + 76, 204), fill=(255, 255, 255), width=2 * FINE)
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
    left, right = figure.subfigures(1, 2, width_ratios=(1.25, 1))
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


def draw_views() -> Any:
    """Two whole views of SimCLR and what was drawn for them."""
    return crops(views_of("simclr", 7), ["0", "1"], ["first view", "second view"], columns=2)


def draw_logo() -> Any:
    """LoGo's two global and two local crops."""
    names = ["g1", "g2", "l1", "l2"]
    return crops(views_of("logo", 9), names, ["global", "global", "local", "local"], columns=2)


def draw_dino() -> Any:
    """DINO's global views and some of its local ones."""
    found = views_of("dino", 4)
    return crops(found, ["g1", "g2", "l1", "l2", "l3", "l4"], ["teacher", "teacher", *["student"] * 4])


def draw_clim() -> Any:
    """An image, a neighbour, and the two mixed by CutMix."""
    anchor, neighbour = (
        torch.from_numpy(np.array(scene(number))).permute(2, 0, 1)[None].float() / 255 for number in (0, 1)
    )
    mixed, share = cutmix(anchor, neighbour, torch.tensor([0.6]), torch.tensor([[0.62, 0.55]], dtype=torch.float64))
    figure, axes = pyplot.subplots(1, 3, figsize=(9.6, 2.7), layout="constrained")
    titles = (
        "the image",
        "its positive: a neighbour nearer to the centre",
        f"the query: λ = {float(share):.2f} of the image",
    )
    for place, picture, title, colour in zip(axes, (anchor, neighbour, mixed), titles, COLOURS, strict=False):
        show(place, picture[0].permute(1, 2, 0).numpy(), title, colour, 3)
    return figure


def draw_soft() -> Any:
    """The target of contrast and that of SCE, for one image and five others."""
    likeness = torch.tensor([0.78, 0.55, 0.3, 0.1, -0.1])  # an example: cosines with five other images
    soft = torch.softmax(likeness / 0.1, dim=0)
    names = ["the other\nview", *[f"cosine\n{value:.2f}" for value in likeness]]
    targets = {
        "contrast: the other view alone": [1.0, *[0.0] * 5],
        "SCE, λ = 0.5: half of it for what is alike": [0.5, *(0.5 * soft).tolist()],
        "ReSSL: only how alike the others are": [0.0, *soft.tolist()],
    }
    figure, axes = pyplot.subplots(1, 3, figsize=(9.6, 2.7), sharey=True, layout="constrained")
    for place, (title, heights), colour in zip(axes, targets.items(), COLOURS, strict=False):
        place.bar(range(6), heights, color=colour)
        place.set_xticks(range(6), names, fontsize=7)
        place.set_title(title, fontsize=9, color=INK)
        place.spines[["top", "right"]].set_visible(False)
    axes[0].set_ylabel("target", fontsize=9)
    return figure


def draw_contrast() -> Any:
    """Which pairs SimCLR and MoCo call positive and negative."""
    figure, axes = pyplot.subplots(1, 2, figsize=(9.6, 3.0), layout="constrained", width_ratios=(1, 1.5))
    batch = 4
    own = np.zeros((2 * batch, 2 * batch))
    for row in range(2 * batch):
        own[row, (row + batch) % (2 * batch)] = 1
        own[row, row] = 2
    queue = np.zeros((batch, batch + 10))
    queue[:, batch:] = 0
    queue[:, :batch] = 2
    queue[range(batch), range(batch)] = 1
    colours = matplotlib.colors.ListedColormap(["#cfe3f2", COLOURS[2], "#f5f5f5"])
    for place, cells, title in (
        (axes[0], own, "SimCLR: all views of the batch"),
        (axes[1], queue, "MoCo: keys of the batch, then the queue"),
    ):
        place.imshow(cells, cmap=colours, vmin=0, vmax=2)
        place.set_xticks(np.arange(-0.5, cells.shape[1]), [])
        place.set_yticks(np.arange(-0.5, cells.shape[0]), [])
        place.grid(color="white", linewidth=2)
        place.tick_params(length=0)
        place.set_title(title, fontsize=9, color=INK)
        place.set_ylabel("queries", fontsize=9)
        for side in place.spines.values():
            side.set_visible(False)
    figure.legend(
        handles=[Rectangle((0, 0), 1, 1, color=c) for c in (COLOURS[2], "#cfe3f2", "#f5f5f5")],
        labels=["positive: pulled", "negative: pushed", "left out"],
        loc="outside lower center",
        ncols=3,
        fontsize=8,
        frameon=False,
    )
    return figure


def boxes(axes: Any, placed: dict[str, tuple[float, float, str, str]], size: tuple[float, float] = (1.7, 0.7)) -> None:
    """Boxes with words, each at a place in a colour."""
    for x, y, text, colour in placed.values():
        shape = FancyBboxPatch(
            (x, y), *size, boxstyle="round,pad=0.02,rounding_size=0.12", facecolor=colour, edgecolor=INK
        )
        axes.add_patch(shape)
        axes.text(x + size[0] / 2, y + size[1] / 2, text, ha="center", va="center", fontsize=9, color=INK)


def arrow(
    axes: Any, start: tuple[float, float], end: tuple[float, float], text: str = "", *, dashed: bool = False
) -> None:
    """An arrow, with a word in its middle."""
    style = "--" if dashed else "-"
    axes.add_patch(FancyArrowPatch(start, end, arrowstyle="-|>", mutation_scale=12, color=INK, linestyle=style))
    if text:
        axes.text((start[0] + end[0]) / 2, (start[1] + end[1]) / 2 + 0.12, text, ha="center", fontsize=8, color=INK)


def blank(width: float, height: float, wide: float = 9.6) -> tuple[Any, Any]:
    """A figure to draw boxes and arrows on."""
    figure, axes = pyplot.subplots(figsize=(wide, wide * height / width), layout="constrained")
    axes.set_xlim(0, width)
    axes.set_ylim(0, height)
    axes.set_axis_off()
    return figure, axes


def draw_prediction() -> Any:
    """BYOL and SimSiam: a prediction of the other view that nothing pushes apart."""
    figure, axes = blank(12, 3.2)
    placed = {
        "first": (0.1, 2.1, "first view", PALE),
        "net": (2.5, 2.1, "network", "#cfe3f2"),
        "head": (4.9, 2.1, "projector", "#cfe3f2"),
        "predictor": (7.3, 2.1, "predictor", "#cfe3f2"),
        "second": (0.1, 0.4, "second view", PALE),
        "their net": (2.5, 0.4, "network", "#f8dcc4"),
        "their head": (4.9, 0.4, "projector", "#f8dcc4"),
        "loss": (10.1, 1.25, "cosine", "#d9efe6"),
    }
    boxes(axes, placed)
    for y in (2.45, 0.75):
        for x in (1.8, 4.2, 6.6):
            if y > 1 or x < 6:
                arrow(axes, (x, y), (x + 0.7, y))
    arrow(axes, (9.0, 2.45), (10.1, 1.75))
    arrow(axes, (6.6, 0.75), (10.1, 1.4), "no gradient", dashed=True)
    arrow(axes, (3.35, 2.1), (3.35, 1.1), dashed=True)
    axes.text(3.5, 1.55, "BYOL: follows slowly;  SimSiam: the same weights", fontsize=8, color=INK)
    return figure


def draw_lanes() -> Any:
    """The resident and the streaming lane."""
    figure, axes = blank(12, 4.3)
    size = (2.0, 0.8)
    placed = {
        "draw": (0.1, 1.75, "draw crops and\ncolours: counters", PALE),
        "held": (3.2, 3.0, "images in memory\nof the device", "#cfe3f2"),
        "cut": (6.3, 3.0, "crops of the whole\nbatch at once", "#cfe3f2"),
        "workers": (3.2, 0.5, "workers: decode\neach file once", "#f8dcc4"),
        "their cut": (6.3, 0.5, "workers: all crops\nof the image", "#f8dcc4"),
        "colour": (9.6, 1.75, "colours on the\ndevice, then train", "#d9efe6"),
    }
    boxes(axes, placed, size)
    arrow(axes, (2.1, 2.4), (3.2, 3.3))
    arrow(axes, (2.1, 1.9), (3.2, 1.0))
    arrow(axes, (5.2, 3.4), (6.3, 3.4))
    arrow(axes, (5.2, 0.9), (6.3, 0.9))
    arrow(axes, (8.3, 3.3), (9.6, 2.4))
    arrow(axes, (8.3, 1.0), (9.6, 1.9))
    axes.text(5.75, 4.0, "resident lane: small images of one size", ha="center", fontsize=9, color=INK)
    axes.text(5.75, 0.1, "streaming lane: photographs, large sets", ha="center", fontsize=9, color=INK)
    return figure


def draw_correlation() -> Any:
    """Barlow Twins on a toy: the correlations between the dimensions of two views, before and after 300 steps."""
    generator = torch.Generator().manual_seed(0)
    hidden = torch.randn(512, 16, generator=generator)
    spread = torch.randn(16, 24, generator=generator)
    first, second = (hidden @ spread + 2.0 * torch.randn(512, 24, generator=generator) for _ in range(2))
    layer = torch.nn.Linear(24, 16, bias=False)
    with torch.no_grad():
        layer.weight.copy_(torch.rand(16, 24, generator=generator))
    optimizer = torch.optim.Adam(layer.parameters(), lr=0.02)

    def correlation() -> np.ndarray:
        with torch.no_grad():
            sides = [layer(side) for side in (first, second)]
            sides = [(side - side.mean(0)) / side.std(0) for side in sides]
            return (sides[0].T @ sides[1] / len(first)).numpy()

    before = correlation()
    for _ in range(300):
        optimizer.zero_grad()
        barlow_twins(layer(first), layer(second), coefficient=0.05).backward()
        optimizer.step()
    figure, axes = pyplot.subplots(1, 2, figsize=(7.2, 3.0), layout="constrained")
    for place, matrix, title in zip(axes, (before, correlation()), ("before", "after 300 steps"), strict=True):
        drawn = place.imshow(matrix, cmap="RdBu_r", vmin=-1, vmax=1)
        place.set_title(title, fontsize=9, color=INK)
        place.set_xlabel("dimensions of the second view", fontsize=8)
        place.tick_params(labelsize=7)
    axes[0].set_ylabel("dimensions of the first view", fontsize=8)
    figure.colorbar(drawn, ax=axes, shrink=0.85).ax.tick_params(labelsize=7)
    return figure


def draw_resume() -> Any:
    """The loss of a run, and of the same run that was killed and continued."""
    settings = {
        "train.epochs": 6,
        "train.batch_size": 32,
        "train.log_steps": 1,
        "train.checkpoint_steps": 20,
        "monitor.knn_epochs": 0,
        "method.name": "simclr",
    }
    command = [
        sys.executable,
        "-m",
        "glocal",
        "pretrain",
        "--data",
        "shapes:train:480",
        "--recipe",
        "demo-shapes",
        "--no-report",
    ]
    command += [f"--set={key}={value}" for key, value in settings.items()]
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL, "env": {**os.environ, "OMP_NUM_THREADS": "1"}}
    with tempfile.TemporaryDirectory() as folder:
        whole, killed = Path(folder) / "whole", Path(folder) / "killed"
        subprocess.run([*command, "--out", whole], check=True, **quiet)
        process = subprocess.Popen([*command, "--out", killed], **quiet)
        while len(_losses(killed)) < 45:
            time.sleep(0.02)
        process.send_signal(signal.SIGKILL)
        process.wait()
        cut = _losses(killed)
        subprocess.run([*command, "--out", killed], check=True, **quiet)
        once, again = _losses(whole), _losses(killed)
        weights = [sorted((run / "checkpoints").glob("*"))[-1].name for run in (whole, killed)]
    assert once == again, f"the losses differ: {weights}"
    figure, axes = pyplot.subplots(figsize=(9.6, 2.9), layout="constrained")
    axes.plot(list(once), list(once.values()), color=COLOURS[0], linewidth=5, alpha=0.35, label="never stopped")
    axes.plot(list(again), list(again.values()), color=COLOURS[1], linewidth=1.2, label="killed and continued")
    axes.axvline(max(cut), color=INK, linestyle=":")
    axes.axvline(max(step for step in once if step % 20 == 0 and step <= max(cut)), color=INK, linestyle="--")
    axes.text(
        max(cut) + 1,
        max(once.values()),
        "killed at the dotted line; goes on from\nthe checkpoint at the dashed line",
        fontsize=8,
        va="top",
    )
    axes.set_xlabel("step", fontsize=9)
    axes.set_ylabel("loss", fontsize=9)
    axes.legend(fontsize=8, frameon=False, loc="upper right")
    axes.spines[["top", "right"]].set_visible(False)
    return figure


def _losses(run: Path) -> dict[int, float]:
    """The loss of each step in a run's metrics.csv."""
    try:
        with (run / "metrics.csv").open(encoding="utf-8") as file:
            return {int(row["step"]): float(row["loss"]) for row in csv.DictReader(file) if row["loss"]}
    except (OSError, ValueError, TypeError, KeyError):
        return {}


DRAWN: dict[str, Callable[[], Any]] = {
    "concept-views": draw_views,
    "concept-lanes": draw_lanes,
    "concept-resume": draw_resume,
    "method-global-local": draw_logo,
    "method-neighbours": draw_clim,
    "method-soft": draw_soft,
    "method-contrast": draw_contrast,
    "method-prediction": draw_prediction,
    "method-distillation": draw_dino,
    "method-decorrelation": draw_correlation,
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("names", nargs="*", choices=[*DRAWN, "match", []], metavar="NAME")
    parser.add_argument("--out", type=Path, default=Path("docs/images"))
    arguments = parser.parse_args()
    for name in arguments.names or [*DRAWN, "match"]:
        path = arguments.out / f"{name}.png"
        if name == "match":
            with tempfile.TemporaryDirectory() as folder:
                scene().save(Path(folder) / "scene.png")
                preview(Path(folder) / "scene.png", path, match=(0, 1), overrides={"seed": 5})
        else:
            figure = DRAWN[name]()
            figure.savefig(path, dpi=100, metadata={"Software": None})
            pyplot.close(figure)
        picture = Image.open(path).convert("RGB")
        picture = picture.resize((min(picture.width, 960), picture.height * min(picture.width, 960) // picture.width))
        picture.quantize(colors=256, method=Image.Quantize.MEDIANCUT, dither=Image.Dither.FLOYDSTEINBERG).save(
            path, optimize=True
        )
        print(f"{path}: {path.stat().st_size / 1000:.0f} KB")


if __name__ == "__main__":
    main()
