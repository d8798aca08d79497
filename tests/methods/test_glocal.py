"""glocal: each part against what it comes from, written out."""

from typing import Any

import pytest
import torch
from torch.nn.functional import normalize

from glocal.config import build_recipe
from glocal.errors import GlocalError
from glocal.losses import local_dissimilarity, sce, view_contrast
from glocal.methods import Method, method_class
from glocal.methods.glocal import GlocalSettings, mixed_positives
from glocal.models.affinity import affinity_loss
from glocal.models.architecture import ModelSettings
from glocal.models.building import build_backbone
from glocal.views.batch import Views
from glocal.views.geometry import ViewGeometry, match_patches
from glocal.views.mixing import cutmix, draw_ratio
from glocal.views.random import uniform
from tests.methods.cases import RESNET_RUN, MethodCase, make, views

CASE = MethodCase(
    trained={"loss": {"backbone", "projector", "stage_projector"}},
    run={**RESNET_RUN},
    budget={"train.epochs": 6, "method.locals": 0},
)


def part(**settings: Any) -> Method:
    """The method with nothing but what the settings name."""
    return make("glocal", **{"decorrelation": 0.0, "stage": 0.0, "regions": 0.0, "locals": 0, **settings})


def units(method: Method, *sizes: tuple[torch.Tensor, ...]) -> torch.Tensor:
    """(V, B, D) of views, which pass the backbone size by size and the projector together."""
    features = torch.cat([method.backbone(torch.cat(images)) for images in sizes])
    return normalize(method.projector(features), dim=1).unflatten(0, (-1, len(sizes[0][0])))


def test_without_local_crops_it_is_simclr() -> None:
    method, plain = part(hidden_dim=64), make("simclr", temperature=0.1, hidden_dim=64)
    plain.load_state_dict(method.state_dict(), strict=False)
    batch = views(plain)
    assert method(batch).item() == pytest.approx(plain(batch).item(), rel=1e-5)


def test_the_dimensions_of_the_projection_are_decorrelated() -> None:
    method, fresh = (part(decorrelation=0.3) for _ in range(2))
    batch = views(method)
    unit = units(fresh, batch.images)
    rows = unit.flatten(0, 1).double()
    correlation = torch.corrcoef(rows.T)
    others = correlation.square().sum() - correlation.diagonal().square().sum()
    expected = view_contrast(unit, 2, temperature=0.1) + 0.3 * others / unit.shape[2]
    assert method(batch).item() == pytest.approx(expected.item(), rel=1e-5)


@pytest.mark.parametrize("regions", [0.0, 0.5])
def test_the_stage_before_the_last_learns_the_same(regions: float) -> None:
    method, fresh = (part(stage=0.7, regions=regions) for _ in range(2))
    plain = part(regions=regions)
    plain.load_state_dict(method.state_dict(), strict=False)
    batch, maps = views(method), []
    fresh.backbone.network.layer3.register_forward_hook(lambda *given: maps.append(given[-1]))
    fresh.backbone(torch.cat(batch.images))
    rows = normalize(fresh.stage_projector(maps[0].mean(dim=(2, 3))), dim=1).unflatten(0, (2, -1))
    expected = plain(batch) + 0.7 * view_contrast(rows, 2, temperature=0.1)
    assert method(batch).item() == pytest.approx(expected.item(), rel=1e-5)


def test_local_crops_find_both_whole_views() -> None:
    method, fresh = (part(locals=3, local_size=8, coefficient=0.7) for _ in range(2))
    batch = views(method)
    assert [image.shape[-1] for image in batch.images] == [16, 16, 8, 8, 8]
    unit = units(fresh, batch.images[:2], batch.images[2:])
    expected = view_contrast(unit, 2, temperature=0.1, coefficient=0.7, target_temperature=0.05)
    assert method(batch).item() == pytest.approx(expected.item(), rel=1e-5)


@pytest.mark.parametrize("mixed", [False, True])
def test_regions_find_the_whole_views_of_their_image(mixed: bool) -> None:
    whole, expected = 3 if mixed else 2, 0.0
    method, fresh = (part(regions=0.7, mixed=mixed) for _ in range(2))
    batch = views(method)
    images = list(batch.images)
    share = torch.full((8,), 0.5)
    if mixed:
        first, second, partner, clean = images
        ratio = draw_ratio(2.0, 0, "mix", 0, batch.index).float()
        center = uniform(0, "mix centre", 0, batch.index[:, None], torch.arange(2)).float()
        mix, share = cutmix(first, partner, ratio, center)
        images = [mix, second, clean]
    maps = fresh.backbone.forward_map(torch.cat(images))  # (W·B, C, 2, 2)
    assert maps.shape[2:] == (2, 2)
    of_views = maps.mean(dim=(2, 3))
    teaching = (1,) if mixed else (0, 1)
    regions = [maps[view * 8 : view * 8 + 8, :, i, j] for view in teaching for i in range(2) for j in range(2)]
    unit = normalize(fresh.projector(torch.cat([of_views, *regions])), dim=1).detach().double().unflatten(0, (-1, 8))
    keys = unit[:whole]
    for queries, scale in ((keys, 1.0), (unit, 0.7)):
        for number, view in enumerate(queries):
            for image, query in enumerate(view):
                logits = {(w, b): float(query @ keys[w, b]) / 0.1 for w in range(whole) for b in range(8)}
                if number < whole:
                    del logits[number, image]  # itself
                total = torch.tensor(list(logits.values())).logsumexp(dim=0)
                positive = {w: 1 / (whole - (number < whole)) for w in range(whole) if (w, image) in logits}
                if mixed:
                    own = float(share[image])
                    positive = {0: {1: own, 2: 1 - own}, 1: {0: 1.0}, 2: {0: 1.0}}.get(number, {1: 1.0})
                for w, weight in positive.items():
                    expected += scale * weight * float(total - logits[w, image]) / (len(queries) * 8)
    assert method(batch).item() == pytest.approx(expected, rel=1e-4)


def test_the_mixed_view_follows_its_image_and_the_partner_by_their_shares() -> None:
    method, fresh = (part(locals=2, local_size=8, mixed=True) for _ in range(2))
    batch = views(method)
    first, second, one, two, partner, clean = batch.images
    ratio = draw_ratio(2.0, 0, "mix", 0, batch.index).float()
    center = uniform(0, "mix centre", 0, batch.index[:, None], torch.arange(2)).float()
    mixed, share = cutmix(first, partner, ratio, center)
    unit = units(fresh, (mixed, second, clean), (one, two))
    expected = view_contrast(unit, 3, temperature=0.1, weight=mixed_positives(share, 5))
    assert method(batch).item() == pytest.approx(expected.item(), rel=1e-5)
    weight = mixed_positives(share, 5)
    assert weight.sum(dim=1).allclose(torch.ones(5, 8))
    assert (weight[0, 1] == share).all()
    assert (weight[torch.arange(3), torch.arange(3)] == 0).all()  # nobody follows itself


def test_repulsion_adds_the_affinity_of_local_crops_and_trains_the_regressor_on_detached_ones() -> None:
    method, fresh = (part(locals=2, repulsion=0.5) for _ in range(2))
    plain = part(locals=2)
    plain.load_state_dict(method.state_dict(), strict=False)
    batch = views(method)
    local = units(fresh, batch.images[:2], batch.images[2:])[2:]
    learned = affinity_loss(fresh.regressor, *local, index=batch.index, seed=0, step=0, noise=0.3)
    affinity = fresh.regressor(local.flatten(0, 1), local.flip(0).flatten(0, 1))
    expected = learned + 0.5 * local_dissimilarity(affinity)
    contrast = plain(batch)
    loss = method(batch)
    assert (loss - contrast).item() == pytest.approx(expected.item(), rel=1e-4)
    loss.backward()
    found = [parameter.grad for parameter in method.regressor.parameters()]
    expected_gradients = torch.autograd.grad(learned, list(fresh.regressor.parameters()))
    for one, other in zip(found, expected_gradients, strict=True):
        assert one is not None
        torch.testing.assert_close(one, other, rtol=1e-3, atol=1e-6)


def test_partners_are_themselves_until_positives_are_selected() -> None:
    method = part(mixed=True, neighbors=4, positives=2)
    index = torch.arange(8)
    assert method.partners(0, index).tolist() == index.tolist()
    method.refresh(normalize(torch.randn(64, 8, generator=torch.Generator().manual_seed(0)), dim=1), 1)
    partners = method.partners(1, index)
    assert (partners != index).all()
    other = part(mixed=True, neighbors=4, positives=2)
    other.load_state_dict(method.state_dict())
    assert other.partners(1, index).tolist() == partners.tolist()


@pytest.mark.parametrize("mixed", [False, True])
def test_patches_follow_those_of_the_second_whole_view_that_show_the_same(mixed: bool) -> None:
    model = ModelSettings(name="vit_tiny", options={"patch_size": 4, "embed_dim": 12, "depth": 2, "num_heads": 2})
    torch.manual_seed(0)
    settings = {"name": "glocal", "regions": 0.0, "locals": 2, "local_size": 8, "mixed": mixed}
    plain, method = (
        method_class("glocal")(
            build_backbone(model, size=16), GlocalSettings.model_validate({**settings, "patches": patches})
        )
        for patches in (0.0, 0.5)
    )
    method.load_state_dict(plain.state_dict())
    batch = views(method)
    expected = written_out(method, batch, learning=(2, 3) if mixed else (0, 2, 3))
    assert (method(batch) - plain(batch)).item() == pytest.approx(0.5 * expected, rel=1e-3)


def written_out(method: Method, batch: Views, learning: tuple[int, ...]) -> float:
    """The term of patches, patch by patch."""
    tokens = [method.backbone.forward_tokens(images) for images in batch.images[:4]]
    queries, keys, weights, images = [], [], [], []
    for view in learning:
        for image in range(8):
            one, other = (
                ViewGeometry(its.box[image : image + 1], its.flipped[image : image + 1])
                for its in (batch.geometry[1], batch.geometry[view])
            )
            found = match_patches(one, other, 4, batch.images[view].shape[-1] // 4)
            places = zip(found.index_a[0].tolist(), found.index_b[0].tolist(), found.valid[0].tolist(), strict=True)
            pairs = [(a, b) for a, b, valid in places if valid]
            keys += [tokens[1][image, 1 + a] for a, _ in pairs]
            queries += [tokens[view][image, 1 + b] for _, b in pairs]
            weights += [1 / (len(learning) * 8 * len(pairs)) for _ in pairs]
            images += [image for _ in pairs]
    query = normalize(method.projector(torch.stack(queries)), dim=1)
    key = normalize(method.projector(torch.stack(keys)), dim=1)
    wholes = whole_views(method, batch)
    return sum(
        weight
        * sce(
            query[row : row + 1],
            key[row : row + 1],
            wholes[:, [other for other in range(8) if other != images[row]]].flatten(0, 1),
            temperature=0.1,
            target_temperature=0.05,
            coefficient=1.0,
        ).item()
        for row, weight in enumerate(weights)
    )


def whole_views(method: Method, batch: Views) -> torch.Tensor:
    """The whole views' unit vectors (W, B, D), as the method has them."""
    seen: list[torch.Tensor] = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(method, "match", lambda tokens, whole, geometry: seen.append(whole) or whole.new_zeros(()))
        method(batch)
    return seen[0].detach()


def test_networks_without_patches_and_repulsion_of_one_crop_are_told() -> None:
    with pytest.raises(GlocalError, match="has no patches"):
        part(patches=1.0)
    with pytest.raises(GlocalError, match="repulsion pushes local crops apart: it needs locals=2"):
        build_recipe({}, {"method.name": "glocal", "method.locals": 1, "method.repulsion": 0.1})


def test_clusters_are_counted_only_where_positives_are_selected() -> None:
    assert GlocalSettings().fit_to(1000).clusters is None
    assert GlocalSettings(mixed=True).fit_to(1000).clusters == 7
