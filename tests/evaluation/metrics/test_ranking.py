"""Rankings against the loops of the benchmarks and scikit-learn."""

import math

import numpy as np
import pytest
import torch
from sklearn.decomposition import PCA
from sklearn.metrics import average_precision_score
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from glocal.errors import GlocalError
from glocal.evaluation.features.whitening import comparable, learn_whitening
from glocal.evaluation.metrics import ranking
from glocal.evaluation.metrics.ranking import in_order, listed, micro_average_precision, precision_at, rank, same_class
from glocal.transfer import exact_device


def by_loop(order: list[int], right: set[int], junk: set[int], at: tuple[int, ...]) -> tuple[float, list[float]]:
    """Average precision and precisions of one ranking as the revisited benchmark defines them, place by place."""
    if not right:
        return math.nan, [math.nan] * len(at)
    places, passed = [], 0
    for place, image in enumerate(order):
        if image in junk:
            passed += 1
        elif image in right:
            places.append(place - passed)
    area = 0.0
    for number, place in enumerate(places):
        before = 1.0 if place == 0 else number / place
        area += (before + (number + 1) / (place + 1)) / 2 / len(right)
    precisions = []
    for k in at:
        last = min(max(places) + 1, k)
        precisions.append(sum(place + 1 <= last for place in places) / last)
    return area, precisions


def example(seed: int, queries: int = 9, images: int = 40) -> tuple[Tensor, Tensor, list[Tensor], list[Tensor]]:
    """Features; the first query has no relevant image, the second no junk, the third nothing but relevant images."""
    draw = torch.Generator().manual_seed(seed)
    relevant, junk = [], []
    for query in range(queries):
        order = torch.randperm(images, generator=draw)
        right, neither = int(torch.randint(1, 12, (), generator=draw)), int(torch.randint(0, 8, (), generator=draw))
        relevant.append(order[: [0, right, images][query] if query < 3 else right])
        junk.append(order[len(relevant[-1]) :][: 0 if query == 1 else neither])
    return (
        torch.randn(queries, 6, generator=draw),
        torch.randn(images, 6, generator=draw),
        relevant,
        junk,
    )


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("part", [1 << 22, 100])
def test_rankings_equal_the_loop_of_the_benchmark(seed: int, part: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ranking, "_SCORES", part)  # 100: two queries at a time
    queries, images, relevant, junk = example(seed)
    found = rank(queries, images, listed(relevant, junk, len(images)), at=(1, 5, 10))
    for row, query in enumerate(queries):
        order = sorted(range(len(images)), key=lambda image: -float(query @ images[image]))
        area, precisions = by_loop(order, set(relevant[row].tolist()), set(junk[row].tolist()), (1, 5, 10))
        assert float(found.average_precision[row]) == pytest.approx(area, abs=1e-12, nan_ok=True)
        for k, expected in zip((1, 5, 10), precisions, strict=True):
            assert float(found.precision[k][row]) == pytest.approx(expected, abs=1e-12, nan_ok=True)
    areas = [float(value) for value in found.average_precision if not value.isnan()]
    assert len(areas) == len(queries) - 1
    assert found.means()["mAP"] == pytest.approx(100 * sum(areas) / len(areas))


def test_by_hand() -> None:
    # places of the relevant images: 1 and 4; the third image is junk, so 1 and 3
    order = in_order(
        torch.tensor([[0.9, 0.8, 0.7, 0.6, 0.5]]),
        torch.tensor([[True, False, False, True, False]]),
        torch.tensor([[False, False, True, False, False]]),
    )
    assert order.tolist() == [[True, False, True, False, False]]
    # ((1 + 1) / 2 + (1/2 + 2/3) / 2) / 2
    assert float(ranking.trapezoid_precision(order)) == pytest.approx(0.7916667)
    assert float(precision_at(order, 1)) == 1
    assert float(precision_at(order, 10)) == pytest.approx(2 / 3)  # nothing is relevant behind the third


def test_images_of_one_score_stand_in_their_order_and_unreadable_ones_behind_all_but_junk() -> None:
    scores = torch.tensor([[0.5, 0.5, torch.nan, 0.5, -9.0]])
    relevant = torch.tensor([[False, True, True, False, False]])
    assert in_order(scores, relevant).tolist() == [[False, True, False, False, True]]
    junk = torch.tensor([[True, False, False, False, True]])
    assert in_order(scores, relevant, junk).tolist() == [[True, False, True, False, False]]


def test_places_of_equal_scores_of_both_signs_are_those_of_pythons_stable_sort() -> None:
    draw = torch.Generator().manual_seed(0)
    scores = torch.randint(-3, 4, (4, 200), generator=draw) * torch.tensor(0.3)
    scores[0, ::2] *= -1.0  # zeros of both signs
    scores[1, 5], scores[1, 6] = torch.inf, -torch.inf
    relevant = torch.rand(4, 200, generator=draw) < 0.3
    for row in range(4):
        order = sorted(range(200), key=lambda place: -float(scores[row, place]))
        assert in_order(scores, relevant)[row].tolist() == [bool(relevant[row, place]) for place in order]


class NoDoubles(TorchDispatchMode):
    """Apple's GPUs, as far as any other can be one: float64 is refused on the GPU."""

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]
        found = function(*args, **(kwargs or {}))
        for each in found if isinstance(found, tuple | list) else [found]:
            assert not isinstance(each, Tensor) or each.dtype != torch.float64 or each.device.type == "cpu", function
        return found


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_a_gpu_finds_the_same_without_float64() -> None:
    queries, images, relevant, junk = example(0)
    relevance = listed(relevant, junk, len(images))
    here, threshold = rank(queries, images, relevance), micro_average_precision(queries, images, relevance)
    with NoDoubles():
        there = rank(queries.cuda(), images.cuda(), relevance)
        assert micro_average_precision(queries.cuda(), images.cuda(), relevance) == pytest.approx(threshold)
        whitening = learn_whitening(images.to(exact_device("mps")))
        white = comparable(images, whitening, "cuda")
    assert there.means() == pytest.approx(here.means())
    assert torch.allclose(white.cpu(), comparable(images, whitening, "cpu"))


def test_what_is_relevant_and_junk_is_junk() -> None:
    features = torch.eye(3)
    relevance = listed([torch.tensor([0, 1])], [torch.tensor([0])], 3)
    found = rank(features[1:2], features, relevance, at=(1,))
    assert float(found.average_precision) == float(found.precision[1]) == 1


def test_a_ranking_cut_off_counts_what_it_does_not_show_as_not_found() -> None:
    images = torch.eye(5)
    query = torch.tensor([[5.0, 4.0, 3.0, 2.0, 1.0]])
    relevance = listed([torch.tensor([1, 4])], [torch.tensor([], dtype=torch.int64)], 5)
    cut = rank(query, images, relevance, at=(5,), depth=3)
    assert float(cut.average_precision) == pytest.approx((0 + 1 / 2) / 2 / 2)  # DINO's loop over the first 3
    assert float(cut.precision[5]) == pytest.approx(1 / 5)
    none = rank(query, images, relevance, at=(5,), depth=1)
    assert float(none.average_precision) == float(none.precision[5]) == 0


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("part", [1 << 22, 100])
def test_micro_average_precision_equals_scikit_learn_on_all_pairs(
    seed: int, part: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ranking, "_SCORES", part)
    queries, images, relevant, junk = example(seed)
    # whole numbers: many pairs have the same score, and no sum is rounded
    queries, images = queries.round(), images.round()
    relevance = listed(relevant, junk, len(images))
    scores = (queries @ images.mT).numpy()
    right, neither = (mask.numpy() for mask in relevance(slice(None)) if mask is not None)
    assert len(np.unique(scores)) < scores.size / 4
    expected = average_precision_score(right[~neither], scores[~neither])
    assert micro_average_precision(queries, images, relevance) == pytest.approx(expected, abs=1e-12)


def test_micro_average_precision_knows_one_threshold_for_all_queries() -> None:
    images = torch.eye(4)
    queries = torch.tensor([[0.9, 0.8, 0.0, 0.0], [0.0, 0.0, 0.3, 0.2], [0.5, 0.5, 0.5, 0.5]])
    nothing = torch.tensor([], dtype=torch.int64)
    relevance = listed([torch.tensor([0]), torch.tensor([2]), nothing], [nothing] * 3, 4)
    assert rank(queries, images, relevance).means()["mAP"] == 100
    # the second relevant pair comes behind .9 .8 and the four pairs of the query that has none
    assert micro_average_precision(queries, images, relevance) == pytest.approx((1 + 2 / 7) / 2)
    assert math.isnan(micro_average_precision(queries, images, listed([nothing] * 3, [nothing] * 3, 4)))


def test_an_unreadable_relevant_image_is_found_last() -> None:
    images = torch.eye(3)
    images[0] = torch.nan
    queries = torch.tensor([[1.0, 0.2, 0.1]])
    relevance = listed([torch.tensor([0])], [torch.tensor([], dtype=torch.int64)], 3)
    assert float(rank(queries, images, relevance).precision[1]) == 0
    assert micro_average_precision(queries, images, relevance) == pytest.approx(1 / 3)


def test_labels_make_relevance_and_a_query_does_not_find_itself() -> None:
    labels = torch.tensor([0, 1, 0])
    relevant, itself = same_class(labels, labels, themselves=True)(slice(1, 3))
    assert relevant.tolist() == [[False, True, False], [True, False, True]]
    assert itself is not None
    assert itself.tolist() == [[False, True, False], [False, False, True]]
    found = rank(torch.eye(3), torch.eye(3), same_class(labels, labels, themselves=True), at=(1,))
    assert found.average_precision.isnan().tolist() == [False, True, False]  # class 1 has no other image
    assert same_class(labels[:1], labels, themselves=False)(slice(0, 1))[1] is None


def test_whitening_equals_scikit_learn_and_gives_uncorrelated_features_of_variance_one() -> None:
    draw = torch.Generator().manual_seed(0)
    features = torch.randn(5000, 7, generator=draw) @ torch.randn(7, 7, generator=draw) + 5
    found = learn_whitening(features)(features).double()
    assert torch.allclose(found.mT @ found / len(found), torch.eye(7, dtype=torch.float64), atol=1e-4)
    fewer = learn_whitening(features, 3)(features).numpy()
    expected = PCA(3, whiten=True).fit_transform(features.double().numpy()) * math.sqrt(5000 / 4999)
    assert np.allclose(np.abs(fewer), np.abs(expected), atol=1e-3)


def test_features_that_are_to_be_compared_have_length_one_and_whitening_stays_off_apples_gpus() -> None:
    assert [exact_device(name).type for name in ("mps", "cuda", "cpu")] == ["cpu", "cuda", "cpu"]
    features = torch.randn(50, 4, generator=torch.Generator().manual_seed(0)) + 3
    features[7] = torch.nan
    whitening = learn_whitening(features[:7])
    for found, plain in (
        (comparable(features, None, "cpu"), features),
        (comparable(features, whitening, "cpu"), whitening(features)),
    ):
        assert torch.allclose(found[:7], plain[:7] / plain[:7].norm(dim=1, keepdim=True), atol=1e-6)
        assert found[7].isnan().all()


def test_whitening_with_fewer_images_than_features_stays_finite() -> None:
    features = torch.randn(4, 10, generator=torch.Generator().manual_seed(0))
    assert bool(learn_whitening(features)(features).isfinite().all())
    for wrong, dim in ((features[:1], None), (features, 11), (torch.ones(4, 10), None), (features * torch.nan, None)):
        with pytest.raises(GlocalError, match="whitening:"):
            learn_whitening(wrong, dim)
