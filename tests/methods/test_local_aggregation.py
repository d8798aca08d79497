"""Local aggregation: NPID first, then neighbours of the same cluster."""

import pytest
import torch
from torch.nn.functional import normalize

from glocal.config import build_recipe
from glocal.losses.memory import local_aggregation
from glocal.methods import Method
from glocal.neighbors import kmeans
from glocal.schedules import Clock
from tests.methods.cases import RESNET_RUN, MethodCase, make, views

CASE = MethodCase(
    slow=True,
    trained={"loss": {"backbone", "npid.projector"}},
    run={
        **RESNET_RUN,
        "method.negatives": 256,
        "method.first_epoch": 1,
        "method.background": 64,
        "method.clusterings": 3,
    },
    small={"images": 32, "negatives": 16, "background": 12, "clusterings": 3, "clusters": 4},
    budget={
        "method.negatives": None,
        "method.temperature": 0.2,
        "method.momentum": 0.2,
        "method.first_epoch": 6,
        "method.background": 512,
        "method.clusterings": 3,
        "optimizer.lr": 0.12,
        "train.epochs": 12,
    },
    # Its loss has another scale than NPID's, and like that rises when rows of the bank are no longer random. It falls
    # slowly, because clusters change every epoch: two epochs are not enough to see it whatever the rounding.
    falls={"method.first_epoch": 0, "method.momentum": 1.0, "train.epochs": 4},
)


def clustered(**settings: object) -> Method:
    method = make("local_aggregation", **settings)
    method.before_step(Clock(40, 4, 80))  # the first step of epoch 10
    return method


def test_it_starts_as_npid() -> None:
    method, npid = make("local_aggregation"), make("npid")
    method.before_step(Clock(39, 4, 80))
    npid.before_step(Clock(39, 4, 80))
    batch = views(method)
    npid.load_state_dict({name[5:]: value for name, value in method.state_dict().items() if name.startswith("npid.")})
    assert method(batch).item() == npid(batch).item()


def test_then_its_loss_is_that_of_neighbours_in_the_bank() -> None:
    method, fresh = clustered(), clustered()
    batch = views(method)
    bank = fresh.npid.memory.rows
    clusters = torch.stack(
        [kmeans(bank, 4, iterations=20, seed=number, start="random")[1].int() for number in range(3)]
    )
    assert torch.equal(method.clusters, clusters)
    query = normalize(fresh.npid.projector(fresh.backbone(batch.images[0])), dim=1)
    expected = local_aggregation(query, bank, clusters, batch.index, background=12, temperature=0.07)
    assert method(batch).item() == pytest.approx(expected.item(), rel=1e-5)
    expected.backward()
    assert fresh.backbone.network.conv1.weight.grad.abs().sum() > 0


def test_the_bank_is_updated_in_both_stages_and_clustered_each_epoch() -> None:
    method = clustered()
    batch, before, clusters = views(method), method.npid.memory.rows.clone(), method.clusters.clone()
    method(batch)
    method.after_step()
    assert (method.npid.memory.rows[:8] != before[:8]).any()
    method.before_step(Clock(41, 4, 80))
    assert torch.equal(method.clusters, clusters)
    method.npid.memory.rows.copy_(before.roll(5, dims=1))
    method.npid.memory.rows[:16] = before[:16].flip(0)
    method.before_step(Clock(44, 4, 80))
    assert not torch.equal(method.clusters, clusters)


def test_clusters_are_kept_in_the_checkpoint() -> None:
    method, restored = clustered(), make("local_aggregation")
    restored.load_state_dict(method.state_dict())
    assert torch.equal(restored.clusters, method.clusters)


def test_clusters_and_neighbours_fit_the_set() -> None:
    settings = build_recipe({}, {"method.name": "local_aggregation"}).method
    assert settings.fit_to(1_281_167).clusters == 29_794
    small = settings.fit_to(860)
    assert (small.images, small.clusters, small.background, small.negatives) == (860, 20, 860, 860)
