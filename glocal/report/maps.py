"""Maps: embeddings in two dimensions, for the eye."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor
from torch.nn.functional import normalize

from glocal.report.pictures import plain, save_picture, shortened
from glocal.views.random import permutation

Map = Literal["tsne", "umap"]

MOST_CLASSES = 20  # that can be told apart
_LONGEST_NAME = 28


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
    from matplotlib import colormaps
    from matplotlib.figure import Figure
    from matplotlib.lines import Line2D

    figure = Figure(figsize=(8.5, 6.5), layout="constrained")
    axes = figure.add_subplot()
    size = max(8.0, min(40.0, 30_000 / len(points)))
    handles = []
    for place, number in enumerate(labels.unique().tolist()):
        color, marker = colormaps["tab10"](place % 10), "o^"[place // 10 % 2]
        x, y = points[labels == number].T.numpy()
        axes.scatter(x, y, s=size, color=color, marker=marker, alpha=0.75, linewidths=0)
        name = " " + plain(shortened(classes[number], _LONGEST_NAME))  # what begins with _ would be left out
        handles.append(Line2D([], [], color=color, marker=marker, linestyle="", markersize=7, label=name))
    figure.legend(handles=handles, loc="outside right center", frameon=False, fontsize=9)
    axes.set_xticks([])
    axes.set_yticks([])
    axes.spines[:].set_color("0.8")
    axes.set_title(plain(title), fontsize=11)
    save_picture(figure, path)
