"""A folder of embeddings with given vectors, for tests."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa

from glocal.embeddings.folder import ABOUT, SHARD_ROWS, About, Embeddings
from glocal.embeddings.shards import vectors_column, write_shard


def make_embeddings(
    folder: Path,
    vectors: np.ndarray,
    *,
    keys: Sequence[str] | None = None,
    paths: Sequence[str | None] | None = None,
    labels: Sequence[str | None] | None = None,
    thumbnails: Sequence[bytes | None] | None = None,
    backbone: str = "pixels",
    shard_rows: int = SHARD_ROWS,
) -> Embeddings:
    """Writes vectors (N, D) as `glocal embed` would, and opens them."""
    folder.mkdir(parents=True, exist_ok=True)
    count, dim = vectors.shape
    keys = keys or [f"{row:06d}.png" for row in range(count)]
    columns = {
        "index": pa.array(range(count), pa.int64()),
        "key": pa.array(keys),
        "path": pa.array(paths or [None] * count, pa.string()),
        "label": pa.array(labels or [None] * count, pa.string()),
        "width": pa.array([32] * count, pa.int32()),
        "height": pa.array([32] * count, pa.int32()),
        "vector": vectors_column(vectors),
    }
    if thumbnails is not None:
        columns["thumbnail"] = pa.array(thumbnails, pa.binary())
    table = pa.table(columns)
    for number, first in enumerate(range(0, count, shard_rows)):
        write_shard(folder / f"shard-{number:05d}.parquet", table.slice(first, shard_rows))
    about = About(
        backbone=backbone,
        label=backbone,
        fingerprint=None,
        source="made",
        images=count,
        size=32,
        dim=dim,
        classes=sorted({label for label in labels or [] if label}) or None,
        shard_rows=shard_rows,
        complete=True,
    )
    (folder / ABOUT).write_text(about.model_dump_json(indent=2) + "\n")
    return Embeddings(folder)
