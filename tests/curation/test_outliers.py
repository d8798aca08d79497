"""Outliers: scores against plain loops, and what must not hide one."""

import csv
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from glocal.curation.outliers import explained, find_outliers, write_page, write_table
from glocal.errors import GlocalError
from glocal.report.sheets import jpeg
from tests.embeddings.made import make_embeddings


def cloud(count: int, seed: int = 0, dim: int = 16) -> np.ndarray:
    """Directions around one, as features of similar images are."""
    return np.random.default_rng(seed).normal(0, 0.3, (count, dim)) + 1


def by_loop(vectors: np.ndarray, k: int, *, local: bool) -> np.ndarray:
    unit = vectors.astype(np.float16).astype(np.float64)
    unit /= np.linalg.norm(unit, axis=1, keepdims=True)
    own, near = [], []
    for row in range(len(unit)):
        distance = sorted((1 - unit[row] @ unit[other], other) for other in range(len(unit)) if other != row)[:k]
        farther = distance[k // 2 :]
        own.append(sum(d for d, _ in farther) / len(farther))
        near.append([other for _, other in farther])
    if not local:
        return np.array(own)
    return np.array([own[row] / np.mean([own[other] for other in near[row]]) for row in range(len(unit))])


@pytest.mark.parametrize("rule", ["distance", "local"])
@pytest.mark.parametrize("k", [1, 5, 10])
def test_scores_are_those_of_plain_loops(tmp_path: Path, rule: str, k: int) -> None:
    vectors = cloud(60)
    found = find_outliers(make_embeddings(tmp_path / "e", vectors, shard_rows=25), k=k, rule=rule)  # type: ignore[arg-type]
    assert np.allclose(found.score.numpy(), by_loop(vectors, k, local=rule == "local"), atol=2e-5, rtol=1e-3)
    assert found.order.tolist() == sorted(range(60), key=lambda row: -float(found.score[row]))


@pytest.mark.parametrize("copies", [1, 2, 6])
def test_copies_of_an_outlier_do_not_hide_it(tmp_path: Path, copies: int) -> None:
    far = cloud(1, seed=5) * np.where(np.arange(16) % 2, 1, -1)
    embeddings = make_embeddings(tmp_path / "e", np.concatenate([cloud(100), *[far] * copies]))
    found = find_outliers(embeddings, k=10)
    assert set(found.found.tolist()) == set(range(100, 100 + copies))
    assert (found.deviation[found.found] > 6).all()


def test_a_set_without_outliers_has_few(tmp_path: Path) -> None:
    assert len(find_outliers(make_embeddings(tmp_path / "e", cloud(500, dim=64))).found) <= 3


def test_images_that_are_all_the_same_have_none(tmp_path: Path) -> None:
    found = find_outliers(make_embeddings(tmp_path / "e", np.ones((20, 4))))
    assert len(found.found) == 0
    assert found.score.isfinite().all()


def test_a_table_of_all_and_a_sheet_of_the_farthest(tmp_path: Path) -> None:
    vectors = np.concatenate([cloud(30), -cloud(1)])
    thumbnails = [jpeg(Image.new("RGB", (8, 8), "red"))] * 31
    embeddings = make_embeddings(tmp_path / "e", vectors, labels=["a"] * 30 + ["b"], thumbnails=thumbnails)
    found = find_outliers(embeddings)
    write_table(found, embeddings, tmp_path / "o.csv")
    with open(tmp_path / "o.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 31
    assert (rows[0]["rank"], rows[0]["key"], rows[0]["label"], rows[0]["outlier"]) == ("1", "000030.png", "b", "yes")
    write_page(found, embeddings, tmp_path / "o.html", 2)
    page = (tmp_path / "o.html").read_text()
    assert "1. 000030.png, b" in page
    assert page.count("<img") == 2 * 7  # an image and six neighbours each


def test_what_is_wrong_is_named(tmp_path: Path) -> None:
    embeddings = make_embeddings(tmp_path / "e", cloud(5))
    assert find_outliers(embeddings, k=100).k == 4
    with pytest.raises(GlocalError, match="rule locale: did you mean local"):
        find_outliers(embeddings, rule="locale")  # type: ignore[arg-type]
    with pytest.raises(GlocalError, match="k=0"):
        find_outliers(embeddings, k=0)
    with pytest.raises(GlocalError, match="threshold nan"):
        find_outliers(embeddings, threshold=float("nan"))
    with pytest.raises(GlocalError, match="2 images are too few"):
        find_outliers(make_embeddings(tmp_path / "f", cloud(2)))
    with pytest.raises(GlocalError, match="there is no such folder"):
        find_outliers(tmp_path / "nowhere")


def test_copies_that_are_more_than_half_make_no_outliers_of_the_others(tmp_path: Path) -> None:
    far = cloud(1, seed=5) * np.where(np.arange(16) % 2, 1, -1)
    vectors = np.concatenate([cloud(100), np.repeat(cloud(1, seed=7), 130, axis=0), far])
    found = find_outliers(make_embeddings(tmp_path / "e", vectors))
    assert 230 in found.found.tolist()
    assert len(found.found) <= 5
    assert found.left_out == 130
    assert "those of the others: 130 images are copies" in explained(found)
