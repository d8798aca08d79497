"""Seconds of an epoch on CIFAR-10 from JPEG files to updated weights, beside lightly's published benchmark.

MoCo v2 and SCE, a ResNet-18 with the stem for small images, batches of 512. Three sides, one process each:

- `glocal`: `glocal.pretrain` with the recipes `moco-cifar10` and `sce-cifar10`, as a user runs it: views, logs,
  checkpoint. Its views alone are also timed. It decodes every file once, before the first epoch: `opening`.
- `lightly's script`: what `cifar10_benchmark.py` of lightly's documentation trains as MoCo, in fp32: its ResNet with
  batch normalisation in 8 parts, shuffled keys, both directions of the loss, a DataLoader of 8 processes. That is twice
  the work of a step of ours.
- `lightly, same work`: lightly's loss, memory bank, heads and loader around our backbone, one direction, in the
  precision and layout of our side; the loader keeps its processes from epoch to epoch, which the script's does not.

lightly has no SCE, whose step does the work of MoCo's; MoCo stands beside it. Seconds are those of the fastest epoch
after the first; 200 epochs are 200 of them and the opening. The share of the machine's speed is the counted operations
of a step's products and convolutions over what a large product of matrices or a wide convolution reaches here in the
same precision.

    pip install -e '.[bench]'
    python benchmarks/epoch_vs_lightly.py --data cifar10/train --device cuda [--compile] [--json out.json]
    python benchmarks/epoch_vs_lightly.py --data cifar10/train --images 1024 --batch 128 --epochs 2     # a try on a CPU
"""

from __future__ import annotations

import argparse
import copy
import json
import os
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from common import (
    PeakMemory,
    Table,
    command_line,
    in_own_process,
    machine,
    print_machine,
    seconds_of,
    timed,
    write_json,
)
from torch import Tensor, nn
from torch.nn.functional import conv2d
from torch.utils.data import DataLoader
from torch.utils.data import Subset as Part
from torch.utils.flop_counter import FlopCounterMode

import glocal
from glocal.config import AnyRecipe, build_recipe, load_mapping
from glocal.data.lanes.choice import open_lane
from glocal.data.lanes.order import BatchOrder
from glocal.data.sources.base import Source, Subset
from glocal.data.sources.opening import open_source
from glocal.methods.building import build_method
from glocal.models.building import build_backbone
from glocal.views.batch import Views
from glocal.views.plan import ViewPlan

RECIPES = {"moco": "moco-cifar10", "sce": "sce-cifar10"}
SIDES = ("glocal", "lightly's script", "lightly, same work")
DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}


def images_of(arguments: argparse.Namespace) -> Source:
    source = open_source(arguments.data)
    return Subset(source, torch.arange(min(arguments.images or len(source), len(source))))


def settings_of(arguments: argparse.Namespace) -> dict[str, Any]:
    return {
        "train.batch_size": arguments.batch,
        "train.epochs": arguments.epochs,
        "train.precision": arguments.precision,
        "train.compile": arguments.compile,
        "train.device": arguments.device,
        "train.log_steps": 1,
    }


def train_ours(method: str, arguments: argparse.Namespace) -> dict[str, float]:
    """A whole run; seconds by its own log, which on a GPU is the GPU's clock."""
    source = images_of(arguments)
    with tempfile.TemporaryDirectory() as folder:
        run = glocal.pretrain(source, folder, recipe=RECIPES[method], overrides=settings_of(arguments), progress=False)
        rates, recipe = run.metrics["images_per_second"], run.recipe
    steps = len(rates) // arguments.epochs
    epochs = [
        sum(arguments.batch / rate for rate in rates[first : first + steps]) for first in range(0, len(rates), steps)
    ]
    return {"seconds": min(epochs[1:]), **seconds_of_views(source, recipe, arguments)}


def seconds_of_views(source: Source, recipe: AnyRecipe, arguments: argparse.Namespace) -> dict[str, float]:
    """An epoch of views and nothing else, and what opening the lane takes before the first one."""
    device = torch.device(arguments.device)
    order = BatchOrder(len(source), arguments.batch, seed=1)
    plan = ViewPlan(recipe.views or [])
    opening, lane = timed(lambda: open_lane(source, recipe.data, plan, order, device, progress=False), device)
    views = seconds_of(lambda: [None for _ in lane.batches(0, order.steps_per_epoch)], device, 3)
    return {"views": min(views), "opening": opening}


def teraflop_of_image(method: str) -> float:
    """Operations of convolutions and products in a training step, for one image."""
    recipe = build_recipe(load_mapping(RECIPES[method]), {})
    model, batch = build_method(recipe), 4
    plan = ViewPlan(recipe.views or [])
    index = torch.arange(batch)
    geometry = plan.draw_geometry(torch.tensor([32, 32]), 0, 0, index)
    images = tuple(torch.randn(batch, 3, view.size, view.size) for view in plan.views)
    with FlopCounterMode(display=False) as counter:
        model(Views(images, tuple(geometry.view(number) for number in range(len(plan))), index)).backward()
    return counter.get_total_flops() / batch / 1e12


def teraflops_of_machine(device: torch.device, precision: str) -> float:
    """The speed of a large product of matrices or a wide convolution, the faster one: BLAS on a CPU may be slow."""
    dtype = DTYPES[precision]
    side, batch = (8192, 256) if device.type == "cuda" else (2048, 8)
    left, right = (torch.randn(side, side, device=device, dtype=dtype) for _ in range(2))
    images = torch.randn(batch, 256, 32, 32, device=device, dtype=dtype).contiguous(memory_format=torch.channels_last)
    weight = torch.randn(256, 256, 3, 3, device=device, dtype=dtype).contiguous(memory_format=torch.channels_last)
    operations: list[tuple[float, Callable[[], Tensor]]] = [
        (2 * side**3, lambda: left @ right.T),
        (2 * images.numel() * weight[0].numel(), lambda: conv2d(images, weight, padding=1)),
    ]
    return max(count / min(seconds_of(work, device, 20)) / 1e12 for count, work in operations)


def train_lightly(side: str, arguments: argparse.Namespace) -> dict[str, float]:
    """Epochs of MoCo out of lightly's building blocks."""
    from lightly.loss import NTXentLoss
    from lightly.models.modules import MoCoProjectionHead
    from lightly.models.utils import deactivate_requires_grad, update_momentum

    device, published = torch.device(arguments.device), side == "lightly's script"
    layout = torch.contiguous_format if published else torch.channels_last
    precision = "fp32" if published else arguments.precision
    torch.manual_seed(0)
    trained = nn.Sequential(their_backbone() if published else our_backbone(), MoCoProjectionHead(512, 512, 128))
    trained = trained.to(device).to(memory_format=layout)
    slow = copy.deepcopy(trained)
    deactivate_requires_grad(slow)
    criterion = NTXentLoss(temperature=0.1, memory_bank_size=(4096, 128)).to(device)
    optimizer = torch.optim.SGD(trained.parameters(), lr=0.06, momentum=0.9, weight_decay=5e-4)
    loader = their_loader(arguments, persistent=not published)

    def direction(query: Tensor, key: Tensor) -> Tensor:
        order = torch.randperm(len(key), device=device)
        with torch.no_grad():
            keys = slow(key[order])[order.argsort()] if published else slow(key)
        return criterion(trained(query), keys)

    def epoch() -> None:
        for (first, second), *_ in loader:
            update_momentum(trained, slow, m=0.99)
            views = [view.to(device, memory_format=layout, non_blocking=True) for view in (first, second)]
            with torch.autocast(device.type, torch.bfloat16, enabled=precision == "bf16"):
                loss = direction(*views)
                if published:
                    loss = 0.5 * (loss + direction(*reversed(views)))
            loss.backward()
            optimizer.step()
            optimizer.zero_grad()

    return {"seconds": min(seconds_of(epoch, device, arguments.epochs)[1:])}


def their_backbone() -> nn.Module:
    from lightly.models import ResNetGenerator

    resnet = ResNetGenerator("resnet-18", num_splits=8)
    return nn.Sequential(*list(resnet.children())[:-1], nn.AdaptiveAvgPool2d(1), nn.Flatten())


def our_backbone() -> nn.Module:
    recipe = build_recipe(load_mapping(RECIPES["moco"]), {})
    return build_backbone(recipe.model, size=32)


def their_loader(arguments: argparse.Namespace, *, persistent: bool) -> DataLoader[Any]:
    from lightly.data import LightlyDataset
    from lightly.transforms import MoCoV2Transform

    # The script's colours are those of SimCLR at half strength, without blur.
    transform = MoCoV2Transform(input_size=32, gaussian_blur=0.0)
    data = LightlyDataset(str(arguments.data), transform=transform)
    part = Part(data, range(min(arguments.images or len(data), len(data))))
    return DataLoader(
        part,
        batch_size=arguments.batch,
        shuffle=True,
        drop_last=True,
        num_workers=arguments.workers,
        pin_memory=arguments.device == "cuda",
        persistent_workers=persistent,
    )


def work(side: str, method: str, arguments: argparse.Namespace) -> dict[str, float]:
    """What a side takes, in a process of its own."""
    memory = PeakMemory(arguments.device)
    found = train_ours(method, arguments) if side == "glocal" else train_lightly(side, arguments)
    return {**found, "gigabytes": memory.gigabytes}


def main() -> None:
    parser = command_line(__doc__)
    parser.add_argument("--data", type=Path, required=True, help="CIFAR-10's training images, a folder for each class")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--methods", nargs="+", default=list(RECIPES), choices=list(RECIPES))
    parser.add_argument("--batch", type=int, default=512)
    parser.add_argument("--epochs", type=int, default=3, help="the first is not counted")
    parser.add_argument("--images", type=int, help="the first so many; all by default")
    parser.add_argument("--precision", choices=tuple(DTYPES), default="bf16")
    parser.add_argument("--compile", action="store_true", help="our side with train.compile")
    parser.add_argument("--workers", type=int, default=min(8, os.cpu_count() or 1), help="of lightly's loader")
    parser.add_argument("--work", nargs=2, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.epochs < 2:
        parser.error("--epochs must be at least 2: the first is not counted")
    if arguments.work:
        side, method = arguments.work
        print(json.dumps(work(side, method, arguments)))
        return
    described = machine(arguments.device, "lightly")
    speed = teraflops_of_machine(torch.device(arguments.device), arguments.precision)
    print_machine(described)
    print(f"{arguments.precision} products {speed:.2f} TFLOP/s")
    table = Table(
        {"": 28, "s/epoch": 9, "images/s": 10, "of speed": 9, "views": 7, "GB": 7, "200 epochs": 12, "ratio": 7}
    )
    source = images_of(arguments)
    images = len(source) // arguments.batch * arguments.batch
    rows = [(method, "glocal") for method in arguments.methods] + [("moco", side) for side in SIDES[1:]]
    found: dict[str, dict[str, float]] = {}
    for method, side in rows:
        row = found[f"{method}, {side}"] = in_own_process(*sys.argv, "--work", side, method)
        row["images_per_second"] = images / row["seconds"]
        share = views = ""
        if side == "glocal":
            row["of_speed"] = teraflop_of_image(method) * row["images_per_second"] / speed
            row["of_views"] = row["views"] / row["seconds"]
            share, views = f"{row['of_speed']:.0%}", f"{row['of_views']:.0%}"
        table.row(
            f"{method}, {side}",
            f"{row['seconds']:.2f}",
            f"{row['images_per_second']:,.0f}",
            share,
            views,
            f"{row['gigabytes']:.2f}",
            f"{(row['seconds'] * 200 + row.get('opening', 0)) / 60:.1f} min",
            f"{row['seconds'] / next(iter(found.values()))['seconds']:.2f}",
        )
    write_json(arguments.json, described, teraflops=speed, found=found)


if __name__ == "__main__":
    main()
