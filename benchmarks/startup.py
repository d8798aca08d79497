"""How long a user waits for `glocal --help`, and for the first training step on `shapes`, over `import torch`.

The three take turns; the least time of each is shown, and its ratio to `python -c "import torch"`, which is what no
program on torch can avoid. The first step is that of `glocal pretrain --data shapes --recipe demo-shapes`: from the
start of the process to the end of the first optimiser step, after which it is stopped.

    python benchmarks/startup.py [--tries 3] [--json out.json]
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
import time

from common import Table, command_line, machine, print_machine, write_json

TORCH = "import torch"
HELP = "import sys; sys.argv = ['glocal', '--help']; from glocal.cli import main; main()"
# The command itself; only the end of its first step is made known, by leaving.
FIRST_STEP = """
import os, sys
sys.argv = ["glocal", "pretrain", "--data", "shapes", "--recipe", "demo-shapes", "--out", sys.argv[1], "--quiet"]
from glocal.cli import main
from glocal.training import loop
step = loop._optimise
def first(*arguments):
    step(*arguments)
    os._exit(0)
loop._optimise = first
main()
"""


def seconds(code: str, *arguments: str) -> float:
    start = time.perf_counter()
    subprocess.run([sys.executable, "-c", code, *arguments], check=True, capture_output=True)
    return time.perf_counter() - start


def main() -> None:
    parser = command_line(__doc__)
    parser.add_argument("--tries", type=int, default=3)
    arguments = parser.parse_args()
    found: dict[str, list[float]] = {"import torch": [], "glocal --help": [], "first step on shapes": []}
    for _ in range(arguments.tries):
        found["import torch"].append(seconds(TORCH))
        found["glocal --help"].append(seconds(HELP))
        with tempfile.TemporaryDirectory() as folder:
            found["first step on shapes"].append(seconds(FIRST_STEP, f"{folder}/run"))
    least = {name: min(taken) for name, taken in found.items()}
    described = machine()
    print_machine(described)
    table = Table({"": 22, "s": 8, "ratio": 7})
    for name, taken in least.items():
        table.row(name, f"{taken:.2f}", f"{taken / least['import torch']:.2f}")
    write_json(arguments.json, described, seconds=least)


if __name__ == "__main__":
    main()
