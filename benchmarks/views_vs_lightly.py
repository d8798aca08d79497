"""Images per second of both lanes beside lightly's transforms, on one CPU thread each.

Three kinds of work, each the same for all that are compared:

- `dino`: photographs, 2 views of 224 and 8 of 96 pixels as lightly's DINOTransform makes them: bicubic crops, flip,
  jitter (0.4, 0.4, 0.2, 0.1; probability 0.8), grey 0.2, blur (1, 0.1, 0.5), solarisation of the second view 0.2,
  normalisation.
- `dino, decode and crops`: what is left to the CPU where the rest runs on a GPU: uint8 crops. lightly has no such
  division of labour, so its complete views are the measure here as well.
- `small`: 32×32, 2 views with crop, flip, jitter and grey as lightly's MoCoV2Transform without its blur makes them.
  lightly reads JPEG files, the resident lane images that are in memory; `lightly, in memory` gives lightly's transform
  images that are decoded already.

The same settings are handed to both (lightly's own blur takes Pillow's, ours torchvision's kernel or one of 3 σ).
lightly's transforms run on single images, as its examples show. Everything runs in this process. What a DataLoader's
processes multiply differs: lightly makes complete views in them; our streaming lane decodes and crops in them, and
changes colours where the training is, on a CPU with all of torch's threads. The rates are the best of several rounds in
which all take turns, of CPU time, so that neither a busy machine nor the order decides. With --device cuda the
photometric operations and the resident lane are also measured on the GPU, of wall time.

    pip install -e '.[bench]'
    python benchmarks/views_vs_lightly.py --small cifar10/train --large photos/ [--device cuda] [--json out.json]

Without folders, it draws its own images: shapes at 32x32 and enlarged shapes at 500x375.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from common import Table, command_line, machine, print_machine, wait_for, write_json
from lanes import COLORS, Work, dino_views, drawn, part_of, rates, resident_works, through_lane
from PIL import Image

from glocal.data.lanes.order import BatchOrder
from glocal.data.lanes.resident import read_all
from glocal.data.lanes.skipped import SkippedImages
from glocal.data.lanes.streaming import StreamingLane
from glocal.memory import keep_freed_memory
from glocal.settings import IMAGENET_MEAN, IMAGENET_STD
from glocal.views.plan import ViewPlan


def through_files(files: Sequence[Path], transform: Callable[[Any], Any]) -> int:
    for file in files:
        with Image.open(file) as image:
            transform(image.convert("RGB"))
    return len(files)


def through_images(images: Sequence[Image.Image], transform: Callable[[Any], Any]) -> int:
    for image in images:
        transform(image)
    return len(images)


def crops_only(lane: StreamingLane, steps: int) -> int:
    count = 0
    for epoch, index in lane.order.batches(0, steps):
        count += len(lane.dataset.__getitems__([(epoch, number, number) for number in index.tolist()]).index)
    return count


def large_works(folder: Path, limit: int, batch: int) -> tuple[dict[str, Work], dict[str, Work]]:
    """Complete views, and decoding and crops alone."""
    from lightly.transforms import DINOTransform  # here, so that `machine` tells where lightly is missing

    source, files = part_of(folder, limit)
    plan, order = ViewPlan(dino_views()), BatchOrder(len(source), min(batch, len(source)), seed=0)
    lanes = {
        color: StreamingLane(
            source,
            plan,
            order,
            torch.device("cpu"),
            IMAGENET_MEAN,
            IMAGENET_STD,
            workers=0,
            skipped=SkippedImages(source, 1.0),
            color=color,
        )
        for color in COLORS
    }
    steps = order.steps_per_epoch
    works: dict[str, Work] = {"lightly": partial(through_files, files, DINOTransform(n_local_views=8))}
    works |= {f"streaming, {color}": partial(through_lane, lane, steps) for color, lane in lanes.items()}
    return works, {"lightly": works["lightly"], "streaming": partial(crops_only, lanes["fused"], steps)}


def small_works(folder: Path, limit: int, batch: int) -> dict[str, Work]:
    from lightly.transforms import MoCoV2Transform

    source, files = part_of(folder, limit)
    transform = MoCoV2Transform(input_size=32, gaussian_blur=0.0)
    some = files[: min(len(files), 1000)]
    images = [Image.open(file).convert("RGB") for file in some]
    works: dict[str, Work] = {
        "lightly": partial(through_files, some, transform),
        "lightly, in memory": partial(through_images, images, transform),
    }
    pixels = read_all(source, SkippedImages(source, 1.0), progress=False)
    return works | {
        f"resident, {color}": work for color, work in resident_works(pixels, batch, torch.device("cpu")).items()
    }


def device_works(folder: Path, batch: int, device: torch.device) -> tuple[dict[str, Work], dict[str, Work]]:
    """The photometric operations of crops that are cut already, and the resident lane, on a GPU."""
    source, _ = part_of(folder, batch)
    plan, order = ViewPlan(dino_views()), BatchOrder(len(source), len(source), seed=0)
    finish: dict[str, Work] = {}
    for color in COLORS:
        skipped = SkippedImages(source, 1.0)
        lane = StreamingLane(
            source, plan, order, device, IMAGENET_MEAN, IMAGENET_STD, workers=0, skipped=skipped, color=color
        )
        cropped = lane.dataset.__getitems__([(0, number, number) for number in range(len(source))]).pin_memory()
        finish[f"streaming, {color}"] = partial(through_finish, lane, cropped)
    pixels = torch.randint(0, 256, (50_000, 3, 32, 32), dtype=torch.uint8)
    return finish, {f"resident, {color}": work for color, work in resident_works(pixels, 512, device).items()}


def through_finish(lane: StreamingLane, cropped: Any) -> int:
    for _ in range(8):
        lane.finish(cropped)
    wait_for(lane.device)
    return 8 * len(cropped.index)


def show(found: dict[str, dict[str, float]]) -> None:
    table = Table({"views": 50, "images/s": 12, "ratio": 10})
    for name, measured in found.items():
        reference = next(iter(measured.values()))  # lightly, or the exact colours
        for who, rate in measured.items():
            table.row(f"{name:26}{who}", f"{rate:,.0f}", f"{rate / reference:.2f}")


def main() -> None:
    parser = command_line(__doc__)
    parser.add_argument("--small", type=Path)
    parser.add_argument("--large", type=Path)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--images", type=int, default=96, help="photographs in a round")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    keep_freed_memory()  # as a training on a CPU does; for both sides
    device = torch.device(arguments.device)
    described = machine(device, "lightly")
    print_machine(described)
    found: dict[str, dict[str, float]] = {}
    with tempfile.TemporaryDirectory() as scratch:
        small = arguments.small or drawn(Path(scratch) / "small", 5000, (32, 32))
        large = arguments.large or drawn(Path(scratch) / "large", 96, (500, 375))
        complete, crops = large_works(large, arguments.images, 32)
        found["small"] = rates(small_works(small, 5000, 256), arguments.rounds, time.process_time)
        found["dino"] = rates(complete, arguments.rounds, time.process_time)
        found["dino, decode and crops"] = rates(crops, arguments.rounds, time.process_time)
        if device.type == "cuda":
            finish, resident = device_works(large, 64, device)
            found["dino, colours on the GPU"] = rates(finish, arguments.rounds, time.perf_counter)
            found["small, on the GPU"] = rates(resident, arguments.rounds, time.perf_counter)
    show(found)
    write_json(arguments.json, described, images_per_second=found)


if __name__ == "__main__":
    main()
