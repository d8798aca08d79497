"""Images that are far from all others.

The score of an image is its mean cosine distance to the farther half of its k nearest neighbours: with k = 10, to the
sixth up to the tenth. So an outlier is found that has up to k/2 near-copies: its nearest neighbours are these, but the
sixth is not. Distances to the k-th neighbour are what Ramaswamy et al. ("Efficient algorithms for mining outliers from
large data sets", SIGMOD 2000) rank by; a mean of several is less noisy.

The rule `local` divides it by the mean score of these farther neighbours, as the local outlier factor does (Breunig
et al., "LOF: identifying density-based local outliers", SIGMOD 2000, simplified by Schubert et al., "Local outlier
detection reconsidered", 2014): it finds an image beside a dense group that would be usual in a loose one.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

import torch
from rich.table import Table
from torch import Tensor

from glocal.console import name_cell
from glocal.curation.pictures import tiles
from glocal.embeddings.folder import Embeddings
from glocal.embeddings.nearest import neighbors_of_all
from glocal.errors import GlocalError, did_you_mean
from glocal.files import write_csv
from glocal.report.sheets import Section, write_sheet

Rule = Literal["distance", "local"]

THRESHOLD = 3.0
_LEAST = 3  # images of which one can be far from the others
_SHOWN = 6  # neighbours beside an outlier
_LISTED = 10
_TINY = 1e-6  # below what float16 tells apart: images with as many copies as neighbours


@dataclass(frozen=True)
class Outliers:
    """How far each image is from the others.

    Attributes:
        rule: what the score is.
        k: neighbours looked at.
        threshold: deviations from which an image is an outlier.
        score: (N,) float32.
        deviation: (N,) float32: of the score's logarithm from its median, in robust standard deviations.
        order: (N,) int64, rows from the largest score down.
        distance: (N, k) float32, cosine distances to the nearest neighbours, nearest first.
        neighbors: (N, k) int64, their rows.
        left_out: images that count neither for the median nor for the deviation: where more than half of all have as
            many copies as neighbours, the spread of all is none.
    """

    rule: Rule
    k: int
    threshold: float
    score: Tensor
    deviation: Tensor
    order: Tensor
    distance: Tensor
    neighbors: Tensor
    left_out: int = 0

    @property
    def found(self) -> Tensor:
        """Rows of the outliers, the farthest first."""
        return self.order[self.deviation[self.order] >= self.threshold]


def find_outliers(
    embeddings: Embeddings | str | Path,
    *,
    k: int = 10,
    rule: Rule = "distance",
    threshold: float = THRESHOLD,
    device: str = "auto",
    progress: bool = True,
) -> Outliers:
    """Scores every image by its distance to the others.

    An outlier is an image whose score's logarithm lies `threshold` robust standard deviations (1.4826 times the median
    absolute deviation) above the median: scores are positive and skewed, their logarithms nearly symmetric.

    Args:
        embeddings: of the images, opened, or their folder.
        k: neighbours; of fewer images, all others.
        rule: `distance`, or `local` (see above).
        threshold: in robust standard deviations.
        device: where neighbours are searched: auto, cpu, cuda, mps.
        progress: show a progress bar.

    Raises:
        GlocalError: fewer than three images, k below 1, a threshold that is no positive number, or another rule.
    """
    if not isinstance(embeddings, Embeddings):
        embeddings = Embeddings(embeddings)
    if rule not in get_args(Rule):
        raise GlocalError(f"rule {rule}: {did_you_mean(rule, get_args(Rule))}")
    if k < 1:
        raise GlocalError(f"k={k}: give one neighbour or more")
    if not threshold > 0:
        raise GlocalError(f"threshold {threshold}: give a positive number of robust standard deviations, such as 3")
    if len(embeddings) < _LEAST:
        raise GlocalError(
            f"{embeddings.folder}: {len(embeddings)} images are too few to tell which are far from others"
        )
    k = min(k, len(embeddings) - 1)
    similarity, neighbors = neighbors_of_all(embeddings, k, device=device, progress=progress)
    distance = (1 - similarity).clamp_(min=0)
    score = scores(distance, neighbors, rule)
    order = score.argsort(descending=True, stable=True)
    copies = (score if rule == "distance" else scores(distance, neighbors)) <= _TINY
    usual = ~copies if copies.sum() > len(score) / 2 and (~copies).sum() >= _LEAST else torch.ones_like(copies)
    left_out = int((~usual).sum())
    return Outliers(rule, k, threshold, score, _deviation(score, usual), order, distance, neighbors, left_out)


def scores(distance: Tensor, neighbors: Tensor, rule: Rule = "distance") -> Tensor:
    """The scores (N,) of images whose nearest neighbours, nearest first, are known by distance and row (N, k).

    >>> import torch
    >>> near = torch.tensor([[0.1, 0.1], [0.1, 0.2], [0.1, 0.8]])
    >>> scores(near, torch.tensor([[1, 2], [0, 2], [0, 1]])).tolist()
    [0.10000000149011612, 0.20000000298023224, 0.800000011920929]
    """
    farther = slice(distance.shape[1] // 2, None)
    own = distance[:, farther].mean(dim=1)
    if rule == "distance":
        return own
    return own / own[neighbors[:, farther]].mean(dim=1).clamp(min=_TINY)


def _deviation(score: Tensor, usual: Tensor) -> Tensor:
    logarithm = score.clamp(min=_TINY).log()
    from_median = logarithm - logarithm[usual].median()
    spread = 1.4826 * from_median[usual].abs().median()
    return from_median / spread.clamp(min=_TINY)


def write_table(found: Outliers, embeddings: Embeddings, path: Path) -> None:
    """Writes all images, the farthest first, as CSV."""
    keys, paths, labels = embeddings.keys, embeddings.paths, embeddings.labels
    mean = found.distance.mean(dim=1)
    rows = (
        (
            rank,
            keys[row],
            paths[row],
            labels[row],
            f"{found.score[row]:.5f}",
            f"{mean[row]:.5f}",
            f"{found.deviation[row]:.2f}",
            "yes" if found.deviation[row] >= found.threshold else "no",
            keys[int(found.neighbors[row, 0])],
        )
        for rank, row in enumerate(found.order.tolist(), start=1)
    )
    header = ("rank", "key", "path", "label", "score", "mean_distance", "deviation", "outlier", "nearest")
    write_csv(path, header, rows)


def write_page(found: Outliers, embeddings: Embeddings, path: Path, count: int) -> None:
    """Writes the images with the largest scores as a sheet, each beside its nearest neighbours."""
    sections = []
    for rank, row in enumerate(found.order[:count].tolist(), start=1):
        near = found.neighbors[row, :_SHOWN].tolist()
        captions = [[f"score {found.score[row]:.3f}"], *([f"{d:.3f} away"] for d in found.distance[row, :_SHOWN])]
        marked = [True] + [False] * len(near)
        deviation = f"{found.deviation[row]:.1f} deviations above the median"
        label = f", {embeddings.labels[row]}" if embeddings.labels[row] else ""
        sections.append(
            Section(
                f"{rank}. {embeddings.keys[row]}{label}", tiles(embeddings, [row, *near], captions, marked), [deviation]
            )
        )
    write_sheet(path, f"Outliers of {embeddings.folder.name}", sections, [explained(found)])


def explained(found: Outliers) -> str:
    """What the score is, in a sentence, and in another one which images were left out of the median."""
    first = found.k // 2 + 1
    which = f"its neighbours {first} to {found.k}" if first < found.k else f"its neighbour {found.k}"
    nearer = f", so that up to {first - 1} near-copies do not hide it" if first > 1 else ""
    local = ", divided by the same of these neighbours" if found.rule == "local" else ""
    out = f" Median and deviation are those of the others: {found.left_out:,} images are copies of one another."
    score = f"The score of an image is its mean cosine distance to {which}{nearer}{local}."
    return score + (out if found.left_out else "")


def table(found: Outliers, embeddings: Embeddings) -> Table:
    """The images with the largest scores, ten of them, for the eye."""
    count = len(found.found)
    title = f"{count:,} of {len(embeddings):,} images at least {found.threshold:g} deviations above the median"
    made = Table(title=title, title_justify="left")
    for column in ("image", "score", "deviations", "nearest", "away"):
        made.add_column(column, justify="left" if column in ("image", "nearest") else "right", overflow="fold")
    for row in found.order[:_LISTED].tolist():
        nearest = embeddings.keys[int(found.neighbors[row, 0])]
        numbers = f"{found.score[row]:.3f}", f"{found.deviation[row]:.1f}"
        made.add_row(name_cell(embeddings.keys[row]), *numbers, name_cell(nearest), f"{found.distance[row, 0]:.3f}")
    return made
