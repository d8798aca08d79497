"""Threads wait asleep unless the user said how they wait, and the setting comes before torch."""

import subprocess
import sys

import pytest

from glocal.waiting import ROUNDS, SETTINGS_OF_WAITING, wait_asleep


def test_the_count_is_set_where_nothing_is() -> None:
    environment = {"OMP_NUM_THREADS": "2"}  # how many threads says nothing on how they wait
    wait_asleep(environment)
    assert environment == {"OMP_NUM_THREADS": "2", "GOMP_SPINCOUNT": str(ROUNDS)}


@pytest.mark.parametrize("name", SETTINGS_OF_WAITING)
def test_what_the_user_settled_stays(name: str) -> None:
    environment = {name: "anything"}
    wait_asleep(environment)
    assert environment == {name: "anything"}


STARTS = """
import os, subprocess, sys
os.environ.pop("GOMP_SPINCOUNT", None)
for name in {first}:
    __import__(name)
import glocal
inherited = "import os; print(os.environ['GOMP_SPINCOUNT'])"
started = subprocess.run([sys.executable, "-c", inherited], capture_output=True, text=True).stdout.strip()
print("torch" in sys.modules, glocal.threads_wait_asleep, started)
"""


@pytest.mark.parametrize(
    ("first", "said"),
    [(["glocal.cli"], f"False True {ROUNDS}"), (["torch"], f"True False {ROUNDS}")],
    ids=["the command line", "torch loaded before glocal"],
)
def test_it_is_set_before_torch_is_loaded_and_inherited(first: list[str], said: str) -> None:
    command = [sys.executable, "-c", STARTS.format(first=first)]
    assert subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip() == said
