"""SimCLR v2: NT-Xent over the views of the batch and a memory."""

import math

import pytest
import torch
from torch import Tensor
from torch.nn.functional import normalize

from glocal.losses import nt_xent
from tests.methods.cases import RESNET_RUN, MethodCase, make, views

CASE = MethodCase(
    trained={"loss": {"backbone", "projector"}},
    run={**RESNET_RUN, "method.hidden_dim": 64, "method.queue_size": 256, "method.momentum": 0.98},
    budget={
        "method.hidden_dim": 512,
        "method.queue_size": 2048,
        "method.momentum": 0.98,
        "train.epochs": 6,
    },
)


def nt_xent_by_loop(first: Tensor, second: Tensor, memory: Tensor, temperature: float) -> float:
    """Eq. 1 view by view, the memory's keys among the negatives."""
    views, total = [*first, *second], 0.0
    for number, view in enumerate(views):
        others = [float(view @ other) for place, other in enumerate(views) if place != number]
        negatives = [*others, *(float(view @ key) for key in memory)]
        positive = float(view @ views[(number + len(first)) % len(views)])
        total -= math.log(math.exp(positive / temperature) / sum(math.exp(x / temperature) for x in negatives))
    return total / len(views)


def test_the_keys_of_the_memory_are_negatives_of_every_view() -> None:
    generator = torch.Generator().manual_seed(0)
    first, second, memory = (
        normalize(torch.randn(rows, 4, generator=generator, dtype=torch.float64), dim=1) for rows in (3, 3, 5)
    )
    found = nt_xent(first, second, temperature=0.3, memory=memory)
    assert found.item() == pytest.approx(nt_xent_by_loop(first, second, memory, 0.3), rel=1e-10)


def test_the_projector_has_three_layers_and_the_memory_gets_the_momentum_networks_keys() -> None:
    method, fresh = make("simclr_v2"), make("simclr_v2")
    batch = views(method)
    assert [layer.out_features for layer in method.projector if isinstance(layer, torch.nn.Linear)] == [16, 16, 128]
    first, second = normalize(fresh.projector(fresh.backbone(torch.cat(batch.images))), dim=1).chunk(2)
    loss = method(batch)
    expected = nt_xent_by_loop(first.detach(), second.detach(), fresh.queue.keys, 0.1)
    assert loss.item() == pytest.approx(expected, rel=1e-4)
    keys = normalize(fresh.teacher(batch.images[1]), dim=1)
    method.after_step()
    assert torch.allclose(method.queue.keys[:8], keys, atol=1e-5)
    assert torch.equal(method.queue.keys[8:], fresh.queue.keys[8:])


def test_without_a_memory_it_is_simclr_with_another_projector_and_no_second_network() -> None:
    method = make("simclr_v2", queue_size=0)
    batch = views(method)
    first, second = normalize(method.projector(method.backbone(torch.cat(batch.images))), dim=1).chunk(2)
    assert method(batch).item() == pytest.approx(nt_xent(first, second, temperature=0.1).item(), rel=1e-5)
    method.after_step()
    assert method.teacher is None
