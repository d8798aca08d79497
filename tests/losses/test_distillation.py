"""DINO's cross-entropy and that of matched patches, against plain loops and the authors' numbers."""

import json
from pathlib import Path

import pytest
import torch
from torch import Tensor
from torch.autograd import gradcheck
from torch.nn.functional import log_softmax, normalize, softmax

from glocal.errors import GlocalError
from glocal.losses import dino, distillation, patchwise
from glocal.losses.distillation import distill
from glocal.losses.tokens import pair_tokens, view_pairs
from glocal.views.geometry import PatchMatches, ViewGeometry, match_patches

GOLDEN = json.loads((Path(__file__).parents[1] / "golden" / "loss_patchwise.json").read_text())
TEMPERATURES = {"teacher_temperature": 0.07, "student_temperature": 0.1}


def matches_of(geometry: list[ViewGeometry], grids: list[int]) -> PatchMatches:
    teacher, student = (torch.tensor(side) for side in zip(*view_pairs(2, len(grids)), strict=True))
    box, flipped = (torch.stack([getattr(g, name) for g in geometry], dim=1) for name in ("box", "flipped"))
    a, b = (ViewGeometry(box[:, side], flipped[:, side]) for side in (teacher, student))
    return match_patches(a, b, torch.tensor(grids)[teacher], torch.tensor(grids)[student])


def golden() -> tuple[list[Tensor], list[Tensor], PatchMatches]:
    batch = GOLDEN["batch"]
    teacher, globals_, locals_ = (
        list(torch.tensor(GOLDEN[name], dtype=torch.float64).chunk(2))
        for name in ("teacher", "student_global", "student_local")
    )
    geometry = [
        ViewGeometry(torch.tensor([v["box"]] * batch, dtype=torch.float64), torch.tensor([v["flipped"]] * batch))
        for v in GOLDEN["views"]
    ]
    return teacher, globals_ + locals_, matches_of(geometry, [v["grid"] for v in GOLDEN["views"]])


def test_the_mean_loss_is_the_authors_before_and_after_the_centre_moved() -> None:
    teacher, student, matches = golden()
    center = torch.zeros(teacher[0].shape[1:], dtype=torch.float64)
    first = patchwise(teacher, student, matches, center=center, **TEMPERATURES)
    center = 0.9 * center + 0.1 * torch.cat(teacher).mean(dim=0)
    second = patchwise(teacher, student, matches, center=center, **TEMPERATURES)
    assert first.item() == pytest.approx(GOLDEN["loss_mean_first"], abs=1e-6)
    assert second.item() == pytest.approx(GOLDEN["loss_mean_second"], abs=1e-6)


def random_case(batch: int = 3, width: int = 5) -> tuple[list[Tensor], list[Tensor], PatchMatches, Tensor]:
    """Two global views of 3 × 3 patches and two local ones of 2 × 2, each image with crops of its own."""
    generator = torch.Generator().manual_seed(0)
    grids = [3, 3, 2, 2]
    tokens = [
        torch.randn(batch, 1 + grid * grid, width, generator=generator, dtype=torch.float64) for grid in [3, 3, *grids]
    ]
    corner = torch.rand(4, batch, 2, generator=generator, dtype=torch.float64) * 40
    boxes = torch.cat([corner, corner + 40 + 30 * torch.rand(4, batch, 2, generator=generator)], dim=-1)
    geometry = [ViewGeometry(box, torch.rand(batch, generator=generator) < 0.5) for box in boxes]
    center = torch.randn(10, width, generator=generator, dtype=torch.float64)
    return tokens[:2], tokens[2:], matches_of(geometry, grids), center


def by_loops(
    teacher: list[Tensor], student: list[Tensor], matches: PatchMatches, center: Tensor, reduction: str, weight: float
) -> Tensor:
    pairs, batch = view_pairs(2, len(student)), len(student[0])
    total = torch.zeros((), dtype=torch.float64)
    for number, (g, v) in enumerate(pairs):
        for image in range(batch):
            valid = matches.valid[image, number]
            a = [0, *(matches.index_a[image, number][valid] + 1).tolist()]
            b = [0, *(matches.index_b[image, number][valid] + 1).tolist()]
            losses = []
            for s, t in zip(a, b, strict=True):
                target = softmax((teacher[g][image, s] - center[s]) / 0.07, dim=0)
                losses.append(-(target * log_softmax(student[v][image, t] / 0.1, dim=0)).sum())
            each = torch.stack(losses)
            if reduction == "lambda":
                rest = each[1:].mean() if len(each) > 1 else 0.0
                total = total + weight * each[0] + (1 - weight) * rest
            else:
                total = total + (each.mean() if reduction == "mean" else each.sum())
    return total / (len(pairs) * batch)


@pytest.mark.parametrize(("reduction", "weight"), [("mean", None), ("sum", None), ("lambda", 0.9), ("lambda", 0.0)])
def test_every_reduction_is_its_plain_loop(reduction: str, weight: float | None) -> None:
    teacher, student, matches, center = random_case()
    assert len(set(matches.valid.sum(dim=-1).flatten().tolist())) > 2  # images differ in what they match
    loss = patchwise(teacher, student, matches, center=center, reduction=reduction, cls_weight=weight, **TEMPERATURES)  # type: ignore[arg-type]
    expected = by_loops(teacher, student, matches, center, reduction, weight or 0.0)
    assert loss.dtype == torch.float64
    assert loss.item() == pytest.approx(expected.item(), rel=1e-12)


def test_gradients_are_those_of_the_plain_loop() -> None:
    teacher, student, matches, center = random_case(batch=2)
    for view in student:
        view.requires_grad_()
    ours = torch.autograd.grad(3 * patchwise(teacher, student, matches, center=center, **TEMPERATURES), student)
    plain = torch.autograd.grad(3 * by_loops(teacher, student, matches, center, "mean", 0.0), student)
    for mine, theirs in zip(ours, plain, strict=True):
        assert torch.allclose(mine, theirs, atol=1e-12)


def test_chunks_do_not_change_the_loss_and_prototypes_get_their_gradient(monkeypatch: pytest.MonkeyPatch) -> None:
    teacher, student, matches, center = random_case(width=6)
    generator = torch.Generator().manual_seed(1)
    theirs, ours = (torch.randn(12, 6, generator=generator, dtype=torch.float64) for _ in range(2))
    center = torch.randn(10, 12, generator=generator, dtype=torch.float64)
    pairs = pair_tokens(matches, batch=3, teachers=2, tokens=[10, 10, 5, 5])
    t = torch.cat([view.flatten(0, 1) for view in teacher])[pairs.teacher]
    s = torch.cat([view.flatten(0, 1) for view in student])[pairs.student]
    whole = distill(t @ theirs.T, s @ ours.T, pairs, center=center, **TEMPERATURES)
    monkeypatch.setattr(distillation, "_CHUNK_BYTES", 4 * 12 * 8)  # four rows

    def chunked(rows: Tensor, weights: Tensor) -> Tensor:
        return distill(t, rows, pairs, center=center, prototypes=(theirs, weights), **TEMPERATURES)

    assert chunked(s, ours).item() == pytest.approx(whole.item(), rel=1e-12)
    assert gradcheck(chunked, (s[:].requires_grad_(), ours.requires_grad_()))


@pytest.mark.parametrize("trained", [True, False])
def test_a_layer_brought_to_a_length_has_the_gradient_of_what_it_was_made_of(trained: bool) -> None:
    generator = torch.Generator().manual_seed(2)
    pairs = pair_tokens(None, batch=3, teachers=2, tokens=[1] * 4)
    rows = [torch.randn(n, 6, generator=generator, dtype=torch.float64) for n in (6, 12, 20, 20)]
    lengths = [torch.rand(20, 1, generator=generator, dtype=torch.float64) + 0.5 for _ in range(2)]
    lengths[1][3] = 0  # divided by, it would make gradients no numbers
    teacher, student, theirs, ours = rows
    center = torch.randn(20, generator=generator, dtype=torch.float64)

    def held(student: Tensor, ours: Tensor, length: Tensor) -> Tensor:
        both = (normalize(theirs, dim=1) * lengths[0], normalize(ours, dim=1) * length)
        return distill(teacher, student, pairs, center=center, prototypes=both, **TEMPERATURES)

    def never_held(student: Tensor, ours: Tensor, length: Tensor) -> Tensor:
        both = {"prototypes": (theirs, ours), "lengths": (lengths[0], length)}
        return distill(teacher, student, pairs, center=center, **both, **TEMPERATURES)  # type: ignore[arg-type]

    inputs = (student.requires_grad_(), ours.requires_grad_(), lengths[1].requires_grad_(trained))
    one, other = held(*inputs), never_held(*inputs)
    inputs = inputs[: 2 + trained]
    assert one.item() == pytest.approx(other.item(), rel=1e-12)
    for expected, found in zip(
        torch.autograd.grad(3 * one, inputs), torch.autograd.grad(3 * other, inputs), strict=True
    ):
        torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-12)


def test_dino_is_its_plain_loop_and_the_tokens_loss_without_patches() -> None:
    generator = torch.Generator().manual_seed(0)
    teacher = torch.randn(2, 3, 7, generator=generator, dtype=torch.float64)
    student = torch.randn(5, 3, 7, generator=generator, dtype=torch.float64)
    center = torch.randn(7, generator=generator, dtype=torch.float64)
    expected = sum(
        -(softmax((teacher[g] - center) / 0.07, dim=-1) * log_softmax(student[v] / 0.1, dim=-1)).sum(dim=-1).mean()
        for g, v in view_pairs(2, 5)
    ) / len(view_pairs(2, 5))
    loss = dino(teacher, student, center=center, **TEMPERATURES)
    assert loss.item() == pytest.approx(expected.item(), rel=1e-12)
    pairs = pair_tokens(None, batch=3, teachers=2, tokens=[1] * 5)
    rows = teacher.flatten(0, 1)[pairs.teacher], student.flatten(0, 1)[pairs.student]
    assert distill(*rows, pairs, center=center, **TEMPERATURES).item() == pytest.approx(loss.item(), rel=1e-12)
    assert gradcheck(lambda s: dino(teacher, s, center=center, **TEMPERATURES), (student.requires_grad_(),))


def test_each_token_takes_part_once() -> None:
    _, student, matches, _ = random_case()
    pairs = pair_tokens(matches, batch=3, teachers=2, tokens=[view.shape[1] for view in student])
    assert len(pairs.student.unique()) == len(pairs.student)
    assert len(pairs.teacher.unique()) == len(pairs.teacher)
    assert pairs.weight.sum().item() == pytest.approx(1.0)


def test_lambda_and_its_weight_go_together() -> None:
    teacher, student, matches, center = random_case()
    with pytest.raises(GlocalError, match="cls_weight goes with reduction='lambda'"):
        patchwise(teacher, student, matches, center=center, cls_weight=0.9, **TEMPERATURES)
    with pytest.raises(GlocalError, match="reduction='average': choose mean, sum or lambda"):
        patchwise(teacher, student, matches, center=center, reduction="average", **TEMPERATURES)  # type: ignore[arg-type]


def test_rows_that_do_not_fit_are_named() -> None:
    pairs = pair_tokens(None, batch=2, teachers=2, tokens=[1, 1])
    with pytest.raises(GlocalError, match="3 teacher and 4 student rows do not fit pairs of 4 and 4"):
        distill(torch.zeros(3, 2), torch.zeros(4, 2), pairs, center=torch.zeros(2), **TEMPERATURES)


def test_matches_of_other_pairs_of_views_are_named() -> None:
    teacher, student, matches, center = random_case()
    with pytest.raises(GlocalError, match=r"matches must be of \(B, P, M\) = \(3, 4, M\)"):
        patchwise(teacher, student[:3], matches, center=center, **TEMPERATURES)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_gradients_survive_mixed_precision(dtype: torch.dtype) -> None:
    """They are made in the forward pass, where no loss scale has lifted them yet."""
    generator = torch.Generator().manual_seed(0)
    pairs = pair_tokens(None, batch=32, teachers=2, tokens=[1] * 4)
    rows = [torch.nn.functional.normalize(torch.randn(n, 16, generator=generator), dim=1) for n in (64, 128, 4096)]
    teacher, student, prototypes = rows[0][pairs.teacher], rows[1][pairs.student].requires_grad_(), rows[2]
    weights = prototypes.clone().requires_grad_()

    def gradients() -> tuple[Tensor, ...]:
        loss = distill(
            teacher, student, pairs, center=torch.zeros(4096), prototypes=(prototypes, weights), **TEMPERATURES
        )
        return torch.autograd.grad(loss, (student, weights))

    exact = gradients()
    with torch.autocast("cpu", dtype=dtype):
        mixed = gradients()
    for one, other in zip(exact, mixed, strict=True):
        assert (one - other).norm() < 0.02 * one.norm()
