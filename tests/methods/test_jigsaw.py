"""Jigsaw: patches that are cut with gaps and put into one of some orders that lie far apart."""

import itertools
import math

import pytest
import torch

from glocal.errors import GlocalError
from glocal.models.patches import cut_patches, places_of_patches, standardised
from glocal.models.permutations import distant_permutations
from glocal.views.batch import Views
from glocal.views.crops import render_batch
from glocal.views.geometry import ViewGeometry
from tests.methods.cases import RESNET_RUN, MethodCase, make, views

# No budget: it was not tried on shapes.
CASE = MethodCase(
    slow=True,
    trained={"loss": {"backbone", "classifier"}},
    small={"permutations": 4, "hidden_dim": 64, "gap": 0.0},  # noise is known again where patches stay in their places
    run={**RESNET_RUN, "method.permutations": 6, "method.hidden_dim": 32, "optimizer.lr": 0.06},
)


def by_the_paper(count: int, length: int) -> list[tuple[int, ...]]:
    """Algorithm 1 by plain loops, ties as `distant_permutations` breaks them."""
    orders = list(itertools.permutations(range(length)))
    chosen = [orders.pop(0)]
    while len(chosen) < count:
        distances = [[sum(a != b for a, b in zip(order, one, strict=True)) for one in chosen] for order in orders]
        best = max(range(len(orders)), key=lambda number: (sum(distances[number]), min(distances[number]), -number))
        chosen.append(orders.pop(best))
    return chosen


def test_permutations_are_those_of_the_papers_algorithm() -> None:
    assert distant_permutations(30, 5).tolist() == [list(order) for order in by_the_paper(30, 5)]
    assert len(set(map(tuple, distant_permutations(24, 4).tolist()))) == 24  # all there are, each once


def test_a_hundred_orders_of_nine_lie_far_apart() -> None:
    orders = distant_permutations(100)
    distance = (orders[:, None] != orders).sum(dim=2)
    apart = distance[~torch.eye(100, dtype=torch.bool)]
    assert apart.double().mean() > 8  # of 9; random ones have 8
    assert apart.min() >= 4


def test_patches_are_pixels_of_their_cells_with_gaps_between() -> None:
    images = torch.arange(2 * 3 * 30 * 30.0).view(2, 3, 30, 30)
    boxes = places_of_patches(30, 0.2, seed=0, step=0, index=torch.tensor([4, 9]))
    patches = cut_patches(images, boxes, 8).unflatten(0, (2, 9))
    for row, number in itertools.product(range(2), range(9)):
        left, top, right, bottom = (int(edge) for edge in boxes[row, number])
        assert (right - left, bottom - top) == (8, 8)
        assert (left // 10, right - 1) == (number % 3, min(right - 1, number % 3 * 10 + 9))
        assert (top // 10, bottom - 1) == (number // 3, min(bottom - 1, number // 3 * 10 + 9))
        assert torch.allclose(patches[row, number], images[row, :, top:bottom, left:right])
    assert len(boxes[..., 0].remainder(10).unique()) > 1  # they lie at different places in their cells


@pytest.mark.parametrize(("size", "gap", "least"), [(8, 0.25, 15), (6, 0.0, 12), (32, 0.99, 1050)])
def test_patches_of_less_than_four_pixels_are_refused(size: int, gap: float, least: int) -> None:
    with pytest.raises(GlocalError, match=f"views of {size} pixels .* patches of .* to {least} or more"):
        places_of_patches(size, gap, seed=0, step=0, index=torch.arange(2))
    left, _, right, _ = places_of_patches(least, gap, seed=0, step=0, index=torch.arange(2))[0, 0].tolist()
    assert right - left == 4


def test_patches_are_resized_as_crops_of_the_image_alone_are() -> None:
    images = torch.rand(2, 3, 30, 24, generator=torch.Generator().manual_seed(0))
    boxes = torch.tensor([[[0, 0, 9, 9], [3, 5, 15, 17]], [[2, 1, 8, 7], [10, 12, 24, 26]]]).double()
    patches = cut_patches(images, boxes, 8).unflatten(0, (2, 2))
    for number in range(2):
        alone = render_batch(images, ViewGeometry(boxes[:, number], torch.zeros(2, dtype=torch.bool)), 8)
        assert torch.allclose(patches[:, number], alone, atol=1e-6)


def test_places_are_an_images_own_in_each_step() -> None:
    whole = places_of_patches(30, 0.3, seed=1, step=2, index=torch.arange(6))
    assert torch.equal(places_of_patches(30, 0.3, seed=1, step=2, index=torch.tensor([5, 2])), whole[[5, 2]])
    assert not torch.equal(places_of_patches(30, 0.3, seed=1, step=3, index=torch.arange(6)), whole)


def test_standardised_patches_have_no_brightness_and_no_contrast_of_their_own() -> None:
    patches = torch.rand(4, 3, 8, 8, generator=torch.Generator().manual_seed(0)) * 5 + 3
    found = standardised(patches)
    assert torch.allclose(found.mean(dim=(2, 3)), torch.zeros(4, 3), atol=1e-5)
    assert torch.allclose(found.std(dim=(2, 3), correction=0), torch.ones(4, 3), atol=1e-2)
    assert standardised(torch.ones(1, 3, 8, 8)).abs().max() == 0


def test_the_loss_is_that_of_the_order_in_which_patches_are_shown() -> None:
    method, fresh = make("jigsaw", gap=0.2), make("jigsaw", gap=0.2)
    batch = views(method)
    [images] = batch.images
    patches = standardised(
        cut_patches(images, places_of_patches(16, 0.2, seed=0, step=0, index=batch.index), fresh.patch_size)
    ).unflatten(0, (8, 9))
    shown, order = fresh.puzzle(images, batch.index, 0)
    for row, which in enumerate(order.tolist()):
        for place, patch in enumerate(fresh.permutations[which].tolist()):
            assert torch.equal(shown[row * 9 + place], patches[row, patch])
    scores = fresh.classifier(fresh.backbone(shown)).double().log_softmax(dim=1)
    assert method(batch).item() == pytest.approx(-scores[torch.arange(8), order].mean().item(), rel=1e-5)
    assert method.solved is not None
    assert method.solved.item() == pytest.approx((scores.argmax(dim=1) == order).double().mean().item())
    assert method.chance == pytest.approx(math.log(4))


def test_views_of_several_sizes_are_puzzles_of_their_own() -> None:
    method = make("jigsaw")
    batch = views(method)
    method(Views((batch.images[0], batch.images[0][:, :, 2:14, 2:14]), batch.geometry * 2, batch.index))
    assert method.embedding is not None
    assert method.embedding.shape[0] == 8
