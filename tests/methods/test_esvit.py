"""EsViT: views and regions; the matching and the pairs against plain loops."""

import pytest
import torch
from torch import Tensor
from torch.nn.functional import cosine_similarity, log_softmax, softmax

from glocal import transfer
from glocal.errors import GlocalError
from glocal.losses import dino
from glocal.losses.distillation import distill
from glocal.losses.regions import match_regions, pair_regions
from tests.methods.cases import VIT, VIT_RUN, MethodCase, make, views
from tests.wide import Wide

HEAD = {"prototypes": 256, "hidden_dim": 64, "bottleneck_dim": 32, "momentum": 0.98, "frozen_prototype_epochs": 0}
CASE = MethodCase(
    slow=True,
    trained={"loss": {"backbone", "distiller.head", "of_regions.head"}},
    model=VIT,
    small={"prototypes": 64, "hidden_dim": 32, "bottleneck_dim": 16, "frozen_prototype_epochs": 0},
    run={**VIT_RUN, **{f"method.{key}": value for key, value in HEAD.items()}},
    budget={
        "model.options": {"channels": [32, 64, 128, 256], "output_stride": 16},  # 2 × 2 regions of 32 pixels, not one
        "method.prototypes": 1024,
        "method.hidden_dim": 512,
        "method.bottleneck_dim": 128,
        "method.momentum": 0.98,
        "method.teacher_temperature": 0.03,
        "method.frozen_prototype_epochs": 0,
        "optimizer.lr": 0.48,
        "train.batch_size": 32,
        "train.epochs": 6,
    },
    falls={"method.center_momentum": 1.0},  # the loss rises while the centre spreads the targets
)
TEMPERATURES = {"teacher_temperature": 0.07, "student_temperature": 0.1}


def random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def matches_by_loop(teacher: Tensor, student: Tensor) -> Tensor:
    batch, teachers = teacher.shape[:2]
    found = torch.empty(batch, student.shape[1], teachers, dtype=torch.int64)
    for image in range(batch):
        for region, features in enumerate(student[image]):
            for view in range(teachers):
                cosines = [float(cosine_similarity(features, other, dim=0)) for other in teacher[image, view]]
                found[image, region, view] = max(range(len(cosines)), key=cosines.__getitem__)
    return found


def region_loss_by_loop(teacher: Tensor, student: list[Tensor], logits: tuple[Tensor, list[Tensor]]) -> float:
    """Over features (B, G, N, D) and V of (B, Nᵥ, D), and their logits, as the paper writes it."""
    batch, teachers = teacher.shape[:2]
    total, pairs = 0.0, 0
    for q in range(teachers):
        for v, regions in enumerate(student):
            if v == q:
                continue
            pairs += 1
            best = matches_by_loop(teacher[:, q : q + 1], regions)[..., 0]
            for image in range(batch):
                for region in range(regions.shape[1]):
                    target = softmax(logits[0][image, q, best[image, region]] / 0.07, dim=-1)
                    learned = log_softmax(logits[1][v][image, region] / 0.1, dim=-1)
                    total -= float((target * learned).sum()) / (batch * regions.shape[1])
    return total / pairs


def test_each_region_finds_the_most_similar_one_of_each_view() -> None:
    teacher, student = random(3, 2, 5, 4), random(3, 7, 4, seed=1)
    assert torch.equal(match_regions(teacher, student), matches_by_loop(teacher, student))
    assert torch.equal(match_regions(100 * teacher, student), match_regions(teacher, student))  # cosines
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(match_regions(teacher.float(), student.float()), match_regions(teacher, student))


@pytest.mark.parametrize("sizes", [(9, 9), (9, 9, 4, 4), (4, 4, 9)])
def test_the_loss_of_the_pairs_equals_a_plain_loop(sizes: tuple[int, ...]) -> None:
    teacher = random(3, 2, sizes[0], 4)
    student = [random(3, size, 4, seed=seed) for seed, size in enumerate(sizes, start=1)]
    teacher_logits, student_logits = (
        random(3, 2, sizes[0], 6, seed=9),
        [random(3, size, 6, seed=size) for size in sizes],
    )
    pairs = pair_regions(match_regions(teacher, torch.cat(student, dim=1)), regions=sizes)
    found = distill(
        teacher_logits.flatten(0, 2)[pairs.teacher],
        torch.cat(student_logits, dim=1).flatten(0, 1)[pairs.student],
        pairs,
        center=torch.zeros(6, dtype=torch.float64),
        **TEMPERATURES,
    )
    assert found.item() == pytest.approx(region_loss_by_loop(teacher, student, (teacher_logits, student_logits)))


def test_a_device_without_float64_pairs_the_same_regions(monkeypatch: pytest.MonkeyPatch) -> None:
    matches = match_regions(random(3, 2, 5, 4), random(3, 13, 4, seed=1))
    usual = pair_regions(matches, regions=[5, 5, 3])
    monkeypatch.setattr(transfer, "_NO_FLOAT64", {"cpu"})
    with Wide("cpu") as wide:
        narrow = pair_regions(matches, regions=[5, 5, 3])
    assert wide.made == []
    assert torch.equal(narrow.target, usual.target)
    assert torch.allclose(narrow.weight.double(), usual.weight)


def test_only_regions_that_teach_are_among_the_pairs() -> None:
    teacher, student = random(4, 2, 9, 3), random(4, 18, 3, seed=1)
    matches = match_regions(teacher, student)
    pairs = pair_regions(matches, regions=[9, 9])
    expected = [
        (image * 2 + view) * 9 + region
        for image in range(4)
        for view in range(2)
        for region in sorted(set(matches[image, 9 * (1 - view) : 9 * (2 - view), view].tolist()))
    ]
    assert pairs.teacher.tolist() == expected
    assert pairs.weight.sum().item() == pytest.approx(1.0)
    assert [pairs.teacher_starts[-1], pairs.student_starts[-1]] == [len(expected), 4 * 18]


def test_regions_that_do_not_fit_are_refused() -> None:
    with pytest.raises(GlocalError, match="need 2 teacher views"):
        pair_regions(torch.zeros(2, 8, 1, dtype=torch.int64), regions=[4, 4])
    with pytest.raises(GlocalError, match="and 8 regions"):
        pair_regions(torch.zeros(2, 8, 2, dtype=torch.int64), regions=[4, 3])


@pytest.mark.parametrize("weight", [0.0, 0.3])
def test_the_method_is_dino_on_views_and_on_matched_regions(weight: float) -> None:
    method, fresh = make("esvit", region_weight=weight), make("esvit", region_weight=weight)
    batch = views(method)
    teacher_backbone, head = fresh.distiller.teacher_backbone, fresh.distiller.head
    target = torch.stack([teacher_backbone.forward_tokens(image) for image in batch.images[:2]])  # (G, B, 1 + N, D)
    student = [fresh.backbone.forward_tokens(image) for image in batch.images]

    def logits(tokens: Tensor, of: torch.nn.Module) -> Tensor:
        return of(tokens) @ of.prototypes().T

    of_views = dino(
        logits(target[:, :, 0], fresh.distiller.teacher.chain[1]),
        torch.stack([logits(tokens[:, 0], head) for tokens in student]),
        teacher_temperature=0.04,
        student_temperature=0.1,
        center=torch.zeros(64),
    )
    regions = target[:, :, 1:].transpose(0, 1)
    matches = match_regions(regions, torch.cat([tokens[:, 1:] for tokens in student], dim=1))
    total, first = 0.0, 0
    for v, tokens in enumerate(student):
        size = tokens.shape[1] - 1
        prediction = log_softmax(logits(tokens[:, 1:], fresh.of_regions.head) / 0.1, dim=-1)
        for q in {0, 1} - {v}:
            index = matches[:, first : first + size, q, None].expand(-1, -1, regions.shape[-1])
            best = logits(regions[:, q].gather(1, index), fresh.of_regions.teacher.chain[1])
            total -= (softmax(best / 0.04, dim=-1) * prediction).sum(dim=-1).mean() / (2 * len(student) - 2)
        first += size
    expected = (1 - weight) * of_views + weight * total
    assert method(batch).item() == pytest.approx(expected.item(), rel=1e-4)


def test_the_two_heads_have_centres_and_teachers_of_their_own_and_one_backbone() -> None:
    method = make("esvit", momentum=0.5)
    method(views(method)).backward()
    method.after_step()
    assert method.distiller.center.abs().sum() > 0
    assert method.of_regions.center.abs().sum() > 0
    assert not torch.equal(method.distiller.center, method.of_regions.center)
    copies = [name for name in method.state_dict() if name.endswith("patch_embed.proj.weight")]
    assert copies == ["backbone.network.patch_embed.proj.weight", f"{method.evaluated}.network.patch_embed.proj.weight"]
