"""Nearest neighbours among embeddings on the disk: those of float64, in memory that does not grow."""

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from glocal.embeddings import kept_neighbors, nearest
from glocal.embeddings.folder import Embeddings
from glocal.embeddings.kept_neighbors import KeptNeighbors
from glocal.embeddings.nearest import nearest_rows, neighbors_of_all
from glocal.errors import GlocalError
from glocal.neighbors import nearest_in_blocks
from glocal.signals import Stopped
from tests.embeddings.made import make_embeddings


def cosines(queries: np.ndarray, bank: np.ndarray) -> np.ndarray:
    """In float64, of vectors as they are stored; 0 for vectors of zeros."""
    left, right = (rows.astype(np.float16).astype(np.float64) for rows in (queries, bank))
    lengths = np.linalg.norm(left, axis=1)[:, None] * np.linalg.norm(right, axis=1)
    return left @ right.T / np.where(lengths == 0, 1, lengths)


def check(similarity: Tensor, index: Tensor, truth: np.ndarray) -> None:
    """Similarities are those of the rows found, in order, and nothing that is left out is clearly nearer."""
    k = index.shape[1]
    found = np.take_along_axis(truth, index.numpy(), axis=1)
    assert np.allclose(similarity.numpy(), found, atol=1e-6)
    assert np.allclose(found, -np.sort(-truth, axis=1)[:, :k], atol=1e-6)
    assert all(len(set(row)) == k for row in index.tolist())
    assert (similarity.diff(dim=1) <= 0).all()


@pytest.fixture(autouse=True)
def _small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(nearest, "_BLOCK_BYTES", 100 * 4 * 24)
    monkeypatch.setattr(nearest, "_QUERIES", 64)


@pytest.mark.parametrize("k", [1, 5, 299])
def test_neighbours_are_those_of_float64(tmp_path: Path, k: int) -> None:
    vectors = np.random.default_rng(0).standard_normal((300, 24))
    made = make_embeddings(tmp_path / "e", vectors, shard_rows=77)
    truth = cosines(vectors, vectors)
    check(*nearest_rows(made, made.rows(0, 300), k, device="cpu"), truth)
    np.fill_diagonal(truth, -np.inf)
    similarity, index = neighbors_of_all(made, k, device="cpu", progress=False)
    check(similarity, index, truth)
    assert similarity.shape == (300, k)
    assert similarity.dtype == torch.float32
    assert index.dtype == torch.int64


def test_copies_come_in_the_order_of_their_rows_and_zeros_are_like_nothing(tmp_path: Path) -> None:
    vectors = np.random.default_rng(0).standard_normal((250, 24))
    copies = [3, 120, 121, 249]
    vectors[copies] = vectors[3]
    vectors[[7, 200]] = 0
    made = make_embeddings(tmp_path / "e", vectors)
    similarity, index = neighbors_of_all(made, 3, device="cpu", progress=False)
    for row in copies:
        assert index[row].tolist() == [other for other in copies if other != row]
        assert torch.allclose(similarity[row], torch.ones(3))
    assert (similarity[[7, 200]] == 0).all()
    truth = cosines(vectors, vectors)
    np.fill_diagonal(truth, -np.inf)
    check(similarity, index, truth)


def test_all_copies_of_one_image_find_all_others(tmp_path: Path) -> None:
    made = make_embeddings(tmp_path / "e", np.ones((130, 24)))
    similarity, index = neighbors_of_all(made, 129, device="cpu", progress=False)
    assert torch.allclose(similarity, torch.ones(130, 129))
    assert all(row not in index[row] for row in range(130))
    few = neighbors_of_all(made, 2, device="cpu", progress=False)[1]
    assert all(row not in few[row] for row in range(130))


def test_the_own_row_is_left_out_where_there_is_one(tmp_path: Path) -> None:
    vectors = np.random.default_rng(0).standard_normal((150, 24))
    made = make_embeddings(tmp_path / "e", vectors)
    queries = made.take([140, 3])
    own = torch.tensor([140, -1])
    index = nearest_rows(made, queries, 4, own=own, device="cpu")[1]
    truth = cosines(vectors[[140, 3]], vectors)
    truth[0, 140] = -1
    assert index.tolist() == np.argsort(-truth, axis=1)[:, :4].tolist()


def fails(*_: object) -> None:
    raise AssertionError("searched again")


def test_neighbours_are_kept_until_the_embeddings_change(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    vectors = np.random.default_rng(0).standard_normal((300, 24))
    made = make_embeddings(tmp_path / "e", vectors, shard_rows=77)
    first = neighbors_of_all(made, 5, device="cpu", progress=False)
    with monkeypatch.context() as searched:
        searched.setattr(nearest, "_nearest", fails)
        again = neighbors_of_all(Embeddings(made.folder), 5, device="cpu", progress=False)
        more = neighbors_of_all(made, 32, device="cpu", progress=False)
        with pytest.raises(AssertionError, match="searched again"):
            neighbors_of_all(made, 33, device="cpu", progress=False)
    assert all(map(torch.equal, first, again))
    assert again[1].dtype == torch.int64
    assert all(torch.equal(few, many[:, :5]) for few, many in zip(first, more, strict=True))
    truth = cosines(vectors, vectors)
    np.fill_diagonal(truth, -np.inf)
    check(*more, truth)

    other = np.random.default_rng(1).standard_normal((300, 24))  # as many, of the same size
    made = make_embeddings(tmp_path / "e", other, shard_rows=77)
    truth = cosines(other, other)
    np.fill_diagonal(truth, -np.inf)
    check(*neighbors_of_all(made, 5, device="cpu", progress=False), truth)


def test_a_search_that_was_stopped_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    vectors = np.random.default_rng(0).standard_normal((300, 24))
    made = make_embeddings(tmp_path / "e", vectors)
    usual, searched = nearest._nearest, []

    def stopped_in_the_third(queries: Tensor, blocks: Iterator[Tensor], *rest: object) -> tuple[Tensor, Tensor]:
        searched.append(len(queries))
        if len(searched) == 3:
            os.kill(os.getpid(), signal.SIGTERM)
        return usual(queries, blocks, *rest)  # type: ignore[arg-type]

    monkeypatch.setattr(nearest, "_nearest", stopped_in_the_third)
    with pytest.raises(Stopped, match="stopped after the neighbours of 128 of 300 images"):
        neighbors_of_all(made, 5, device="cpu", progress=False)
    found = neighbors_of_all(made, 5, device="cpu", progress=False)
    assert searched == [64, 64, 64, 64, 64, 44]
    assert "goes on after 128 of 300 images" in capsys.readouterr().err
    assert sorted(path.name for path in made.folder.iterdir() if "neighbors" in path.name) == ["neighbors.safetensors"]
    truth = cosines(vectors, vectors)
    np.fill_diagonal(truth, -np.inf)
    check(*found, truth)


def test_what_is_found_is_saved_now_and_then(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(nearest, "_SAVED_EVERY", -1)
    written: list[int] = []
    usual = KeptNeighbors.write_part
    monkeypatch.setattr(
        KeptNeighbors, "write_part", lambda kept, *found: written.append(len(found[0])) or usual(kept, *found)
    )
    made = make_embeddings(tmp_path / "e", np.random.default_rng(0).standard_normal((200, 24)))
    neighbors_of_all(made, 5, device="cpu", progress=False)
    assert written == [64, 128, 192]


def test_a_folder_that_cannot_be_written_costs_only_the_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(kept_neighbors, "write_atomically", full)
    monkeypatch.setattr(nearest, "_SAVED_EVERY", -1)
    vectors = np.random.default_rng(0).standard_normal((200, 24))
    made = make_embeddings(tmp_path / "e", vectors)
    truth = cosines(vectors, vectors)
    np.fill_diagonal(truth, -np.inf)
    check(*neighbors_of_all(made, 5, device="cpu", progress=False), truth)
    assert "".join(capsys.readouterr().err.splitlines()).count("No space left on device") == 1


def test_a_damaged_file_is_searched_again(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    vectors = np.random.default_rng(0).standard_normal((100, 24))
    made = make_embeddings(tmp_path / "e", vectors)
    (made.folder / kept_neighbors.ALL).write_bytes(b"no neighbours")
    truth = cosines(vectors, vectors)
    np.fill_diagonal(truth, -np.inf)
    check(*neighbors_of_all(made, 5, device="cpu", progress=False), truth)
    assert "cannot be read" in capsys.readouterr().err


def test_what_cannot_be_found_is_said(tmp_path: Path) -> None:
    made = make_embeddings(tmp_path / "e", np.random.default_rng(0).standard_normal((5, 24)))
    with pytest.raises(GlocalError, match="k=5 neighbours of 5 images: choose from 1 to 4, the others"):
        neighbors_of_all(made, 5, device="cpu")
    with pytest.raises(GlocalError, match=r"queries of shape \(1, 3\): .* needs \(Q, 24\)"):
        nearest_rows(made, torch.ones(1, 3), 2, device="cpu")
    with pytest.raises(GlocalError, match="k=6 neighbours: choose fewer, the bank has 5 rows"):
        nearest_rows(made, torch.ones(1, 24), 6, device="cpu")
    with pytest.raises(GlocalError, match="k=5 neighbours: choose fewer, the bank has 5 rows"):
        nearest_rows(made, torch.ones(1, 24), 5, own=torch.tensor([0]), device="cpu")


@pytest.mark.parametrize("bad", [torch.nan, torch.inf])
def test_rows_that_are_no_numbers_are_named(bad: float) -> None:
    bank = torch.randn(30, 4, generator=torch.Generator().manual_seed(0))
    bank[25, 1] = bad
    with pytest.raises(GlocalError, match="row 25 or a query is infinite or no number"):
        nearest_in_blocks(torch.ones(3, 4), bank.split(10), 2, metric="cosine")


def test_blocks_give_what_the_whole_gives_by_euclidean_distance() -> None:
    generator = torch.Generator().manual_seed(0)
    queries, bank = torch.randn(9, 4, generator=generator), torch.randn(50, 4, generator=generator)
    distance, index = nearest_in_blocks(queries, bank.split(7), 10)
    truth = torch.cdist(queries.double(), bank.double())
    assert index.tolist() == truth.argsort(dim=1)[:, :10].tolist()
    assert torch.allclose(distance.double(), truth.sort(dim=1).values[:, :10], atol=1e-5)
