"""Image retrieval: revisited Oxford and Paris, any folder with a list of queries, and images of one class.

Radenović, Iscen, Tolias, Avrithis and Chum, "Revisiting Oxford and Paris: Large-Scale Image Retrieval Benchmarking",
CVPR 2018. Queries are cut out to their boxes, as that protocol says. DINO's numbers come from whole queries
(`retrieval.query_box=false`); its commands have Oxford at 224 pixels and one scale (`retrieval.size=224
retrieval.scales=[1]`), Paris at 512 and three (`retrieval.size=512`). Images keep their proportions and are never
enlarged. Features at several scales are normalised before they are averaged (DINO's authors average first).
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from pydantic import Field, PositiveFloat, PositiveInt
from torch import Tensor
from torch.nn.functional import normalize

from glocal.console import progress_bar
from glocal.data.annotated.queries import DATA, find_query_lists
from glocal.data.lanes.whole import Fit
from glocal.data.sources.base import Source
from glocal.data.sources.labelled import has_no_labels, labelled_part
from glocal.errors import GlocalError
from glocal.evaluation.features.bench import Bench, Measurement, Protocol
from glocal.evaluation.features.extraction import POOLED
from glocal.evaluation.features.scales import View, readable_rows, view_for, whole_features
from glocal.evaluation.features.whitening import Whitening, comparable, learn_whitening
from glocal.evaluation.metrics.ranking import Relevance, listed, rank, same_class
from glocal.settings import Settings
from glocal.transfer import exact_device

_USUAL = View(Fit(1024), (1.0, 2**-0.5, 0.5))
_PAIRS = 500_000_000  # of a query and an image, above which `all` leaves the search by class out; CIFAR has as many


class RetrievalSettings(Settings):
    """Images ranked by cosine similarity to each query.

    Without `data`, the training images are searched for those of each test image's class, by the features that the
    other protocols use.
    """

    data: str | None = None
    queries: str | None = None  # a list of queries; null takes gnd_*.pkl, queries.csv or queries.json in the folder
    relevant: Literal["listed", "class"] = "listed"  # class: each image of `data` searches the others for its class
    levels: tuple[Literal["easy", "medium", "hard"], ...] = Field(("medium", "hard"), min_length=1)
    at: tuple[PositiveInt, ...] = (1, 5, 10)
    query_box: bool = True  # cut queries out to their boxes
    size: PositiveInt | None = None  # longer side; null: 1024, or the network's own up to 64
    scales: tuple[PositiveFloat, ...] | None = Field(None, min_length=1)  # null: 1, 1/√2, 1/2, or 1 up to 64 pixels
    whiten: str | None = None  # images on which a PCA whitening is learned
    whiten_dim: PositiveInt | None = None  # directions that it keeps; null keeps all


def measure(bench: Bench, settings: RetrievalSettings) -> list[Measurement]:
    """mAP and mP@k for each query list and level."""
    if settings.data is None:
        pair = bench.labelled()
        whitening = _whitening(bench, settings, None, [bench.sources()[0]])
        relevance = same_class(pair.test_labels, pair.train_labels, themselves=False)
        found = _measured(bench, settings, pair.test, pair.train, relevance, whitening)
        return [Measurement(f"same class{_whitened(settings)}", found)]
    view = view_for(bench.backbone, settings.size, settings.scales, usual=_USUAL)
    bench.resolve(size=view.fit.size, scales=list(view.scales))
    if settings.relevant == "class":
        return [_leave_one_out(bench, settings, bench.open(settings.data), view)]
    lists = find_query_lists(Path(settings.data), settings.queries)
    bench.decode(*(source for each in lists for source in (each.images, each.queries)))
    whitening = _whitening(bench, settings, view, [each.images for each in lists])
    results = []
    for each in lists:
        boxes = each.boxes if settings.query_box else None
        queries = whole_features(bench, each.queries, POOLED, view, boxes=boxes)
        images = whole_features(bench, each.images, POOLED, view)
        readable = readable_rows(queries)
        for level, (relevant, junk) in each.levels.items():
            if level and level not in settings.levels:
                continue
            chosen = readable.nonzero()[:, 0].tolist()
            relevance = listed([relevant[row] for row in chosen], [junk[row] for row in chosen], len(images))
            found = _measured(bench, settings, queries[readable], images, relevance, whitening)
            name = f"{each.name} {level}".strip()
            whole = ", whole queries" if each.boxes is not None and boxes is None else ""
            results.append(Measurement(f"{name}, {view}{whole}{_whitened(settings)}", found))
    return results


def _leave_one_out(bench: Bench, settings: RetrievalSettings, source: Source, view: View) -> Measurement:
    part = labelled_part(source)
    if part is None or part.labels is None:
        raise GlocalError(has_no_labels(source))
    source = part
    features = whole_features(bench, source, POOLED, view)
    readable = readable_rows(features)
    features, labels = features[readable], part.labels[readable]
    relevance = same_class(labels, labels, themselves=True)
    whitening = _whitening(bench, settings, view, [source])
    found = _measured(bench, settings, features, features, relevance, whitening)
    return Measurement(f"same class, {view}{_whitened(settings)}", found)


def _whitening(
    bench: Bench, settings: RetrievalSettings, view: View | None, beside: Sequence[Source]
) -> Whitening | None:
    """Learned on features made like those that it is for: normalised, of whole images seen so or of central squares."""
    if settings.whiten is None:
        return None
    source = bench.open(settings.whiten, beside=beside)
    if view is None:
        features = bench.features(source).features
    else:
        features = whole_features(bench, source, POOLED, view)
        features = features[readable_rows(features)]
    return learn_whitening(normalize(features.to(exact_device(bench.device)), dim=1), settings.whiten_dim)


def _measured(
    bench: Bench,
    settings: RetrievalSettings,
    queries: Tensor,
    images: Tensor,
    relevance: Relevance,
    whitening: Whitening | None,
) -> dict[str, float]:
    def prepared(features: Tensor) -> Tensor:
        return comparable(features if whitening is None else normalize(features, dim=1), whitening, bench.device)

    one, other = prepared(queries), prepared(images)
    with progress_bar("queries", visible=bench.progress) as bar:
        task = bar.add_task("retrieval", total=len(one))
        ranking = rank(one, other, relevance, at=settings.at, seen=lambda count: bar.advance(task, count))
    if bool(ranking.average_precision.isnan().all()):
        raise GlocalError("retrieval: there is no query that can be read and to which some image is relevant")
    return ranking.means()


def _whitened(settings: RetrievalSettings) -> str:
    return f", whitened on {settings.whiten}" if settings.whiten else ""


def _too_much(bench: Bench, settings: RetrievalSettings) -> str:
    if settings.data is not None or bench.train is None or bench.test is None:
        return ""
    if len(bench.train) * len(bench.test) <= _PAIRS:
        return ""
    return (
        f"retrieval would rank {len(bench.train):,} images for each of {len(bench.test):,} queries, which takes long; "
        "ask for it by name"
    )


PROTOCOL = Protocol(
    name="retrieval",
    summary="images ranked by cosine: mAP, mP@1, 5, 10 on revisited Oxford and Paris, a query list, or by class",
    settings=RetrievalSettings,
    measure=measure,
    data=DATA,
    too_much=_too_much,
)
