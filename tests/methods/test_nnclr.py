"""NNCLR: positives out of a support set."""

import pytest
import torch
from torch.nn.functional import cross_entropy, normalize

from tests.methods.cases import RESNET_RUN, MethodCase, make, views

CASE = MethodCase(
    slow=True,
    trained={"loss": {"backbone", "projector", "predictor"}},
    small={"hidden_dim": 32, "output_dim": 16, "predictor_dim": 32},
    run={
        **RESNET_RUN,
        "method.queue_size": 128,
        "method.hidden_dim": 128,
        "method.output_dim": 64,
        "method.predictor_dim": 128,
    },
    budget={"method.hidden_dim": 512, "method.predictor_dim": 512, "method.queue_size": 4096, "train.epochs": 6},
)


def test_a_views_nearest_neighbour_in_the_queue_finds_the_other_views_prediction() -> None:
    method, fresh = make("nnclr"), make("nnclr")
    batch = views(method)
    z = [fresh.projector(fresh.backbone(image)) for image in batch.images]
    p = [normalize(fresh.predictor(representation), dim=1) for representation in z]
    terms = []
    for view in range(2):
        found = []
        for row in normalize(z[view].detach(), dim=1):
            distances = [(row - key).square().sum().item() for key in fresh.queue.keys]
            found.append(fresh.queue.keys[distances.index(min(distances))])
        terms.append(cross_entropy(torch.stack(found) @ p[1 - view].T / 0.1, torch.arange(8)) / 2)
    assert method(batch).item() == pytest.approx((terms[0] + terms[1]).item(), rel=1e-5)
    method.after_step()
    assert torch.allclose(method.queue.keys[:8], normalize(z[0], dim=1), atol=1e-5)
    assert method.queue.position.item() == 8
