"""The index: what it finds is right, how often it misses is measured, and it is built again when it must be."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.nn.functional import normalize

import glocal
from glocal.embeddings import index as indexing
from glocal.embeddings.folder import Embeddings
from glocal.embeddings.index import DESCRIPTION, INDEX, choose_kind, open_index
from glocal.embeddings.nearest import nearest_rows
from glocal.errors import GlocalError
from tests.embeddings.made import make_embeddings

pytest.importorskip("faiss")


@pytest.fixture
def made(tmp_path: Path) -> Embeddings:
    """3,000 vectors around 40 centres, the first four the same."""
    rng = np.random.default_rng(0)
    vectors = rng.standard_normal((40, 16))[rng.integers(40, size=3000)] + 0.3 * rng.standard_normal((3000, 16))
    vectors[:4] = vectors[0]
    return make_embeddings(tmp_path / "e", vectors, shard_rows=700)


@pytest.mark.parametrize("free", [1 << 40, 0], ids=["float16", "codes"])
def test_its_recall_is_measured_and_what_it_finds_is_exact(
    made: Embeddings, monkeypatch: pytest.MonkeyPatch, free: int
) -> None:
    monkeypatch.setattr(indexing, "free_bytes", lambda: free)
    built = open_index(made, k=10, device="cpu", progress=False)
    assert built.about.recall >= 0.98
    assert built.about.probes < built.about.lists
    assert ("PQ" in built.about.kind) == (free == 0)
    queries = made.take(torch.arange(0, 3000, 10))
    similarity, rows = built.search(queries, 10)
    truth, exact = nearest_rows(made, queries, 10, device="cpu")
    assert np.mean([len(set(a) & set(b)) / 10 for a, b in zip(rows.tolist(), exact.tolist(), strict=True)]) > 0.97
    recomputed = (
        normalize(queries, dim=1)[:, None] * normalize(made.take(rows.flatten()), dim=1).view(300, 10, 16)
    ).sum(2)
    assert torch.allclose(similarity, recomputed, atol=1e-6)
    assert (similarity <= truth + 1e-6).all()
    assert set(rows[0, :4].tolist()) == {0, 1, 2, 3}
    assert 0 not in built.search(queries[:1], 10, own=torch.tensor([0]))[1]


def test_it_is_kept_and_built_again_when_the_embeddings_or_its_file_change(
    made: Embeddings, capsys: pytest.CaptureFixture[str]
) -> None:
    def count() -> int:
        return capsys.readouterr().err.count("building an index")

    glocal.search(made, made.keys[0], 5, index=True)
    assert count() == 1
    first = json.loads((made.folder / DESCRIPTION).read_text())
    assert first["k"] == 5
    assert first["sample"] == 200
    found = glocal.search(made.folder, made.keys[0], 5, index=True)
    printed = capsys.readouterr().err
    assert "building" not in printed
    assert f"finds {first['recall']:.1%} of the 5 nearest" in printed.replace("\n", " ")
    assert found.similarities[0, 0] > 0.9999
    (made.folder / INDEX).write_bytes((made.folder / INDEX).read_bytes()[:1000])
    glocal.search(made.folder, made.keys[0], 5, index=True)
    assert count() == 1
    (made.folder / DESCRIPTION).write_text("{")
    glocal.search(made.folder, made.keys[0], 5, index=True)
    assert count() == 1
    changed = make_embeddings(made.folder, np.random.default_rng(1).standard_normal((3000, 16)), shard_rows=700)
    glocal.search(changed, changed.keys[0], 5, index=True)
    assert count() == 1
    assert not list(made.folder.glob("*.part"))


def test_many_images_are_searched_by_an_index_and_few_are_not(
    made: Embeddings, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    glocal.search(made, made.keys[0], 5)
    assert not (made.folder / INDEX).exists()
    monkeypatch.setattr(indexing, "EXACT_UP_TO", 2999)
    glocal.search(made, made.keys[0], 5, index=False)
    assert not (made.folder / INDEX).exists()
    monkeypatch.setattr(indexing, "has_faiss", lambda: False)
    glocal.search(made, made.keys[0], 5)
    assert "pip install 'glocal[search]'" in capsys.readouterr().err.replace("\n", " ")
    assert not (made.folder / INDEX).exists()
    with pytest.raises(GlocalError, match="an index needs faiss"):
        glocal.search(made, made.keys[0], 5, index=True)
    monkeypatch.undo()
    monkeypatch.setattr(indexing, "EXACT_UP_TO", 2999)
    glocal.search(made, made.keys[0], 5)
    assert (made.folder / INDEX).exists()


def test_more_than_the_lists_hold_is_found_exactly(made: Embeddings) -> None:
    built = open_index(made, k=10, device="cpu", progress=False)
    queries = made.take([5, 6])
    similarity, rows = built.search(queries, 2999, own=torch.tensor([5, -1]))
    truth, exact = nearest_rows(made, queries, 2999, own=torch.tensor([5, -1]), device="cpu")
    assert torch.allclose(similarity, truth, atol=1e-6)
    assert (rows == exact).float().mean() > 0.9  # but for equals
    assert 5 not in rows[0]


def test_an_index_that_cannot_be_kept_is_searched_all_the_same(
    made: Embeddings, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def refuse(*_: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(indexing, "write_atomically", refuse)
    found = glocal.search(made, made.keys[0], 5, index=True)
    assert found.similarities[0, 0] > 0.9999
    assert "cannot be kept" in capsys.readouterr().err
    assert not (made.folder / INDEX).exists()


@pytest.mark.parametrize(("images", "dim"), [(1, 3), (50, 1), (2000, 7), (1_500_000, 512), (100_000_000, 1280)])
@pytest.mark.parametrize("free", [0, 1 << 50])
def test_every_size_has_a_kind_that_faiss_knows(images: int, dim: int, free: int) -> None:
    import faiss

    kind, lists, _, reason = choose_kind(images, dim, free)
    assert faiss.index_factory(dim, kind, faiss.METRIC_INNER_PRODUCT).d == dim
    assert 1 <= lists <= max(1, images // 39)
    assert "memory" in reason


def test_a_handful_of_images_gets_an_index_too(tmp_path: Path) -> None:
    for count in (1, 2, 3):
        made = make_embeddings(tmp_path / f"e{count}", np.eye(count, 5))
        found = glocal.search(made, made.keys[0], 1, index=True, progress=False)
        assert found.rows.tolist() == [[0]]


def test_rows_to_learn_from_are_there_in_sets_beyond_what_float32_counts() -> None:
    rows = 2**25 + 4
    chosen = indexing.spaced(rows, 1001)
    assert chosen[0] == 0
    assert chosen[-1] == rows - 1
    assert chosen.diff().min() >= (rows - 1) // 1000
