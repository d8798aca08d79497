"""The loader's index side at the size of very many images: what drawing the order takes, and whether processes agree.

For each number of processes, each of them in turn draws its shares of the same steps, which lie anywhere in the first
ten epochs, as after so many resumes; then it takes some steps from a streaming lane over as many images of 8 × 8 pixels
that are drawn when they are asked for. Memory is the peak above what the process had held when a small set had been
drawn. `alike`: the shares of all processes together are the batches that a single one draws. Names of the images are
not part of this (`scale_bytes.py` has what they take).

    python benchmarks/scale.py [--images 1000000000] [--batch 4096] [--processes 1 2 3 4] [--json scale.json]
"""

from __future__ import annotations

import argparse
import hashlib
import json
import time
from collections.abc import Sequence
from typing import Any

import torch
from common import Table, command_line, in_own_process, machine, peak_bytes, peak_from_here, print_machine, write_json
from torch import Tensor

from glocal.data.lanes.choice import open_lane
from glocal.data.lanes.order import BatchOrder
from glocal.data.settings import DataSettings
from glocal.data.sources.base import Sample
from glocal.views.plan import View, ViewPlan
from glocal.views.random import uniform

_EPOCHS = 10
_LANE_STEPS = 10
_LEAST = 8  # images of a share of the lane: enough for its own cost to show, whatever decoding costs


class Numbered(Sequence[str]):
    """Names that are made when they are asked for."""

    def __init__(self, images: int) -> None:
        self.images = range(images)

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: Any) -> str:
        return str(self.images[index])


class Drawn:
    """A source of any number of small images, none of which is held."""

    classes: list[str] | None = None
    labels: Tensor | None = None
    keys: Sequence[str]

    def __init__(self, images: int) -> None:
        self.name, self.keys = f"{images} images", Numbered(images)

    def __len__(self) -> int:
        return len(self.keys)

    def __getitem__(self, index: int) -> Sample:
        return Sample(torch.full((3, 8, 8), index % 251, dtype=torch.uint8), None, self.keys[index])


def steps_of(options: argparse.Namespace) -> list[int]:
    """Steps anywhere in the first epochs; the very last of an epoch among them."""
    an_epoch = options.images // options.batch
    anywhere = (uniform(0, "steps", torch.arange(options.steps)) * (_EPOCHS * an_epoch)).long()
    return [an_epoch - 1, *anywhere.tolist()]


def digest(index: Tensor) -> str:
    return hashlib.sha256(index.contiguous().numpy().tobytes()).hexdigest()


def draw(options: argparse.Namespace, rank: int, processes: int) -> dict[str, Any]:
    """One process: digests of its shares, megabytes, shares a second."""
    steps = steps_of(options)
    whole = [options.batch, 0, rank, processes]
    list(BatchOrder(options.batch, *whole).batches(0, 1))  # code that is loaded when it is first used
    show(options.batch, whole, [0])
    before = peak_from_here("cpu")
    start = time.perf_counter()
    order = BatchOrder(options.images, *whole)
    shares = [digest(index) for step in steps for _, index in order.batches(step, step + 1)]
    seconds = time.perf_counter() - start
    of_order = peak_bytes("cpu") - before
    show(options.images, whole, steps[:_LANE_STEPS])
    return {
        "shares": shares,
        "order_megabytes": of_order / 1e6,
        "lane_megabytes": (peak_bytes("cpu") - before) / 1e6,
        "batches_a_second": len(steps) / seconds,
    }


def show(images: int, whole: list[int], steps: list[int]) -> None:
    """Takes steps from a streaming lane, with batches that are small: what is measured does not come from pixels."""
    _, seed, rank, processes = whole
    order = BatchOrder(images, _LEAST * processes, seed, rank, processes)
    settings = DataSettings(lane="streaming", workers=0)
    lane = open_lane(Drawn(images), settings, ViewPlan([View(size=8)]), order, torch.device("cpu"), progress=False)
    for step in steps:
        for _ in lane.batches(step, step + 1):
            pass


def expected(options: argparse.Namespace, rank: int, processes: int) -> list[str]:
    """Digests of a process' shares, cut from the batches that a single process draws."""
    order = BatchOrder(options.images, options.batch, 0)
    share = options.batch // processes
    batches = [index for step in steps_of(options) for _, index in order.batches(step, step + 1)]
    return [digest(index[rank * share : (rank + 1) * share]) for index in batches]


def main() -> None:
    parser = command_line(__doc__)
    parser.add_argument("--images", type=int, default=1_000_000_000)
    parser.add_argument("--batch", type=int, default=4096, help="of all processes; rounded to a multiple of them")
    parser.add_argument("--processes", type=int, nargs="+", default=[1, 2, 3, 4])
    parser.add_argument(
        "--steps", type=int, default=200, help="drawn, anywhere in ten epochs; few, where orders are made whole"
    )
    parser.add_argument("--one", type=int, nargs=2, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.one:
        print(json.dumps(draw(options, *options.one)))
        return
    described = machine()
    print_machine(described)
    print(f"{options.images:,} images, {options.steps + 1} steps anywhere in {_EPOCHS} epochs")
    table = Table({"processes": 10, "batch": 8, "order, MB": 11, "with lane, MB": 15, "batches/s": 11, "alike": 7})
    found, largest = [], options.batch
    for processes in options.processes:
        options.batch = largest // processes * processes
        given = ("--images", options.images, "--batch", options.batch, "--steps", options.steps)
        ranks = [in_own_process(__file__, *given, "--one", rank, processes) for rank in range(processes)]
        alike = all(own.pop("shares") == expected(options, rank, processes) for rank, own in enumerate(ranks))
        most = {name: max(own[name] for own in ranks) for name in ("order_megabytes", "lane_megabytes")}
        slowest = min(own["batches_a_second"] for own in ranks)
        row = {"processes": processes, "batch": options.batch, **most, "batches_a_second": slowest, "alike": alike}
        found.append(row)
        shown = (f"{most['order_megabytes']:.1f}", f"{most['lane_megabytes']:.1f}", f"{slowest:.0f}")
        table.row(processes, f"{options.batch:,}", *shown, "yes" if alike else "NO")
    write_json(options.json, described, images=options.images, steps=options.steps + 1, rows=found)


if __name__ == "__main__":
    main()
