"""Maps: embeddings in two dimensions, for the eye."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor
from torch.nn.functional import normalize

from glocal.errors import GlocalError
from glocal.report.pictures import plain, save_picture, shortened
from glocal.views.random import permutation

Map = Literal["tsne", "umap"]
MAPS: dict[Map, str] = {"tsne": "t-SNE", "umap": "UMAP"}
"""The kinds of maps, and how they are written."""

MOST_CLASSES = 20  # that can be told apart
_LONGEST_NAME = 28
_COLUMNS = 3


def check_map(kind: Map) -> None:
    """Says before anything is computed what a kind of map needs.

    Raises:
        GlocalError: its package is not installed.
    """
    if kind == "umap" and find_spec("umap") is None:
        raise GlocalError("UMAP needs umap-learn: pip install 'glocal[umap]'")


def choose_for_map(labels: Tensor, most: int, seed: int) -> tuple[Tensor, int]:
    """Rows to draw, (M,) int64 in order, and how many classes there are in all.

    Of more than 20 classes, the 20 with the most images are drawn; of more than `most` images, a seeded sample.
    """
    count = labels.bincount()
    there = int((count > 0).sum())
    kept = torch.arange(len(labels))
    if there > MOST_CLASSES:
        largest = count.argsort(descending=True, stable=True)[:MOST_CLASSES]
        kept = torch.isin(labels, largest).nonzero()[:, 0]
    return kept[permutation(len(kept), seed, "map")[:most]].sort().values, there


def choose_classes(labels: Tensor, classes: int, most: int, seed: int) -> Tensor:
    """Rows (M,) int64, in order, of classes drawn at random from those with images, at most so many rows in all.

    The draw depends on the seed and on the classes' numbers alone; rows are a seeded sample of those of the classes.
    """
    there = labels.bincount().nonzero()[:, 0]
    order = permutation(int(there.max()) + 1, seed, "map classes")
    chosen = order[torch.isin(order, there)][:classes]
    kept = torch.isin(labels, chosen).nonzero()[:, 0]
    return kept[permutation(len(kept), seed, "map")[:most]].sort().values


def project(features: Tensor, kind: Map, *, perplexity: float = 30.0, neighbors: int = 15, seed: int = 0) -> Tensor:
    """A map of the directions of features (N, D): (N, 2), by scikit-learn's t-SNE or by UMAP (package umap-learn).

    t-SNE gets the first 50 principal components (van der Maaten and Hinton, "Visualizing Data using t-SNE", 2008).
    Perplexity and neighbours are lowered where there are few images.
    """
    from sklearn.decomposition import PCA

    points = normalize(features, dim=1).numpy()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # about threads and the choice of the start
        if kind == "umap":
            from umap import UMAP  # type: ignore[import-untyped, import-not-found]

            neighbors = min(neighbors, len(points) - 1)
            model = UMAP(n_neighbors=neighbors, metric="cosine", random_state=seed)
            return torch.from_numpy(model.fit_transform(points))
        from sklearn.manifold import TSNE

        few = min(50, *points.shape)
        points = PCA(few, random_state=seed).fit_transform(points)
        perplexity = min(perplexity, (len(points) - 1) / 3)
        start = "pca" if few > 1 and points[:, 0].std() > 0 else "random"  # "pca" divides by the deviation
        model = TSNE(perplexity=perplexity, init=start, random_state=seed)
        return torch.from_numpy(model.fit_transform(points))


def draw_map(points: Tensor, labels: Tensor, classes: list[str], title: str, path: Path) -> None:
    """Draws points (N, 2) in the colours of their classes, at most 20, with a legend."""
    draw_maps([points], labels, classes, [title], path)


def draw_maps(maps: Sequence[Tensor], labels: Tensor, classes: list[str], titles: Sequence[str], path: Path) -> None:
    """Draws maps of the same images side by side, in the same colours and with one legend.

    Args:
        maps: (N, 2) each.
        labels: (N,) int64, of at most 20 classes.
        classes: their names.
        titles: of the maps.
        path: the picture.
    """
    from matplotlib.figure import Figure
    from matplotlib.lines import Line2D

    columns = 2 if len(maps) == 4 else min(len(maps), _COLUMNS)
    rows = -(-len(maps) // columns)
    side = 6.5 if len(maps) == 1 else 4.5
    figure = Figure(figsize=(columns * side + 2, rows * side), layout="constrained")
    there = labels.unique().tolist()
    looks = {number: _look(place) for place, number in enumerate(there)}
    grid = figure.subplots(rows, columns, squeeze=False).flatten()
    for axes, points, title in zip(grid, maps, titles, strict=False):
        size = max(8.0, min(40.0, 30_000 / len(points))) * (side / 6.5) ** 2
        for number in there:
            color, marker = looks[number]
            x, y = points[labels == number].T.numpy()
            axes.scatter(x, y, s=size, color=color, marker=marker, alpha=0.75, linewidths=0)
        axes.set_xticks([])
        axes.set_yticks([])
        axes.spines[:].set_color("0.8")
        axes.set_title(plain(title), fontsize=11)
    for axes in grid[len(maps) :]:
        axes.set_axis_off()
    handles = []
    for number in there:
        color, marker = looks[number]
        name = " " + plain(shortened(classes[number], _LONGEST_NAME))  # what begins with _ would be left out
        handles.append(Line2D([], [], color=color, marker=marker, linestyle="", markersize=7, label=name))
    figure.legend(handles=handles, loc="outside right center", frameon=False, fontsize=9)
    save_picture(figure, path)


def _look(place: int) -> tuple[tuple[float, float, float, float], str]:
    """Colour and marker of a class: ten colours, then the same with another marker."""
    from matplotlib import colormaps

    return colormaps["tab10"](place % 10), "o^"[place // 10 % 2]
