"""Processes that decode: they stop when their parent does, not before."""

from __future__ import annotations

import contextlib
import ctypes
import signal
import sys
import threading
from collections.abc import Iterator
from typing import Any, TypeVar

from torch.utils.data import DataLoader

from glocal.signals import STOP

T = TypeVar("T")

_PR_SET_PDEATHSIG = 1  # linux/prctl.h


def batches_of(loader: DataLoader[T]) -> Iterator[Any]:
    """What a loader made with `worker_init_fn=outlive_signals` gives.

    Signals that come between the start of a process and its `outlive_signals` are held back until it ignores them.
    """
    with _held_back():
        batches = iter(loader)  # starts the processes
    yield from batches


def outlive_signals(_: int = 0) -> None:
    """Lets a process that decodes ignore what means stop: it is said to the training, which still needs its batches.

    Ctrl-C, `timeout`, SLURM and systemd tell the whole group of processes. The process ends when the training closes
    its loader; should the training be killed, the kernel ends it at once (Linux), or torch's own look at the parent
    does within seconds.
    """
    if sys.platform == "linux":
        with contextlib.suppress(OSError, AttributeError):  # a C library without prctl: torch looks at the parent
            ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    for number in STOP:
        signal.signal(number, signal.SIG_IGN)
    if hasattr(signal, "pthread_sigmask"):
        signal.pthread_sigmask(signal.SIG_UNBLOCK, STOP)


@contextlib.contextmanager
def _held_back() -> Iterator[None]:
    if not hasattr(signal, "pthread_sigmask") or threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, STOP)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
