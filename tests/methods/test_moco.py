"""MoCo: queries against the queue."""

import pytest
from torch.nn.functional import normalize

from glocal.losses import info_nce
from tests.methods.cases import MOCO_BUDGET, RESNET_RUN, STRONG_VIEW, MethodCase, make, views

CASE = MethodCase(
    trained={"loss": {"backbone", "projector"}},
    run={**RESNET_RUN, "method.queue_size": 128, "method.momentum": 0.95},
    budget={**MOCO_BUDGET, "method.output_dim": 256, "views": [{**STRONG_VIEW, "count": 2}], "train.epochs": 12},
)


def test_moco_is_info_nce_of_the_first_view_against_the_second() -> None:
    method = make("moco", temperature=0.07)
    batch = views(method)
    loss = method(batch)
    fresh = make("moco", temperature=0.07)
    query = normalize(fresh.projector(fresh.backbone(batch.images[0])), dim=1)
    key = normalize(fresh.teacher.chain(batch.images[1]), dim=1)
    assert loss.item() == pytest.approx(info_nce(query, key, fresh.queue.keys, temperature=0.07).item(), rel=1e-5)
