"""Exact nearest neighbours among embeddings that stay on the disk.

Vectors are turned to float32 block by block, each block in the memory of the one before, and compared with many queries
while it is there; so memory does not grow with the number of images, and each value is read once for thousands of
queries.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator

import torch
from torch import Tensor

from glocal.console import note, progress_of, tell
from glocal.embeddings.folder import Embeddings
from glocal.embeddings.kept_neighbors import ALL, KeptNeighbors
from glocal.errors import GlocalError, counted
from glocal.models.loading import choose_device
from glocal.neighbors import nearest_in_blocks
from glocal.signals import Stopped, StopSignals

_BLOCK_BYTES = 128 << 20  # of vectors in float32 at a time
_USUAL = 32  # neighbours that are kept at least: as many as `glocal duplicates` asks for
_SAVED_EVERY = 120.0  # seconds
_QUERIES = 8192  # at a time: each block is turned to float32 once for all of them


def nearest_rows(
    embeddings: Embeddings,
    queries: Tensor,
    k: int,
    *,
    own: Tensor | None = None,
    device: str = "auto",
    progress: bool = False,
) -> tuple[Tensor, Tensor]:
    """The k rows of embeddings that are most similar to each query, by the cosine of the angle between them.

    Args:
        embeddings: to search in.
        queries: (Q, D) float32.
        k: how many, at most N, or N − 1 with `own`.
        own: (Q,) int64, for each query the row that is not to be found; −1 where all may be.
        device: where products are computed: auto, cpu, cuda, mps.
        progress: show a progress bar.

    Returns:
        similarity (Q, k) float32, the largest first, and index (Q, k) int64, both on the CPU. Among equals the lower
        row comes first; which of those that are equal to the last are found is left open.

    Raises:
        GlocalError: vectors of another width, or too large a k.
    """
    if queries.ndim != 2 or queries.shape[1] != embeddings.dim:
        raise GlocalError(f"queries of shape {tuple(queries.shape)}: {embeddings.folder} needs (Q, {embeddings.dim})")
    where = choose_device(device)
    read = _reader(embeddings, where)
    similarity = torch.empty(len(queries), k)
    index = torch.empty(len(queries), k, dtype=torch.int64)
    total = len(embeddings) * -(-len(queries) // _QUERIES)
    with progress_of("search", "images", total, visible=progress) as advance:
        for start in range(0, len(queries), _QUERIES):
            part = slice(start, start + _QUERIES)
            blocks = _counted(read(), advance)
            apart = None if own is None else own[part].to(where)
            similarity[part], index[part] = _nearest(queries[part].to(where), blocks, k, apart)
    return similarity, index


def neighbors_of_all(
    embeddings: Embeddings, k: int, *, device: str = "auto", progress: bool = True
) -> tuple[Tensor, Tensor]:
    """The k most similar other images of every image: the graph of nearest neighbours.

    It takes N² products of vectors, and memory for the result, a block of vectors and a block of queries. What was
    found is kept in the folder of the embeddings, 32 neighbours or more, and every two minutes what was found so far: a
    later call reads it, or goes on where this one was stopped.

    Args:
        embeddings: of N images.
        k: neighbours of each, at most N − 1.
        device: where products are computed: auto, cpu, cuda, mps.
        progress: show a progress bar; where there is no terminal, a line now and then says how long it takes.

    Returns:
        similarity (N, k) float32, the cosine, largest first, and index (N, k) int64. No image is its own neighbour, but
        its copies are.

    Raises:
        GlocalError: k is below 1 or above N − 1.
        Stopped: after a signal that means stop; the same call goes on.
    """
    count = len(embeddings)
    if not 1 <= k < count:
        raise GlocalError(f"k={k} neighbours of {counted(count, 'image')}: choose from 1 to {count - 1}, the others")
    kept = KeptNeighbors(embeddings)
    found = kept.all(k)
    if found is None:
        found = _find_all(embeddings, kept, min(max(k, _USUAL), count - 1), choose_device(device), progress)
    elif progress:
        tell(f"nearest neighbours: those in {kept.folder / ALL}")
    similarity, index = found
    return similarity[:, :k].contiguous(), index[:, :k].contiguous()


def _find_all(
    embeddings: Embeddings, kept: KeptNeighbors, k: int, device: str, progress: bool
) -> tuple[Tensor, Tensor]:
    count = len(embeddings)
    similarity = torch.empty(count, k)
    index = torch.empty(count, k, dtype=torch.int64)
    done = 0
    begun = kept.part(k)
    if begun is not None:
        done = len(begun[0])
        similarity[:done], index[:done] = begun
        note(f"nearest neighbours: goes on after {done:,} of {count:,} images")
    read = _reader(embeddings, device)
    saved, when = done, time.monotonic()
    with (
        StopSignals() as stop,
        progress_of("nearest neighbours", "images", count, done=done, visible=progress) as advance,
    ):
        try:
            while done < count:
                part = slice(done, min(done + _QUERIES, count))
                queries = embeddings.rows(part.start, part.stop).to(device)
                own = torch.arange(part.start, part.stop, device=device)
                message = f"stopped after the neighbours of {done:,} of {count:,} images"
                blocks = _counted(_until(stop, read(), message), advance, share=len(own) / count)
                similarity[part], index[part] = _nearest(queries, blocks, k, own)
                done = part.stop
                if done < count and time.monotonic() - when > _SAVED_EVERY:
                    kept.write_part(similarity[:done], index[:done])
                    saved, when = done, time.monotonic()
        except BaseException:
            if done > saved:
                kept.write_part(similarity[:done], index[:done])
            raise
    kept.write_all(similarity, index)
    return similarity, index


def _until(stop: StopSignals, blocks: Iterator[Tensor], message: str) -> Iterator[Tensor]:
    """The blocks; raises Stopped before the next one after a signal that means stop."""
    for rows in blocks:
        if stop.received is not None:
            raise Stopped(message, stop.received)
        yield rows


def _nearest(queries: Tensor, blocks: Iterator[Tensor], k: int, own: Tensor | None) -> tuple[Tensor, Tensor]:
    distance, index = nearest_in_blocks(queries, blocks, k, metric="cosine", own=own)
    return 1 - distance.cpu(), index.cpu()


def _counted(blocks: Iterator[Tensor], advance: Callable[[int], None], share: float = 1) -> Iterator[Tensor]:
    """The blocks; `share` of each one's rows counts as done when it has been used."""
    used, told = 0, 0
    for rows in blocks:
        yield rows
        used += len(rows)
        advance(round(used * share) - told)
        told = round(used * share)


def _reader(embeddings: Embeddings, device: str) -> Callable[[], Iterator[Tensor]]:
    """A function that gives all vectors block by block in float32, each block in the memory of the one before."""
    size = min(len(embeddings), max(1, _BLOCK_BYTES // (4 * embeddings.dim)))
    memory = torch.empty(size, embeddings.dim)
    starts = range(0, len(embeddings), size)

    def read() -> Iterator[Tensor]:
        for start in starts:
            yield embeddings.rows(start, min(start + size, len(embeddings)), out=memory)

    if device != "cuda" or torch.cuda.mem_get_info()[0] < 4 * len(embeddings) * embeddings.dim:
        return read
    # As on the disk, so that they cross the bus once and take half of the memory.
    held = [rows.to(device, torch.float16) for rows in read()]
    return lambda: (rows.float() for rows in held)
