"""Embeddings as Embedding Atlas reads them: one Parquet file with vectors, pictures and nearest neighbours."""

from __future__ import annotations

from pathlib import Path
from typing import IO

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from glocal.embeddings.folder import Embeddings
from glocal.embeddings.nearest import neighbors_of_all
from glocal.errors import GlocalError
from glocal.files import write_atomically

FILE = "atlas.parquet"
COMMAND = "embedding-atlas {path} --vector vector --image image --neighbors neighbors"
"""What opens the file: Embedding Atlas makes the map of the vectors itself, by UMAP."""

_NEIGHBORS = 15
_ROWS = 8_192  # at a time


def write_atlas(embeddings: Embeddings, *, progress: bool = True) -> Path:
    """Writes `atlas.parquet` into the folder of embeddings.

    Its columns are key, label, width and height; image, {bytes, path}, the thumbnail; vector, float32; and neighbors,
    {ids, distances}, up to 15 rows from 0 with their cosine distances, as `embedding-atlas --neighbors` has them.

    Args:
        embeddings: with thumbnails or without; then image is null.
        progress: show a progress bar.

    Returns:
        The file.

    Raises:
        GlocalError: fewer than two images, or it cannot be written.
    """
    if len(embeddings) < 2:
        raise GlocalError(f"{embeddings.folder}: a map needs more than one image")
    similarity, index = neighbors_of_all(embeddings, min(_NEIGHBORS, len(embeddings) - 1), progress=progress)
    distance = (1 - similarity).clamp_(min=0).numpy()
    path = embeddings.folder / FILE

    def write(file: IO[bytes]) -> None:
        writer: pq.ParquetWriter | None = None
        for start, vectors in embeddings.chunks(_ROWS):
            rows = range(start, start + len(vectors))
            columns = {name: pa.array(embeddings.values(name, rows)) for name in ("key", "label", "width", "height")}
            columns["label"] = columns["label"].cast(pa.string())
            pictures = pa.array(embeddings.thumbnails(rows), pa.binary())
            columns["image"] = pa.StructArray.from_arrays([pictures, columns["key"]], ["bytes", "path"])
            columns["vector"] = _lists(vectors.numpy())
            ids = _lists(index[rows.start : rows.stop].numpy().astype(np.int32))
            columns["neighbors"] = pa.StructArray.from_arrays(
                [ids, _lists(distance[rows.start : rows.stop])], ["ids", "distances"]
            )
            table = pa.table(columns)
            writer = writer or pq.ParquetWriter(file, table.schema)
            writer.write_table(table)
        assert writer is not None
        writer.close()

    try:
        write_atomically(path, write)
    except OSError as error:
        raise GlocalError(f"{path} cannot be written: {error.strerror}") from error
    return path


def _lists(rows: np.ndarray) -> pa.FixedSizeListArray:
    """Rows (N, K) as a column of lists of their own type."""
    return pa.FixedSizeListArray.from_arrays(pa.array(rows.reshape(-1)), rows.shape[1])
