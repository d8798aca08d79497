"""What every method promises, and what each does."""

import pytest
import torch
from torch import Tensor
from torch.nn.functional import normalize

from glocal.errors import GlocalError
from glocal.losses import info_nce, negative_cosine, sce
from glocal.methods import Method, method_class, method_names
from glocal.models.backbone import ModelSettings, build_backbone
from glocal.training.schedules import Clock, Schedule
from glocal.views.batch import Views
from glocal.views.plan import ViewPlan

RESNET = ModelSettings(options={"channels": [8, 8, 16, 16], "layers": [1, 1, 1, 1]})
VIT = ModelSettings(name="vit_tiny", options={"patch_size": 4, "embed_dim": 32, "depth": 2, "num_heads": 2})

# For each method and update: the parts that get a gradient.
TRAINED = {
    "clim": {"loss": {"backbone", "moco.projector"}},
    "dino": {"loss": {"backbone", "distiller.head"}},
    "logo": {
        "affinity": {"regressor"},
        "dissimilarity": {"backbone", "base.projector"},
        "similarity": {"backbone", "base.projector"},
    },
    "moco": {"loss": {"backbone", "projector"}},
    "patchwise_dino": {"loss": {"backbone", "distiller.head"}},
    "sce": {"loss": {"backbone", "projector"}},
    "simsiam": {"loss": {"backbone", "projector", "predictor"}},
}
PARTS = {part for phases in TRAINED.values() for parts in phases.values() for part in parts}
SMALL = {
    "dino": {"prototypes": 64, "hidden_dim": 32, "bottleneck_dim": 16, "frozen_prototype_epochs": 0},
    "patchwise_dino": {"prototypes": 64, "hidden_dim": 32, "bottleneck_dim": 16, "frozen_prototype_epochs": 0},
    "logo": {"base": {"name": "moco", "queue_size": 32}},
}


def make(name: str, **settings: object) -> Method:
    torch.manual_seed(0)
    kind = method_class(name)
    model = VIT if "dino" in name else RESNET
    backbone = build_backbone(model, size=16)
    settings = {**SMALL.get(name, {}), **settings}
    if "queue_size" in kind.Settings.model_fields:
        settings = {"queue_size": 32, **settings}
    return kind(backbone, kind.Settings.model_validate({"name": name, **settings}))


def views(method: Method, batch: int = 8, source: int = 16) -> Views:
    plan = ViewPlan(method.view_plan(16, method.settings))
    generator = torch.Generator().manual_seed(1)
    images = tuple(torch.randn(batch, 3, view.size, view.size, generator=generator) for view in plan.views)
    geometry = plan.draw_geometry(torch.tensor([source, source]), 0, 0, torch.arange(batch))
    return Views(images, tuple(geometry.view(number) for number in range(len(plan))), torch.arange(batch))


def gradients(method: Method, loss: Tensor) -> set[str]:
    """The parts of a method, two levels deep but for the backbone, that the loss gives a gradient."""
    method.zero_grad()
    loss.backward()
    reached = [name for name, p in method.named_parameters() if p.grad is not None and p.grad.abs().sum() > 0]
    return {part for name in reached for part in PARTS if name.startswith(f"{part}.")} | {
        name for name in reached if not name.startswith(tuple(f"{part}." for part in PARTS))
    }


def test_every_method_file_is_found_and_tested() -> None:
    assert set(method_names()) == set(TRAINED)
    with pytest.raises(GlocalError, match="no method 'mocco'; did you mean moco"):
        method_class("mocco")


@pytest.mark.parametrize("name", TRAINED)
def test_gradients_reach_exactly_what_is_trained(name: str) -> None:
    method = make(name)
    assert set(method.phases) == set(TRAINED[name])
    batch = views(method)
    for phase in method.phases:
        assert gradients(method, method(batch, phase)) == TRAINED[name][phase]
    assert method.embedding is not None
    assert not method.embedding.requires_grad
    assert method.embedding.shape[0] == 8


@pytest.mark.parametrize("name", TRAINED)
def test_a_method_runs_in_anybodys_loop_and_its_loss_falls(name: str) -> None:
    method = make(name)
    optimizers = {
        phase: torch.optim.SGD(
            [
                p
                for g in method.parameter_groups()
                if g.phase == phase
                for p in g.module.parameters()
                if p.requires_grad
            ],
            lr=0.05,
            momentum=0.9,
        )
        for phase in method.phases
    }
    batch, losses = views(method), []
    for step in range(12):
        method.before_step(Clock(step, 4, 12))
        for phase, optimizer in optimizers.items():
            loss = method(batch, phase)
            optimizer.zero_grad()
            loss.backward()
            parameters = [p for group in optimizer.param_groups for p in group["params"]]
            method.before_update(phase, [p.grad for p in parameters if p.grad is not None])
            optimizer.step()
        losses.append(loss.item())  # of the same negatives: the queue stands still until after_step
    method.after_step()
    assert losses[-1] < losses[0]


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


def test_moco_is_info_nce_of_the_first_view_against_the_second() -> None:
    method = make("moco", temperature=0.07)
    batch = views(method)
    loss = method(batch)
    fresh = make("moco", temperature=0.07)
    query = normalize(fresh.projector(fresh.backbone(batch.images[0])), dim=1)
    key = normalize(fresh.teacher.chain(batch.images[1]), dim=1)
    assert loss.item() == pytest.approx(info_nce(query, key, fresh.queue.keys, temperature=0.07).item(), rel=1e-5)


def test_simsiam_is_symmetric_and_stops_the_gradient_of_targets() -> None:
    method = make("simsiam", output_dim=16, predictor_dim=8)
    batch = views(method)
    first, second = (method.projector(method.backbone(view)) for view in batch.images)
    expected = negative_cosine(method.predictor(first), second.detach()) / 2
    expected = expected + negative_cosine(method.predictor(second), first.detach()) / 2
    loss = make("simsiam", output_dim=16, predictor_dim=8)(batch)
    assert loss.item() == pytest.approx(expected.item(), rel=1e-5)


@pytest.mark.parametrize("name", ["moco", "sce"])
def test_after_a_step_keys_are_queued_and_the_teacher_moved(name: str) -> None:
    method = make(name, momentum=0.5)
    before = [parameter.clone() for parameter in method.teacher.parameters()]
    method(views(method)).backward()
    with torch.no_grad():
        for parameter in method.backbone.parameters():
            parameter.add_(1.0)
    method.after_step()
    assert method.queue.position.item() == 8
    assert torch.allclose(method.queue.keys[:8].norm(dim=1), torch.ones(8), atol=1e-5)
    moved = [parameter - old for parameter, old in zip(method.teacher.parameters(), before, strict=True)]
    assert torch.allclose(moved[0], torch.full_like(moved[0], 0.5), atol=1e-5)


def test_scheduled_settings_follow_the_clock() -> None:
    method = make("sce", momentum=Schedule(start=0.9, end=1.0), temperature=0.2)
    method.before_step(Clock(0, 10, 100))
    assert method.now.momentum == pytest.approx(0.9)
    method.before_step(Clock(50, 10, 100))
    assert method.now.momentum == pytest.approx(0.95)
    assert method.now.temperature == 0.2


def test_simsiams_predictor_keeps_its_learning_rate() -> None:
    groups = make("simsiam").parameter_groups()
    assert [group.constant_lr for group in groups] == [False, False, True]
