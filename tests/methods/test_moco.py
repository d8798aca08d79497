"""MoCo: queries against the queue."""

import pytest
import torch
from torch.nn.functional import normalize

from glocal.errors import GlocalError
from glocal.losses import info_nce
from glocal.models.shuffled import shuffled_patches
from glocal.views.batch import Views
from tests.methods.cases import MOCO_BUDGET, RESNET_RUN, STRONG_VIEW, MethodCase, make, views

CASE = MethodCase(
    trained={"loss": {"backbone", "projector"}},
    run={**RESNET_RUN, "method.queue_size": 128, "method.momentum": 0.95},
    budget={**MOCO_BUDGET, "method.output_dim": 256, "views": [{**STRONG_VIEW, "count": 2}], "train.epochs": 20},
)


def test_moco_is_info_nce_of_the_first_view_against_the_second() -> None:
    method = make("moco", temperature=0.07)
    batch = views(method)
    loss = method(batch)
    fresh = make("moco", temperature=0.07)
    query = normalize(fresh.projector(fresh.backbone(batch.images[0])), dim=1)
    key = normalize(fresh.teacher.chain(batch.images[1]), dim=1)
    assert loss.item() == pytest.approx(info_nce(query, key, fresh.queue.keys, temperature=0.07).item(), rel=1e-5)


def test_symmetric_is_the_mean_of_both_ways_and_queues_the_keys_of_both_views() -> None:
    method, fresh = make("moco", symmetric=True), make("moco")
    batch = views(method)
    loss = method(batch)
    ways = []
    for one, other in ((0, 1), (1, 0)):
        query = normalize(fresh.projector(fresh.backbone(batch.images[one])), dim=1)
        key = normalize(fresh.teacher.chain(batch.images[other]), dim=1)
        ways.append(info_nce(query, key, fresh.queue.keys, temperature=0.2).item())
    assert loss.item() == pytest.approx(sum(ways) / 2, rel=1e-5)
    assert sum(len(keys) for keys in method.new_keys) == 2 * len(batch.index)


def test_two_ways_to_add_a_query_exclude_each_other() -> None:
    with pytest.raises(ValueError, match="symmetric and jigsaw both add a query; leave one of them out"):
        make("moco", symmetric=True, jigsaw=True)


def test_patches_lie_in_their_cells_and_draws_are_each_images_own() -> None:
    side = torch.arange(30)
    images = (100.0 * side[:, None] + side).expand(4, 1, -1, -1)  # each value says where it was
    patches, order = shuffled_patches(images, 0, 5, torch.tensor([3, 3, 4, 5]))
    assert patches.shape == (36, 1, 8, 8)
    corner = patches[:, 0, 0, 0].view(4, 3, 3)
    rows, columns = corner // 100 - 10 * torch.arange(3)[:, None], corner % 100 - 10 * torch.arange(3)
    for offset in (rows, columns):
        assert offset.min() >= 0
        assert offset.max() <= 2
        assert len(offset.unique()) == 3
    assert torch.equal(patches - patches[:, :, :1, :1], (images[:1, :, :8, :8]).expand(36, -1, -1, -1))
    assert torch.equal(corner[0], corner[1])
    assert not torch.equal(corner[0], corner[2])
    assert order.sort(dim=1).values.tolist() == [list(range(9))] * 4
    assert not torch.equal(order[0], order[2])


def test_with_jigsaw_shuffled_patches_are_a_query_too() -> None:
    method, fresh = make("moco", jigsaw=True, jigsaw_weight=0.3), make("moco", jigsaw=True)
    batch = views(method)
    assert [image.shape[-1] for image in batch.images] == [16, 16, 18]
    query = normalize(fresh.projector(fresh.backbone(batch.images[0])), dim=1)
    key = normalize(fresh.teacher.chain(batch.images[1]), dim=1)
    patches, order = shuffled_patches(batch.images[2], 0, 0, batch.index)
    each = fresh.jigsaw.of_patch(fresh.backbone(patches)).view(8, 9, -1)
    together = torch.stack([torch.cat([each[image, place] for place in order[image]]) for image in range(8)])
    shuffled = normalize(fresh.jigsaw.of_image(together), dim=1)
    both = [info_nce(one, key, fresh.queue.keys, temperature=0.2) for one in (query, shuffled)]
    loss = method(batch)
    assert loss.item() == pytest.approx((0.7 * both[0] + 0.3 * both[1]).item(), rel=1e-5)
    loss.backward()
    assert all(parameter.grad is not None for parameter in method.jigsaw.parameters())
    with pytest.raises(GlocalError, match=r"method\.jigsaw needs three views of each image, not 2"):
        method(Views(batch.images[:2], batch.geometry[:2], batch.index))
