"""How long torch's threads should wait in a loop: an epoch on a crowded machine by GOMP_SPINCOUNT.

A part of the demonstration's recipe is trained for one epoch in a process of its own for each value, with as many
threads as there are cores, first with nothing beside it, then beside a program that keeps the first core busy. The
values take turns, so that what else the machine does meets all of them alike; the least time of each counts. Seconds
are of `glocal.pretrain` alone, without the imports. What takes longer than the limit is given up and shown as such.

    python benchmarks/spinning.py [--images 1024] [--tries 2] [--limit 180] [--json out.json]
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager

from common import Table, command_line, machine, print_machine, write_json

VALUES = ("default", "0", "100", "1000", "10000")
CHOSEN = "1000"
EPOCH = """
import sys, time
import torch  # before glocal, which would set what is measured
import glocal
start = time.perf_counter()
glocal.pretrain(f"shapes:train:{sys.argv[2]}", sys.argv[1], recipe="demo-shapes", progress=False,
                overrides={"train.epochs": 1, "train.precision": "fp32", "monitor.knn_epochs": 0})
print("seconds", time.perf_counter() - start)
"""
BUSY = """
import os
if hasattr(os, "sched_setaffinity"):
    os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
while True:
    pass
"""


@contextmanager
def busy_programs(count: int) -> Iterator[None]:
    programs = [subprocess.Popen([sys.executable, "-c", BUSY]) for _ in range(count)]
    try:
        yield
    finally:
        for program in programs:
            program.kill()
            program.wait()


def seconds(value: str, images: int, limit: float) -> float:
    """Of one epoch; infinite where it takes longer than the limit."""
    settled = ("GOMP_SPINCOUNT", "OMP_WAIT_POLICY", "KMP_BLOCKTIME", "OMP_NUM_THREADS")
    environment = {name: kept for name, kept in os.environ.items() if name not in settled}
    if value != "default":
        environment["GOMP_SPINCOUNT"] = value
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-c", EPOCH, f"{folder}/run", str(images)]
        try:
            done = subprocess.run(
                command, env=environment, check=True, stdout=subprocess.PIPE, text=True, timeout=limit
            )
        except subprocess.TimeoutExpired:
            return float("inf")
    return float(done.stdout.rsplit("seconds", 1)[1])


def shown(taken: float, limit: float) -> str:
    return f"over {limit:.0f}" if taken == float("inf") else f"{taken:.1f}"


def main() -> None:
    parser = command_line(__doc__)
    parser.add_argument("--images", type=int, default=1024)
    parser.add_argument("--tries", type=int, default=2)
    parser.add_argument("--limit", type=float, default=180, help="seconds after which a value is given up")
    parser.add_argument("--values", nargs="+", default=VALUES)
    arguments = parser.parse_args()
    described, load = machine(), os.getloadavg()[0]
    del described["threads"]  # which are this process's
    print_machine(described)
    print(f"load before the start {load:.1f}: more than about 0.3 means that nothing below was measured in quiet")
    least = {state: dict.fromkeys(arguments.values, float("inf")) for state in ("alone", "busy")}
    for _ in range(arguments.tries):
        for state, programs in (("alone", 0), ("busy", 1)):
            for value in arguments.values:
                with busy_programs(programs):
                    taken = seconds(value, arguments.images, arguments.limit)
                least[state][value] = min(least[state][value], taken)
                print(f"  {state}, {value}: {shown(taken, arguments.limit)} s", file=sys.stderr)
    print(f"ratios to {CHOSEN}'s")
    table = Table({"GOMP_SPINCOUNT": 14, "alone, s": 11, "beside, s": 11, "alone": 8, "beside": 8})
    for value in arguments.values:
        alone, busy = least["alone"][value], least["busy"][value]
        ratios = [least[state][value] / least[state].get(CHOSEN, float("nan")) for state in ("alone", "busy")]
        cells = (shown(seconds, arguments.limit) for seconds in (alone, busy))
        table.row(value, *cells, *(f"{ratio:.2f}" for ratio in ratios))
    write_json(arguments.json, described, load=load, seconds=least)


if __name__ == "__main__":
    main()
