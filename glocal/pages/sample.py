"""The images that a report shows: their embeddings, small pictures, nearest neighbours, groups and place on a map."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path, PurePath

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import normalize

from glocal.curation.outliers import THRESHOLD, find_outliers
from glocal.data.sources.base import Source, Subset
from glocal.embeddings.making import SKIPPED, embed
from glocal.embeddings.nearest import neighbors_of_all
from glocal.errors import GlocalError
from glocal.neighbors.kmeans import kmeans
from glocal.pages.sprites import SIDE
from glocal.report.maps import Map, project
from glocal.views.random import permutation

NEIGHBORS = 8
_CLUSTERS = 10
_FEWEST = 3


@dataclass(frozen=True)
class Sample:
    """Some images of a source, as one backbone sees them.

    Attributes:
        chosen: (M,) int64, their places in the source, in order.
        of: how many images the source has.
        broken: names of chosen images that could not be read, each with its reason.
        by: what the sample has its share of, "class" or "folder"; empty where it is drawn from all alike.
        keys: their names.
        groups: by what they can be coloured ("class", "folder", "cluster"), the name of each image's group.
        thumbnails: small JPEG files.
        points: (M, 2) float32, the map.
        similarity, neighbors: (M, k), of the nearest other images, nearest first; neighbours are numbers in the sample.
        outliers: numbers in the sample of images far from all others, the farthest first.
    """

    chosen: Tensor
    of: int
    broken: list[str]
    by: str
    keys: list[str]
    groups: dict[str, list[str]]
    thumbnails: list[bytes | None]
    points: np.ndarray
    similarity: Tensor
    neighbors: Tensor
    outliers: list[int]

    def __len__(self) -> int:
        return len(self.keys)


def choose(source: Source, most: int, seed: int) -> tuple[Tensor, str]:
    """Places of at most so many images, (M,) int64 in order, and of what each has its share: "class", "folder" or "".

    Images without classes are drawn by their folders, where there are several.
    """
    count = len(source)
    if count <= most:
        return torch.arange(count), ""
    order, strata, by = permutation(count, seed, "report"), source.labels, "class"
    if strata is None:
        folders = [PurePath(key).parent.as_posix() for key in source.keys]
        strata, by = torch.from_numpy(np.unique(folders, return_inverse=True)[1]), "folder"
    if int(strata.min()) == int(strata.max()):
        return order[:most].sort().values, ""
    # Those of a class stand together in the order of the draw; every n-th of them all is a share of each class.
    together = order[strata[order].argsort(stable=True)]
    return together[torch.arange(most) * count // most].sort().values, by


def look_at(
    backbone: str | Path,
    source: Source,
    folder: Path,
    *,
    most: int,
    kind: Map,
    seed: int,
    device: str = "auto",
    progress: bool = True,
) -> Sample:
    """Embeds a sample of images and finds what a report shows of them.

    Args:
        backbone: a run's folder, or whatever `glocal.embed` takes.
        source: the images.
        folder: gets the embeddings.
        most: so many images at most.
        kind: of the map.
        seed: chooses images, and where clusters and the map begin.
        device: where embeddings and their neighbours are computed.
        progress: show progress.

    Raises:
        GlocalError: fewer than three images can be read.
    """
    chosen, by = choose(source, most, seed)
    some = Subset(source, chosen)
    found = embed(backbone, some, folder, thumbnails=SIDE, device=device, progress=progress, tell_broken=False)
    skipped = folder / SKIPPED
    if len(found) < _FEWEST:
        raise GlocalError(f"{source.name}: a map needs {_FEWEST} images, and {len(found)} can be read")
    places = torch.tensor(found.column("index").to_pylist())
    vectors = found.rows(0, len(found))
    similarity, neighbors = neighbors_of_all(found, min(NEIGHBORS, len(found) - 1), device=device, progress=False)
    unit = normalize(vectors, dim=1)
    _, cluster, _ = kmeans(unit, min(_CLUSTERS, len(unit)), iterations=20, seed=seed)
    outliers = find_outliers(found, threshold=THRESHOLD, device=device, progress=False)
    groups = _groups(found.keys, found.labels)
    groups["cluster"] = [f"cluster {number}" for number in cluster.tolist()]
    return Sample(
        chosen[places],
        len(source),
        skipped.read_text(encoding="utf-8").splitlines() if skipped.is_file() else [],
        by,
        found.keys,
        groups,
        found.thumbnails(range(len(found))),
        project(vectors, kind, seed=seed).float().numpy(),
        similarity,
        neighbors,
        outliers.found.tolist(),
    )


def _groups(keys: Sequence[str], labels: Sequence[str | None]) -> dict[str, list[str]]:
    """The class of each image where some have one, and its folder where there are several that are not the classes."""
    found = {}
    classes = [label or "no class" for label in labels]
    if any(labels):
        found["class"] = classes
    folders = [PurePath(key).parent.as_posix() for key in keys]
    if len(set(folders)) > 1 and len(set(zip(folders, classes, strict=True))) > len(set(classes)):
        found["folder"] = folders
    return found
