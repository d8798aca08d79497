"""Nothing in a step makes the host wait for the device: on the meta device there are no values that one could read."""

from contextlib import nullcontext
from typing import Any

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from glocal.evaluation.metrics.targets import entropies
from glocal.schedules import Clock
from glocal.training.finite import all_finite
from glocal.training.optimizers import OptimizerSettings, build_optimizers, set_schedules
from glocal.views.batch import Views
from tests.methods.cases import VIT, case, make, parameters, views

META = torch.device("meta")


class Copies(TorchDispatchMode):
    """Notes copies from the CPU to the device that the host would wait for."""

    def __init__(self) -> None:
        super().__init__()
        self.waited: list[str] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        copied = func is torch.ops.aten._to_copy.default and args[0].device.type == "cpu" and result.device == META
        if copied and not (kwargs or {}).get("non_blocking"):
            self.waited.append(f"{tuple(args[0].shape)} {args[0].dtype}")
        return result


# EsViT's matches are found in the features, and which of the teacher's regions they name decides shapes.
@pytest.mark.parametrize("name", [name for name in parameters("logo") if name != "esvit"])
def test_a_step_never_waits_for_the_device(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch, "autocast", lambda *_, **__: nullcontext())  # it does not know the meta device
    monkeypatch.setattr(torch, "is_autocast_enabled", lambda *_: False)
    method = make(name)
    batch = views(method)
    if method.refresh_epochs:  # what it keeps of all images, from before the step
        method.eval()
        method.refresh(torch.randn(64, method.embed(batch.images[0][:2]).shape[1]), 0)
        method.train()
        if hasattr(method, "clusterings"):  # PCL has them where embeddings are
            method.clusterings = [(c.to(META), loose.to(META), found) for c, loose, found in method.clusterings]
    method.to(META)
    if method.labels is not None:
        method.labels = method.labels.to(META)
    optimizers = build_optimizers(method, OptimizerSettings(name="adamw" if case(name).model is VIT else "sgd"))
    batch = Views(tuple(image.to(META) for image in batch.images), batch.geometry, batch.index)
    with Copies() as copies:
        for step in range(2):
            clock = Clock(step, 1, 4)
            method.before_step(clock)
            for phase in method.phases:
                set_schedules(optimizers[phase], OptimizerSettings(), 8, clock)
                method(batch, phase).backward()
                gradients = [p.grad for g in optimizers[phase].param_groups for p in g["params"] if p.grad is not None]
                method.before_update(phase, gradients)
                optimizers[phase].step()
                optimizers[phase].zero_grad(set_to_none=True)
            method.after_step()
        assigned = method.assignments()
        assert (
            all_finite(method, optimizers, META).device == META
        )  # what is looked at now and then does not wait either
        assert assigned is None or entropies(assigned).shape == (2,)
    assert copies.waited == []
