"""LoGo: what its updates do, and what it works on."""

import pytest
import torch
from torch.nn.functional import normalize, softplus

from glocal.config import build_recipe, load_mapping
from glocal.errors import GlocalError
from glocal.losses import info_nce, negative_cosine
from glocal.methods.logo import LoGo
from glocal.models.affinity import _of_two_images
from glocal.views.batch import Views
from tests.methods.cases import RESNET_RUN, STRONG_VIEW, MethodCase, make, views

CASE = MethodCase(
    slow=True,
    trained={
        "affinity": {"regressor"},
        "dissimilarity": {"backbone", "base.projector"},
        "similarity": {"backbone", "base.projector"},
    },
    small={"base": {"name": "moco", "queue_size": 32}},
    run={**RESNET_RUN, "method.base": {"name": "moco", "queue_size": 128, "momentum": 0.95}},
    budget={
        "method.base": {"name": "byol", "momentum": 0.95, "hidden_dim": 512},
        "views": [
            {**STRONG_VIEW, "name": "global", "count": 2},
            {**STRONG_VIEW, "name": "local", "count": 2, "scale": [0.2, 0.5]},
        ],
        "train.epochs": 6,
    },
)

MOCO = {"name": "moco", "queue_size": 32, "temperature": 0.1}
SIMSIAM = {"name": "simsiam", "output_dim": 16, "predictor_dim": 8}


def test_the_similarity_of_moco_averages_two_global_and_four_local_terms() -> None:
    method, fresh = make("logo", base=MOCO), make("logo", base=MOCO)
    batch = views(method)
    queries = [fresh.base.represent(image) for image in batch.images]
    keys = [normalize(fresh.base.teacher.chain(image), dim=1) for image in batch.images[:2]]
    queue = fresh.base.queue.keys
    terms = [info_nce(queries[q], keys[k], queue, temperature=0.1) for q in range(4) for k in range(2) if q != k]
    assert len(terms) == 6
    assert method.similarity(batch).item() == pytest.approx(torch.stack(terms).mean().item(), rel=1e-5)


def test_the_similarity_of_simsiam_predicts_fixed_projections_of_global_crops() -> None:
    method, fresh = make("logo", base=SIMSIAM), make("logo", base=SIMSIAM)
    batch = views(method)
    z = [fresh.base.represent(image) for image in batch.images]
    p = [fresh.base.predictor(representation) for representation in z]
    terms = [negative_cosine(p[q], z[k].detach()) for q in range(4) for k in range(2) if q != k]
    assert method.similarity(batch).item() == pytest.approx(torch.stack(terms).mean().item(), rel=1e-5)


@pytest.mark.parametrize("name", ["moco_v3", "nnclr"])
def test_negatives_out_of_the_batch_are_those_of_one_pair_of_views(name: str) -> None:
    base = {"name": name, "hidden_dim": 32, "output_dim": 16}
    method, fresh = make("logo", base=base), make("logo", base=base)
    batch = views(method)
    representations = [fresh.base.represent(image) for image in batch.images]
    queries = [fresh.base.query(representation) for representation in representations]
    keys = [fresh.base.keys(batch.images[view], representations[view]) for view in range(2)]
    terms = [fresh.base.compare(queries[q], keys[k]) for q in range(4) for k in range(2) if q != k]
    assert method.similarity(batch).item() == pytest.approx(torch.stack(terms).mean().item(), rel=1e-5)


def test_multi_crop_pulls_every_crop_to_every_other() -> None:
    method = make("logo", base=SIMSIAM, variant="multi_crop")
    fresh = make("logo", base=SIMSIAM, variant="multi_crop")
    assert method.phases == ("similarity",)
    batch = views(method)
    z = [fresh.base.represent(image) for image in batch.images]
    p = [fresh.base.predictor(representation) for representation in z]
    terms = [negative_cosine(p[q], z[k].detach()) for q in range(4) for k in range(4) if q != k]
    assert len(terms) == 12
    assert method.similarity(batch).item() == pytest.approx(torch.stack(terms).mean().item(), rel=1e-5)


def test_multi_crop_on_moco_is_equation_1() -> None:
    """Supplement, eq. 1, crop by crop: the other M − 1 crops of the image are positives, the queue are negatives."""
    method, fresh = (make("logo", base=MOCO, variant="multi_crop") for _ in range(2))
    batch, temperature = views(method), 0.1
    queries = [fresh.base.represent(image) for image in batch.images]
    keys = [normalize(fresh.base.teacher.chain(image), dim=1) for image in batch.images]
    negatives = fresh.base.queue.keys
    total, crops = 0.0, 0
    for image in range(len(queries[0])):
        for i, query in enumerate(queries):
            crops += 1
            positives = [keys[k][image] for k in range(4) if k != i]
            for positive in positives:
                own = (query[image] @ positive / temperature).exp()
                others = (negatives @ query[image] / temperature).exp().sum()
                total -= (own / (own + others)).log().item() / (4 - 1)
    assert method.similarity(batch).item() == pytest.approx(total / crops, rel=1e-5)


def test_the_queue_gets_both_globals_keys_and_no_locals() -> None:
    method = make("logo", base=MOCO)
    for phase in method.phases:
        method(views(method), phase)
    method.after_step()
    assert method.base.queue.position.item() == 2 * 8


def test_the_dissimilarity_uses_the_representations_before_the_regressor_moved() -> None:
    """The encoder is as it was, so its pass over the local crops is done once for both updates."""
    method, fresh = make("logo", base=MOCO), make("logo", base=MOCO)
    batch = views(method)
    passes = 0

    def count(*_: object) -> None:
        nonlocal passes
        passes += 1

    method.backbone.register_forward_hook(count)
    method(batch, "affinity").backward()
    together = method(batch, "dissimilarity")
    assert passes == 2
    alone = fresh(batch, "dissimilarity")
    assert together.item() == pytest.approx(alone.item(), rel=1e-4)


def test_the_dissimilarity_gradient_is_cut_to_a_share_of_the_similarity_gradient() -> None:
    method = make("logo", base=MOCO, dissimilarity_clip=0.015)
    first = [torch.full((4,), 3.0)]
    method.before_update("dissimilarity", first)
    assert first[0].norm() == 0.0  # there was no similarity gradient yet
    method.before_update("similarity", [torch.full((4,), 5.0)])  # norm 10
    large, small = [torch.full((4,), 3.0)], [torch.full((4,), 0.01)]
    method.before_update("dissimilarity", large)
    method.before_update("dissimilarity", small)
    assert large[0].norm().item() == pytest.approx(0.15, rel=1e-4)
    assert small[0].norm().item() == pytest.approx(0.02, rel=1e-4)
    assert "similarity_norm" in method.state_dict()


def test_a_weight_puts_similarity_and_dissimilarity_into_one_update() -> None:
    """Eq. 9: L_gg + L_lg + λ L_ll, here over six, which is how many similarity terms there are."""
    method, fresh = (make("logo", base=SIMSIAM, dissimilarity_weight=0.3) for _ in range(2))
    assert method.phases == ("affinity", "similarity")
    batch, passes = views(method), 0

    def count(*_: object) -> None:
        nonlocal passes
        passes += 1

    method.backbone.register_forward_hook(count)
    method(batch, "affinity").backward()
    assert all(p.grad is None for p in method.backbone.parameters())
    loss = method(batch, "similarity")
    assert passes == 4  # each view once: the encoder has not moved since the regressor's update
    z = [fresh.base.represent(image) for image in batch.images]
    p = [fresh.base.predictor(representation) for representation in z]
    terms = [negative_cosine(p[q], z[k].detach()) for q in range(4) for k in range(2) if q != k]
    f = fresh.regressor(normalize(z[2], dim=1), normalize(z[3], dim=1))
    assert loss.item() == pytest.approx((sum(terms) + 0.3 * softplus(f).mean()).item() / 6, rel=1e-4)
    before = {name: parameter.grad.clone() for name, parameter in method.regressor.named_parameters()}
    loss.backward()
    assert all(torch.equal(parameter.grad, before[name]) for name, parameter in method.regressor.named_parameters())
    assert all(parameter.grad is not None for parameter in method.backbone.parameters())
    assert not method._locals


def test_a_weight_leaves_gradients_as_they_are_and_takes_every_optimiser() -> None:
    method = make("logo", base=SIMSIAM, dissimilarity_weight=1e-4)
    gradients = [torch.full((4,), 3.0)]
    method.before_update("similarity", gradients)
    assert gradients[0].tolist() == [3.0] * 4
    assert "adamw" in method.optimizers
    assert {group.phase for group in method.parameter_groups()} == {"affinity", "similarity"}


@pytest.mark.parametrize("weight", [None, 0.3])
def test_further_local_crops_are_drawn_to_the_global_ones(weight: float | None) -> None:
    method, fresh = (make("logo", base=SIMSIAM, dissimilarity_weight=weight) for _ in range(2))
    four = views(method)
    five = Views((*four.images, four.images[2].flip(3)), (*four.geometry, four.geometry[2]), four.index)
    z = [fresh.base.represent(image) for image in five.images]
    p = [fresh.base.predictor(representation) for representation in z]
    terms = [negative_cosine(p[q], z[k].detach()) for q in range(5) for k in range(2) if q != k]
    f = fresh.regressor(normalize(z[2], dim=1), normalize(z[3], dim=1))
    expected = (sum(terms) + (weight or 0) * softplus(f).mean()) / 8
    assert method.similarity(five).item() == pytest.approx(expected.item(), rel=1e-4)


def test_a_clip_beside_a_weight_is_told() -> None:
    both = {"method.dissimilarity_clip": 0.5, "method.name": "logo"}
    with pytest.raises(GlocalError, match=r"dissimilarity_clip=0.5 has no meaning beside dissimilarity_weight=0.0001"):
        build_recipe({}, {**both, "method.dissimilarity_weight": 1e-4})
    assert build_recipe({}, both).method.dissimilarity_clip == 0.5


def test_without_the_push_a_weight_changes_nothing() -> None:
    batch = views(make("logo", base=SIMSIAM))
    for variant in ("no_dissimilarity", "multi_crop"):
        bare, weighted = (make("logo", base=SIMSIAM, variant=variant, dissimilarity_weight=w) for w in (None, 0.3))
        assert weighted.phases == ("similarity",)
        assert weighted(batch, "similarity").item() == bare(batch, "similarity").item()


@pytest.mark.parametrize("data", ["cifar10", "stl10", "imagenet100"])
def test_the_recipes_on_simsiam_have_the_papers_weight_and_those_on_moco_the_codes_clipping(data: str) -> None:
    assert build_recipe(load_mapping(f"logo-simsiam-{data}")).method.dissimilarity_weight == 1e-4
    moco = f"logo-moco-{data}" if data != "imagenet100" else f"logo-moco-{data}-resnet34"
    assert build_recipe(load_mapping(moco)).method.dissimilarity_weight is None


def test_the_regressor_learns_to_tell_crops_of_one_image_from_those_of_two() -> None:
    method = make("logo", base=MOCO, noise=0.0)
    optimizer = torch.optim.Adam(method.regressor.parameters(), lr=0.01)
    batch = views(method, batch=32)
    for _ in range(40):
        optimizer.zero_grad()
        loss = method(batch, "affinity")
        method._locals.clear()
        loss.backward()
        optimizer.step()
    assert loss.item() < 1.0  # 2 log 2 = 1.39 is guessing


@pytest.mark.parametrize("form", ["softplus", "printed", "cosine", "mine"])
@pytest.mark.parametrize("base", [MOCO, SIMSIAM, {"name": "sce", "queue_size": 32}])
def test_it_works_on_every_method_with_queries_and_keys(base: dict[str, object], form: str) -> None:
    method = make("logo", base=base, affinity=form)
    assert isinstance(method, LoGo)
    for phase in method.phases:
        loss = method(views(method), phase)
        assert loss.isfinite()
        loss.backward()
    method.after_step()


def test_a_method_without_keys_and_a_mistyped_key_are_named() -> None:
    with pytest.raises(GlocalError, match="LoGo needs a method with queries and keys; dino has none"):
        build_recipe({}, {"method.name": "logo", "method.base": {"name": "dino"}})
    with pytest.raises(GlocalError, match="temprature is not a setting; did you mean temperature"):
        build_recipe({}, {"method.name": "logo", "method.base": {"name": "moco", "temprature": 0.1}})
    with pytest.raises(GlocalError, match="symmetric has no meaning under LoGo"):
        build_recipe({}, {"method.name": "logo", "method.base": {"name": "sce", "symmetric": True}})
    with pytest.raises(GlocalError, match="temperature: must be greater than 0, not -1"):
        build_recipe({}, {"method.name": "logo", "method.base": {"name": "moco", "temperature": -1}})
    with pytest.raises(GlocalError, match="smallest_local=0.5 is above local_ratio=0.4"):
        build_recipe({}, {"method.name": "logo", "method.smallest_local": 0.5})


def test_an_overflowed_gradient_does_not_become_the_next_limit() -> None:
    method = make("logo", base=MOCO)
    method.before_update("similarity", [torch.full((4,), 5.0)])
    method.before_update("similarity", [torch.full((4,), torch.inf)])
    assert method.similarity_norm.item() == 10.0


def test_an_odd_batch_pairs_no_image_with_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    method = make("logo", base=MOCO)
    pairs: list[tuple[torch.Tensor, torch.Tensor]] = []
    real = method.regressor.forward
    monkeypatch.setattr(method.regressor, "forward", lambda a, b: pairs.append((a, b)) or real(a, b))
    batch = views(method, batch=7)
    method(batch, "affinity")
    locals_ = [normalize(z.detach().float(), dim=1) for z in method._locals[0]]
    _, (one, negative), *_ = pairs
    assert torch.equal(one, locals_[0])
    assert (negative != locals_[1]).any(dim=1).all()


def test_mine_compares_every_pair_of_different_images_once(monkeypatch: pytest.MonkeyPatch) -> None:
    method = make("logo", base=MOCO, affinity="mine", noise=0.0)
    pairs: list[tuple[torch.Tensor, torch.Tensor]] = []
    real = method.regressor.forward
    monkeypatch.setattr(method.regressor, "forward", lambda a, b: pairs.append((a, b)) or real(a, b))
    loss = method(views(method, batch=5), "affinity")
    first, second = (normalize(z.detach().float(), dim=1) for z in method._locals[0])
    terms = []
    for one, other, (a, b) in ((first, second, pairs[1]), (second, first, pairs[3])):
        wanted = [(i, j) for i in range(5) for j in range(5) if i != j]
        assert torch.equal(a, torch.stack([one[i] for i, _ in wanted]))
        assert torch.equal(b, torch.stack([other[j] for _, j in wanted]))
        joint, product = real(one, other), real(a, b)
        assert (product >= 0).all()  # f maps to the positive numbers
        terms.append(product.double().exp().mean().log() - joint.double().mean())
    assert loss.item() == pytest.approx(torch.stack(terms).mean().item(), rel=1e-4)


def test_mine_compares_with_the_images_of_all_processes_but_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    rows = torch.arange(6.0)[:, None]
    monkeypatch.setattr("glocal.models.affinity.all_gather", lambda _: rows)
    monkeypatch.setattr("glocal.models.affinity.process_rank", lambda: 1)  # of three with two images each
    one, others = _of_two_images(rows[2:4], rows[2:4], every=True)
    assert one.flatten().tolist() == [2.0] * 5 + [3.0] * 5
    assert others.flatten().tolist() == [0.0, 1.0, 3.0, 4.0, 5.0, 0.0, 1.0, 2.0, 4.0, 5.0]


def test_mine_s_regressor_learns_to_tell_crops_of_one_image_from_those_of_two() -> None:
    method = make("logo", base=MOCO, affinity="mine", noise=0.0)
    optimizer = torch.optim.Adam(method.regressor.parameters(), lr=0.01)
    batch = views(method, batch=16)
    for _ in range(40):
        optimizer.zero_grad()
        loss = method(batch, "affinity")
        method._locals.clear()
        loss.backward()
        optimizer.step()
    assert loss.item() < -0.5  # 0 is guessing


def test_ratios_and_sizes_are_options_of_the_recipe() -> None:
    recipe = build_recipe(
        {}, {"method.name": "logo", "method.local_ratio": 0.6, "method.global_ratio": 0.3}, data_size=224
    )
    assert [(view.name, view.size, view.scale, view.count) for view in recipe.views] == [
        ("global", 224, (0.3, 1.0), 2),
        ("local", 96, (0.05, 0.6), 2),
    ]


@pytest.mark.parametrize(
    ("settings", "global_scale", "local_scale"),
    [
        ({}, (0.4, 1.0), (0.05, 0.4)),
        ({"variant": "no_dissimilarity"}, (0.4, 1.0), (0.05, 0.4)),
        ({"variant": "multi_crop"}, (0.3, 1.0), (0.05, 0.3)),  # supplement, section 2
        ({"variant": "multi_crop", "local_ratio": 0.2}, (0.3, 1.0), (0.05, 0.2)),
        ({"global_scale": [0.08, 0.5], "local_scale": [0.08, 1.0]}, (0.08, 0.5), (0.08, 1.0)),  # Table 9
        ({"global_scale": [0.08, 0.5], "local_ratio": 0.6}, (0.08, 0.5), (0.05, 0.6)),
    ],
)
def test_crops_are_those_of_the_supplement(
    settings: dict[str, object], global_scale: tuple[float, float], local_scale: tuple[float, float]
) -> None:
    overrides = {"method.name": "logo", **{f"method.{key}": value for key, value in settings.items()}}
    recipe = build_recipe({}, overrides, data_size=224)
    assert [view.scale for view in recipe.views or []] == [global_scale, local_scale]


def test_a_range_of_crops_that_falls_is_named() -> None:
    with pytest.raises(GlocalError, match=r"global_scale must ascend, not \[0.5, 0.2\]"):
        build_recipe({}, {"method.name": "logo", "method.global_scale": [0.5, 0.2]})
