"""An index of very many embeddings: it finds most of the nearest ones without looking at all.

Vectors are kept in lists around centres (Jégou, Douze and Schmid, "Product Quantization for Nearest Neighbor Search",
PAMI 2011), and only the lists whose centres are nearest to a query are looked at. What is found there is compared once
more by the stored vectors themselves, so similarities are exact; what can happen is that a near image is missed. How
often that happens is measured against exact search when the index is built. A graph (HNSW) would be searched faster,
but is built by one search for each image, which takes hours where lists take minutes, and needs float32 in memory.
"""

from __future__ import annotations

import json
import math
import os
import time
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

import torch
from pydantic import ValidationError
from torch import Tensor
from torch.nn.functional import normalize

from glocal.console import note, progress_of, tell
from glocal.embeddings.folder import Embeddings
from glocal.embeddings.nearest import nearest_rows
from glocal.errors import GlocalError
from glocal.files import write_atomically, write_text
from glocal.settings import Settings

INDEX, DESCRIPTION = "index.faiss", "index.json"
EXACT_UP_TO = 1_000_000  # images: exact search of one query takes about a second there
_RECALL = 0.98  # that the number of lists looked at is chosen for
_SAMPLE = 200  # images whose nearest are found both ways
_TRAINING = 64  # vectors for each centre …
_TRAINING_BYTES = 1 << 30  # … and at most as many as have this size in float32
_BLOCK_BYTES = 128 << 20
_FORMAT = 1


class IndexDescription(Settings):
    """What `index.json` says of an index.

    Attributes:
        format: of this file.
        kind: as faiss writes it.
        reason: why this kind.
        lists, probes: of how many lists how many are looked at.
        candidates: images that are compared by their stored vectors, for each that is wanted.
        k, sample, recall: the share of the k nearest that was found, of as many images, when it was built.
        seconds: that it took.
        embeddings: a hash of what it was built from.
    """

    format: int = _FORMAT
    kind: str
    reason: str
    lists: int
    probes: int
    candidates: int
    k: int
    sample: int
    recall: float
    seconds: float
    embeddings: str

    @property
    def summary(self) -> str:
        """One line for the user."""
        return (
            f"index {self.kind}: finds {self.recall:.1%} of the {self.k} nearest that exact search finds, measured on "
            f"{self.sample} images; looks at {self.probes} of {self.lists:,} lists"
        )


@dataclass
class Index:
    """An index that is ready to be searched.

    Attributes:
        embeddings: that it is of.
        faiss: the library's index.
        about: what is known of it.
    """

    embeddings: Embeddings
    faiss: Any
    about: IndexDescription

    def search(self, queries: Tensor, k: int, *, own: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """As `glocal.embeddings.nearest.nearest_rows`, but that near images may be missed.

        Args:
            queries: (Q, D) float32.
            k: images for each, at most N.
            own: (Q,) int64, for each query the row that is not to be found; −1 where all may be.
        """
        own = torch.full((len(queries),), -1) if own is None else own
        similarity, index = queries.new_empty(len(queries), k), torch.empty(len(queries), k, dtype=torch.int64)
        wanted = min(len(self.embeddings), self.about.candidates * (k + 1))
        size = max(1, _BLOCK_BYTES // (4 * wanted * self.embeddings.dim))
        for start in range(0, len(queries), size):
            part = slice(start, start + size)
            similarity[part], index[part] = self._search(queries[part], k, own[part], wanted)
        return similarity, index

    def _search(self, queries: Tensor, k: int, own: Tensor, wanted: int) -> tuple[Tensor, Tensor]:
        unit = normalize(queries, dim=1)
        place = torch.from_numpy(self.faiss.search(unit.numpy(), wanted)[1])  # −1: the lists have no more
        rows, inverse = place.clamp(min=0).unique(return_inverse=True)
        vectors = normalize(self.embeddings.take(rows), dim=1)
        near = torch.einsum("qd,qwd->qw", unit, vectors[inverse])
        near[(place < 0) | (place == own[:, None])] = -torch.inf
        similarity, order = near.topk(min(k, wanted), dim=1)
        index = place.gather(1, order)
        short = (similarity.isinf().any(dim=1)).nonzero()[:, 0] if wanted >= k else torch.arange(len(queries))
        if len(short) > 0:  # fewer than k in the lists that were looked at
            similarity[short], index[short] = nearest_rows(self.embeddings, queries[short], k, own=own[short])
        return similarity, index


def has_faiss() -> bool:
    """Whether faiss is installed."""
    try:
        _faiss()
    except ImportError:
        return False
    return True


def _faiss() -> Any:  # its types differ from version to version
    return import_module("faiss")


def worth_an_index(embeddings: Embeddings, *, progress: bool) -> bool:
    """Whether there are so many images that an index is searched by default; a note where faiss is missing for it."""
    if len(embeddings) <= EXACT_UP_TO:
        return False
    if not has_faiss():
        if progress:
            note(
                f"{len(embeddings):,} images are compared one by one; pip install 'glocal[search]' lets an index find "
                "nearly all of the nearest in milliseconds"
            )
        return False
    return True


def open_index(embeddings: Embeddings, *, k: int, device: str = "auto", progress: bool = True) -> Index:
    """The index of embeddings, from their folder, or built now and kept there.

    Args:
        embeddings: to search in.
        k: neighbours by which its recall is measured, if it is built.
        device: where exact search is computed, which it is measured against.
        progress: show a progress bar, and what the index is.

    Raises:
        GlocalError: faiss is not installed.
    """
    if not has_faiss():
        raise GlocalError("an index needs faiss: pip install 'glocal[search]'; without one the search is exact")
    found = _kept(embeddings) or _build(embeddings, k, device, progress)
    if progress:
        tell(found.about.summary)
    return found


def _kept(embeddings: Embeddings) -> Index | None:
    """The index in the folder; None where there is none, or one of other embeddings, or a damaged one."""
    faiss = _faiss()
    try:
        text = (embeddings.folder / DESCRIPTION).read_text(encoding="utf-8")
        about = IndexDescription(**json.loads(text))
        if about.format != _FORMAT or about.embeddings != embeddings.signature:
            return None
        index = faiss.read_index(str(embeddings.folder / INDEX), faiss.IO_FLAG_MMAP | faiss.IO_FLAG_READ_ONLY)
    except FileNotFoundError:
        return None
    except (OSError, RuntimeError, TypeError, ValueError, ValidationError):
        note(f"{embeddings.folder / INDEX} cannot be read and is built again")
        return None
    if index.ntotal != len(embeddings):
        return None
    _look_at(index, about.probes)
    return Index(embeddings, index, about)


def _build(embeddings: Embeddings, k: int, device: str, progress: bool) -> Index:
    faiss = _faiss()
    began = time.monotonic()
    kind, lists, candidates, reason = choose_kind(len(embeddings), embeddings.dim, free_bytes())
    if progress:
        tell(f"building an index of {len(embeddings):,} images: {kind}, because {reason}")
    faiss.omp_set_num_threads(torch.get_num_threads())
    index = faiss.index_factory(embeddings.dim, kind, faiss.METRIC_INNER_PRODUCT)
    count = min(len(embeddings), max(_TRAINING * lists, 1024), _TRAINING_BYTES // (4 * embeddings.dim))
    index.train(_unit(embeddings.take(spaced(len(embeddings), count))).numpy())
    size = max(1, _BLOCK_BYTES // (4 * embeddings.dim))
    with progress_of("index", "images", len(embeddings), visible=progress) as advance:
        for _, rows in embeddings.chunks(size):
            index.add(_unit(rows).numpy())
            advance(len(rows))
    k = min(k, len(embeddings) - 1)
    description: dict[str, Any] = {
        "kind": kind,
        "reason": reason,
        "lists": lists,
        "candidates": candidates,
        "k": k,
        "embeddings": embeddings.signature,
    }
    about = _measured(Index(embeddings, index, IndexDescription(**description, **_unmeasured())), device)
    about = about.model_copy(update={"seconds": round(time.monotonic() - began, 1)})
    _keep(embeddings.folder, index, about)
    return Index(embeddings, index, about)


def spaced(rows: int, count: int) -> Tensor:
    """The numbers of some of the rows, evenly spaced from the first to the last, (count,) int64.

    >>> spaced(7, 3).tolist()
    [0, 3, 6]
    """
    return torch.linspace(0, rows - 1, count, dtype=torch.float64).long()  # float32 rounds above 2²⁴


def _unmeasured() -> dict[str, Any]:
    return {"probes": 1, "sample": 0, "recall": 0.0, "seconds": 0.0}


def _measured(index: Index, device: str) -> IndexDescription:
    """Chooses how many lists are looked at: the fewest, in powers of two, that reach the recall wanted."""
    about, embeddings = index.about, index.embeddings
    if about.k == 0:
        return about.model_copy(update={"recall": 1.0})
    generator = torch.Generator().manual_seed(0)
    sample = torch.randperm(len(embeddings), generator=generator)[:_SAMPLE]
    queries = embeddings.take(sample)
    last = nearest_rows(embeddings, queries, about.k, own=sample, device=device)[0][:, -1:]
    probes, recall = 1, 0.0
    while True:
        _look_at(index.faiss, probes)
        # By similarity: of several copies any will do.
        recall = float((index.search(queries, about.k, own=sample)[0] >= last - 1e-6).float().mean())
        if recall >= _RECALL or probes == about.lists:
            return about.model_copy(update={"probes": probes, "sample": len(sample), "recall": round(recall, 4)})
        probes = min(2 * probes, about.lists)


def _keep(folder: Path, index: Any, about: IndexDescription) -> None:
    faiss = _faiss()
    try:
        (folder / DESCRIPTION).unlink(missing_ok=True)  # it must not describe the new index if this ends in between
        write_atomically(folder / INDEX, lambda file: faiss.write_index(index, faiss.PyCallbackIOWriter(file.write)))
        write_text(folder / DESCRIPTION, about.model_dump_json(indent=2) + "\n")
    except OSError as error:
        note(f"the index cannot be kept in {folder}: {error.strerror}; it is built again next time")


def _look_at(index: Any, probes: int) -> None:
    faiss = _faiss()
    faiss.extract_index_ivf(index).nprobe = probes


def choose_kind(images: int, dim: int, free: int) -> tuple[str, int, int, str]:
    """Which index: faiss' name of it, lists, candidates for each image that is wanted, and why.

    About 4·√N lists, whose search costs about as much as that of the lists' centres; of fewer than 39 images for each
    list faiss makes poor centres.

    Args:
        images: N.
        dim: width of a vector.
        free: bytes of memory that are free.
    """
    lists = max(1, min(2 ** round(math.log2(4 * math.sqrt(images))), images // 39))
    size = 2 * images * dim
    if size <= free // 4:
        return (
            f"IVF{lists},SQfp16",
            lists,
            2,
            f"all vectors in float16 are {_readable(size)} and fit a quarter of the free memory",
        )
    codes = min(64, dim)
    reason = (
        f"all vectors in float16 are {_readable(size)}, more than a quarter of the free memory, and codes of "
        f"{codes} bytes {_readable(images * codes)}"
    )
    # A random rotation gives all parts of a code as much to say, and any width a number of values that codes divide;
    # "np" spares an annealing for a search by bits, which is not used.
    return f"RR{-(-dim // codes) * codes},IVF{lists},PQ{codes}np", lists, 20, reason


def _readable(size: int) -> str:
    return f"{size / 1e9:.1f} GB" if size >= 1e9 else f"{size / 1e6:.1f} MB"


def free_bytes() -> int:
    """Memory that programs may still take."""
    try:
        with open("/proc/meminfo", encoding="ascii") as file:
            return next(int(line.split()[1]) << 10 for line in file if line.startswith("MemAvailable:"))
    except (OSError, StopIteration, ValueError):
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") // 2


def _unit(rows: Tensor) -> Tensor:
    return normalize(rows, dim=1)
