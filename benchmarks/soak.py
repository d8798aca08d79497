"""Whether a long training grows: memory, open files and threads of 5,000 steps on both lanes.

A tiny network learns from small pictures, each case in a process of its own. Every 25 steps it notes its resident
memory (and that of the processes that decode for it, without what they share with it), its open files and its threads.
Checkpoints, k-NN and the look at the embeddings happen as in a real run, only far more often; CLIM looks at all images
again every two epochs, and so starts its decoding processes anew. The first tenth of the steps, at least 500 where
there are as many, is warm-up; through the rest goes a straight line by least squares, whose slope is shown for 1,000
steps. `report.html`, which is written every five minutes, is left out.

    OMP_NUM_THREADS=1 python benchmarks/soak.py [--steps 5000] [--cases resident …] [--json out.json] [--figure out.png]
    python benchmarks/soak.py --plot out.json --figure out.png  # draws again without measuring
"""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

import numpy as np
from common import Table, command_line, in_own_process, machine, print_machine, write_json
from lanes import drawn
from matplotlib.figure import Figure

import glocal

IMAGES, BATCH, EVERY = 512, 16, 25  # 32 steps an epoch
SETTINGS: dict[str, Any] = {
    "model.options": {"channels": [8, 8, 16, 16], "layers": [1, 1, 1, 1]},
    "model.stem": "standard",
    "method.queue_size": 256,
    "train.batch_size": BATCH,
    "train.checkpoint_steps": 100,
    "train.log_steps": 5,
    "train.precision": "fp32",
    "monitor.knn_epochs": 5,
}
STREAMING = {"data.lane": "streaming", "data.workers": 2}
CLIM = {"method.name": "clim", "method.refresh_epochs": 2}
CASES: dict[str, dict[str, Any]] = {
    "resident": {"method.name": "sce", "data.lane": "resident"},
    "streaming": {"method.name": "sce", **STREAMING},
    "streaming-0": {"method.name": "sce", **STREAMING, "data.workers": 0},
    "clim-resident": {**CLIM, "data.lane": "resident"},
    "clim-streaming": {**CLIM, **STREAMING},
}
COLUMNS = {"memory": "memory, MB", "workers": "decoders, MB", "files": "open files", "threads": "threads"}


class Samples:
    """Notes what the process holds, as the watch of a training (`glocal.training.stopwatch.Watch`)."""

    def __init__(self) -> None:
        self.found: dict[str, list[float]] = {name: [] for name in ("step", *COLUMNS)}

    def step(self, done: int) -> None:
        if done % EVERY == 0:
            children = Path(f"/proc/self/task/{os.getpid()}/children").read_text().split()
            self.found["step"].append(done)
            self.found["memory"].append(_kilobytes("/proc/self/status", "VmRSS") / 1024)
            self.found["workers"].append(sum(_own_kilobytes(child) for child in children) / 1024)
            self.found["files"].append(len(os.listdir("/proc/self/fd")))
            self.found["threads"].append(len(os.listdir("/proc/self/task")))

    def apart(self, what: str) -> AbstractContextManager[None]:
        return nullcontext()


def _kilobytes(file: str, *names: str) -> int:
    lines = (line.split() for line in Path(file).read_text().splitlines()[1:])
    return sum(int(line[1]) for line in lines if line and line[0].rstrip(":") in names)


def _own_kilobytes(process: str) -> int:
    """What a process holds for itself; 0 where it has just ended."""
    try:
        return _kilobytes(f"/proc/{process}/smaps_rollup", "Private_Clean", "Private_Dirty")
    except OSError:
        return 0


def soak(case: str, steps: int) -> dict[str, list[float]]:
    """What a training of so many steps held on its way."""
    samples = Samples()
    epochs = -(-steps * BATCH // IMAGES)
    with tempfile.TemporaryDirectory() as folder:
        data = drawn(Path(folder, "images"), IMAGES, (40, 40))
        settings = {**SETTINGS, **CASES[case], "train.epochs": epochs}
        glocal.pretrain(data, Path(folder, "run"), overrides=settings, progress=False, watch=samples, report=False)
    return samples.found


def slopes(found: Mapping[str, Sequence[float]]) -> dict[str, float]:
    """The growth of each column in 1,000 steps behind the warm-up."""
    steps = np.array(found["step"])
    rest = steps > min(max(500, steps[-1] / 10), steps[-1] / 2)
    return {name: float(np.polyfit(steps[rest] / 1000, np.array(found[name])[rest], 1)[0]) for name in COLUMNS}


def draw(cases: Mapping[str, Mapping[str, Sequence[float]]], file: Path) -> None:
    """A panel for each column, a line for each case."""
    figure = Figure(figsize=(12, 3.4), layout="constrained")
    for axes, (name, label) in zip(figure.subplots(1, len(COLUMNS)), COLUMNS.items(), strict=True):
        for case, found in cases.items():
            axes.plot(found["step"], found[name], linewidth=1, label=case)
        axes.set_ylim(bottom=0)
        axes.set_xlabel("steps")
        axes.set_title(label, fontsize=10, loc="left")
        axes.grid(alpha=0.3)
        axes.spines[["top", "right"]].set_visible(False)
    figure.legend(*axes.get_legend_handles_labels(), loc="outside lower center", ncols=len(cases), frameon=False)
    figure.savefig(file, dpi=100)


def show(cases: Mapping[str, Mapping[str, Sequence[float]]]) -> None:
    print("growth in 1,000 steps behind the warm-up")
    table = Table({"case": 18, **dict.fromkeys(COLUMNS.values(), 14), "at the end, MB": 16})
    for case, found in cases.items():
        grown = slopes(found)
        table.row(case, *(f"{grown[name]:+.3f}" for name in COLUMNS), f"{found['memory'][-1]:.0f}")


def main() -> None:
    parser = command_line(__doc__)
    parser.add_argument("--steps", type=int, default=5000)
    parser.add_argument("--cases", nargs="+", choices=CASES, default=list(CASES))
    parser.add_argument("--figure", type=Path, help="draw a picture into this file")
    parser.add_argument("--plot", type=Path, help="a file of --json that is drawn; nothing is measured")
    parser.add_argument("--one", choices=CASES, help="measure one case in this process and print its samples")
    arguments = parser.parse_args()
    if arguments.one:
        print(json.dumps(soak(arguments.one, arguments.steps)))
        return
    if arguments.plot:
        cases = json.loads(arguments.plot.read_text())["cases"]
    else:
        described = machine()
        print_machine(described)
        command = [__file__, "--steps", arguments.steps, "--one"]
        cases = {}
        for case in arguments.cases:
            cases[case] = in_own_process(*command, case)
            grown = {case: slopes(found) for case, found in cases.items()}
            write_json(arguments.json, described, steps=arguments.steps, growth_per_1000_steps=grown, cases=cases)
    show(cases)
    if arguments.figure:
        draw(cases, arguments.figure)


if __name__ == "__main__":
    main()
