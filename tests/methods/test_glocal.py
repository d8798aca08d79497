"""glocal: each part against what it comes from, written out."""

import pytest
import torch
from torch.nn.functional import normalize

from glocal.errors import GlocalError
from glocal.losses import local_dissimilarity, sce
from glocal.methods import Method, method_class
from glocal.methods.glocal import GlocalSettings
from glocal.models.affinity import affinity_loss
from glocal.models.backbone import ModelSettings, build_backbone
from glocal.views.geometry import ViewGeometry, match_patches
from glocal.views.mixing import cutmix, draw_ratio
from glocal.views.random import uniform
from tests.methods.cases import RESNET_RUN, MethodCase, make, views

CASE = MethodCase(
    trained={"loss": {"backbone", "projector"}},
    run={
        **RESNET_RUN,
        "method.queue_size": 128,
        "method.momentum": 0.95,
        "method.temperature": 0.2,
        "method.target_temperature": 0.1,
    },
    budget={"method.queue_size": 2048, "method.momentum": 0.98, "method.locals": 0, "train.epochs": 6},
)
SETTINGS = {"temperature": 0.1, "target_temperature": 0.05, "coefficient": 0.5}


def key_of(method: Method, images: torch.Tensor) -> torch.Tensor:
    return normalize(method.teacher.chain(images), dim=1)


def test_without_local_crops_it_is_sce() -> None:
    method, plain = make("glocal", locals=0), make("sce", temperature=0.1, target_temperature=0.05)
    plain.load_state_dict(method.state_dict(), strict=False)
    batch = views(method)
    assert method(batch).item() == pytest.approx(plain(batch).item(), rel=1e-6)


def test_global_and_local_queries_follow_the_weak_view_alike() -> None:
    method, fresh = (make("glocal", globals=2, locals=3, local_size=8) for _ in range(2))
    batch = views(method)
    assert [image.shape[-1] for image in batch.images] == [16, 16, 16, 8, 8, 8]
    key = key_of(fresh, batch.images[0])
    features = [fresh.backbone(torch.cat(images)) for images in (batch.images[1:3], batch.images[3:])]
    queries = normalize(fresh.projector(torch.cat(features)), dim=1).split(8)
    expected = torch.stack([sce(query, key, fresh.queue.keys, **SETTINGS) for query in queries]).mean()
    assert method(batch).item() == pytest.approx(expected.item(), rel=1e-5)


def test_the_mixed_query_follows_both_keys_by_their_shares() -> None:
    method, fresh = (make("glocal", locals=2, local_size=8, mixed=True) for _ in range(2))
    batch = views(method)
    weak, strong, one, two, partner_weak, partner_strong = batch.images
    ratio = draw_ratio(2.0, 0, "mix", 0, batch.index).float()
    center = uniform(0, "mix centre", 0, batch.index[:, None], torch.arange(2)).float()
    mixed, share = cutmix(strong, partner_strong, ratio, center)
    key, partner_key = key_of(fresh, torch.cat([weak, partner_weak])).split(8)
    features = [fresh.backbone(images) for images in (mixed, torch.cat([one, two]))]
    query, *local = normalize(fresh.projector(torch.cat(features)), dim=1).split(8)
    terms = (query, key, share), (query, partner_key, 1 - share), (local[0], key, share**0), (local[1], key, share**0)
    total = 0.0
    for row in range(8):
        for its, of, part in terms:
            term = sce(its[row : row + 1], of[row : row + 1], fresh.queue.keys, **SETTINGS)
            total += (part[row] * term).item() / (3 * 8)
    assert method(batch).item() == pytest.approx(total, rel=1e-4)


def test_repulsion_adds_the_affinity_of_local_crops_and_trains_the_regressor_on_detached_ones() -> None:
    method, fresh = (make("glocal", locals=2, repulsion=0.5) for _ in range(2))
    plain = make("glocal", locals=2)
    plain.load_state_dict(method.state_dict(), strict=False)
    batch = views(method)
    features = [fresh.backbone(images) for images in (batch.images[1], torch.cat(batch.images[2:]))]
    _, *local = normalize(fresh.projector(torch.cat(features)), dim=1).split(8)
    learned = affinity_loss(fresh.regressor, *local, index=batch.index, seed=0, step=0, noise=0.3)
    affinity = fresh.regressor(torch.cat(local), torch.cat(local[::-1]))
    expected = learned + 0.5 * local_dissimilarity(affinity)
    attraction = plain(batch)
    loss = method(batch)
    assert (loss - attraction).item() == pytest.approx(expected.item(), rel=1e-4)
    loss.backward()
    found = [parameter.grad for parameter in method.regressor.parameters()]
    expected_gradients = torch.autograd.grad(learned, list(fresh.regressor.parameters()))
    for one, other in zip(found, expected_gradients, strict=True):
        assert one is not None
        torch.testing.assert_close(one, other, rtol=1e-3, atol=1e-6)


def test_partners_are_themselves_until_positives_are_selected() -> None:
    method = make("glocal", mixed=True, neighbors=4, positives=2)
    index = torch.arange(8)
    assert method.partners(0, index).tolist() == index.tolist()
    method.refresh(normalize(torch.randn(64, 8, generator=torch.Generator().manual_seed(0)), dim=1), 1)
    partners = method.partners(1, index)
    assert (partners != index).all()
    other = make("glocal", mixed=True, neighbors=4, positives=2)
    other.load_state_dict(method.state_dict())
    assert other.partners(1, index).tolist() == partners.tolist()


def test_matched_patches_follow_the_teachers_patches_as_images_do() -> None:
    model = ModelSettings(name="vit_tiny", options={"patch_size": 4, "embed_dim": 12, "depth": 2, "num_heads": 2})
    torch.manual_seed(0)
    settings = {"name": "glocal", "queue_size": 32, "locals": 2, "local_size": 8}
    plain, method = (
        method_class("glocal")(
            build_backbone(model, size=16), GlocalSettings.model_validate({**settings, "patches": patches})
        )
        for patches in (0.0, 0.5)
    )
    method.load_state_dict(plain.state_dict())
    batch = views(method)
    key_tokens = method.teacher.chain[0].forward_tokens(batch.images[0])
    queries, keys, weights = [], [], []
    for view in (1, 2, 3):
        tokens = method.backbone.forward_tokens(batch.images[view])
        for image in range(8):
            one, other = (
                ViewGeometry(its.box[image : image + 1], its.flipped[image : image + 1])
                for its in (batch.geometry[0], batch.geometry[view])
            )
            found = match_patches(one, other, 4, batch.images[view].shape[-1] // 4)
            places = zip(found.index_a[0].tolist(), found.index_b[0].tolist(), found.valid[0].tolist(), strict=True)
            pairs = [(a, b) for a, b, valid in places if valid]
            keys += [key_tokens[image, 1 + a] for a, _ in pairs]
            queries += [tokens[image, 1 + b] for _, b in pairs]
            weights += [1 / (3 * 8 * len(pairs)) for _ in pairs]
    query = normalize(method.projector(torch.stack(queries)), dim=1)
    key = normalize(method.teacher.chain[1](torch.stack(keys)), dim=1)
    matched = sum(
        weight * sce(query[row : row + 1], key[row : row + 1], method.queue.keys, **SETTINGS).item()
        for row, weight in enumerate(weights)
    )
    assert matched > 0
    assert (method(batch) - plain(batch)).item() == pytest.approx(0.5 * matched, rel=1e-3)


def test_networks_without_patches_are_told() -> None:
    with pytest.raises(GlocalError, match="has no patches"):
        make("glocal", patches=1.0)
