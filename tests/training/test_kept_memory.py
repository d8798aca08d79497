"""Freed memory that stays with the process."""

import platform
import resource
import subprocess
import sys

import pytest

FAULTS = """
import resource, torch
from glocal.training.memory import keep_freed_memory
kept = {keep} and keep_freed_memory()
def use():
    torch.ones(16 << 20)  # 64 MB: more than glibc keeps by itself
for _ in range(10):  # the heap grows until aligned pieces fit
    use()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(10):
    use()
print(kept, resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="the C library is not glibc")
def test_kept_memory_is_not_cleared_again_page_by_page() -> None:
    found = {}
    for keep in (True, False):
        command = [sys.executable, "-c", FAULTS.format(keep=keep)]
        kept, faults = subprocess.run(command, check=True, capture_output=True, text=True).stdout.split()
        assert (kept == "True") == keep
        found[keep] = int(faults)
    pages = 10 * (64 << 20) // resource.getpagesize()
    assert found[True] < pages / 10 < found[False]
