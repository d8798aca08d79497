"""SwAV: codes, queue and prototypes."""

import pytest
import torch
from torch.nn.functional import log_softmax, normalize

from glocal.errors import GlocalError
from glocal.losses.clustering import sinkhorn
from glocal.schedules import Clock
from glocal.views.batch import Views
from tests.methods.cases import RESNET_RUN, MethodCase, make, views

CASE = MethodCase(
    trained={"loss": {"backbone", "projector", "prototypes"}},
    small={"hidden_dim": 32, "output_dim": 16, "prototypes": 12, "frozen_prototype_epochs": 0},
    run={
        **RESNET_RUN,
        "method.hidden_dim": 128,
        "method.output_dim": 64,
        "method.prototypes": 64,
        "method.frozen_prototype_epochs": 0,
        "method.queue_size": 64,
        "method.queue_first_epoch": 0,
    },
    budget={
        "method.prototypes": 300,
        "method.hidden_dim": 512,
        "method.frozen_prototype_epochs": 0.5,
        "optimizer.lr": 0.36,
    },
)


def scores_of(method: torch.nn.Module, batch: Views) -> list[torch.Tensor]:
    """Each view's similarities with the prototypes; views of one size pass the network together."""
    sizes = sorted({image.shape[-1] for image in batch.images}, reverse=True)
    runs = [torch.cat([image for image in batch.images if image.shape[-1] == size]) for size in sizes]
    unit = normalize(method.projector(torch.cat([method.backbone(run) for run in runs])), dim=1)
    return list((unit @ method.prototypes.weight.T).split(len(batch.index)))


def test_each_view_predicts_the_codes_of_the_other_global_views() -> None:
    method, fresh = make("swav"), make("swav")
    batch = views(method)
    assert len(batch.images) == 8
    scores = scores_of(fresh, batch)
    terms = []
    for teacher in range(2):
        code = sinkhorn(scores[teacher], epsilon=0.05)
        others = scores[:teacher] + scores[teacher + 1 :]
        terms += [-(code * log_softmax(score / 0.1, dim=1)).sum(dim=1).mean() for score in others]
    assert method(batch).item() == pytest.approx(torch.stack(terms).mean().item(), rel=1e-5)


def test_codes_are_found_together_with_each_global_views_queue() -> None:
    method, fresh = (make("swav", queue_size=20, queue_first_epoch=3.0, local_views=0) for _ in range(2))
    batch = views(method)
    before = method(batch).item()
    scores = scores_of(fresh, batch)
    terms = []
    for teacher in range(2):
        queued = fresh.queues[teacher].keys @ fresh.prototypes.weight.T
        code = sinkhorn(torch.cat([queued, scores[teacher]]), epsilon=0.05)[-8:]
        terms.append(-(code * log_softmax(scores[1 - teacher] / 0.1, dim=1)).sum(dim=1).mean())
    found = make("swav", queue_size=20, queue_first_epoch=3.0, local_views=0)
    found.before_step(Clock(3, 1, 10))
    assert found(batch).item() == pytest.approx(torch.stack(terms).mean().item(), rel=1e-5)
    assert found(batch).item() != pytest.approx(before, rel=1e-5)


def test_prototypes_stand_still_at_first_and_keep_unit_length() -> None:
    method = make("swav", frozen_prototype_epochs=1.0)
    method(views(method)).backward()
    assert method.prototypes.weight.grad is None
    with torch.no_grad():
        method.prototypes.weight.mul_(3)
    method.after_step()
    assert torch.allclose(method.prototypes.weight.norm(dim=1), torch.ones(12))
    method.before_step(Clock(5, 5, 10))
    method(views(method)).backward()
    assert method.prototypes.weight.grad is not None


def test_global_views_of_two_sizes_are_refused() -> None:
    method = make("swav")
    batch = views(method)
    with pytest.raises(GlocalError, match="must have one size"):
        method(Views(batch.images[1:], batch.geometry[1:], batch.index))
