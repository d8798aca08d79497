"""The images most similar to given ones: `glocal search`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor

from glocal.console import note, progress_of, warn
from glocal.data.decoding.rules import Decoding
from glocal.data.lanes.central import central_batches, in_batches
from glocal.embeddings.folder import Embeddings
from glocal.embeddings.index import open_index, worth_an_index
from glocal.embeddings.nearest import nearest_rows
from glocal.embeddings.queries import Queries, Query, QuerySource, find_queries
from glocal.errors import BrokenImageError, GlocalError, counted
from glocal.evaluation.features.extraction import Extractor
from glocal.evaluation.features.opening import open_extractor
from glocal.files import unprintable
from glocal.models.loading import choose_device

_BATCH = 64
_BESIDE = 64  # queries up to which starting processes takes longer than reading them


@dataclass(frozen=True)
class SearchResult:
    """What a search has found.

    Attributes:
        embeddings: that were searched.
        queries: the images searched for, Q of them.
        similarities: (Q, k) float32, cosines, the largest first.
        rows: (Q, k) int64, rows of the embeddings.
        keys: names of the images found, Q lists of k.
        skipped: queries that could not be read; they are not among `queries`.
    """

    embeddings: Embeddings
    queries: list[Query]
    similarities: Tensor
    rows: Tensor
    keys: list[list[str]]
    skipped: list[BrokenImageError]

    def column(self, name: str) -> list[list[str | None]]:
        """A column of the embeddings (`path`, `label`) for the images found, Q lists of k."""
        return _of_rows(self.embeddings, name, self.rows)


def search(
    embeddings: Embeddings | str | Path,
    queries: Queries,
    k: int = 20,
    *,
    exclude_self: bool = False,
    backbone: Extractor | str | Path | None = None,
    weights: str | Path | None = None,
    index: bool | None = None,
    device: str = "auto",
    workers: int | None = None,
    progress: bool = True,
) -> SearchResult:
    """The k images of a set whose embeddings are most similar to those of given images.

    Similarity is the cosine of the angle between embeddings. Images that are not among the embeddings go through the
    backbone that the embeddings were made by, with the same crop.

    Args:
        embeddings: a folder that `glocal embed` wrote.
        queries: what to search for: keys of the embeddings, image files, folders of images, lists of files; a source;
            images as a tensor (3, H, W) or (B, 3, H, W), arrays (H, W, 3), PIL images; or vectors (D,) or (Q, D).
        k: images to find for each query; all there are where it is more.
        exclude_self: leave out the query itself where it is among the embeddings, by its key or its path. Copies of it
            stay.
        backbone: where the backbone lies now, or the backbone itself; by default where it lay when they were made.
        weights: where its file of weights lies now, if it was given one.
        index: True: search an index (faiss) that is built if it is not there; False: compare with every image; None:
            an index above a million images, where faiss is installed.
        device: where images are embedded and compared: auto, cpu, cuda, mps.
        workers: processes that decode images; None chooses.
        progress: show progress bars and notes.

    Raises:
        GlocalError: a query is nothing that can be searched for, none can be read, the backbone is not there or its
            weights are others than those of the embeddings, k is below 1, or an index is wanted and faiss is not there.
    """
    if not isinstance(embeddings, Embeddings):
        embeddings = Embeddings(embeddings)
    if k < 1:
        raise GlocalError(f"k={k}: at least 1 image is found for each query")
    asked = find_queries(embeddings, queries)
    vectors, found, skipped = _vectors(embeddings, asked, backbone, weights, device, workers, progress)
    own = torch.tensor([query.row if exclude_self else -1 for query in found])
    most = len(embeddings) - int(bool((own >= 0).any()))
    if k > most:
        if progress:
            note(f"k={k}, but {embeddings.folder} has {counted(most, 'image')} to find: {most} are shown")
        k = most
    if k == 0:
        raise GlocalError(f"{embeddings.folder} holds no image besides the query")
    if index or (index is None and worth_an_index(embeddings, progress=progress)):
        built = open_index(embeddings, k=k, device=device, progress=progress)
        similarities, rows = built.search(vectors, k, own=own)
    else:
        similarities, rows = nearest_rows(embeddings, vectors, k, own=own, device=device, progress=progress)
    keys = _of_rows(embeddings, "key", rows)
    return SearchResult(embeddings, found, similarities, rows, keys, skipped)  # type: ignore[arg-type]


def _of_rows(embeddings: Embeddings, name: str, rows: Tensor) -> list[list[str | None]]:
    values = embeddings.values(name, rows.flatten())
    width = rows.shape[1]
    return [values[start : start + width] for start in range(0, len(values), width)]


def _vectors(
    embeddings: Embeddings,
    queries: Sequence[Query],
    backbone: Extractor | str | Path | None,
    weights: str | Path | None,
    device: str,
    workers: int | None,
    progress: bool,
) -> tuple[Tensor, list[Query], list[BrokenImageError]]:
    """The vectors (Q, D) of those queries that can be read, these queries, and what is wrong with the others."""
    vectors = torch.empty(len(queries), embeddings.dim)
    stored = [place for place, query in enumerate(queries) if query.stored]
    vectors[stored] = embeddings.take([queries[place].row for place in stored])
    for place, query in enumerate(queries):
        if query.vector is not None:
            vectors[place] = query.vector
    if not vectors[[query.vector is not None for query in queries]].isfinite().all():
        raise GlocalError("vectors to search for must be finite numbers")
    fresh = [place for place, query in enumerate(queries) if not query.stored and query.vector is None]
    if not fresh:
        return vectors, list(queries), []
    network = open_backbone(embeddings, backbone, weights, device)
    features, index, skipped = _features(embeddings, network, [queries[place] for place in fresh], workers, progress)
    if len(skipped) == len(queries):
        more = f" ({len(skipped) - 1} more cannot be read either)" if len(skipped) > 1 else ""
        raise GlocalError(f"{skipped[0]}{more}; nothing is left to search for")
    read = [fresh[number] for number in index.tolist()]
    vectors[read] = features
    for error in skipped:
        warn(f"left out: {error}")
    kept = sorted(set(range(len(queries))) - (set(fresh) - set(read)))
    return vectors[kept], [queries[place] for place in kept], skipped


def _features(
    embeddings: Embeddings, network: Extractor, queries: Sequence[Query], workers: int | None, progress: bool
) -> tuple[Tensor, Tensor, list[BrokenImageError]]:
    """Features of images, made as those of the embeddings, which of them could be read, and what is wrong with others.

    Raises:
        GlocalError: the network gives vectors of another width than the embeddings, or values that are not finite.
    """
    about = embeddings.about
    where = next(iter(network.parameters())).device.type if isinstance(network, torch.nn.Module) else "cpu"
    own: Decoding | None = getattr(network, "decoding", None)
    batches = central_batches(
        QuerySource(queries, replace(embeddings.decoding, max_pixels=None if own is None else own.max_pixels)),
        about.size,
        in_batches(range(len(queries)), _BATCH),
        workers=0 if workers is None and len(queries) <= _BESIDE else workers,
        interpolation=about.interpolation,
    )
    found, index, skipped = [], [], []
    with progress_of("features of the queries", "images", len(queries), visible=progress) as advance:
        for batch in batches:
            skipped += batch.broken
            if len(batch.index) > 0:
                with torch.autocast(where, torch.bfloat16, enabled=about.precision == "bf16"):
                    found.append(network.features(batch.images).float().cpu())
                index.append(batch.index)
            advance(len(batch.index) + len(batch.broken))
    if not found:
        return torch.empty(0, embeddings.dim), torch.empty(0, dtype=torch.int64), skipped
    features = torch.cat(found)
    if features.shape[1] != embeddings.dim:
        raise GlocalError(
            f"{network.label} gives {features.shape[1]} values for an image, but {embeddings.folder} has "
            f"{embeddings.dim} ({about.label})"
        )
    if not features.isfinite().all():
        raise GlocalError(f"{network.label} gives features that are infinite or no numbers; has its training diverged?")
    return features, torch.cat(index), skipped


def open_backbone(
    embeddings: Embeddings, backbone: Extractor | str | Path | None, weights: str | Path | None, device: str
) -> Extractor:
    """The backbone that embeddings were made by.

    Args:
        embeddings: say which.
        backbone: where it lies now, or itself; None: where it lay then.
        weights: where its file of weights lies now; None: where it lay then.
        device: where it shall compute.

    Raises:
        GlocalError: it is not there, or its weights are others.
    """
    about = embeddings.about
    given: Extractor | str | Path = unprintable(about.backbone) if backbone is None else backbone
    where = choose_device(device)
    if weights is None and about.weights is not None and isinstance(given, str | Path) and str(given) == about.backbone:
        weights = unprintable(about.weights)
    try:
        opened = open_extractor(given, weights, device=where)
    except GlocalError as error:
        raise GlocalError(
            f"{error}; new images need the backbone that {embeddings.folder} was made by ({about.label}): say by "
            "--backbone, and --weights if it was given a file of them, where it lies now"
        ) from error
    own = getattr(opened, "fingerprint", lambda: None)()
    if None not in (own, about.fingerprint) and own != about.fingerprint:
        raise GlocalError(
            f"{opened.label} is not the backbone that {embeddings.folder} was made by ({about.label}): its weights "
            "or settings are others, so similarities would mean nothing; name the right one, or embed again"
        )
    return opened
