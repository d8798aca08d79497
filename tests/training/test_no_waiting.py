"""Nothing in a step makes the host wait for the device: on the meta device there are no values that one could read.

Nor does it need float64 there, which Metal has not.
"""

from collections.abc import Callable
from contextlib import nullcontext
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

from glocal import transfer
from glocal.evaluation.metrics.targets import entropies
from glocal.schedules import Clock
from glocal.settings import IMAGENET_MEAN, IMAGENET_STD
from glocal.training.finite import all_finite
from glocal.training.optimizers import OptimizerSettings, build_optimizers, set_schedules
from glocal.views.batch import Views
from glocal.views.fused import apply_fused
from glocal.views.photometric import apply_photometry
from glocal.views.plan import Blur, Jitter, RandAugment, Solarize, View, ViewPlan
from glocal.views.values import apply_values
from tests.methods.cases import VIT, case, make, parameters, views
from tests.wide import Wide

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


class Made(TorchFunctionMode):
    """Notes tensors made on the device from Python's numbers, and decompositions: these look at their result."""

    def __init__(self) -> None:
        super().__init__()
        self.waited: list[str] = []

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        made = func in (torch.tensor, torch.as_tensor, torch.Tensor.new_tensor) and result.device == META
        if made or func is torch.linalg.eigh:
            self.waited.append(f"{func.__name__} {args[-1]!r}")
        return result


@pytest.mark.parametrize("execute", [apply_fused, apply_photometry, apply_values])
def test_views_are_made_without_waiting_for_the_device(
    execute: Callable[..., Tensor], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else they are not made beside the training."""
    monkeypatch.setattr(transfer, "_NO_FLOAT64", {META.type})
    augment = RandAugment(operations=2, magnitude=9.0)
    jitter = Jitter(probability=0.8, brightness=0.4, contrast=0.4, saturation=0.2, hue=0.1)
    blur = Blur(probability=0.5)
    view = View(size=32, jitter=jitter, grey=0.3, blur=blur, solarize=Solarize(probability=0.5), randaugment=augment)
    drawn = ViewPlan([view]).draw_photometry(0, 0, torch.arange(64)).view(0)
    images = torch.empty(64, 3, 32, 32, dtype=torch.uint8, device=META)
    with Copies() as copies, Made() as made, Wide("meta") as wide:
        made_views = execute(images, drawn, view, mean=IMAGENET_MEAN, std=IMAGENET_STD)
    assert made_views.device == META
    assert copies.waited == made.waited == wide.made == []


# EsViT's matches are found in the features, and which of the teacher's regions they name decides shapes.
@pytest.mark.parametrize("name", [one for one in parameters("logo") if "esvit" not in str(one)])
def test_a_step_never_waits_for_the_device(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch, "autocast", lambda *_, **__: nullcontext())  # it does not know the meta device
    monkeypatch.setattr(torch, "is_autocast_enabled", lambda *_: False)
    monkeypatch.setattr(transfer, "_NO_FLOAT64", {META.type})
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
    with Copies() as copies, Made() as made, Wide("meta") as wide:
        first = 1 if name == "colorization" else 0  # in its very first step it looks whether images have colours
        for step in range(first, 2):
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
    assert copies.waited == wide.made == []
    decomposes = name in ("arb", "zero_cl")  # torch has no decomposition that does not look whether it succeeded
    assert all(decomposes and one.startswith("linalg_eigh") for one in made.waited), made.waited
