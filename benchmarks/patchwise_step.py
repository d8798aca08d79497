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
import platform
import resource
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import torch
from torch.utils.flop_counter import FlopCounterMode

from glocal.methods import method_class
from glocal.models.backbone import ModelSettings, build_backbone
from glocal.schedules import Clock
from glocal.views.batch import Views
from glocal.views.plan import ViewPlan

WARM_UP, STEPS = 2, 5


def added_product(_: Any, left: torch.Size, right: torch.Size, out_shape: Any = None, **others: Any) -> int:
    """Operations of total += left @ right."""
    return 2 * left[0] * left[1] * right[1]


def peak_bytes(device: torch.device) -> int:
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated()
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def measure(name: str, prototypes: int, batch: int, device: torch.device) -> dict[str, float]:
    """Steps of one method in this process."""
    before = peak_bytes(device)
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

    def step(number: int) -> None:
        method.before_step(Clock(10 + number, 1, 100))  # past the epoch in which the prototypes stand still
        method(views).backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        method.after_step()
        if device.type == "cuda":
            torch.cuda.synchronize()

    times = []
    for number in range(WARM_UP + STEPS):
        start = time.perf_counter()
        step(number)
        times.append(time.perf_counter() - start)
    peak = peak_bytes(device) - (before if device.type == "cpu" else 0)
    # The counter knows addmm, not its in-place form, by which our gradients are added up.
    in_place: Any = {torch.ops.aten.addmm_: added_product}
    with FlopCounterMode(display=False, custom_mapping=in_place) as counter:
        step(WARM_UP + STEPS)
    return {
        "seconds": statistics.median(times[WARM_UP:]),
        "gigabytes": peak / 1e9,
        "teraflop": counter.get_total_flops() / 1e12,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--prototypes", type=int, nargs="+", default=[65536, 10000])
    parser.add_argument("--batch", type=int, nargs="+", default=[2, 4, 16])
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--only", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.only:
        device = torch.device(arguments.device)
        print(json.dumps(measure(arguments.only, arguments.prototypes[0], arguments.batch[0], device)))
        return
    rows: list[dict[str, Any]] = []
    print(f"{platform.processor() or platform.machine()}, {arguments.device}, torch {torch.__version__}, "
          f"{torch.get_num_threads()} threads")  # fmt: skip
    print(f"{'K':>6} {'batch':>5}  {'DINO':>22}  {'patch-wise':>22}  {'time':>5} {'count':>6} {'memory':>6}")
    for prototypes in arguments.prototypes:
        for batch in arguments.batch:
            found = []
            for name in ("dino", "patchwise_dino"):
                command = [sys.executable, __file__, "--only", name, "--prototypes", str(prototypes)]
                command += ["--batch", str(batch), "--device", arguments.device]
                found.append(json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout))
            plain, ours = found
            ratios = {key: ours[key] / plain[key] for key in plain}
            rows.append({"prototypes": prototypes, "batch": batch, "dino": plain, "patchwise": ours, "ratio": ratios})
            shown = "  ".join(f"{side['seconds']:>10.2f} s {side['gigabytes']:>7.2f} GB" for side in found)
            print(f"{prototypes:>6} {batch:>5}  {shown}  {ratios['seconds']:>5.2f} {ratios['teraflop']:>6.2f} "
                  f"{ratios['gigabytes']:>6.2f}", flush=True)  # fmt: skip
    if arguments.json:
        arguments.json.write_text(json.dumps(rows, indent=2) + "\n")


if __name__ == "__main__":
    main()
