"""Exact nearest neighbours among embeddings that stay on the disk.

Vectors are turned to float32 block by block, each block in the memory of the one before, and compared with many queries
while it is there; so memory does not grow with the number of images, and each value is read once for thousands of
queries.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch
from torch import Tensor

from glocal.console import progress_of
from glocal.embeddings.folder import Embeddings
from glocal.errors import GlocalError, counted
from glocal.models.loading import choose_device
from glocal.neighbors import nearest_in_blocks

_BLOCK_BYTES = 128 << 20  # of vectors in float32 at a time
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

    It takes N² products of vectors, and memory for the result, a block of vectors and a block of queries.

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
    """
    count = len(embeddings)
    if not 1 <= k < count:
        raise GlocalError(f"k={k} neighbours of {counted(count, 'image')}: choose from 1 to {count - 1}, the others")
    where = choose_device(device)
    read = _reader(embeddings, where)
    similarity = torch.empty(count, k)
    index = torch.empty(count, k, dtype=torch.int64)
    with progress_of("nearest neighbours", "images", count, visible=progress) as advance:
        for start in range(0, count, _QUERIES):
            part = slice(start, min(start + _QUERIES, count))
            queries = embeddings.rows(part.start, part.stop).to(where)
            own = torch.arange(part.start, part.stop, device=where)
            blocks = _counted(read(), advance, share=len(own) / count)
            similarity[part], index[part] = _nearest(queries, blocks, k, own)
    return similarity, index


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
