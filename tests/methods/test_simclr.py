"""SimCLR: NT-Xent over the views of the batch."""

import pytest
import torch
from torch.nn.functional import normalize

from glocal.errors import GlocalError
from glocal.losses import nt_xent
from glocal.views.batch import Views
from tests.methods.cases import RESNET_RUN, MethodCase, make, views

CASE = MethodCase(
    trained={"loss": {"backbone", "projector"}},
    run={**RESNET_RUN, "method.hidden_dim": 64},
    budget={"method.temperature": 0.1, "method.hidden_dim": 512, "train.epochs": 6},
)


def test_it_is_nt_xent_of_views_that_pass_as_one_batch() -> None:
    method, fresh = (make("simclr", temperature=0.5) for _ in range(2))
    batch = views(method)
    first, second = normalize(fresh.projector(fresh.backbone(torch.cat(batch.images))), dim=1).chunk(2)
    assert method(batch).item() == pytest.approx(nt_xent(first, second, temperature=0.5).item(), rel=1e-5)


def test_cifar_has_half_the_distortion_and_no_blur() -> None:
    kind = type(make("simclr"))
    [small], [large] = kind.view_plan(32), kind.view_plan(224)
    assert (small.jitter.brightness, small.jitter.hue, small.blur.probability) == (0.4, 0.1, 0.0)
    assert (large.jitter.brightness, large.jitter.hue, large.blur.probability) == (0.8, 0.2, 0.5)


@pytest.mark.parametrize(
    "name", ["simclr", "byol", "barlow_twins", "vicreg", "moco", "moco_v3", "nnclr", "simsiam", "pcl"]
)
def test_three_views_are_refused_where_two_are_looked_at(name: str) -> None:
    method = make(name)
    batch = views(method)
    with pytest.raises(GlocalError, match="two views of each image, not 3"):
        method(Views((*batch.images, batch.images[0]), batch.geometry, batch.index))
