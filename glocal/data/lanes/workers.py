"""Processes that decode: they stop when their parent does, not before."""

from __future__ import annotations

import contextlib
import ctypes
import signal
import sys
import threading
from collections.abc import Generator, Iterable, Iterator, Sequence
from typing import Any, TypeVar

import torch
from torch.utils.data import DataLoader, Dataset

from glocal.signals import STOP

T = TypeVar("T")

_PR_SET_PDEATHSIG = 1  # linux/prctl.h


def batches_of(
    dataset: Dataset[Any], requests: Iterable[Sequence[Any]], *, workers: int, **options: Any
) -> Generator[Any, None, None]:
    """The batches of a dataset that are asked for, in order.

    Nothing is drawn from torch's own numbers, which are those of the training. Signals that come between the start of a
    process and its `outlive_signals` are held back until it ignores them.

    Args:
        dataset: its `__getitems__` makes a batch.
        requests: what each batch is asked for; it is passed over once.
        workers: processes that make the batches; 0: this one.
        options: others of torch's loader.
    """
    loader = DataLoader(
        dataset,
        batch_sampler=requests,  # type: ignore[arg-type]  # any iterable of sequences
        collate_fn=as_it_is,
        num_workers=workers,
        worker_init_fn=outlive_signals,
        generator=torch.Generator(),
        **options,
    )
    with _held_back():
        batches = iter(loader)  # starts the processes
    yield from batches


def as_it_is(batch: T) -> T:
    """The collation of batches that a dataset has put together itself."""
    return batch


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
