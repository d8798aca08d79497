"""Threads that wait for cores which other programs hold."""

from __future__ import annotations

import os
import time
from pathlib import Path

import torch

import glocal

_LOOK = 0.2  # seconds


def advice_on_threads() -> str:
    """What to do where torch has more threads than there are free cores; empty where that is not so or not known.

    torch's threads wait for one another after every operation. If one of them has to share its core, all of them work
    at its pace. If moreover they wait in a loop, as they do by default where torch was loaded before glocal
    (`glocal.waiting`), they keep the core from the very thread for which they wait, and a training takes many times
    as long.
    """
    threads, cores = torch.get_num_threads(), os.cpu_count() or 1
    if threads == 1 or (hasattr(os, "sched_getaffinity") and len(os.sched_getaffinity(0)) < cores):
        return ""
    busy = _busy_share()
    if busy is None or threads + busy * cores < cores + 0.5:
        return ""
    free = max(1, int(cores * (1 - busy) + 0.5))
    cure = f"OMP_NUM_THREADS={free} may be faster"
    if not glocal.threads_wait_asleep:
        cure = f"with OMP_NUM_THREADS={free}, or glocal imported before torch, this may be many times as fast"
    return (
        f"other programs keep {busy * cores:.1f} of {cores} cores busy, and {threads} threads would wait for one "
        f"another; {cure}"
    )


def _busy_share() -> float | None:
    """The share of all cores that work while this process waits a moment; None where the system does not say."""
    try:
        idle, whole = _ticks()
        time.sleep(_LOOK)
        later_idle, later_whole = _ticks()
    except (OSError, ValueError, IndexError):
        return None
    return 1 - (later_idle - idle) / max(1, later_whole - whole)


def _ticks() -> tuple[int, int]:
    """Ticks of all cores since the start that were idle, and all of them."""
    numbers = [int(number) for number in Path("/proc/stat").read_text().split("\n", 1)[0].split()[1:9]]
    return numbers[3] + numbers[4], sum(numbers)
