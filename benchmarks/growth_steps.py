"""Steps of the library's own training loop, and what limits them: one point of `growth.py`, in a process of its own.

The loop is `glocal.training.loop.train`, as `glocal pretrain` calls it; only its lane is replaced by one that gives the
same views again and again, and looks at the clock when it is asked for them. Between the steps the ceiling is measured:
how fast the same process convolves and multiplies matrices in the same precision.

    python benchmarks/growth_steps.py speed '{"method": "moco", "batch": 64}'    # or memory
"""

from __future__ import annotations

import json
import logging
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from typing import Any
from unittest import mock

import step_vs_lightly as steps
import torch
from common import PeakMemory, own_clock, wait_for
from lightning.fabric import Fabric
from torch import Tensor, nn
from torch.autograd.graph import saved_tensors_hooks
from torch.utils.flop_counter import FlopCounterMode

from glocal.config import AnyRecipe, build_recipe
from glocal.data.lanes.order import BatchOrder
from glocal.memory import keep_freed_memory
from glocal.methods.building import build_method
from glocal.models import recompute
from glocal.models.linear import blas_is_slow, use_onednn
from glocal.training.loop import Hooks, train
from glocal.training.machine import suit_to_machine
from glocal.training.optimizers import build_optimizers
from glocal.views.batch import Views
from glocal.views.plan import ViewPlan

EPOCH = 100  # past the epochs in which prototypes stand still
DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}
FABRIC: dict[str, Any] = {"fp32": "32-true", "bf16": "bf16-mixed"}
SETTINGS = {**steps.OURS, "sce": {}}


@dataclass(frozen=True)
class Point:
    """What is trained: a ResNet-18, or for DINO a ViT-Tiny/16 on two views of `size` pixels and `local` small ones."""

    method: str
    batch: int
    size: int = 32
    local: int = 0
    precision: str = "fp32"
    keep_memory: bool = True
    device: str = "cpu"
    threads: int = 1
    steps: int = 3  # the first one is not counted


class Given:
    """A lane that gives the same views again and again and calls `before` each time."""

    def __init__(self, views: Views, before: Callable[[], None]) -> None:
        self.views, self.before = views, before

    def batches(self, first_step: int, last_step: int) -> Iterator[Views]:
        for _ in range(first_step, last_step):
            self.before()
            yield self.views


class Stopwatch:
    """The least seconds between `start` and `stop`, the first time left out; work in between that is none of it."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.clock = own_clock(device)
        self.taken: list[float] = []
        self.started: float | None = None

    def start(self) -> None:
        self.started = self.now()

    def stop(self) -> None:
        if self.started is not None:
            self.taken.append(self.now() - self.started)
        self.started = None

    def now(self) -> float:
        wait_for(self.device)
        return self.clock()

    @property
    def least(self) -> float:
        return min(self.taken[1:])


class Ceilings:
    """GFLOP/s of a convolution and of a product of matrices as the library computes them, the best of all calls."""

    def __init__(self, device: torch.device, precision: str) -> None:
        images = 8 if device.type == "cpu" else 256
        layers = {"convolution": nn.Conv2d(256, 256, 3, padding=1, bias=False), "product": nn.Linear(1024, 1024)}
        inputs = {"convolution": torch.randn(images, 256, 16, 16), "product": torch.randn(256 * images, 1024)}
        self.flop = {"convolution": images * 2 * 9 * 256**3, "product": 2 * 256 * images * 1024**2}
        self.works: dict[str, Callable[[], Tensor]] = {}
        self.watches = {name: Stopwatch(device) for name in layers}
        for name, layer in layers.items():
            layer.to(device, DTYPES[precision])
            given = inputs[name].to(device, DTYPES[precision])
            if name == "convolution":
                layer.to(memory_format=torch.channels_last)
                given = given.contiguous(memory_format=torch.channels_last)
            elif device.type == "cpu" and blas_is_slow():
                use_onednn(layer)
            self.works[name] = partial(layer, given)

    @torch.no_grad()
    def measure(self) -> None:
        for name, work in self.works.items():
            for _ in range(3):
                self.watches[name].start()
                work()
                self.watches[name].stop()

    @property
    def gigaflops(self) -> dict[str, float]:
        return {name: self.flop[name] / watch.least / 1e9 for name, watch in self.watches.items()}


def recipe_of(point: Point) -> AnyRecipe:
    transformer = point.method == "dino"
    settings: dict[str, Any] = {
        "data.size": point.size,
        "method": {**SETTINGS[point.method], "name": point.method},
        "model": {"name": "vit_tiny"} if transformer else {"name": "resnet18", "stem": "small"},
        "optimizer.name": "adamw" if transformer else "sgd",
        "train.batch_size": point.batch,
        "train.epochs": EPOCH + 1,
        "train.precision": point.precision,
        "train.checkpoint_minutes": 1e6,
        "monitor.collapse_epochs": 0,
        "monitor.knn_epochs": 0,
    }
    recipe = build_recipe({}, settings)
    if transformer:
        *large, small = recipe.views or []
        some = [small.model_copy(update={"count": point.local})] if point.local else []
        recipe = recipe.model_copy(update={"views": [*large, *some]})
    return recipe


def views_of(recipe: AnyRecipe, device: torch.device) -> Views:
    plan, batch = ViewPlan(recipe.views or []), recipe.train.batch_size
    index = torch.arange(batch)
    places = plan.draw_geometry(torch.tensor([recipe.data.size] * 2), 0, 0, index)
    images = [torch.randn(batch, 3, view.size, view.size, device=device) for view in plan.views]
    return Views(tuple(images), tuple(places.view(number) for number in range(len(plan))), index)


def take_steps(point: Point, before: Callable[[], None], after: Callable[[], None]) -> int:
    """Trains for some steps; the bytes of weights, gradients, teacher and the optimiser's state."""
    recipe = recipe_of(point)
    device = torch.device(point.device)
    fabric = Fabric(accelerator=point.device, devices=1, precision=FABRIC[point.precision])
    torch.manual_seed(0)
    method = build_method(recipe)
    optimizers = build_optimizers(method, recipe.optimizer, fused=True)
    method = suit_to_machine(method.to(device), recipe.train, device)
    order = BatchOrder(point.batch * point.steps, point.batch, seed=0)
    first = EPOCH * order.steps_per_epoch

    def save(_: int) -> str:
        after()  # the last step has ended
        return ""

    lane: Any = Given(views_of(recipe, device), before)
    train(method, optimizers, lane, order, recipe, fabric, Hooks(save), first_step=first, progress=False)
    trained = [parameter for parameter in method.parameters() if parameter.requires_grad]
    held = [tensor for each in optimizers.values() for state in each.state.values() for tensor in state.values()]
    return bytes_of([*method.state_dict().values(), *held]) + bytes_of(trained)


def bytes_of(tensors: Iterable[Any]) -> int:
    """What the tensors among them hold, memory that several share counted once."""
    found = {
        tensor.untyped_storage().data_ptr(): tensor.untyped_storage().nbytes()
        for tensor in tensors
        if isinstance(tensor, Tensor) and tensor.layout == torch.strided
    }
    return sum(found.values())


@contextmanager
def kept_tensors() -> Iterator[list[Tensor]]:
    """What autograd keeps of what is computed inside, but for parameters and what is forgotten."""
    kept: list[Tensor] = []

    def keep(tensor: Tensor) -> Tensor:
        whole = tensor if tensor._base is None else tensor._base  # a transposed weight is the weight
        if not isinstance(whole, nn.Parameter):
            kept.append(tensor)
        return tensor

    def also_kept(forget: Callable[[Tensor], Any], remember: Callable[[Any], Tensor]) -> saved_tensors_hooks:
        def pack(tensor: Tensor) -> Any:
            packed = forget(tensor)
            if not isinstance(packed, recompute._Forgotten):
                keep(tensor)
            return packed

        return saved_tensors_hooks(pack, remember)

    # Of hooks within hooks only the inner ones are asked.
    inner = mock.patch.object(recompute, "saved_tensors_hooks", also_kept)
    with inner, saved_tensors_hooks(keep, lambda tensor: tensor):
        yield kept


def count(point: Point) -> tuple[int, int]:
    """Operations (FLOP) of a step, and the bytes that its forward pass keeps for its backward pass."""
    counter = FlopCounterMode(
        display=False,
        custom_mapping={torch.ops.aten.mkldnn_linear: _linear_flop, torch.ops.aten.addmm_: _addmm_flop},
    )
    with counter, kept_tensors() as kept:
        take_steps(replace(point, steps=1), lambda: None, lambda: None)
    return counter.get_total_flops(), bytes_of(kept)


def _linear_flop(rows: Sequence[int], weight: Sequence[int], *_: Any, **__: Any) -> int:
    return 2 * torch.Size(rows).numel() * weight[0]


def _addmm_flop(_: Sequence[int], left: Sequence[int], right: Sequence[int], *__: Any, **___: Any) -> int:
    return 2 * left[0] * left[1] * right[1]


def speed(point: Point) -> dict[str, Any]:
    """Images per second of the step, its operations for each image and what the machine can do, in GFLOP/s."""
    device = torch.device(point.device)
    watch, ceilings = Stopwatch(device), Ceilings(device, point.precision)

    def between() -> None:
        watch.stop()
        ceilings.measure()
        watch.start()

    take_steps(point, between, watch.stop)
    some = min(4, point.batch)  # operations grow with the images and with nothing else
    return {
        "images per second": point.batch / watch.least,
        "flop per image": count(replace(point, batch=some))[0] / some,
        "gigaflops": ceilings.gigaflops,
    }


def memory(point: Point) -> dict[str, Any]:
    """Gigabytes that the steps took at most, and what of it the weights and the forward pass explain."""
    peak = PeakMemory(point.device)
    state = take_steps(point, lambda: None, lambda: None)
    gigabytes = peak.gigabytes  # before counting takes its own
    return {"gigabytes": gigabytes, "counted": (state + count(point)[1]) / 1e9}


def main() -> None:
    _, what, given = sys.argv
    point = Point(**json.loads(given))
    torch.set_num_threads(point.threads)
    logging.disable(logging.INFO)  # Lightning names the precision
    if point.device == "cpu" and point.keep_memory:
        keep_freed_memory()
    print(json.dumps((speed if what == "speed" else memory)(point)))


if __name__ == "__main__":
    main()
