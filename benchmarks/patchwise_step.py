"""One training step of patch-wise DINO over one of plain DINO: time and peak memory beside the operation counts.

ViT-Tiny/16, 2 × 224 + 8 × 96, the same images, views, optimiser (AdamW) and number of prototypes K for both methods;
each runs in a process of its own. Operations are those of matrix products and attention, counted by
torch.utils.flop_counter on a step of either method; memory is the peak of the process above what it took after its
imports (on a GPU: torch.cuda.max_memory_allocated). Time is the median over the steps after a warm-up.

    python benchmarks/patchwise_step.py [--prototypes 65536 10000] [--batch 2] [--device cuda] [--json out.json]
"""

from __future__ import annotations

import argparse
import json
import statistics
from itertools import count
from typing import Any

import torch
from common import PeakMemory, Table, command_line, in_own_process, machine, print_machine, seconds_of, write_json
from torch.utils.flop_counter import FlopCounterMode

from glocal.methods import method_class
from glocal.models.architecture import ModelSettings
from glocal.models.building import build_backbone
from glocal.schedules import Clock
from glocal.views.batch import Views
from glocal.views.plan import ViewPlan

WARM_UP, STEPS = 2, 5


def added_product(_: Any, left: torch.Size, right: torch.Size, out_shape: Any = None, **others: Any) -> int:
    """Operations of total += left @ right."""
    return 2 * left[0] * left[1] * right[1]


def measure(name: str, prototypes: int, batch: int, device: torch.device) -> dict[str, float]:
    """Steps of one method in this process."""
    memory = PeakMemory(device)
    torch.manual_seed(0)
    kind = method_class(name)
    backbone = build_backbone(ModelSettings(name="vit_tiny"), size=224)
    method = kind(backbone, kind.Settings.model_validate({"name": name, "prototypes": prototypes})).to(device)
    plan = ViewPlan(kind.view_plan(224))
    geometry = plan.draw_geometry(torch.tensor([375, 500]), 0, 0, torch.arange(batch))
    images = tuple(torch.randn(batch, 3, view.size, view.size, device=device) for view in plan.views)
    views = Views(images, tuple(geometry.view(number) for number in range(len(plan))), torch.arange(batch))
    trained = [parameter for group in method.parameter_groups() for parameter in group.module.parameters()]
    optimizer = torch.optim.AdamW([p for p in trained if p.requires_grad], lr=1e-4, fused=True)
    numbers = count(10)  # past the epoch in which the prototypes stand still

    def step() -> None:
        method.before_step(Clock(next(numbers), 1, 100))
        method(views).backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        method.after_step()

    seconds = seconds_of(step, device, WARM_UP + STEPS)[WARM_UP:]
    gigabytes = memory.gigabytes
    # The counter knows addmm, not its in-place form, by which our gradients are added up.
    in_place: Any = {torch.ops.aten.addmm_: added_product}
    with FlopCounterMode(display=False, custom_mapping=in_place) as counter:
        step()
    return {
        "seconds": statistics.median(seconds),
        "gigabytes": gigabytes,
        "teraflop": counter.get_total_flops() / 1e12,
    }


def main() -> None:
    parser = command_line(__doc__)
    parser.add_argument("--prototypes", type=int, nargs="+", default=[65536, 10000])
    parser.add_argument("--batch", type=int, nargs="+", default=[2, 4, 16])
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--only", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.only:
        device = torch.device(arguments.device)
        print(json.dumps(measure(arguments.only, arguments.prototypes[0], arguments.batch[0], device)))
        return
    rows: list[dict[str, Any]] = []
    described = machine(arguments.device)
    print_machine(described)
    table = Table({"K": 6, "batch": 7, "DINO": 22, "patch-wise": 22, "time": 7, "count": 7, "memory": 8})
    for prototypes in arguments.prototypes:
        for batch in arguments.batch:
            setting = ["--prototypes", prototypes, "--batch", batch, "--device", arguments.device]
            plain, ours = (in_own_process(__file__, "--only", name, *setting) for name in ("dino", "patchwise_dino"))
            ratios = {key: ours[key] / plain[key] for key in plain}
            rows.append({"prototypes": prototypes, "batch": batch, "dino": plain, "patchwise": ours, "ratio": ratios})
            sides = (f"{side['seconds']:.2f} s {side['gigabytes']:>7.2f} GB" for side in (plain, ours))
            shown = (f"{ratios[key]:.2f}" for key in ("seconds", "teraflop", "gigabytes"))
            table.row(prototypes, batch, *sides, *shown)
    write_json(arguments.json, described, rows=rows)


if __name__ == "__main__":
    main()
