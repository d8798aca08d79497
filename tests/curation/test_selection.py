"""Choosing images: against the greedy loop in float64, and what is written."""

import csv
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from glocal.curation import selection
from glocal.curation.selection import UnitVectors, k_centre, medoids, select, write_list, write_page, write_table
from glocal.data.sources.opening import open_source
from glocal.errors import GlocalError
from tests.embeddings.made import make_embeddings


def unit(vectors: np.ndarray) -> np.ndarray:
    found = vectors.astype(np.float16).astype(np.float64)
    return found / np.linalg.norm(found, axis=1, keepdims=True)


def greedy(vectors: np.ndarray, chosen: list[int], n: int) -> list[int]:
    """The textbook: each time the farthest from all chosen."""
    rows = unit(vectors)
    chosen = list(chosen)
    while len(chosen) < n:
        nearest = [min(1 - row @ rows[center] for center in chosen) for row in rows]
        chosen.append(max((far, -row) for row, far in enumerate(nearest) if row not in chosen)[1] * -1)
    return chosen


def points(count: int, seed: int = 0, dim: int = 6) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(count, dim))


@pytest.mark.parametrize("held", [0, 1 << 30])
@pytest.mark.parametrize("shortlist", [1, 7, 4096])
def test_k_centre_is_the_greedy_loop(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, held: int, shortlist: int
) -> None:
    monkeypatch.setattr(selection, "_SHORTLIST", shortlist)
    monkeypatch.setattr(selection, "_BLOCK", 40)
    vectors = points(150)
    embeddings = make_embeddings(tmp_path / "e", vectors, shard_rows=64)
    rows, distance = k_centre(UnitVectors(embeddings, held), 40, seed=3)
    assert rows.tolist() == greedy(vectors, [int(rows[0])], 40)
    assert distance[0].isnan()
    assert (distance[1:].diff() <= 1e-6).all()  # it only ever falls


def test_included_images_are_completed(tmp_path: Path) -> None:
    vectors = points(80)
    embeddings = make_embeddings(tmp_path / "e", vectors)
    (tmp_path / "have.txt").write_text("# labelled already\n000005.png\n\n000070.png\n")
    found = select(embeddings, 10, include=tmp_path / "have.txt")
    assert found.rows.tolist() == greedy(vectors, [5, 70], 12)[2:]
    nearest = np.argmin(1 - unit(vectors) @ unit(vectors)[[5, 70, *found.rows.tolist()]].T, axis=1)
    assert found.nearest.tolist() == np.bincount(nearest, minlength=12)[2:].tolist()
    by_means = select(embeddings, 10, include=tmp_path / "have.txt", rule="kmeans")
    assert len(set(by_means.rows.tolist()) - {5, 70}) == 10


@pytest.mark.parametrize("rule", ["kcentre", "kmeans"])
def test_coverage_is_that_of_a_loop_and_better_than_chance(tmp_path: Path, rule: str) -> None:
    centers = points(12, seed=1, dim=32)
    vectors = np.repeat(centers, [400] + [5] * 11, axis=0)
    vectors = vectors + np.random.default_rng(2).normal(0, 0.1, vectors.shape)
    embeddings = make_embeddings(tmp_path / "e", vectors)
    found = select(embeddings, 12, rule=rule)  # type: ignore[arg-type]
    rows = unit(vectors)
    nearest = (1 - rows @ rows[found.rows.numpy()].T).min(axis=1)
    assert found.coverage.mean == pytest.approx(nearest.mean(), abs=1e-5)
    assert found.coverage.largest == pytest.approx(nearest.max(), abs=1e-5)
    assert all(found.coverage.largest < 0.5 * one.largest for one in found.random)  # chance misses small groups
    assert len(found.random) == 5
    assert select(embeddings, 12, rule=rule, seed=0).rows.tolist() == found.rows.tolist()  # type: ignore[arg-type]


def test_medoids_are_the_images_nearest_to_the_centres(tmp_path: Path) -> None:
    centers = np.eye(4, 8) * 3
    vectors = np.repeat(centers, [40, 30, 20, 10], axis=0) + np.random.default_rng(0).normal(0, 0.1, (100, 8))
    rows, _ = medoids(UnitVectors(make_embeddings(tmp_path / "e", vectors)), 4)
    expected = []
    for start, stop in ((0, 40), (40, 70), (70, 90), (90, 100)):  # largest cluster first
        center = unit(vectors)[start:stop].mean(axis=0)
        expected.append(start + int((unit(vectors)[start:stop] @ center).argmax()))
    assert rows.tolist() == expected


@pytest.mark.parametrize("rule", ["kcentre", "kmeans"])
def test_copies_and_all_images_can_be_chosen(tmp_path: Path, rule: str) -> None:
    vectors = np.repeat(points(3), 5, axis=0)
    found = select(make_embeddings(tmp_path / "e", vectors), 15, rule=rule)  # type: ignore[arg-type]
    assert sorted(found.rows.tolist()) == list(range(15))
    assert found.coverage.largest == pytest.approx(0, abs=1e-6)


def test_what_is_written_can_be_opened(tmp_path: Path) -> None:
    paths = []
    for number in range(12):
        paths.append(str(tmp_path / f"image {number}.png"))
        Image.new("RGB", (8, 8), (number * 20, 0, 0)).save(paths[-1])
    embeddings = make_embeddings(tmp_path / "e", points(12), paths=paths)
    found = select(embeddings, 4)
    write_list(found, embeddings, tmp_path / "list.txt")
    write_table(found, embeddings, tmp_path / "list.csv")
    write_page(found, embeddings, tmp_path / "sheet.html")
    opened = open_source(tmp_path / "list.txt")
    assert [sample.image[0, 0, 0].item() // 20 for sample in (opened[i] for i in range(4))] == found.rows.tolist()
    with open(tmp_path / "list.csv", newline="") as file:
        assert [row["key"] for row in csv.DictReader(file)] == [embeddings.keys[row] for row in found.rows.tolist()]
    assert (tmp_path / "sheet.html").read_text().count("<img") == 4  # made of the files: no thumbnails were kept
    for name in ("list.txt", "list.csv"):  # what is chosen can be included the next time
        assert select(embeddings, 3, include=tmp_path / name).included == found.rows.tolist()


def test_what_is_wrong_is_named(tmp_path: Path) -> None:
    embeddings = make_embeddings(tmp_path / "e", points(20))
    for n in (0, 21, -1):
        with pytest.raises(GlocalError, match=rf"n={n}: .* has 20 images; choose from 1 to 20"):
            select(embeddings, n)
    with pytest.raises(GlocalError, match="rule kcenter: did you mean kcentre"):
        select(embeddings, 2, rule="kcenter")  # type: ignore[arg-type]
    listed = tmp_path / "have.txt"
    for text, message in (
        ("000001.png\n000001.png\n", "have.txt, line 2: 000001.png stands on line 1 already"),
        ("000001.PNG\n", "line 1: .* has no image 000001.PNG; did you mean 000001.png?"),
        ("\n# nothing\n", "the list is empty"),
    ):
        listed.write_text(text)
        with pytest.raises(GlocalError, match=message):
            select(embeddings, 2, include=listed)
    with pytest.raises(GlocalError, match="No such file"):
        select(embeddings, 2, include=tmp_path / "none.txt")
    listed.write_text("".join(f"{key}\n" for key in embeddings.keys[:19]))
    with pytest.raises(GlocalError, match="n=2: .* has 1 image beside the 19 included"):
        select(embeddings, 2, include=listed)
    found = select(embeddings, 2)
    with pytest.raises(GlocalError, match="is no file of its own"):
        write_list(found, embeddings, tmp_path / "list.txt")
    assert not (tmp_path / "list.txt").exists()


def test_a_vector_of_zeros_is_far_from_all(tmp_path: Path) -> None:
    vectors = np.concatenate([np.ones((10, 4)), np.zeros((1, 4))])
    assert 10 in select(make_embeddings(tmp_path / "e", vectors), 2).rows.tolist()
    assert torch.isfinite(UnitVectors(make_embeddings(tmp_path / "f", vectors), 0).take([10])).all()


def test_memory_of_medoids_does_not_grow_with_images_times_clusters(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    embeddings = make_embeddings(tmp_path / "e", points(20_000, dim=4))
    learned = []

    def some(vectors: Tensor, clusters: int, **_: object) -> tuple[Tensor, None, None]:
        learned.append(len(vectors))
        return vectors[:clusters].clone(), None, None

    class Largest(TorchDispatchMode):
        elements = 0

        def __torch_dispatch__(self, function: Any, types: Any, arguments: Any = (), options: Any = None) -> Any:
            made = function(*arguments, **(options or {}))
            for one in made if isinstance(made, tuple | list) else [made]:
                if isinstance(one, Tensor):
                    self.elements = max(self.elements, one.numel())
            return made

    monkeypatch.setattr(selection, "kmeans", some)
    with Largest() as largest:
        rows, _ = medoids(UnitVectors(embeddings, held=4000 * 4 * 4), 3000)
    assert len(set(rows.tolist())) == 3000
    assert learned == [4000]  # not all 20,000
    assert largest.elements <= 10_000_000  # 20,000 × 3,000 are 60 million
