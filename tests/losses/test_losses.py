"""The losses against the authors' numbers, plain loops and finite differences."""

import json
import math
from pathlib import Path

import pytest
import torch
from torch import Tensor
from torch.nn.functional import normalize

from glocal.errors import GlocalError
from glocal.losses import batch_info_nce, ceil, info_nce, negative_cosine, nt_xent, relational, sce, view_contrast

GOLDEN = json.loads((Path(__file__).parents[1] / "golden" / "loss_sce.json").read_text())["sce"]


def unit(*shape: int, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return normalize(torch.randn(*shape, generator=generator, dtype=torch.float64), dim=-1)


@pytest.mark.parametrize("case", GOLDEN)
def test_sce_gives_the_authors_numbers(case: dict) -> None:
    query, key, queue = (torch.tensor(case[name], dtype=torch.float64) for name in ("query", "key", "queue"))
    settings = {name: case[name] for name in ("temperature", "target_temperature", "coefficient")}
    assert sce(query, key, queue, **settings).item() == pytest.approx(case["loss_queue"], abs=1e-6)
    assert sce(query, key, **settings).item() == pytest.approx(case["loss_batch"], abs=1e-6)


def test_info_nce_equals_a_plain_loop() -> None:
    query, key, negatives = unit(5, 7), unit(5, 7, seed=1), unit(11, 7, seed=2)
    expected = 0.0
    for q, k in zip(query, key, strict=True):
        positive = math.exp(float(q @ k) / 0.2)
        others = sum(math.exp(float(q @ n) / 0.2) for n in negatives)
        expected -= math.log(positive / (positive + others)) / 5
    assert info_nce(query, key, negatives, temperature=0.2).item() == pytest.approx(expected, rel=1e-12)


def relational_by_loop(query: Tensor, key: Tensor, others: list[Tensor], tau: float, target_tau: float) -> float:
    """ReSSL where image i sees others[i] (N, D)."""
    total = 0.0
    for q, k, bank in zip(query, key, others, strict=True):
        targets = [math.exp(float(k @ n) / target_tau) for n in bank]
        logits = [math.exp(float(q @ n) / tau) for n in bank]
        for target, logit in zip(targets, logits, strict=True):
            total -= target / sum(targets) * math.log(logit / sum(logits))
    return total / len(query)


@pytest.mark.parametrize("with_queue", [True, False])
def test_relational_equals_a_plain_loop(with_queue: bool) -> None:
    query, key, queue = unit(4, 6), unit(4, 6, seed=1), unit(9, 6, seed=2)
    others = [queue if with_queue else torch.cat([key[:i], key[i + 1 :]]) for i in range(4)]
    found = relational(query, key, queue if with_queue else None, temperature=0.1, target_temperature=0.05)
    assert found.item() == pytest.approx(relational_by_loop(query, key, others, 0.1, 0.05), rel=1e-12)


@pytest.mark.parametrize("coefficient", [0.0, 0.3, 0.5, 1.0])
def test_proposition_1_sce_is_info_nce_plus_relational_plus_ceiling(coefficient: float) -> None:
    query, key = unit(6, 8), unit(6, 8, seed=1)
    tau, target_tau = 0.1, 0.05
    nce = relations = ceiling = 0.0
    for i in range(6):
        others = torch.cat([key[:i], key[i + 1 :]])
        scores = [math.exp(float(query[i] @ k) / tau) for k in key]
        nce -= math.log(scores[i] / sum(scores)) / 6
        ceiling -= math.log((sum(scores) - scores[i]) / sum(scores)) / 6
        relations += relational_by_loop(query[i : i + 1], key[i : i + 1], [others], tau, target_tau) / 6
    found = sce(query, key, temperature=tau, target_temperature=target_tau, coefficient=coefficient)
    expected = coefficient * nce + (1 - coefficient) * (relations + ceiling)
    assert found.item() == pytest.approx(expected, rel=1e-10)


@pytest.mark.parametrize("coefficient", [0.0, 0.2, 0.75, 1.0])
def test_proposition_1_holds_for_the_package_s_three_losses(coefficient: float) -> None:
    query, key = unit(6, 8), unit(6, 8, seed=1)
    itself = torch.arange(6)
    softened = relational(query, key, temperature=0.1, target_temperature=0.05) + ceil(query, key, temperature=0.1)
    expected = coefficient * batch_info_nce(query, key, itself, temperature=0.1) + (1 - coefficient) * softened
    found = sce(query, key, temperature=0.1, target_temperature=0.05, coefficient=coefficient)
    assert found.item() == pytest.approx(expected.item(), rel=1e-12)


@pytest.mark.parametrize("with_queue", [True, False])
def test_ceil_equals_a_plain_loop(with_queue: bool) -> None:
    query, key, queue = unit(4, 6), unit(4, 6, seed=1), unit(9, 6, seed=2)
    expected = 0.0
    for i in range(4):
        others = queue if with_queue else torch.cat([key[:i], key[i + 1 :]])
        mass = sum(math.exp(float(query[i] @ other) / 0.1) for other in others)
        expected -= math.log(mass / (mass + math.exp(float(query[i] @ key[i]) / 0.1))) / 4
    found = ceil(query, key, queue if with_queue else None, temperature=0.1)
    assert found.item() == pytest.approx(expected, rel=1e-12)


def test_ceil_stays_exact_where_the_other_images_have_no_mass_left() -> None:
    query = torch.eye(3)
    found = ceil(query, query, temperature=0.005)  # 200 − log 2: exp(200) overflows in fp32
    assert found.item() == pytest.approx(200 - math.log(2), rel=1e-6)


def test_sce_leaves_out_the_negatives_of_a_row_that_do_not_count() -> None:
    generator = torch.Generator().manual_seed(3)
    query, key, negatives = (
        normalize(torch.randn(rows, 8, generator=generator, dtype=torch.float64), dim=1) for rows in (4, 4, 10)
    )
    left_out = torch.rand(4, 10, generator=generator) < 0.4
    settings = {"temperature": 0.1, "target_temperature": 0.05, "coefficient": 0.5}
    alone = [
        sce(query[[row]], key[[row]], negatives[~left_out[row]], **settings)  # type: ignore[arg-type]
        for row in range(4)
    ]
    query.requires_grad_()
    together = sce(query, key, negatives, left_out=left_out, **settings)  # type: ignore[arg-type]
    torch.testing.assert_close(together, torch.stack(alone).mean())
    together.backward()
    assert query.grad is not None
    assert query.grad.isfinite().all()


def test_sce_with_coefficient_one_is_info_nce() -> None:
    query, key, queue = unit(5, 7), unit(5, 7, seed=1), unit(11, 7, seed=2)
    soft = sce(query, key, queue, temperature=0.2, target_temperature=0.05, coefficient=1.0)
    assert soft.item() == pytest.approx(info_nce(query, key, queue, temperature=0.2).item(), rel=1e-12)


def test_negative_cosine_equals_a_plain_loop_at_any_length() -> None:
    p, z = 3 * unit(5, 7), 0.1 * unit(5, 7, seed=1)
    expected = -sum(float(a @ b) / (float(a.norm()) * float(b.norm())) for a, b in zip(p, z, strict=True)) / 5
    assert negative_cosine(p, z).item() == pytest.approx(expected, rel=1e-12)


LOSSES = {
    "info_nce": lambda q, k, n: info_nce(q, k, n, temperature=0.5),
    "sce queue": lambda q, k, n: sce(q, k, n, temperature=0.5, target_temperature=0.3, coefficient=0.4),
    "sce batch": lambda q, k, n: sce(q, k, temperature=0.5, target_temperature=0.3, coefficient=0.4),
    "relational queue": lambda q, k, n: relational(q, k, n, temperature=0.5, target_temperature=0.3),
    "relational batch": lambda q, k, n: relational(q, k, temperature=0.5, target_temperature=0.3),
    "ceil queue": lambda q, k, n: ceil(q, k, n, temperature=0.5),
    "ceil batch": lambda q, k, n: ceil(q, k, temperature=0.5),
    "negative_cosine": lambda q, k, n: negative_cosine(q, k),
}


@pytest.mark.parametrize("name", LOSSES)
def test_gradients_agree_with_finite_differences(name: str) -> None:
    inputs = [unit(3, 4).requires_grad_(), unit(3, 4, seed=1).requires_grad_(), unit(5, 4, seed=2)]
    assert torch.autograd.gradcheck(LOSSES[name], inputs)


@pytest.mark.parametrize("name", LOSSES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_losses_keep_the_dtype_and_their_arguments_also_under_autocast(name: str, dtype: torch.dtype) -> None:
    inputs = [unit(3, 4).to(dtype), unit(3, 4, seed=1).to(dtype), unit(5, 4, seed=2).to(dtype)]
    before = [tensor.clone() for tensor in inputs]
    plain = LOSSES[name](*inputs)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        inside = LOSSES[name](*inputs)
    assert plain.dtype == inside.dtype == dtype
    assert plain.shape == ()
    assert torch.equal(plain, inside)
    assert all(torch.equal(a, b) for a, b in zip(before, inputs, strict=True))


@pytest.mark.parametrize("name", ["sce batch", "relational batch", "ceil batch"])
def test_a_batch_of_one_without_negatives_is_refused(name: str) -> None:
    with pytest.raises(GlocalError, match="at least 2 images"):
        LOSSES[name](unit(1, 4), unit(1, 4), None)


def test_nt_xent_equals_a_plain_loop_over_all_views() -> None:
    first, second = unit(4, 6), unit(4, 6, seed=1)
    views = [*first, *second]
    expected = 0.0
    for i, view in enumerate(views):
        others = sum(math.exp(float(view @ other) / 0.5) for j, other in enumerate(views) if j != i)
        expected -= math.log(math.exp(float(view @ views[(i + 4) % 8]) / 0.5) / others) / 8
    assert nt_xent(first, second, temperature=0.5).item() == pytest.approx(expected, rel=1e-12)
    inputs = [first.requires_grad_(), second.requires_grad_()]
    assert torch.autograd.gradcheck(lambda a, b: nt_xent(a, b, temperature=0.5), inputs)


def test_batch_info_nce_is_info_nce_with_the_other_keys() -> None:
    query, keys = unit(3, 6), unit(5, 6, seed=1)
    positive = torch.tensor([4, 0, 2])
    terms = [
        info_nce(query[i : i + 1], keys[p][None], torch.cat([keys[:p], keys[p + 1 :]]), temperature=0.2)
        for i, p in enumerate(positive.tolist())
    ]
    found = batch_info_nce(query, keys, positive, temperature=0.2)
    assert found.item() == pytest.approx(torch.stack(terms).mean().item(), rel=1e-12)


def test_view_contrast_of_two_whole_views_is_nt_xent() -> None:
    views = unit(2, 5, 4)
    expected = nt_xent(views[0], views[1], temperature=0.3).item()
    assert view_contrast(views, 2, temperature=0.3).item() == pytest.approx(expected, rel=1e-12)


def test_view_contrast_equals_a_plain_loop() -> None:
    views, whole, temperature, sharp, coefficient = unit(5, 4, 6), 3, 0.3, 0.2, 0.6
    weight = torch.rand(5, 3, 4, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    weight[torch.arange(3), torch.arange(3)] = 0
    weight /= weight.sum(dim=1, keepdim=True)
    total = 0.0
    for view in range(5):
        for image in range(4):
            keys = [(w, n) for w in range(whole) for n in range(4) if (w, n) != (view, image)]
            scores = {key: float(views[view, image] @ views[key] / temperature) for key in keys}
            normaliser = math.log(sum(math.exp(score) for score in scores.values()))
            for positive in range(whole):
                share = float(weight[view, positive, image])
                if share == 0:
                    continue
                total -= coefficient * share * (scores[positive, image] - normaliser)
                others = [key for key in keys if key[1] != image]
                alike = [math.exp(float(views[positive, image] @ views[key]) / sharp) for key in others]
                for key, value in zip(others, alike, strict=True):
                    total -= (1 - coefficient) * share * value / sum(alike) * (scores[key] - normaliser)
    found = view_contrast(
        views, whole, temperature=temperature, coefficient=coefficient, target_temperature=sharp, weight=weight
    )
    assert found.item() == pytest.approx(total / 20, rel=1e-12)


def test_view_contrast_has_the_gradient_of_its_value_where_targets_are_hard() -> None:
    views = unit(4, 3, 5).requires_grad_()
    assert torch.autograd.gradcheck(lambda its: view_contrast(its, 2, temperature=0.5), views)
