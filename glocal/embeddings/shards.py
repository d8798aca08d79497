"""Parquet files of embeddings, whose vectors can be used where they lie in the file.

A shard has one group of rows, and its vectors are neither compressed nor coded, in one page. Then the last bytes of the
column are the vectors themselves, row after row: any Parquet reader reads them, and this one maps them into memory.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from glocal.errors import GlocalError
from glocal.files import write_atomically

_ONE_PAGE = 2**31 - 1  # bytes: more than a shard has
# Bytes before the vectors in their page, at most: its header, and for each row where its list begins.
_HEADER, _LEVELS = 256, 8


def vectors_column(vectors: np.ndarray) -> pa.FixedSizeListArray:
    """Vectors (N, D) as a column of lists of float16.

    Raises:
        GlocalError: a value is too large for float16.
    """
    with np.errstate(over="ignore"):  # an error below
        half = vectors.astype(np.float16)
    if not np.isfinite(half).all():
        raise GlocalError("an embedding has values beyond 65,504, which float16 does not hold")
    return pa.FixedSizeListArray.from_arrays(pa.array(half.reshape(-1)), vectors.shape[1])


def write_shard(
    path: Path, table: pa.Table, *, plain: Sequence[str] = ("vector",), packed: Sequence[str] = ("thumbnail",)
) -> None:
    """Writes one shard, whole or not at all.

    Args:
        path: the file.
        table: its rows; 4,096 are usual, above 20,000 or 2 GB in a column of vectors these fill several pages.
        plain: the columns of vectors, which are to be mapped.
        packed: columns whose values are compressed already.
    """
    as_they_are = [*(f"{name}.list.element" for name in plain), *packed]
    others = [name for name in table.column_names if name not in (*plain, *packed)]
    write_atomically(
        path,
        lambda file: pq.write_table(
            table,
            file,
            row_group_size=max(1, len(table)),
            data_page_size=_ONE_PAGE,
            use_dictionary=False,
            compression={**dict.fromkeys(others, "zstd"), **dict.fromkeys(as_they_are, "none")},
        ),
    )


def map_vectors(path: Path, column: str = "vector") -> np.ndarray:
    """The vectors of a shard, (N, D) float16, mapped into memory where they lie plainly in the file, else read.

    Raises:
        GlocalError: the file is no shard of embeddings, or is damaged.
    """
    try:
        with pq.ParquetFile(path, memory_map=True) as file:
            kind = file.schema_arrow.field(column).type
            if not pa.types.is_fixed_size_list(kind) or kind.value_type != pa.float16():
                raise GlocalError(f"{path}: column {column} holds {kind}, not lists of float16 of one length")
            rows, width = file.metadata.num_rows, kind.list_size
            mapped = _mapped(path, file, column, rows, width)
            if mapped is not None:
                return mapped
            return np.asarray(_flat(file.read([column]).column(column))).reshape(rows, width)
    except (pa.ArrowException, KeyError, OSError) as error:
        raise GlocalError(f"{path}: no shard of embeddings, or damaged: {error}") from error


def _mapped(path: Path, file: pq.ParquetFile, column: str, rows: int, width: int) -> np.ndarray | None:
    """The vectors where they lie; None where another program has written them in another way."""
    if file.metadata.num_row_groups != 1:
        return None
    group = file.metadata.row_group(0)
    places = [i for i in range(group.num_columns) if group.column(i).path_in_schema.split(".")[0] == column]
    chunk = group.column(places[0])
    begin, length = chunk.data_page_offset, rows * width * 2
    end = begin + chunk.total_compressed_size
    whole = chunk.num_values == rows * width and chunk.statistics is not None and chunk.statistics.null_count == 0
    plain = chunk.compression == "UNCOMPRESSED" and not chunk.has_dictionary_page and whole
    if not plain or rows == 0 or not 0 < end - begin - length <= _HEADER + _LEVELS * rows:
        return None
    with pa.memory_map(str(path)) as content:  # unlike numpy's, it keeps no file open: there may be thousands
        content.seek(end - length)
        mapped = np.frombuffer(content.read_buffer(length), np.float16).reshape(rows, width)
    # The first row by the library's own reader: with several pages it would lie elsewhere.
    batch = next(file.iter_batches(batch_size=1, columns=[column]))
    first = np.asarray(_flat(batch.column(0)))
    return mapped if np.array_equal(mapped[0], first, equal_nan=True) else None


def _flat(column: pa.ChunkedArray | pa.Array) -> pa.Array:
    joined = column.combine_chunks() if isinstance(column, pa.ChunkedArray) else column
    if isinstance(joined, pa.ChunkedArray):
        joined = pa.concat_arrays(joined.chunks)
    return joined.flatten()
