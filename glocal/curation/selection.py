"""A few images that stand for all: k-centre greedy, or medoids of k-means.

k-centre greedy (Sener and Savarese, "Active learning for convolutional neural networks: a core-set approach", ICLR
2018, algorithm 1) takes, again and again, the image that is farthest from those chosen: no image stays far from all of
them, so rare and odd ones come early. k-means puts its clusters where the images are many; the image nearest to each
centre is taken.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, NamedTuple, get_args

import numpy as np
import torch
from rich.table import Table
from torch import Tensor
from torch.nn.functional import normalize

from glocal.console import progress_bar, tell
from glocal.curation.naming import listed_rows
from glocal.curation.pictures import tiles
from glocal.embeddings.folder import Embeddings
from glocal.errors import GlocalError, counted, did_you_mean
from glocal.files import write_atomically, write_csv
from glocal.neighbors import kmeans, nearest_neighbors
from glocal.report.sheets import Section, write_sheet
from glocal.views.random import permutation

Rule = Literal["kcentre", "kmeans"]

_HELD = 4 << 30  # bytes of vectors in float32 that are held in memory; more are read from their files each time
_BLOCK = 1 << 15  # rows at a time
_SHORTLIST = 4096  # images among which the next centres are looked for
_SAMPLE = 256  # images for each cluster that k-means learns from, at most (as faiss)
_SPREAD_OUT = 1000  # clusters up to which k-means++ finds their start
_RANDOM_SETS = 5
_SHOWN = 500


class Coverage(NamedTuple):
    """Cosine distance of every image to the nearest chosen one: its mean and its largest."""

    mean: float
    largest: float


@dataclass(frozen=True)
class Selection:
    """Chosen images.

    Attributes:
        rule: by which they were chosen.
        rows: (n,) int64, in the order in which they were chosen.
        distance: (n,) float32. Of k-centre: to the nearest of those chosen before, NaN of the very first. Of k-means:
            to the centre of its cluster.
        nearest: (n,) int64, how many images have it as the nearest of the chosen and included ones.
        included: rows of the images that were there before.
        coverage: by the chosen images and those that were there before.
        random: as many random images in their place; several draws.
    """

    rule: Rule
    rows: Tensor
    distance: Tensor
    nearest: Tensor
    included: Sequence[int]
    coverage: Coverage
    random: Sequence[Coverage]


class UnitVectors:
    """Embeddings at unit length, some rows at a time: held in memory where they fit, else read from their files.

    Args:
        embeddings: of N images.
        held: bytes of float32 that may be held.

    Attributes:
        most: rows that may be held.
    """

    def __init__(self, embeddings: Embeddings, held: int = _HELD) -> None:
        self.embeddings = embeddings
        self.most = held // (4 * embeddings.dim)
        fits = len(embeddings) <= self.most
        self._all = normalize(embeddings.rows(0, len(embeddings)), dim=1) if fits else None

    def __len__(self) -> int:
        return len(self.embeddings)

    def blocks(self) -> Iterator[tuple[int, Tensor]]:
        """The number of the first row and vectors (b, D) float32, in order; one lasts until the next is asked for."""
        if self._all is None:
            memory = torch.empty(min(_BLOCK, len(self)), self.embeddings.dim)  # new memory for each would take longer
            for start in range(0, len(self), _BLOCK):
                rows = self.embeddings.rows(start, min(start + _BLOCK, len(self)), out=memory)
                yield start, rows.div_(rows.norm(dim=1, keepdim=True).clamp_(min=1e-12))
            return
        for start in range(0, len(self), _BLOCK):
            yield start, self._all[start : start + _BLOCK]

    def take(self, rows: Tensor | Sequence[int]) -> Tensor:
        """Vectors of rows in any order, (n, D) float32."""
        if self._all is not None:
            return self._all[torch.as_tensor(rows)]
        return normalize(self.embeddings.take(rows), dim=1)


def select(
    embeddings: Embeddings | str | Path,
    n: int,
    *,
    rule: Rule = "kcentre",
    include: str | Path | None = None,
    seed: int = 0,
    progress: bool = True,
) -> Selection:
    """Chooses n images that cover all.

    Memory grows with the number of images N, not with N·n: k-centre keeps one distance for each.

    Args:
        embeddings: of the images, opened, or their folder.
        n: how many to choose, beside those included.
        rule: `kcentre` or `kmeans` (see above).
        include: a list of images that are there already, such as labelled ones: the others are chosen to complete them.
        seed: of the first image of k-centre, of the start of k-means and of the random subsets.
        progress: show a progress bar.

    Raises:
        GlocalError: more images than there are, another rule, or an image that is not among the embedded ones.
    """
    if not isinstance(embeddings, Embeddings):
        embeddings = Embeddings(embeddings)
    if rule not in get_args(Rule):
        raise GlocalError(f"rule {rule}: {did_you_mean(rule, get_args(Rule))}")
    included = [] if include is None else listed_rows(embeddings, include)
    left = len(embeddings) - len(included)
    if not 1 <= n <= left:
        beside = f" beside the {len(included)} included" if included else ""
        raise GlocalError(f"n={n}: {embeddings.folder} has {counted(left, 'image')}{beside}; choose from 1 to {left}")
    vectors = UnitVectors(embeddings)
    choose = k_centre if rule == "kcentre" else medoids
    rows, distance = choose(vectors, n, included=included, seed=seed, progress=progress)
    others = torch.ones(len(embeddings), dtype=torch.bool)
    others[included] = False
    free = others.nonzero()[:, 0]
    draws = [free[permutation(left, seed, "random subset", number)[:n]] for number in range(_RANDOM_SETS)]
    sets = [torch.cat([torch.tensor(included, dtype=torch.int64), chosen]) for chosen in (rows, *draws)]
    (own, *random), counts = _coverages(vectors, sets, progress)
    return Selection(rule, rows, distance, counts[len(included) :], included, own, random)


def k_centre(
    vectors: UnitVectors, n: int, *, included: Sequence[int] = (), seed: int = 0, progress: bool = False
) -> tuple[Tensor, Tensor]:
    """Rows (n,) of the greedy k-centre choice, and the distance (n,) of each to those before it.

    Reads the vectors much less often than n times. An image's distance to the chosen ones only ever falls, so an image
    among the farthest few thousand that is still at least as far as the last of these was at first is the farthest of
    all. Those few are held, and when none is left the vectors are read once for all that were chosen of them.
    """
    nearest = torch.full((len(vectors),), torch.inf)
    rows: list[int] = []
    distance: list[float] = []
    if included:
        _approach(nearest, vectors, included)
    else:
        rows.append(int(permutation(len(vectors), seed, "first centre")[0]))
        distance.append(torch.nan)
        _approach(nearest, vectors, rows)
    bar = progress_bar("chosen", visible=progress)
    with bar:
        task = bar.add_task("k-centre", total=n, completed=len(rows))
        while len(rows) < n:
            before = len(rows)
            for row, far in _farthest(nearest, vectors, n - before):
                rows.append(row)
                distance.append(far)
            if len(rows) < n:
                _approach(nearest, vectors, rows[before:])
            bar.update(task, completed=len(rows))
    return torch.tensor(rows), torch.tensor(distance)


def _farthest(nearest: Tensor, vectors: UnitVectors, n: int) -> Iterator[tuple[int, float]]:
    """The next centres, at most n and at least one, as far as they are certain without reading all vectors."""
    far, row = nearest.topk(min(len(nearest), _SHORTLIST))
    limit = far[-1].item() if len(far) < len(nearest) else -torch.inf
    held = vectors.take(row)
    for number in range(n):
        place = int(far.argmax())
        value = far[place].item()
        if number > 0 and value < limit:
            return
        yield int(row[place]), max(value, 0.0)
        far = torch.minimum(far, 1 - held @ held[place])
        far[place] = -torch.inf


def _approach(nearest: Tensor, vectors: UnitVectors, rows: Sequence[int]) -> None:
    """Lowers each image's distance to the chosen ones, in place, by some that were chosen; those have none then."""
    centers = vectors.take(rows)
    for start, block in vectors.blocks():
        part = nearest[start : start + len(block)]
        for few in centers.split(_BLOCK // 8):
            torch.minimum(part, 1 - (block @ few.T).amax(dim=1), out=part)
    nearest[rows] = -torch.inf


def medoids(
    vectors: UnitVectors, n: int, *, included: Sequence[int] = (), seed: int = 0, progress: bool = False
) -> tuple[Tensor, Tensor]:
    """Rows (n,) of the images nearest to the centres of k-means on the unit sphere, those of large clusters first, and
    the distance (n,) of each to its centre.

    With m included images there are n + m clusters, of which those that hold an included one give none. k-means learns
    from images drawn at random: at most 256 for each cluster, and no more than may be held. Clusters that are empty, as
    of many copies of one image, are made up for by k-centre.
    """
    clusters = n + len(included)
    learned = min(_SAMPLE * clusters, max(clusters, vectors.most))
    sample = permutation(len(vectors), seed, "k-means sample")[:learned].sort().values
    if progress:
        tell(f"k-means of {len(sample):,} images into {clusters:,} clusters")
    start: Literal["k-means++", "random"] = "k-means++" if clusters <= _SPREAD_OUT else "random"
    centers, _, _ = kmeans(vectors.take(sample), clusters, seed=seed, start=start, metric="cosine")
    similarity = torch.empty(len(vectors))
    cluster = torch.empty(len(vectors), dtype=torch.int64)
    for first, block in vectors.blocks():
        part = slice(first, first + len(block))
        distance, which = nearest_neighbors(block, centers, 1, metric="cosine")
        similarity[part], cluster[part] = 1 - distance[:, 0], which[:, 0]
    order = np.lexsort((-similarity.numpy(), cluster.numpy()))
    found, begin, size = np.unique(cluster.numpy()[order], return_index=True, return_counts=True)
    free = ~np.isin(found, cluster[list(included)].numpy())
    by_size = np.argsort(-size[free], kind="stable")[:n]
    rows = torch.from_numpy(order[begin[free][by_size]])
    distance = (1 - similarity[rows]).clamp(min=0)
    if len(rows) < n:
        more = k_centre(vectors, n - len(rows), included=[*included, *rows.tolist()], progress=progress)
        return torch.cat([rows, more[0]]), torch.cat([distance, more[1]])
    return rows, distance


def _coverages(vectors: UnitVectors, sets: Sequence[Tensor], progress: bool) -> tuple[list[Coverage], Tensor]:
    """How well each set of rows covers all, and for the first set how many images are nearest to each of its rows."""
    centers = [vectors.take(rows) for rows in sets]
    total = torch.zeros(len(sets), dtype=torch.float64)
    largest = torch.zeros(len(sets))
    counts = torch.zeros(len(sets[0]), dtype=torch.int64)
    bar = progress_bar("images", visible=progress)
    with bar:
        task = bar.add_task("coverage", total=len(vectors))
        for _, block in vectors.blocks():
            for number, these in enumerate(centers):
                distance, which = nearest_neighbors(block, these, 1, metric="cosine")
                distance.clamp_(min=0)
                total[number] += distance.double().sum()
                largest[number] = max(largest[number], distance.max())
                if number == 0:
                    counts += torch.bincount(which[:, 0], minlength=len(these))
            bar.advance(task, len(block))
    means = (total / len(vectors)).tolist()
    return [Coverage(*pair) for pair in zip(means, largest.tolist(), strict=True)], counts


def write_list(chosen: Selection, embeddings: Embeddings, path: Path) -> None:
    """Writes the absolute paths of the chosen images, one a line, in the order of their choice: a list of images.

    Raises:
        GlocalError: an image is no file of its own, or its name does not fit one line.
    """
    paths = [embeddings.paths[row] for row in chosen.rows.tolist()]
    missing = next((row for row, found in zip(chosen.rows.tolist(), paths, strict=True) if found is None), None)
    if missing is not None:
        raise GlocalError(
            f"{path}: {embeddings.keys[missing]} is no file of its own, so no list can name it; write a .csv"
        )
    torn = next((found for found in paths if found is not None and found.strip().splitlines() != [found]), None)
    if torn is not None:
        raise GlocalError(f"{path}: no line of a list can be {torn}, for the break or spaces in it; write a .csv")
    text = "".join(f"{found}\n" for found in paths)
    write_atomically(path, lambda file: file.write(text.encode(errors="surrogateescape")))


def write_table(chosen: Selection, embeddings: Embeddings, path: Path) -> None:
    """Writes the chosen images in the order of their choice as CSV."""
    keys, paths, labels = embeddings.keys, embeddings.paths, embeddings.labels
    numbers = zip(chosen.rows.tolist(), chosen.distance.tolist(), chosen.nearest.tolist(), strict=True)
    rows = (
        (place, keys[row], paths[row], labels[row], "" if far != far else f"{far:.5f}", count)
        for place, (row, far, count) in enumerate(numbers, start=1)
    )
    write_csv(path, ("order", "key", "path", "label", "distance", "nearest_images"), rows)


def write_page(chosen: Selection, embeddings: Embeddings, path: Path) -> None:
    """Writes the chosen images, up to 500 of them, as a sheet."""
    rows = chosen.rows[:_SHOWN].tolist()
    captions = [
        [f"{place}, for {counted(count, 'image')}"] for place, count in enumerate(chosen.nearest[:_SHOWN].tolist(), 1)
    ]
    title = f"{len(chosen.rows):,} images of {os.path.basename(embeddings.folder)} by {chosen.rule}"
    first = f"the first {_SHOWN}" if len(chosen.rows) > _SHOWN else "all"
    section = Section(f"In the order of their choice, {first}", tiles(embeddings, rows, captions))
    write_sheet(path, title, [section], told(chosen))


def told(chosen: Selection) -> list[str]:
    """How well the images are covered, in two sentences."""
    means = [one.mean for one in chosen.random]
    farthest = [one.largest for one in chosen.random]
    return [
        f"Cosine distance of every image to the nearest chosen one: {chosen.coverage.mean:.4f} on average, "
        f"{chosen.coverage.largest:.4f} at most.",
        f"Of as many random images, mean of {len(means)} draws: {sum(means) / len(means):.4f} on average, "
        f"{sum(farthest) / len(farthest):.4f} at most.",
    ]


def table(chosen: Selection, embeddings: Embeddings) -> Table:
    """How well the images are covered beside random subsets, for the eye."""
    beside = f" beside {len(chosen.included):,} included" if chosen.included else ""
    title = f"{len(chosen.rows):,} of {len(embeddings):,} images{beside}: cosine distance to the nearest chosen one"
    made = Table(title=title, title_justify="left")
    for column in ("chosen by", "mean", "largest", *(["classes"] if embeddings.about.classes else [])):
        made.add_column(column, justify="left" if column == "chosen by" else "right")
    reached = {embeddings.labels[row] for row in [*chosen.rows.tolist(), *chosen.included]} - {None}
    classes = [f"{len(reached)} of {len(embeddings.about.classes)}"] if embeddings.about.classes else []
    made.add_row(chosen.rule, f"{chosen.coverage.mean:.4f}", f"{chosen.coverage.largest:.4f}", *classes)
    draws = len(chosen.random)
    mean, largest = (sum(values) / draws for values in zip(*chosen.random, strict=True))
    made.add_row(f"chance, {draws} draws", f"{mean:.4f}", f"{largest:.4f}", *([""] if classes else []))
    return made
