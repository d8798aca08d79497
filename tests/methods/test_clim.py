"""CLIM: mixing, resolutions, positives."""

from pathlib import Path

import pytest
import torch
from torch.nn.functional import normalize

import glocal
from glocal.config import build_recipe, load_mapping
from glocal.errors import GlocalError
from glocal.losses import cutmix_info_nce, info_nce
from glocal.methods.clim import CLIM
from glocal.views.mixing import cutmix, draw_ratio, mixup
from glocal.views.random import uniform
from tests.methods.cases import MOCO_BUDGET, RESNET_RUN, STRONG_VIEW, MethodCase, make, views

CASE = MethodCase(
    trained={"loss": {"backbone", "moco.projector"}},
    run={**RESNET_RUN, "method.queue_size": 128, "method.momentum": 0.95, "method.refresh_epochs": 1},
    budget={
        **MOCO_BUDGET,
        "views": [
            {**STRONG_VIEW, "name": "anchor", "count": 2},
            {**STRONG_VIEW, "name": "positive", "count": 2, "of": "partner"},
        ],
        "method.first_epoch": 4,
        "method.refresh_epochs": 2,
        "method.neighbors": 10,
        "method.positives": 5,
        "train.epochs": 20,
    },
)


def test_the_loss_is_equation_4_on_mixed_queries() -> None:
    method, fresh = make("clim", temperature=0.2), make("clim", temperature=0.2)
    batch = views(method)
    anchor, anchor_key, positive, positive_key = batch.images
    ratio = draw_ratio(2.0, 0, "mix", 0, batch.index).float()
    center = uniform(0, "mix centre", 0, batch.index[:, None], torch.arange(2)).float()
    mixed, share = cutmix(anchor, positive, ratio, center)
    query = fresh.moco.represent(mixed)
    key, partner = (normalize(fresh.moco.teacher.chain(image), dim=1) for image in (anchor_key, positive_key))
    expected = cutmix_info_nce(query, key, partner, fresh.moco.queue.keys, ratio=share, temperature=0.2)
    assert method(batch).item() == pytest.approx(expected.item(), rel=1e-5)


def test_without_mixing_the_anchor_goes_to_both_keys_alike_and_mixup_blends() -> None:
    method, fresh = make("clim", mixing="none"), make("clim", mixing="none")
    batch = views(method)
    query = fresh.moco.represent(batch.images[0])
    key, partner = (normalize(fresh.moco.teacher.chain(batch.images[n]), dim=1) for n in (1, 3))
    queue = fresh.moco.queue.keys
    expected = (info_nce(query, key, queue, temperature=0.2) + info_nce(query, partner, queue, temperature=0.2)) / 2
    assert method(batch).item() == pytest.approx(expected.item(), rel=1e-5)

    method, fresh = make("clim", mixing="mixup"), make("clim", mixing="mixup")
    ratio = draw_ratio(0.2, 0, "mix", 0, batch.index).float()
    query = fresh.moco.represent(mixup(batch.images[0], batch.images[2], ratio))
    key, partner = (normalize(fresh.moco.teacher.chain(batch.images[n]), dim=1) for n in (1, 3))
    expected = cutmix_info_nce(query, key, partner, queue, ratio=ratio, temperature=0.2)
    assert method(batch).item() == pytest.approx(expected.item(), rel=1e-5)


def test_resolutions_are_summed_over_all_pairs_and_mix_alike() -> None:
    method, fresh = (make("clim", resolutions=(12,), shuffle_groups=1) for _ in range(2))
    batch = views(method)
    assert [image.shape[-1] for image in batch.images] == [16, 12] * 4
    anchors, anchor_keys, positives, positive_keys = (batch.images[first : first + 2] for first in (0, 2, 4, 6))
    ratio = draw_ratio(2.0, 0, "mix", 0, batch.index).float()
    center = uniform(0, "mix centre", 0, batch.index[:, None], torch.arange(2)).float()
    mixed = [cutmix(a, p, ratio, center) for a, p in zip(anchors, positives, strict=True)]
    queries = [fresh.moco.represent(image) for image, _ in mixed]
    keys = [normalize(fresh.moco.teacher.chain(image), dim=1) for image in anchor_keys]
    partners = [normalize(fresh.moco.teacher.chain(image), dim=1) for image in positive_keys]
    expected = sum(
        cutmix_info_nce(queries[q], keys[k], partners[k], fresh.moco.queue.keys, ratio=mixed[q][1], temperature=0.2)
        for q in range(2)
        for k in range(2)
    )
    assert method(batch).item() == pytest.approx(expected.item(), rel=1e-5)
    method.after_step()
    assert method.moco.queue.position.item() == 8  # the anchors' keys at one resolution


def test_multi_crop_adds_two_smaller_queries() -> None:
    method = make("clim", multi_crop=True)
    batch = views(method)
    assert [image.shape[-1] for image in batch.images] == [16] * 4 + [7] * 4
    queries, ratios = method._mixed(
        (batch.images[0], *batch.images[4:6]), (batch.images[2], *batch.images[6:]), batch.index
    )
    assert len(queries) == len(ratios) == 3
    assert method(batch).isfinite()


def clustered(method: CLIM, epoch: int = 0) -> torch.Tensor:
    features = normalize(torch.randn(64, 8, generator=torch.Generator().manual_seed(0)), dim=1)
    method.refresh(features, epoch)
    return features


def test_positives_are_drawn_from_the_selection_anew_each_epoch_and_kept_in_the_checkpoint() -> None:
    settings = {"clusters": 4, "neighbors": 12, "positives": 5}
    method = make("clim", **settings)
    index = torch.arange(64)
    assert torch.equal(method.partners(0, index), index)  # nothing selected yet
    clustered(method)
    first, again, later = method.partners(0, index), method.partners(0, index), method.partners(1, index)
    assert (first[:, None] == method.positives[index]).any(dim=1).all()
    assert torch.equal(first, again)
    assert not torch.equal(first, later)
    restored = make("clim", **settings)
    restored.load_state_dict(method.state_dict())
    assert torch.equal(restored.partners(1, index), later)


def test_selection_waits_for_its_first_epoch() -> None:
    method = make("clim", first_epoch=5, clusters=4, neighbors=12, positives=5)
    assert (method.refresh_epochs, method.refresh_first) == (5, 5)
    clustered(method, epoch=5)
    assert method.positives.shape == (64, 5)


def test_positives_are_selected_from_the_first_epoch_on_and_then_every_so_many(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    selected = []
    select = CLIM.refresh
    monkeypatch.setattr(
        CLIM, "refresh", lambda self, found, epoch: (selected.append(epoch), select(self, found, epoch))
    )
    settings = {
        **CASE.run,
        "method.name": "clim",
        "method.first_epoch": 1,
        "method.refresh_epochs": 2,
        "train.epochs": 6,
    }
    glocal.pretrain("shapes:train:32", tmp_path, overrides=settings, progress=False)
    assert selected == [1, 3, 5]


def test_settings_that_exclude_each_other_are_named() -> None:
    with pytest.raises(GlocalError, match="positives=50 is above neighbors=40"):
        build_recipe({}, {"method.name": "clim", "method.positives": 50})
    with pytest.raises(GlocalError, match="multi_crop and resolutions are alternatives"):
        build_recipe({}, {"method.name": "clim", "method.multi_crop": True, "method.resolutions": [160]})


def test_a_small_set_gets_fewer_clusters_and_neighbours() -> None:
    settings = build_recipe({}, {"method.name": "clim"}).method.fit_to(1280)
    assert (settings.clusters, settings.neighbors, settings.queue_size) == (10, 40, 1280)
    assert build_recipe({}, {"method.name": "clim"}).method.fit_to(20).positives == 10


def test_the_recipe_has_the_settings_of_appendix_a() -> None:
    recipe = build_recipe(load_mapping("clim-imagenet"))
    method, optimizer = recipe.method, recipe.optimizer
    assert (recipe.model.name, recipe.train.epochs, recipe.train.batch_size) == ("resnet50", 1200, 512)
    assert (optimizer.name, optimizer.lr, optimizer.lr_batch_size) == ("sgd", 0.06, 512)
    assert (optimizer.momentum, optimizer.weight_decay, optimizer.warmup_epochs) == (0.9, 1e-4, 0)
    assert (method.momentum, method.output_dim, method.hidden_dim) == (0.999, 128, None)  # two layers, as wide as 2,048
    assert (method.queue_size, method.temperature) == (65536, 0.2)  # MoCo v2's
    assert method.shuffle_groups == 16  # GPUs
    assert (method.refresh_epochs, method.clusters, method.neighbors, method.positives) == (5, 10_000, 40, 10)
    assert (method.rule, method.mixing, method.resolutions) == ("center", "cutmix", (160,))
    assert recipe.views is not None
    for view in recipe.views:
        jitter = view.jitter
        assert (view.scale, view.ratio, view.flip) == ((0.2, 1.0), (3 / 4, 4 / 3), 0.5)
        assert (jitter.probability, jitter.brightness, jitter.contrast, jitter.saturation) == (0.8, 0.4, 0.4, 0.4)
        assert (view.grey, view.blur.probability, view.blur.sigma) == (0.2, 0.5, (0.1, 2.0))


@pytest.mark.parametrize(("mixing", "alpha"), [("cutmix", 2.0), ("mixup", 0.2)])
def test_the_beta_distribution_is_the_papers(mixing: str, alpha: float, monkeypatch: pytest.MonkeyPatch) -> None:
    """Appendix B: α = 2 for CutMix, 0.2 for Mixup."""
    drawn: list[float] = []

    def draw(alpha: float, *rest: object) -> torch.Tensor:
        drawn.append(alpha)
        return draw_ratio(alpha, *rest)  # type: ignore[arg-type]

    monkeypatch.setattr("glocal.methods.clim.draw_ratio", draw)
    method = make("clim", mixing=mixing)
    method(views(method))
    assert drawn == [alpha]


def test_multi_crops_have_the_areas_of_section_4_4() -> None:
    recipe = build_recipe(load_mapping("clim-imagenet"), {"method.resolutions": [], "method.multi_crop": True})
    crops = [(view.name, view.count, view.size, view.scale) for view in recipe.views or []]
    assert crops == [
        ("anchor", 2, 224, (0.2, 1.0)),
        ("positive", 2, 224, (0.2, 1.0)),
        ("small anchor", 2, 96, (0.05, 0.14)),
        ("small positive", 2, 96, (0.05, 0.14)),
    ]


@pytest.mark.parametrize("label", ["knn", "knn + CutMix"])
def test_the_knn_rule_of_table_6_has_ten_neighbours(label: str) -> None:
    from glocal.papers import find_row
    from glocal.papers.measured import row_recipe

    method = row_recipe(find_row(f"clim/6/{label}").row).method
    assert (method.rule, method.neighbors, method.positives) == ("knn", 10, 10)
