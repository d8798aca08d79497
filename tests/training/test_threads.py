"""A crowded machine is noticed, and only that."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

import glocal
from glocal.training import threads


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch) -> None:
    """Four cores, four threads."""
    monkeypatch.setattr(os, "cpu_count", lambda: 4)
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(4)), raising=False)
    monkeypatch.setattr(torch, "get_num_threads", lambda: 4)
    monkeypatch.setattr(threads, "_LOOK", 0)


def told(monkeypatch: pytest.MonkeyPatch, *lines: str) -> None:
    """What the system says, time after time."""
    said: Iterator[str] = iter(lines)
    monkeypatch.setattr(Path, "read_text", lambda _: next(said) + "\ncpu0 1 2 3")


@pytest.mark.parametrize(("idle", "expected"), [(20, "OMP_NUM_THREADS=1"), (50, "OMP_NUM_THREADS=2"), (95, "")])
def test_cores_that_others_hold_are_left_out(
    idle: int, expected: str, machine: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    # user, nice, system, idle, waiting for disks, interrupts, …
    told(monkeypatch, "cpu 100 0 10 1000 5 0 0 0 0 0", f"cpu {200 - idle} 0 10 {1000 + idle - 5} 10 0 0 0 0 0")
    advice = threads.advice_on_threads()
    assert expected in advice
    assert bool(advice) == bool(expected)


def test_what_loaded_torch_too_early_is_told_so(machine: None, monkeypatch: pytest.MonkeyPatch) -> None:
    for early, expected in ((False, "OMP_NUM_THREADS=1 may be faster"), (True, "or glocal imported before torch")):
        monkeypatch.setattr(glocal, "threads_wait_asleep", not early)
        told(monkeypatch, "cpu 0 0 0 0 0 0 0 0", "cpu 100 0 0 0 0 0 0 0")
        assert expected in threads.advice_on_threads()


def test_fewer_threads_than_free_cores_need_no_advice(machine: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch, "get_num_threads", lambda: 2)
    told(monkeypatch, "cpu 0 0 0 0 0 0 0 0", "cpu 50 0 0 50 0 0 0 0")
    assert threads.advice_on_threads() == ""


def test_systems_that_do_not_say_are_not_asked_twice(machine: None, monkeypatch: pytest.MonkeyPatch) -> None:
    told(monkeypatch, "something else")
    assert threads.advice_on_threads() == ""
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0, 1}, raising=False)  # a part of the machine: of whom?
    assert threads.advice_on_threads() == ""
