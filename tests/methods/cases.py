"""What the tests that all methods share need to know about each: the `CASE` in `tests/methods/test_NAME.py`."""

import importlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import pytest
import torch

from glocal.methods import Method, method_class, method_names
from glocal.models.architecture import ModelSettings
from glocal.models.building import build_backbone
from glocal.models.momentum import MomentumTeacher
from glocal.views.batch import Views
from glocal.views.plan import ViewPlan

RESNET = ModelSettings(options={"channels": [8, 8, 16, 16], "layers": [1, 1, 1, 1]})
VIT = ModelSettings(name="vit_tiny", options={"patch_size": 4, "embed_dim": 32, "depth": 2, "num_heads": 2})

# Networks and rates for runs of two epochs through `pretrain`.
RESNET_RUN = {
    "model.name": "resnet18",
    "model.options": {"channels": [16, 16, 32, 32], "layers": [1, 1, 1, 1]},
    "model.stem": "standard",
    "optimizer.lr": 0.24,
}
VIT_RUN = {
    "model.name": "vit_tiny",
    "model.options": {"patch_size": 8, "embed_dim": 64, "depth": 3, "num_heads": 2},
    "optimizer.name": "adamw",
    "optimizer.lr": 0.0005,
    "optimizer.weight_decay": 0.04,
}

# For budgets: the strong view of the recipe demo-shapes (where the student sees the weak one alone, it learns less).
STRONG_VIEW = {
    "size": 32,
    "scale": [0.5, 1.0],
    "jitter": {"probability": 0.8, "brightness": 0.3, "contrast": 0.3, "saturation": 0.0, "hue": 0.0},
    "grey": 1.0,
    "blur": {"probability": 0.5, "sigma": [0.5, 1.5], "kernel_size": 5},
    "solarize": {"probability": 0.5, "threshold": 0.0},
}
# MoCo's settings for budgets.
MOCO_BUDGET = {
    "method.queue_size": 2048,
    "method.momentum": 0.98,
    "method.temperature": 0.1,
    "method.hidden_dim": 512,
    "method.normalised_hidden": True,
}


@dataclass(frozen=True)
class MethodCase:
    """How one method is tested beside all others.

    Attributes:
        trained: for each update, the parts that get a gradient.
        run: settings by dotted path for two epochs on 1,024 shapes.
        small: the method's settings for a batch of 8 images of 16 pixels.
        model: the network for these.
        budget: settings by dotted path on top of the recipe demo-shapes, and of 8 epochs, with which it has to learn
            shapes; empty where it cannot (`tests/training/test_budget.py` says why).
        falls: settings by dotted path with which its loss falls from the first steps on.
        slow: its two epochs and its trial are left to `make test-slow`: another method that is like it is always tried.
    """

    trained: Mapping[str, set[str]]
    run: Mapping[str, Any]
    small: Mapping[str, Any] = field(default_factory=dict)
    model: ModelSettings = RESNET
    budget: Mapping[str, Any] = field(default_factory=dict)
    falls: Mapping[str, Any] = field(default_factory=dict)
    slow: bool = False


def parameters(*always: str) -> list[Any]:
    """The methods' names, for parametrised tests of which some are slow; those of `always` are not."""
    return [
        pytest.param(name, marks=pytest.mark.slow) if one.slow and name not in always else name
        for name, one in cases().items()
    ]


def case(name: str) -> MethodCase:
    """The case of a method: a method without a test file and a `CASE` in it is an error."""
    return importlib.import_module(f"tests.methods.test_{name}").CASE  # type: ignore[no-any-return]


def cases() -> dict[str, MethodCase]:
    return {name: case(name) for name in method_names()}


def make(name: str, **settings: object) -> Method:
    """The method on a small network, with the case's settings and these."""
    torch.manual_seed(0)
    kind, own = method_class(name), case(name)
    backbone = build_backbone(own.model, size=16)
    settings = {**own.small, **settings}
    if "queue_size" in kind.Settings.model_fields:
        settings = {"queue_size": 32, **settings}
    method = kind(backbone, kind.Settings.model_validate({"name": name, **settings}))
    if kind.needs_labels:
        method.labels = torch.arange(64) % 4
    with torch.no_grad():  # a teacher that is an exact copy could be mistaken for the student
        for teacher in (module for module in method.modules() if isinstance(module, MomentumTeacher)):
            for parameter in teacher.parameters():
                parameter.add_(0.1 * torch.randn_like(parameter))
    return method


def views(method: Method, batch: int = 8, source: int = 16) -> Views:
    """Random images in the method's views, with geometry as the loader draws it."""
    plan = ViewPlan(method.view_plan(16, method.settings))
    generator = torch.Generator().manual_seed(1)
    images = tuple(torch.randn(batch, 3, view.size, view.size, generator=generator) for view in plan.views)
    geometry = plan.draw_geometry(torch.tensor([source, source]), 0, 0, torch.arange(batch))
    return Views(images, tuple(geometry.view(number) for number in range(len(plan))), torch.arange(batch))
