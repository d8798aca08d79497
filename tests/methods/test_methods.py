"""What every method promises, and what each does."""

import pytest
import torch
from torch import Tensor

from glocal.errors import GlocalError
from glocal.methods import Method, method_class, method_names
from glocal.training.schedules import Clock, Schedule
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
