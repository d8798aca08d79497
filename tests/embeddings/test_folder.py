"""A folder of embeddings, opened: vectors are those of the files, in order, and are mapped, not read."""

import os
import resource
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from glocal.embeddings.folder import ABOUT, Embeddings, shard_paths
from glocal.embeddings.shards import map_vectors
from glocal.errors import GlocalError
from tests.embeddings.made import make_embeddings


@pytest.mark.parametrize(("count", "dim"), [(1, 5), (7, 3), (100, 1), (1000, 512)])
def test_vectors_are_mapped_from_where_a_parquet_reader_finds_them(tmp_path: Path, count: int, dim: int) -> None:
    vectors = np.random.default_rng(0).standard_normal((count, dim)).astype(np.float32)
    made = make_embeddings(tmp_path / "e", vectors, shard_rows=400)
    for path in shard_paths(made.folder):
        held = pa.total_allocated_bytes()
        mapped = map_vectors(path)
        assert pa.total_allocated_bytes() == held
        assert not mapped.flags.owndata
        plain = np.array(pq.read_table(path).column("vector").to_pylist(), np.float16)
        assert np.array_equal(mapped, plain)
    assert np.array_equal(made.rows(0, count).numpy(), vectors.astype(np.float16).astype(np.float32))
    shuffled = np.random.default_rng(1).permutation(count)
    assert np.array_equal(made.take(shuffled).numpy(), vectors[shuffled].astype(np.float16).astype(np.float32))
    assert sum(len(chunk) for _, chunk in made.chunks(300)) == count
    assert made.keys[-1] == f"{count - 1:06d}.png"


def test_thousands_of_shards_keep_no_file_open(tmp_path: Path) -> None:
    vectors = np.random.default_rng(0).standard_normal((100, 4)).astype(np.float32)
    before, most = len(os.listdir("/proc/self/fd")), resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (before + 20, most[1]))
    try:
        made = make_embeddings(tmp_path / "e", vectors, shard_rows=2)
        assert np.array_equal(made.rows(0, 100).numpy(), vectors.astype(np.float16).astype(np.float32))
        assert len(made.keys) == 100
        assert len(os.listdir("/proc/self/fd")) < before + 5  # of 50 shards; libraries open some of their own at first
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, most)


def test_values_of_rows_come_in_the_order_asked_for(tmp_path: Path) -> None:
    made = make_embeddings(tmp_path / "e", np.eye(20), thumbnails=[b"%d" % row for row in range(20)], shard_rows=6)
    rows = [19, 0, 6, 5, 0]
    assert made.values("key", rows) == [made.keys[row] for row in rows]
    assert made.thumbnails(rows) == [b"19", b"0", b"6", b"5", b"0"]
    assert made.values("key", []) == []
    assert made.written(7) == made.shards[1].stat().st_mtime
    with pytest.raises(GlocalError, match="column 'tokens' cannot be read"):
        made.values("tokens", [1])


def test_rows_that_are_not_there_are_told_and_masks_are_masks(tmp_path: Path) -> None:
    made = make_embeddings(tmp_path / "e", np.eye(20), shard_rows=6)
    mask = torch.zeros(20, dtype=torch.bool)
    mask[[3, 11]] = True
    assert torch.equal(made.take(mask), torch.eye(20)[[3, 11]])
    assert torch.equal(made.take(mask.tolist()), torch.eye(20)[[3, 11]])
    assert made.take([]).shape == (0, 20)
    for wrong in ([20], [-1], torch.tensor([0, 1000])):
        with pytest.raises(GlocalError, match="there is no row .*; it has 20, from 0 on"):
            made.take(wrong)
        with pytest.raises(GlocalError, match="there is no row"):
            made.values("key", wrong)
    for other in ([1.9], mask[:3], [[1]]):
        with pytest.raises(GlocalError, match="rows are a list of whole numbers, or a mask of 20 truth values"):
            made.take(other)  # type: ignore[arg-type]
    for start, stop in ((0, 21), (-5, -1), (4, 3)):
        with pytest.raises(GlocalError, match="there are no rows"):
            made.rows(start, stop)


def test_shards_of_other_programs_are_read_where_they_cannot_be_mapped(tmp_path: Path) -> None:
    vectors = np.random.default_rng(0).standard_normal((50, 8)).astype(np.float32)
    made = make_embeddings(tmp_path / "e", vectors)
    [path] = shard_paths(made.folder)
    table = pq.read_table(path)
    for options in ({"compression": "zstd"}, {"row_group_size": 20, "compression": "none"}, {"data_page_size": 64}):
        pq.write_table(table, path, **options)
        found = Embeddings(made.folder)
        assert np.array_equal(found.rows(0, 50).numpy(), vectors.astype(np.float16).astype(np.float32)), options


def test_what_is_wrong_is_named(tmp_path: Path) -> None:
    with pytest.raises(GlocalError, match=r"there is no such folder; `glocal embed"):
        Embeddings(tmp_path / "nothing")
    made = make_embeddings(tmp_path / "e", np.ones((3, 2), np.float32))
    with pytest.raises(GlocalError, match="column 'tokens' cannot be read"):
        made.column("tokens")
    [path] = shard_paths(made.folder)
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(GlocalError, match=r"shard-00000.parquet: no shard of embeddings, or damaged"):
        Embeddings(made.folder)
    (made.folder / ABOUT).write_text("{")
    with pytest.raises(GlocalError, match=r"embeddings.json is damaged"):
        Embeddings(made.folder)


def test_a_shard_that_is_missing_is_named(tmp_path: Path) -> None:
    made = make_embeddings(tmp_path / "e", np.ones((20, 2), np.float32), shard_rows=6)
    for lost in (made.shards[1], made.shards[3]):
        away = lost.rename(tmp_path / "away")
        with pytest.raises(GlocalError, match=f"{lost.name} is missing; the same `glocal embed` command"):
            Embeddings(made.folder)
        away.rename(lost)
    assert len(Embeddings(made.folder)) == 20
