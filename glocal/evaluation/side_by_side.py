"""Maps of several backbones' features side by side: the same images of a few classes, drawn at random."""

from __future__ import annotations

import textwrap
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from torch import Tensor

from glocal.console import progress_bar
from glocal.data.sources.base import Source, Subset
from glocal.data.sources.labelled import has_no_labels, labelled_part
from glocal.data.sources.opening import open_source
from glocal.errors import GlocalError
from glocal.evaluation.features.bench import Bench
from glocal.evaluation.features.cache import FeatureCache
from glocal.evaluation.features.extraction import Extractor, channels_of
from glocal.evaluation.features.opening import open_extractor
from glocal.files import cache_folder, check_output
from glocal.report.maps import MOST_CLASSES, Map, check_map, choose_classes, draw_maps, project

_FEWEST = 10  # images that a map can be made of
_TITLE = 40  # letters in a line of it


class SideBySide(NamedTuple):
    """What was drawn.

    Attributes:
        classes: names of the classes that were drawn at random.
        names: of the backbones, as the maps are titled.
        labels: (N,) int64, numbers among the source's classes.
        keys: of the images.
        maps: (N, 2) for each backbone.
    """

    classes: list[str]
    names: list[str]
    labels: Tensor
    keys: list[str]
    maps: list[Tensor]


def draw_side_by_side(
    backbones: Sequence[Extractor | str | Path],
    data: str | Path | Source,
    out: str | Path,
    *,
    classes: int = 10,
    images: int = 2_000,
    kind: Map = "tsne",
    perplexity: float = 30.0,
    neighbors: int = 15,
    seed: int = 0,
    device: str = "auto",
    workers: int | None = None,
    cache: bool | Path = True,
    progress: bool = True,
) -> SideBySide:
    """Draws maps of the same images by several backbones, in the same colours, each under the backbone's name.

    As Figure 3 of CLIM (appendix): t-SNE of ten classes drawn at random from the validation images, by CLIM, MoCo v2
    and supervised learning.

    Args:
        backbones: as `glocal.evaluate` takes them: runs, checkpoints, `timm:NAME`, `untrained:RUN`, `pixels`, or
            backbones themselves.
        data: labelled images, or a source's name.
        out: the picture, a .png file.
        classes: how many are drawn; all where there are no more.
        images: at most so many images in each map, a seeded sample.
        kind: tsne or umap.
        perplexity: t-SNE's.
        neighbors: UMAP's.
        seed: of the classes, the images and the maps.
        device, workers, cache, progress: as for `glocal.evaluate`.

    Raises:
        GlocalError: no backbone, no labels, more than 20 classes, or fewer than 10 images to draw.
    """
    from glocal.models.loading import choose_device

    out = Path(out)
    if not backbones:
        raise GlocalError("nothing to draw: name one backbone or more")
    check_output(out, (".png",), option="")
    if not 1 <= classes <= MOST_CLASSES:
        raise GlocalError(f"{classes} classes cannot be told apart; choose 1 to {MOST_CLASSES}")
    check_map(kind)
    where = choose_device(device)
    first = open_extractor(backbones[0], device=where)
    chosen = _choose(open_source(data, values=channels_of(first) is not None), classes, images, seed)
    kept = None if cache is False else FeatureCache(cache_folder() if cache is True else cache)
    found, labels_of_models = [], []
    for given in (first, *backbones[1:]):  # one at a time: not all networks need to fit at once
        backbone = open_extractor(given, device=where)
        bench = Bench(backbone, device=where, workers=workers, progress=progress, cache=kept)
        found.append(bench.features(chosen))
        labels_of_models.append(backbone.label)
    index = found[0].index  # of the images that can be read, the same for all
    assert chosen.labels is not None and chosen.classes is not None  # noqa: PT018
    labels = chosen.labels[index]
    if len(labels) < _FEWEST:
        raise GlocalError(f"{chosen.name}: a map of {len(labels)} images shows nothing; give {_FEWEST} or more")
    maps = []
    with progress_bar("maps", visible=progress) as bar:
        task = bar.add_task("maps", total=len(found))
        for features in found:
            maps.append(project(features.features, kind, perplexity=perplexity, neighbors=neighbors, seed=seed))
            bar.advance(task)
    names = _names(backbones, labels_of_models)
    draw_maps(maps, labels, chosen.classes, ["\n".join(textwrap.wrap(name, _TITLE)) for name in names], out)
    drawn = [chosen.classes[number] for number in labels.unique().tolist()]
    return SideBySide(drawn, names, labels, [chosen.keys[place] for place in index.tolist()], maps)


def _choose(source: Source, classes: int, images: int, seed: int) -> Source:
    part = labelled_part(source)
    if part is None or part.labels is None:
        raise GlocalError(has_no_labels(source))
    return Subset(part, choose_classes(part.labels, classes, images, seed))


def _names(given: Sequence[Extractor | str | Path], labels: Sequence[str]) -> list[str]:
    """The backbones' own names, and where two have one, with what was given or their place."""
    count = Counter(labels)
    names = []
    for place, (backbone, label) in enumerate(zip(given, labels, strict=True), start=1):
        beside = str(backbone) if isinstance(backbone, str | Path) else str(place)
        names.append(label if count[label] == 1 or beside == label else f"{label} ({beside})")
    return names
