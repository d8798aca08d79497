"""How the cost of views and of a training step grows, beside what limits it; draws docs/images/performance-*.png.

- `workers`: complete views of photographs in the streaming lane, over the number of worker processes.
- `views`: the same and a DINO step, over the number of local views.
- `size`: the same and a MoCo step, over the side of the views.
- `batch`: the resident lane and steps of MoCo v2, SCE and DINO, over the batch size.
- `memory`: the peak memory of such steps, over the batch size.

Views are made by the library's lanes, steps are those of its training loop. Every curve stands beside its ceilings,
measured on the same machine in turn with it: the same files decoded and nothing else, the crops without their colours,
the bytes of the views written once, a step's operations (FLOP, counted) at the speed of the machine's convolutions or
products of matrices, the bytes that a step has to hold (counted).

Rates are the best of several rounds. With one thread, work of one process is measured in CPU time, of which other
programs take nothing away; what worker processes do is measured in wall time, their start included. Steps run in a
process of their own for each point; memory is that process' peak above its imports (on a GPU:
torch.cuda.max_memory_allocated).

    python benchmarks/growth.py --images photos/ --out growth.json [--what views size] [--device cuda] [--threads 1]
    python benchmarks/growth.py --plot growth.json        # draws again without measuring

What --out holds of other parts is kept. Without --images it draws enlarged shapes.
"""

from __future__ import annotations

import json
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import lanes
import torch
from common import Table, command_line, in_own_process, machine, own_clock, print_machine, wait_for, write_json
from growth_plots import Line, Panel, draw
from growth_steps import Point
from torch.utils.data import DataLoader, Dataset

from glocal.data.lanes.order import BatchOrder
from glocal.data.lanes.resident import ResidentLane
from glocal.data.lanes.skipped import SkippedImages
from glocal.data.lanes.streaming import CroppedBatch, StreamingLane
from glocal.data.lanes.workers import as_it_is
from glocal.data.sources.base import Source
from glocal.memory import keep_freed_memory
from glocal.settings import IMAGENET_MEAN, IMAGENET_STD
from glocal.views.batch import Views
from glocal.views.plan import Color, View, ViewPlan

WHAT = ("workers", "views", "size", "batch", "memory")
WORKERS, LOCALS, SIDES, SMALL_SIDES = (0, 1, 2, 4), (0, 2, 4, 6, 8), (64, 96, 128, 160, 192, 224), (16, 32, 48, 64)
RESIDENT_BATCHES = (8, 32, 128, 256, 512, 1024)
BATCHES, FEW_BATCHES, VIT_BATCHES = (16, 32, 64, 128, 256), (16, 64, 256), (2, 4, 8, 16)
DINO, MOCO = Point("dino", batch=4, size=224, local=8), Point("moco", batch=32)
LOCAL_AXIS, SIDE_AXIS = "local views of 96 beside two of 224 pixels", "side of the views, pixels"
RATE, BATCH = "images/s", "batch size"


class Cropping(StreamingLane):
    """The streaming lane without its photometric operations: what worker processes do."""

    def finish(self, batch: CroppedBatch) -> Views:
        return Views((), (), batch.index)


class Decoding(Dataset[int]):
    """The same files decoded and nothing else."""

    def __init__(self, source: Source) -> None:
        self.source = source

    def __getitems__(self, numbers: list[int]) -> int:
        for number in numbers:
            self.source[number]
        return len(numbers)


@dataclass(frozen=True)
class Growth:
    """The measurements; each gives the panels of one picture."""

    photographs: Path
    device: torch.device
    threads: int
    rounds: int

    def workers(self) -> list[Panel]:
        source, _ = lanes.part_of(self.photographs, 240)
        found = [
            lanes.rates(self._streaming(source, lanes.dino_views(), workers, 2), self.rounds, time.perf_counter)
            for workers in WORKERS
        ]
        title = "views of photographs, 2×224 + 8×96"
        return [Panel(title, "worker processes", RATE, lines_of(WORKERS, found))]

    def views(self) -> list[Panel]:
        *large, local = lanes.dino_views()
        plans = [[*large, *([local.model_copy(update={"count": count})] if count else [])] for count in LOCALS]
        steps = self._speed([replace(DINO, local=count) for count in LOCALS], LOCALS, "product")
        return [
            Panel("views of photographs", LOCAL_AXIS, RATE, self._made(plans, LOCALS), log_y=True),
            Panel("step of DINO, ViT-Tiny/16, batch 4", LOCAL_AXIS, RATE, steps, log_y=True),
        ]

    def size(self) -> list[Panel]:
        plans = [[view.model_copy(update={"size": side}) for view in lanes.dino_views()[:2]] for side in SIDES]
        steps = self._speed([replace(MOCO, size=side) for side in SMALL_SIDES], SMALL_SIDES, "convolution")
        return [
            Panel("two views of photographs", SIDE_AXIS, RATE, self._made(plans, SIDES), log_y=True),
            Panel("step of MoCo v2, ResNet-18, batch 32", SIDE_AXIS, RATE, steps, log_y=True),
        ]

    def batch(self) -> list[Panel]:
        found = [self._rates(self._resident(batch)) for batch in RESIDENT_BATCHES]
        small = self._speed([replace(MOCO, batch=batch) for batch in BATCHES], BATCHES, "convolution")
        # SCE's step is MoCo's but for the loss: one precision shows it.
        sce = [Point("sce", batch=batch) for batch in FEW_BATCHES]
        small.append(replace(self._speed(sce, FEW_BATCHES, "convolution", ("fp32",))[0], name="SCE, fp32"))
        large = self._speed([replace(DINO, batch=batch) for batch in VIT_BATCHES], VIT_BATCHES, "product")
        lines = lines_of(RESIDENT_BATCHES, found)
        return [
            Panel("resident lane, two views of 32", BATCH, RATE, lines, log_x=True, log_y=True),
            Panel("step of MoCo v2 (and SCE), ResNet-18, 2×32", BATCH, RATE, small, log_x=True),
            Panel("step of DINO, ViT-Tiny/16, 2×224 + 8×96", BATCH, RATE, large, log_x=True),
        ]

    def memory(self) -> list[Panel]:
        small = self._memory([replace(MOCO, batch=batch) for batch in BATCHES])
        large = self._memory([replace(DINO, batch=batch) for batch in VIT_BATCHES])
        return [
            Panel("step of MoCo v2, ResNet-18, 2×32", BATCH, "peak memory, GB", small, log_x=True),
            Panel("step of DINO, ViT-Tiny/16, 2×224 + 8×96", BATCH, "peak memory, GB", large, log_x=True),
        ]

    def _made(self, plans: list[list[View]], x: Sequence[int]) -> list[Line]:
        source, _ = lanes.part_of(self.photographs, 96)
        return lines_of(x, [self._rates(self._streaming(source, plan, workers=0)) for plan in plans])

    def _streaming(self, source: Source, plan: list[View], workers: int, epochs: int = 1) -> dict[str, lanes.Work]:
        order = BatchOrder(len(source), min(16, len(source)), seed=0)
        steps = epochs * order.steps_per_epoch
        requests = [index.tolist() for _, index in order.batches(0, steps)]

        def lane(kind: type[StreamingLane], color: Color) -> lanes.Work:
            skipped = SkippedImages(source, 1.0)
            given = (source, ViewPlan(plan), order, self.device, IMAGENET_MEAN, IMAGENET_STD)
            made = kind(*given, workers=workers, skipped=skipped, color=color)
            return partial(lanes.through_lane, made, steps)

        def decode() -> int:
            return sum(
                DataLoader(Decoding(source), batch_sampler=requests, collate_fn=as_it_is, num_workers=workers)  # type: ignore[arg-type]
            )

        return {
            "fused": lane(StreamingLane, "fused"),
            "exact": lane(StreamingLane, "exact"),
            "limit: decoding and crops": lane(Cropping, "exact"),
            "limit: decoding": decode,
        }

    def _resident(self, batch: int) -> dict[str, lanes.Work]:
        pixels = torch.randint(0, 256, (2048, 3, 32, 32), dtype=torch.uint8)
        order = BatchOrder(len(pixels), batch, seed=0)
        plain = ViewPlan([View(count=2, size=32)])
        crops = ResidentLane(pixels, plain, order, self.device, IMAGENET_MEAN, IMAGENET_STD, color="fused")
        colored = lanes.resident_works(pixels, batch, self.device)
        made = torch.empty(2, *pixels.shape, device=self.device)
        given = torch.rand_like(made)

        def write() -> int:
            for _ in range(8):
                made.copy_(given)
            wait_for(self.device)
            return 8 * len(pixels)

        return {
            "fused": colored["fused"],
            "exact": colored["exact"],
            "limit: crops and normalisation": partial(lanes.through_lane, crops, order.steps_per_epoch),
            "limit: views copied once": write,
        }

    def _rates(self, works: dict[str, lanes.Work]) -> dict[str, float]:
        return lanes.rates(works, self.rounds, own_clock(self.device))

    def _speed(
        self, points: Sequence[Point], x: Sequence[int], limit: str, precisions: Sequence[str] = ("fp32", "bf16")
    ) -> list[Line]:
        lines = []
        for precision in precisions:
            found = [self._step("speed", replace(point, precision=precision)) for point in points]
            able = [one["gigaflops"][limit] * 1e9 / one["flop per image"] for one in found]
            taken = [one["images per second"] for one in found]
            lines += [Line(precision, [*x], taken), Line(f"limit: {limit}s, {precision}", [*x], able, True, precision)]
        return lines

    def _memory(self, points: Sequence[Point]) -> list[Line]:
        x, lines = [point.batch for point in points], []
        settings: dict[str, dict[str, Any]] = {
            "fp32": {},
            "fp32, keep_memory: false": {"keep_memory": False},
            "bf16, keep_memory: false": {"keep_memory": False, "precision": "bf16"},
        }
        for name, changes in settings.items():
            found = [self._step("memory", replace(point, steps=2, **changes)) for point in points]
            lines.append(Line(name, x, [one["gigabytes"] for one in found]))
            if changes:
                counted = [one["counted"] for one in found]
                lines.append(
                    Line(f"counted: weights and activations, {name.partition(',')[0]}", x, counted, True, name)
                )
        return lines

    def _step(self, what: str, point: Point) -> dict[str, Any]:
        point = replace(point, device=self.device.type, threads=self.threads)
        return in_own_process(Path(__file__).with_name("growth_steps.py"), what, json.dumps(asdict(point)))


def lines_of(x: Sequence[int], found: Sequence[dict[str, float]]) -> list[Line]:
    """A line for each name over x, from the numbers at each x."""
    return [Line(name, [*x], [numbers[name] for numbers in found], name.startswith("limit")) for name in found[0]]


def written(number: float) -> str:
    return f"{number:.3g}" if number < 100 else f"{number:,.0f}"


def show(name: str, panels: Sequence[Panel]) -> None:
    for panel in panels:
        print(f"\n{name}: {panel.title}; {panel.y_label} over {panel.x_label}")
        table = Table({"": 36, **{str(x): 10 for x in panel.lines[0].x}})
        for line in panel.lines:
            at = dict(zip(line.x, line.y, strict=True))
            table.row(line.name, *(written(at[x]) if x in at else "" for x in panel.lines[0].x))


def main() -> None:
    parser = command_line(__doc__, json_option=False)
    parser.add_argument("--what", nargs="+", choices=[*WHAT, "all"], default=["all"])
    parser.add_argument("--images", type=Path, help="a folder of photographs")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--out", type=Path, default=Path("growth.json"))
    parser.add_argument("--plot", type=Path, help="draw this file and measure nothing")
    parser.add_argument("--pictures", type=Path, default=Path("docs/images"), help="where the pictures go")
    arguments = parser.parse_args()
    if arguments.plot:
        draw(json.loads(arguments.plot.read_text()), arguments.pictures)
        return
    torch.set_num_threads(arguments.threads)
    keep_freed_memory()  # as a training on a CPU does
    device = torch.device(arguments.device)
    found: dict[str, Any] = json.loads(arguments.out.read_text()) if arguments.out.exists() else {}
    found.pop("machine", None)
    described = machine(device)
    print_machine(described)
    with tempfile.TemporaryDirectory() as scratch:
        photographs = arguments.images or lanes.drawn(Path(scratch) / "large", 96, (500, 375))
        growth = Growth(photographs, device, arguments.threads, arguments.rounds)
        for name in WHAT if "all" in arguments.what else arguments.what:
            start = time.perf_counter()
            panels = getattr(growth, name)()
            show(name, panels)
            print(f"({time.perf_counter() - start:.0f} s)")
            found[name] = [asdict(panel) for panel in panels]
            write_json(arguments.out, described, **found)
    draw(found, arguments.pictures)


if __name__ == "__main__":
    main()
