"""FNC: what seems to show the same as an image is no negative of it."""

import math

import pytest
import torch
from torch import Tensor
from torch.nn.functional import normalize

from glocal.losses import cancelled_nt_xent, false_negatives, nt_xent
from tests.methods.cases import RESNET_RUN, MethodCase, make, views

CASE = MethodCase(
    slow=True,
    trained={"loss": {"backbone", "projector"}},
    small={"support": 1},
    run={**RESNET_RUN, "method.hidden_dim": 64, "method.support": 2},
)


def unit(*shape: int, seed: int = 0) -> Tensor:
    return normalize(torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64), dim=-1)


def by_loop(views: Tensor, temperature: float, nearest: int, threshold: float, attract: bool) -> float:
    """Image by image: scores over its views, the false negatives among them, and the loss of each view."""
    count, batch, _ = views.shape
    total = 0.0
    for image in range(batch):
        scores = {
            (v, n): max(float(views[own, image] @ views[v, n]) for own in range(count))
            for v in range(count)
            for n in range(batch)
            if n != image
        }
        false = [place for place in sorted(scores, key=lambda p: -scores[p])[:nearest] if scores[place] > threshold]
        for anchor in range(count):
            others = [(v, n) for v in range(count) for n in range(batch) if (v, n) != (anchor, image)]
            positives = [(v, image) for v in range(count) if v != anchor]
            if attract:
                positives += false
            else:
                others = [place for place in others if place not in false]
            logit = {p: float(views[anchor, image] @ views[p]) / temperature for p in {*others, *positives}}
            total += math.log(sum(math.exp(logit[p]) for p in others))
            total -= sum(logit[p] for p in positives) / len(positives)
    return total / (count * batch)


@pytest.mark.parametrize("attract", [True, False])
@pytest.mark.parametrize(("nearest", "threshold"), [(3, 0.3), (50, 0.0), (1, -1.0)])
def test_it_equals_a_plain_loop(attract: bool, nearest: int, threshold: float) -> None:
    rows = unit(3, 5, 4)
    settings = {"temperature": 0.4, "nearest": nearest, "threshold": threshold, "attract": attract}
    found = cancelled_nt_xent(rows, **settings)
    assert found.item() == pytest.approx(by_loop(rows, **settings), rel=1e-12)
    assert found.dtype == torch.float64


def test_of_two_views_without_false_negatives_it_is_nt_xent() -> None:
    first, second = unit(2, 6, 4)
    found = cancelled_nt_xent(torch.stack([first, second]), temperature=0.3, nearest=10, threshold=1.0)
    assert found.item() == pytest.approx(nt_xent(first, second, temperature=0.3).item(), rel=1e-12)


def test_false_negatives_are_found_by_any_view_and_never_own() -> None:
    similarity = torch.tensor([[[1.0, 0.1, 0.6, 0.2]], [[0.9, 0.8, 0.65, 0.75]]])  # two views of one image, four keys
    own = torch.tensor([[True, False, False, False]])
    found = false_negatives(similarity, own, nearest=2, threshold=0.5)
    assert found.tolist() == [[False, True, False, True]]
    assert false_negatives(similarity, own, nearest=9, threshold=0.7).tolist() == [[False, True, False, True]]


@pytest.mark.parametrize("attract", [True, False])
def test_gradients_are_those_of_finite_differences(attract: bool) -> None:
    rows = unit(2, 4, 3).requires_grad_()
    assert torch.autograd.gradcheck(
        lambda x: cancelled_nt_xent(x, temperature=0.5, nearest=2, threshold=0.2, attract=attract), [rows]
    )


@pytest.mark.parametrize("strategy", ["attraction", "elimination"])
def test_the_method_is_the_loss_of_all_its_views(strategy: str) -> None:
    method, fresh = make("fnc", strategy=strategy, threshold=0.2), make("fnc")
    batch = views(method)
    assert len(batch.images) == 3
    rows = normalize(fresh.projector(fresh.backbone(torch.cat(batch.images))), dim=1).detach().view(3, 8, -1)
    expected = by_loop(rows, 0.1, 10, 0.2, strategy == "attraction")
    assert method(batch).item() == pytest.approx(expected, rel=1e-4)
