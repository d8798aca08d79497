"""How near `glocal pretrain --time T` ends to T: the whole command against the time that it was given.

Each case is the command itself in a process of its own, from its start to its end, loading torch included (which the
command counts from where it is parsed). Shown is what was planned and the share of the time that was used; a plan aims
at 0.98 and a little less, since epochs are whole. Both depend on a machine whose speed stays the same: measure on a
quiet one.

Where other programs use the machine, `--own-time` has the command's clocks show the processor time of its process, of
which they take nothing away: with one thread and no processes that decode, this is what an idle core would have
shown, short of waiting for the disk. It says whether the plan is right, not how fast the machine is.

    python benchmarks/time_budget.py [--images photos/] [--times 1m 5m] [--own-time] [--json out.json]
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from common import Table, command_line, machine, print_machine, write_json

from glocal.config import build_recipe, load_mapping
from glocal.training.budget import parse_time

COMMAND = """
import json, sys, time
if sys.argv.pop(1) == "own":
    time.perf_counter = time.monotonic = time.process_time
from glocal.cli import main
try:
    main()
except SystemExit:
    pass
print(json.dumps(time.process_time()))
"""
# Little images that lie in memory, photographs that stream, and a method that looks at all images before each epoch.
CASES = {
    "shapes, sce": ["--data", "shapes:train:2048", "--recipe", "demo-shapes"],
    "shapes, pcl": ["--data", "shapes:train:2048", "--set", "method.name=pcl", "--set", "train.batch_size=64"],
    "photographs, sce": [],
}


def run(case: str, given: str, arguments: Any) -> dict[str, Any]:
    """The command's seconds and what it planned."""
    options = CASES[case] or ["--data", str(arguments.images), "--set", f"train.batch_size={arguments.batch_size}"]
    environment = dict(os.environ)
    if arguments.own_time:
        options = [*options, "--set", "data.workers=0"]
        environment["OMP_NUM_THREADS"] = "1"
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "run"
        clock = "own" if arguments.own_time else "wall"
        start = time.perf_counter()
        done = subprocess.run(
            [sys.executable, "-c", COMMAND, clock, "pretrain", "--out", str(out), "--time", given, "--quiet", *options],
            check=True,
            capture_output=True,
            text=True,
            env=environment,
        )
        seconds = time.perf_counter() - start
        if not out.exists():
            raise SystemExit(f"{case}, {given}: {done.stderr.strip()}")
        recipe = build_recipe(load_mapping(out / "recipe.yaml"))
    if arguments.own_time:
        seconds = json.loads(done.stdout.splitlines()[-1])
    found = re.match(r".* epochs? of .*? at (.*?);", recipe.planned)
    return {
        "case": case,
        "time": given,
        "epochs": recipe.train.epochs,
        "what": found[1] if found else "",
        "seconds": seconds,
        "share": seconds / parse_time(given),
        "plan": recipe.planned,
    }


def main() -> None:
    parser = command_line(__doc__)
    parser.add_argument("--images", type=Path, help="a folder of photographs")
    parser.add_argument("--batch-size", type=int, default=32, help="for the photographs")
    parser.add_argument("--times", nargs="+", default=["1m", "5m"])
    parser.add_argument("--own-time", action="store_true", help="count the processor time of the process")
    arguments = parser.parse_args()
    described = machine()
    print_machine(described)
    table = Table({"": 20, "time": 6, "epochs": 8, "size and network": 48, "seconds": 9, "share": 8})
    found = []
    for given in arguments.times:
        for case in CASES:
            if CASES[case] or arguments.images:
                found.append(run(case, given, arguments))
                one = found[-1]
                table.row(case, given, one["epochs"], one["what"], f"{one['seconds']:.1f}", f"{one['share']:.3f}")
    write_json(arguments.json, described, runs=found, own_time=arguments.own_time)


if __name__ == "__main__":
    main()
