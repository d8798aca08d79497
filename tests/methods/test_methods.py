"""What every method promises, and what each does."""

import pytest
import torch
from torch import Tensor

from glocal.errors import GlocalError
from glocal.methods import Method, method_class, method_names
from glocal.models.momentum import MomentumTeacher
from glocal.schedules import Clock, Schedule
from glocal.views.batch import Views
from glocal.views.geometry import ViewGeometry
from tests.methods.cases import cases, make, views

CASES = cases()


def gradients(method: Method, loss: Tensor, parts: set[str]) -> set[str]:
    """The parts among `parts`, and parameters outside of them, that the loss gives a gradient."""
    method.zero_grad()
    loss.backward()
    reached = [name for name, p in method.named_parameters() if p.grad is not None and p.grad.abs().sum() > 0]
    found = {name: next((part for part in parts if f"{name}.".startswith(f"{part}.")), name) for name in reached}
    return set(found.values())


def test_every_method_file_is_found_and_tested() -> None:
    assert set(method_names()) == set(CASES)
    with pytest.raises(GlocalError, match="no method 'mocco'; did you mean moco"):
        method_class("mocco")


@pytest.mark.parametrize("name", CASES)
def test_gradients_reach_exactly_what_is_trained(name: str) -> None:
    method = make(name)
    trained = CASES[name].trained
    assert set(method.phases) == set(trained)
    batch = views(method)
    parts = set().union(*trained.values())
    for phase in method.phases:
        assert gradients(method, method(batch, phase), parts) == trained[phase]
    assert method.embedding is not None
    assert not method.embedding.requires_grad
    assert method.embedding.shape[0] == 8


@pytest.mark.parametrize("name", CASES)
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


@pytest.mark.parametrize("name", ["moco", "sce", "ressl"])
def test_after_a_step_keys_are_queued(name: str) -> None:
    method = make(name)
    method(views(method)).backward()
    method.after_step()
    assert method.queue.position.item() == 8
    assert torch.allclose(method.queue.keys[:8].norm(dim=1), torch.ones(8), atol=1e-5)


WITH_TEACHER = [name for name in CASES if any(isinstance(module, MomentumTeacher) for module in make(name).modules())]


@pytest.mark.parametrize("name", WITH_TEACHER)
def test_after_a_step_every_teacher_has_moved_towards_its_student(name: str) -> None:
    method = make(name)
    for module in method.modules():  # the method itself, or the one that it works on
        if hasattr(getattr(module, "now", None), "momentum"):
            module.now.momentum = 0.75
    for phase in method.phases:
        method(views(method), phase).backward()
    students = list(method.backbone.parameters())
    [teacher, *_] = [module for module in method.modules() if isinstance(module, MomentumTeacher)]
    before = [parameter.clone() for parameter in teacher.chain[0].parameters()]
    method.after_step()
    moved = list(teacher.chain[0].parameters())
    for student, old, new in zip(students, before, moved, strict=True):
        assert torch.allclose(new, old.lerp(student, 0.25), atol=1e-6)


@pytest.mark.parametrize("name", CASES)
def test_under_autocast_the_loss_is_in_single_precision(name: str) -> None:
    method = make(name)
    batch = views(method)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        losses = [method(batch, phase) for phase in method.phases]
    assert all(loss.dtype == torch.float32 and loss.isfinite() for loss in losses)


@pytest.mark.parametrize("name", CASES)
def test_a_step_may_see_several_parts_of_a_batch(name: str) -> None:
    method = make(name)
    batch = views(method)
    for phase in method.phases:
        for part in (slice(0, 4), slice(4, 8)):
            images = tuple(image[part] for image in batch.images)
            geometry = tuple(ViewGeometry(g.box[part], g.flipped[part]) for g in batch.geometry)
            method(Views(images, geometry, batch.index[part]), phase).backward()
    method.after_step()
    assert all(p.grad is None or p.grad.isfinite().all() for p in method.parameters())


def test_scheduled_settings_follow_the_clock() -> None:
    method = make("sce", momentum=Schedule(start=0.9, end=1.0), temperature=0.2)
    method.before_step(Clock(0, 10, 100))
    assert method.now.momentum == pytest.approx(0.9)
    method.before_step(Clock(50, 10, 100))
    assert method.now.momentum == pytest.approx(0.95)
    assert method.now.temperature == 0.2
