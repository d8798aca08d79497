"""How torch's threads wait for one another: briefly in a loop, then asleep. Imports nothing heavy, torch least of all.

GNU's OpenMP, which torch for Linux brings along, reads its settings from the environment when torch is loaded. By its
default a thread that waits for the others keeps its core busy for a few hundred thousand rounds, after each of a step's
hundreds of operations. Where another program needs one of the cores, a thread that waits in a loop keeps the core from
the thread for which it waits. `benchmarks/spinning.py` measures what that costs; `docs/performance.md` shows it.
"""

from __future__ import annotations

import os
import sys
from collections.abc import MutableMapping

ROUNDS = 1000  # some microseconds: the gap between two operations is bridged, a turn of the system's is not
SETTINGS_OF_WAITING = ("GOMP_SPINCOUNT", "OMP_WAIT_POLICY", "KMP_BLOCKTIME")


def wait_asleep(environment: MutableMapping[str, str] = os.environ) -> bool:
    """Sets `GOMP_SPINCOUNT` unless the user has settled how threads wait; processes started later inherit it.

    It says nothing about the number of threads, so `OMP_NUM_THREADS` does not count as settling it.

    Returns:
        whether threads of this process will heed what the environment now says. False where torch was loaded before:
        its threads keep the waiting they have, and only processes started from here on gain.
    """
    if not any(name in environment for name in SETTINGS_OF_WAITING):
        environment["GOMP_SPINCOUNT"] = str(ROUNDS)
    return "torch" not in sys.modules
