"""PCL: prototypes of several clusterings."""

import pytest
import torch
from torch.nn.functional import normalize

from glocal.losses import info_nce
from glocal.losses.prototypes import concentrations, proto_nce
from glocal.neighbors import kmeans
from tests.methods.cases import MOCO_BUDGET, RESNET_RUN, STRONG_VIEW, MethodCase, make, views

CASE = MethodCase(
    trained={"loss": {"backbone", "moco.projector"}},
    small={"clusters": (3, 5)},
    run={
        **RESNET_RUN,
        "method.queue_size": 128,
        "method.momentum": 0.95,
        "method.first_epoch": 1,
    },
    budget={
        **MOCO_BUDGET,
        "method.output_dim": 256,
        "method.first_epoch": 5,
        "views": [{**STRONG_VIEW, "count": 2}],
    },
    falls={"method.first_epoch": 9},  # the prototypes' term comes on top of MoCo's
)


def test_the_loss_is_mocos_and_the_mean_over_the_clusterings() -> None:
    method, fresh = (make("pcl", temperature=0.2) for _ in range(2))
    batch = views(method)
    query = fresh.moco.represent(batch.images[0])
    key = normalize(fresh.moco.teacher.chain(batch.images[1]), dim=1)
    expected = info_nce(query, key, fresh.moco.queue.keys, temperature=0.2)
    assert make("pcl")(batch).item() == pytest.approx(expected.item(), rel=1e-5)  # no clusterings yet

    embeddings = normalize(torch.randn(8, 128, generator=torch.Generator().manual_seed(3)), dim=1)
    method.refresh(embeddings, 4)
    terms = []
    for clusters in (3, 5):
        centers, assignment, _ = kmeans(embeddings, clusters, seed=4, start="random")
        loose = concentrations(embeddings, centers, assignment, temperature=0.2)
        terms.append(proto_nce(query, normalize(centers, dim=1), loose, assignment))
    expected = expected + torch.stack(terms).mean()
    assert method(batch).item() == pytest.approx(expected.item(), rel=1e-5)


def test_clusters_come_in_the_proportions_of_imagenet() -> None:
    settings = type(make("pcl")).Settings()
    assert settings.fit_to(1_281_167).clusters == (25120, 49275, 98551)
    assert settings.fit_to(8000).clusters == (156, 307, 615)
    assert settings.model_copy(update={"clusters": (25000,)}).fit_to(100).clusters == (100,)


def test_clusterings_survive_in_the_checkpoint() -> None:
    method = make("pcl")
    method.refresh(normalize(torch.randn(20, 128), dim=1), 0)
    fresh = make("pcl")
    fresh.load_state_dict(method.state_dict())
    for mine, theirs in zip(fresh.clusterings, method.clusterings, strict=True):
        assert all(torch.equal(a, b) for a, b in zip(mine, theirs, strict=True))


def test_fewer_negatives_than_prototypes_are_drawn_anew_each_step() -> None:
    method = make("pcl", clusters=(6,), negatives=3)
    method.refresh(normalize(torch.randn(8, 128, generator=torch.Generator().manual_seed(3)), dim=1), 0)
    batch = views(method)
    first = method(batch).item()
    assert method(batch).item() == pytest.approx(first, rel=1e-6)
    method.now.step = 1
    assert method(batch).item() != pytest.approx(first, rel=1e-6)
