"""DeepCluster v2: clusters found before an epoch are what its crops predict."""

import pytest
import torch
from torch.nn.functional import cross_entropy, normalize

from glocal.config import build_recipe
from glocal.errors import GlocalError
from glocal.losses.clustering import label_prediction
from glocal.methods import Method
from tests.methods.cases import RESNET_RUN, MethodCase, make, views

CASE = MethodCase(
    slow=True,
    trained={"loss": {"backbone", "projector"}},
    run={**RESNET_RUN, "method.prototypes": 32, "method.hidden_dim": 128},
    small={"prototypes": 8, "hidden_dim": 32, "output_dim": 16},
)


def embeddings() -> torch.Tensor:
    return normalize(torch.randn(64, 16, generator=torch.Generator().manual_seed(0)), dim=1)


def refreshed(epoch: int = 0) -> Method:
    method = make("deepcluster_v2")
    method.refresh(embeddings(), epoch)
    return method


def test_the_prediction_is_a_mean_over_views_and_clusterings() -> None:
    scores = torch.randn(3, 4, 2, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    labels = torch.tensor([[0, 4], [1, 1], [3, 2], [2, 0]])
    total = 0.0
    for view in range(3):
        for image in range(4):
            for clustering in range(2):
                row = (scores[view, image, clustering] / 0.3).softmax(dim=0)
                total -= row[labels[image, clustering]].log().item()
    expected = total / 24
    assert label_prediction(scores, labels, temperature=0.3).item() == pytest.approx(expected)


def test_all_crops_predict_their_images_clusters() -> None:
    method, fresh = refreshed(), refreshed()
    batch = views(method)
    assert len(batch.images) == 8
    terms = []
    features = torch.cat([fresh.backbone(torch.cat(batch.images[a:b])) for a, b in ((0, 2), (2, 8))])
    unit = normalize(fresh.projector(features), dim=1).unflatten(0, (8, 8))
    for clustering in range(3):
        labels = fresh.pseudo_labels.assigned[batch.index, clustering].long()
        terms += [cross_entropy(crop @ fresh.prototypes[clustering].T / 0.1, labels) for crop in unit]
    assert method(batch).item() == pytest.approx(torch.stack(terms).mean().item(), rel=1e-5)


def test_prototypes_are_centres_on_the_sphere_and_labels_the_nearest_of_them() -> None:
    method = refreshed()
    assert torch.allclose(method.prototypes.norm(dim=2), torch.ones(3, 8))
    for clustering, centers in enumerate(method.prototypes):
        nearest = (embeddings() @ centers.T).argmax(dim=1)
        assert torch.equal(nearest, method.pseudo_labels(torch.arange(64), 0)[:, clustering])
    assert not torch.equal(method.prototypes[0], method.prototypes[1])  # each clustering has its own start
    assert not torch.equal(refreshed(epoch=1).prototypes, method.prototypes)


def test_clusters_are_kept_in_the_checkpoint() -> None:
    method, restored = refreshed(), make("deepcluster_v2")
    batch = views(method)
    before = restored.pseudo_labels(batch.index, 0)
    assert torch.equal(before, restored.pseudo_labels(batch.index, 0))  # random, but the same each time
    restored.load_state_dict(method.state_dict())
    assert torch.equal(restored.pseudo_labels(batch.index, 0), method.pseudo_labels(batch.index, 0))
    assert torch.equal(restored.prototypes, method.prototypes)


def test_what_is_clustered_is_what_is_compared_with_prototypes() -> None:
    method = make("deepcluster_v2").eval()
    images = views(method).images[0]
    assert torch.equal(method.embed(images), normalize(method.projector(method.backbone(images)), dim=1))


def test_a_small_set_gets_fewer_prototypes() -> None:
    assert build_recipe({}, {"method.name": "deepcluster_v2"}).method.fit_to(100).prototypes == 100
    with pytest.raises(GlocalError, match="8 clusters of 4 points"):
        make("deepcluster_v2").refresh(embeddings()[:4], 0)
