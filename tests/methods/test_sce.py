"""SCE's options: symmetric, several crops, predictor, and its limits."""

import pytest
import torch
from torch.nn.functional import normalize

from glocal.config import build_recipe, load_mapping
from glocal.losses import info_nce, relational, sce
from tests.methods.cases import RESNET_RUN, MethodCase, make, views

CASE = MethodCase(
    trained={"loss": {"backbone", "projector"}},
    run={**RESNET_RUN, "method.queue_size": 128, "method.momentum": 0.95},
    budget={
        "method.queue_size": 2048,
        "method.momentum": 0.98,
        "method.temperature": 0.1,
        "method.target_temperature": 0.05,
        "train.epochs": 6,
    },
)


def test_symmetric_and_multi_crop_average_all_pairs_of_a_teachers_and_another_view() -> None:
    method, fresh = (make("sce", symmetric=True, multi_crop=True) for _ in range(2))
    batch = views(method)
    assert [image.shape[-1] for image in batch.images] == [16, 16, 14, 11, 9, 7]
    queries = [normalize(fresh.projector(fresh.backbone(image)), dim=1) for image in batch.images]
    keys = [normalize(fresh.teacher.chain(image), dim=1) for image in batch.images[:2]]
    settings = {"temperature": 0.2, "target_temperature": 0.1, "coefficient": 0.5}
    terms = [sce(queries[q], keys[k], fresh.queue.keys, **settings) for k in range(2) for q in range(6) if q != k]
    assert method(batch).item() == pytest.approx(torch.stack(terms).mean().item(), rel=1e-5)
    method.after_step()
    assert method.queue.position.item() == 16


def test_the_crops_of_the_large_sets_are_224_192_160_128_and_96() -> None:
    recipe = build_recipe({}, {"method.name": "sce", "method.multi_crop": True}, data_size=224)
    assert [view.size for view in recipe.views] == [224, 224, 192, 160, 128, 96]


def test_the_predictor_is_on_the_students_side_only() -> None:
    method = make("sce", predictor_dim=8, projector_layers=3, normalised_output=True)
    assert len([layer for layer in method.projector if isinstance(layer, torch.nn.Linear)]) == 3
    assert len(list(method.teacher.chain.children())) == 2
    method(views(method)).backward()
    assert all(parameter.grad is not None for parameter in method.predictor.parameters())


def test_coefficient_1_is_moco() -> None:
    method = make("sce", coefficient=1.0, temperature=0.2)
    batch = views(method)
    queue = method.queue.keys.clone()
    query = normalize(method.projector(method.backbone(batch.images[1])), dim=1)
    key = normalize(method.teacher.chain(batch.images[0]), dim=1)
    assert make("sce", coefficient=1.0)(batch).item() == pytest.approx(
        info_nce(query, key, queue, temperature=0.2).item(), rel=1e-5
    )


def test_coefficient_0_over_the_batch_is_ressl_but_for_the_positive_in_the_normaliser() -> None:
    generator = torch.Generator().manual_seed(0)
    query, key = (normalize(torch.randn(6, 8, generator=generator, dtype=torch.float64), dim=1) for _ in range(2))
    loss = sce(query, key, temperature=0.1, target_temperature=0.05, coefficient=0.0)
    logits = query @ key.T / 0.1
    others = logits.masked_fill(torch.eye(6).bool(), -torch.inf).logsumexp(dim=1)
    expected = relational(query, key, temperature=0.1, target_temperature=0.05)
    expected = expected + (logits.logsumexp(dim=1) - others).mean()
    assert loss.item() == pytest.approx(expected.item(), rel=1e-12)


def test_sce_is_its_loss_on_weak_keys_and_strong_queries() -> None:
    method = make("sce", temperature=0.2, target_temperature=0.1, coefficient=0.3)
    batch = views(method)
    queue = method.queue.keys.clone()
    loss = method(batch)
    fresh = make("sce", temperature=0.2, target_temperature=0.1, coefficient=0.3)
    query = normalize(fresh.projector(fresh.backbone(batch.images[1])), dim=1)
    key = normalize(fresh.teacher.chain(batch.images[0]), dim=1)
    expected = sce(query, key, queue, temperature=0.2, target_temperature=0.1, coefficient=0.3)
    assert loss.item() == pytest.approx(expected.item(), rel=1e-5)


@pytest.mark.parametrize(
    ("name", "size", "queue", "momentum", "temperatures"),
    [
        ("sce-cifar10", 32, 4096, 0.99, (0.2, 0.10)),
        ("sce-cifar100", 32, 4096, 0.99, (0.1, 0.08)),
        ("sce-stl10", 96, 16384, 0.996, (0.1, 0.04)),
        ("sce-tinyimagenet", 64, 16384, 0.996, (0.1, 0.07)),
    ],
)
def test_small_and_medium_sets_have_the_settings_of_section_e(
    name: str, size: int, queue: int, momentum: float, temperatures: tuple[float, float]
) -> None:
    recipe = build_recipe(load_mapping(name))
    method, optimizer = recipe.method, recipe.optimizer
    assert (method.queue_size, method.momentum) == (queue, momentum)
    assert (method.temperature, method.target_temperature) == temperatures  # the best of Table 2
    assert (method.projector_layers, method.hidden_dim, method.output_dim) == (2, 512, 256)
    assert (method.normalised_output, method.predictor_dim, method.shuffle_groups) == (False, None, 1)
    assert (recipe.data.size, recipe.model.name, recipe.model.stem) == (size, "resnet18", "small")
    assert (recipe.train.epochs, recipe.train.batch_size) == (200, 256)
    assert (optimizer.lr, optimizer.lr_batch_size, optimizer.warmup_epochs) == (0.06, 256, 5)
    assert (optimizer.name, optimizer.momentum, optimizer.weight_decay) == ("sgd", 0.9, 5e-4)
    weak, strong = recipe.views or []
    assert weak.jitter.probability == weak.grey == weak.blur.probability == 0
    assert weak.scale == strong.scale
    assert (strong.jitter.probability, strong.grey, strong.blur.probability, strong.flip) == (0.8, 0.2, 0.5, 0.5)


def test_the_authors_shuffled_normalisation_can_be_set() -> None:
    recipe = build_recipe(load_mapping("sce-cifar10"), {"method.shuffle_groups": 8})
    assert recipe.method.shuffle_groups == 8
