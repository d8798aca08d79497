"""Freed memory that stays with the process."""

import platform
import resource
import subprocess
import sys

import pytest

FAULTS = """
import os, resource, statistics, torch
from glocal.memory import keep_freed_memory  # loaded once, before the fork
def use():
    torch.ones(16 << 20)  # 64 MB: more than glibc keeps by itself
def count(keep):
    kept = keep and keep_freed_memory()
    for _ in range(10):  # the heap grows until aligned pieces fit
        use()
    faults = []
    for _ in range(10):
        before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
        use()
        faults.append(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
    print(kept, int(statistics.median(faults)), flush=True)
for keep in (True, False):
    process = os.fork()
    if process == 0:
        count(keep)
        os._exit(0)
    os.waitpid(process, 0)
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="the C library is not glibc")
def test_kept_memory_is_not_cleared_again_page_by_page() -> None:
    said = subprocess.run([sys.executable, "-c", FAULTS], check=True, capture_output=True, text=True).stdout.split()
    assert said[::2] == ["True", "False"]
    kept, cleared = map(int, said[1::2])
    pages = (64 << 20) // resource.getpagesize()
    assert kept < pages / 4 < cleared  # of the usual block: some of ten may come from elsewhere first
