"""Measures of the embedding against plain loops over pairs, and its maps."""

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from sklearn.metrics import silhouette_score
from torch.nn.functional import cosine_similarity

from glocal.data.sources.base import MemorySource
from glocal.data.sources.opening import open_source
from glocal.errors import GlocalError
from glocal.evaluation import RawPixels, evaluate
from glocal.evaluation.metrics.structure import alignment, class_similarity, effective_rank, spread, uniformity
from glocal.report.maps import choose_for_map, draw_map, project


def points(rows: int, dim: int = 6, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(rows, dim, generator=generator) * (1 + 5 * torch.rand(rows, 1, generator=generator)) + 0.4


def mean(values: list[float]) -> float:
    return sum(values) / len(values)


def test_similarities_equal_a_loop_over_all_pairs_and_classes_of_one_image_have_none() -> None:
    features = points(23)
    labels = torch.tensor([0] * 9 + [1] * 2 + [3] * 11 + [5])[torch.randperm(23)]  # 2 and 4 are empty, 5 is alone
    cosine = [[float(cosine_similarity(a, b, dim=0)) for b in features] for a in features]
    intra, inter, apart = [], [], []
    for number in (0, 1, 3, 5):
        own = [i for i in range(23) if labels[i] == number]
        others = [i for i in range(23) if labels[i] != number]
        pairs = [(i, j) for i in own for j in own if i < j]
        if pairs:
            intra.append(mean([cosine[i][j] for i, j in pairs]))
        apart += [
            float((features[i] / features[i].norm() - features[j] / features[j].norm()).norm()) ** 2 for i, j in pairs
        ]
        inter.append(mean([cosine[i][j] for i in own for j in others]))
    found = class_similarity(features, labels)
    assert found.intra == pytest.approx(mean(intra), abs=1e-6)
    assert found.inter == pytest.approx(mean(inter), abs=1e-6)
    assert found.alignment == pytest.approx(mean(apart), abs=1e-6)
    assert (found.classes, found.alone) == (4, 1)


def test_similarities_do_not_depend_on_how_the_images_are_cut_into_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    features, labels = points(50), torch.arange(50) % 7
    whole = class_similarity(features, labels), uniformity(features), effective_rank(features)
    monkeypatch.setattr("glocal.evaluation.metrics.structure._ROWS", 7)
    parts = class_similarity(features, labels), uniformity(features), effective_rank(features)
    assert parts[0] == pytest.approx(whole[0], abs=1e-12)
    assert parts[1:] == pytest.approx(whole[1:], abs=1e-6)


def test_what_has_no_pair_is_none() -> None:
    assert class_similarity(points(3), torch.tensor([0, 0, 0])).inter is None
    alone = class_similarity(points(3), torch.tensor([0, 1, 2]))
    assert (alone.intra, alone.alignment, alone.alone) == (None, None, 3)


def test_uniformity_equals_the_papers_pdist_and_is_stable_for_any_t() -> None:
    features = points(40).double()
    unit = features / features.norm(dim=1, keepdim=True)
    expected = torch.pdist(unit).pow(2).mul(-2).exp().mean().log()
    assert uniformity(features) == pytest.approx(float(expected), abs=1e-12)
    assert uniformity(features.float()) == pytest.approx(float(expected), abs=1e-5)
    nearest = torch.pdist(unit).min() ** 2  # alone counts for a large t, at which every exponential is 0 in float32
    assert uniformity(features.float(), t=1e5) == pytest.approx(-1e5 * float(nearest) - math.log(40 * 39 / 2), rel=1e-3)
    with pytest.raises(GlocalError, match="two images or more, not 1"):
        uniformity(features[:1])


def test_alignment_is_the_mean_squared_distance_of_unit_vectors() -> None:
    first, second = points(30), points(30, seed=1)
    expected = mean([2 - 2 * float(cosine_similarity(a, b, dim=0)) for a, b in zip(first, second, strict=True)])
    assert alignment(first, second) == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize("rows", [4, 50])  # fewer and more images than dimensions
def test_effective_rank_equals_that_of_the_singular_values(rows: int) -> None:
    features = points(rows, 9).numpy().astype(np.float64)
    values = np.linalg.svd(features / np.linalg.norm(features, axis=1, keepdims=True), compute_uv=False)
    share = values / values.sum()
    assert effective_rank(torch.from_numpy(features)) == pytest.approx(math.exp(-(share * np.log(share)).sum()))


def test_rank_and_spread_of_a_point_are_lowest() -> None:
    same = torch.ones(20, 5)
    assert effective_rank(same) == pytest.approx(1, abs=1e-4)
    assert spread(same) == pytest.approx(0, abs=1e-6)
    assert effective_rank(torch.zeros(20, 5)) == pytest.approx(1)
    assert effective_rank(torch.eye(5)) == pytest.approx(5)


def test_a_map_shows_the_largest_classes_and_a_seeded_sample() -> None:
    labels = torch.cat([torch.full((3 + number % 30,), number) for number in range(30)])
    rows, there = choose_for_map(labels, 200, seed=0)
    assert there == 30
    assert sorted(set(labels[rows].tolist())) == list(range(10, 30))
    assert len(rows) == 200
    assert torch.equal(rows, choose_for_map(labels, 200, seed=0)[0])
    assert not torch.equal(rows, choose_for_map(labels, 200, seed=1)[0])
    few, there = choose_for_map(labels[:50], 2000, seed=0)
    assert few.tolist() == list(range(50))


def test_maps_keep_classes_apart_and_survive_few_and_equal_images() -> None:
    labels = torch.arange(90) % 3
    features = 4 * torch.eye(3, 8)[labels] + 0.1 * points(90, 8)
    assert silhouette_score(project(features, "tsne").numpy(), labels.numpy()) > 0.5
    for odd in (features[:10], torch.ones(12, 4), torch.arange(12.0)[:, None] - 5):
        found = project(odd, "tsne")
        assert found.shape == (len(odd), 2)
        assert found.isfinite().all()


def test_umap_is_a_choice(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("glocal.report.maps.find_spec", lambda name: None)
    with pytest.raises(GlocalError, match=r"UMAP needs umap-learn: pip install 'glocal\[umap\]'"):
        run(open_source("shapes:test:16"), {"structure.pictures": ["tsne", "umap"]})


def test_names_that_matplotlib_reads_as_commands_are_drawn(tmp_path: Path) -> None:
    names = ["_hidden", "$\\frac$", "a" * 80, "猫"]
    draw_map(torch.rand(8, 2), torch.arange(8) % 4, names, "title", tmp_path / "map.png")
    assert Image.open(tmp_path / "map.png").size[0] > 600


def run(source, settings=None, out=None):  # type: ignore[no-untyped-def]
    settings = {"structure.view_images": 8, "structure.picture_images": 40, **(settings or {})}
    found = evaluate(
        RawPixels(8), train=source, test=source, protocols="structure", settings=settings, out=out, progress=False
    )
    return {entry["setting"]: entry["metrics"] for entry in found["protocols"]["structure"]["results"]}


def test_the_protocol_measures_and_draws(tmp_path: Path) -> None:
    source = open_source("shapes:test:64")
    found = run(source, {"structure.pair_images": 50}, tmp_path)
    assert set(found) == {"classes", "two views", "50 images"}
    assert set(found["classes"]) == {"intra_class_similarity", "inter_class_similarity", "alignment"}
    assert found["classes"]["alignment"] > 0
    assert 0 < found["two views"]["alignment"] < 2
    assert found["50 images"]["uniformity"] < 0
    assert Image.open(tmp_path / "tsne.png").size[0] > 600
    assert not (tmp_path / "umap.png").exists()
    assert run(source, {"structure.pair_images": 50}) == found


def test_equal_images_are_at_no_distance_and_one_class_has_no_other() -> None:
    flat = torch.full((24, 3, 8, 8), 128, dtype=torch.uint8)
    same = MemorySource("grey", flat, torch.zeros(24).long(), ["grey"])
    assert run(same)["classes"] == {"intra_class_similarity": pytest.approx(1), "alignment": pytest.approx(0, abs=1e-9)}


def test_one_image_and_missing_labels_are_errors() -> None:
    image = torch.zeros(1, 3, 8, 8, dtype=torch.uint8)
    with pytest.raises(GlocalError, match="one image has no structure"):
        run(MemorySource("one", image, torch.zeros(1).long(), ["a"]))
    with pytest.raises(GlocalError, match="none has no labels"):
        run(MemorySource("none", image, None, None))
    with pytest.raises(GlocalError, match="picture_images"):
        run(open_source("shapes:test:16"), {"structure.picture_images": 1})
