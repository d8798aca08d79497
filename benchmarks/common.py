"""What the benchmarks share: how they describe the machine, take time and memory, and show and keep their numbers.

Seconds end when the device is done. Sides that are compared run in processes of their own, one after another
(`in_own_process`) or one step each in turn (`in_turn`, answered by `answer_each_line`), so that neither one side's
memory nor a machine that slows down counts for another.
"""

from __future__ import annotations

import argparse
import ctypes
import json
import os
import platform
import resource
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from importlib import metadata, util
from pathlib import Path
from typing import Any, TypeVar

import torch

Found = TypeVar("Found")
Device = torch.device | str


def command_line(description: str | None, *, json_option: bool = True) -> argparse.ArgumentParser:
    """A parser that shows a script's docstring as it is written, with the option of `write_json` if it is wanted."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    if json_option:
        parser.add_argument("--json", type=Path, help="write the machine and the numbers into this file")
    return parser


# The machine.


def machine(device: Device = "cpu", *peers: str) -> dict[str, Any]:
    """What the numbers were measured on, with the versions of the modules they are compared with.

    Raises:
        SystemExit: a peer is not installed.
    """
    return {
        "processor": platform.processor() or platform.machine(),
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "threads": torch.get_num_threads(),
        "device": torch.cuda.get_device_name() if on_gpu(device) else "cpu",
        "python": platform.python_version(),
        "torch": str(torch.__version__),
        **{peer: version_of(peer) for peer in peers},
    }


def version_of(module: str) -> str:
    """The version of an installed module, which is not imported."""
    if util.find_spec(module) is None:
        raise SystemExit(f"{module} is not installed, which this measures; pip install -e '.[bench]' brings it")
    distributions = metadata.packages_distributions().get(module)
    return metadata.version(distributions[0]) if distributions else "unknown"


def print_machine(described: Mapping[str, Any]) -> None:
    print(", ".join(f"{name} {value}" for name, value in described.items()), flush=True)


def on_gpu(device: Device) -> bool:
    return torch.device(device).type == "cuda"


# Time.


def wait_for(device: Device) -> None:
    """Until the device has done what it was given."""
    if on_gpu(device):
        torch.cuda.synchronize()


def own_clock(device: Device) -> Callable[[], float]:
    """One thread's own time on a CPU, of which other programs take nothing away; else the wall's."""
    return time.process_time if not on_gpu(device) and torch.get_num_threads() == 1 else time.perf_counter


def timed(
    work: Callable[[], Found], device: Device, clock: Callable[[], float] = time.perf_counter
) -> tuple[float, Found]:
    """Seconds until the device is done, and what the work returned."""
    wait_for(device)
    start = clock()
    found = work()
    wait_for(device)
    return clock() - start, found


def seconds_of(work: Callable[[], Any], device: Device, count: int) -> list[float]:
    """Wall seconds of the same work, again and again."""
    return [timed(work, device)[0] for _ in range(count)]


# Memory.


def peak_bytes(device: Device) -> int:
    """The most memory that this process has held, in its imports too; on a GPU what torch has allocated."""
    if on_gpu(device):
        return torch.cuda.max_memory_allocated()
    if Path("/proc/self/status").exists():
        return _status(
            "VmHWM"
        )  # what getrusage says on Linux begins with the peak of the process that started this one
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def peak_from_here(device: Device) -> int:
    """Bytes that the process holds now; from here on its peak is counted anew. Linux and GPUs only."""
    if on_gpu(device):
        torch.cuda.reset_peak_memory_stats()
        return torch.cuda.memory_allocated()
    ctypes.CDLL(None).malloc_trim(0)  # what earlier work left free would hide what the next takes
    Path("/proc/self/clear_refs").write_text("5")
    return _status("VmRSS")


def _status(name: str) -> int:
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith(name))
    return int(line.split()[1]) * 1024


class PeakMemory:
    """The peak of the process above what it had held when this was made, after its imports; on a GPU the whole peak."""

    def __init__(self, device: Device) -> None:
        self.device = device
        self.before = 0 if on_gpu(device) else peak_bytes(device)

    @property
    def gigabytes(self) -> float:
        return (peak_bytes(self.device) - self.before) / 1e9


# Processes.


def in_own_process(*command: object) -> dict[str, Any]:
    """Runs a Python script; the JSON in the last line that it prints."""
    done = subprocess.run([sys.executable, *map(str, command)], check=True, stdout=subprocess.PIPE, text=True)
    return dict(json.loads(done.stdout.splitlines()[-1]))


def in_turn(commands: Mapping[str, Sequence[object]], rounds: int) -> dict[str, list[dict[str, Any]]]:
    """What each side, a Python script that runs `answer_each_line`, answers in each round; one works while others wait.

    Raises:
        SystemExit: a side's process ended.
    """
    processes = {
        side: subprocess.Popen(
            [sys.executable, *map(str, command)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        for side, command in commands.items()
    }
    answers: dict[str, list[dict[str, Any]]] = {side: [] for side in processes}
    for _ in range(rounds):
        for side, process in processes.items():
            assert process.stdin is not None
            assert process.stdout is not None
            process.stdin.write("go\n")
            process.stdin.flush()
            line = process.stdout.readline()
            if not line:
                raise SystemExit(f"{side}: the process ended with {process.wait()}")
            answers[side].append(json.loads(line))
    for process in processes.values():
        process.communicate()
    return answers


def answer_each_line(work: Callable[[], Mapping[str, Any]]) -> None:
    """Works once for each line of the standard input and prints what was found as JSON."""
    for _ in sys.stdin:
        print(json.dumps(work()), flush=True)


# Numbers shown and kept.


class Table:
    """A table that is printed row by row, as its numbers come in: the first column to the left, the others right."""

    def __init__(self, columns: Mapping[str, int]) -> None:
        """Prints the headings, each with the width of its column."""
        self.widths = list(columns.values())
        self.row(*columns)

    def row(self, first: object, *others: object) -> None:
        cells = [f"{first!s:<{self.widths[0]}}"]
        cells += [f"{cell!s:>{width}}" for cell, width in zip(others, self.widths[1:], strict=True)]
        print("".join(cells).rstrip(), flush=True)


def write_json(path: Path | None, described: Mapping[str, Any], **found: Any) -> None:
    """The machine and what was found on it, into the file that was asked for, if any."""
    if path is not None:
        path.write_text(json.dumps({"machine": described, **found}, indent=2) + "\n")
