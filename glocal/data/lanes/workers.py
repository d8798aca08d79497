"""Processes that decode: they stop when their parent does, not before."""

from __future__ import annotations

import contextlib
import ctypes
import signal
import sys
import threading
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from contextlib import closing
from functools import partial
from itertools import repeat
from multiprocessing import active_children
from multiprocessing.util import Finalize
from typing import Any, TypeVar

import torch
from torch.utils.data import DataLoader, Dataset

from glocal.data.lanes.readings import LOOK, PATIENCE, Readings, awaited, reading_none
from glocal.data.lanes.threads import Threads
from glocal.signals import STOP

T = TypeVar("T")

_PR_SET_PDEATHSIG = 1  # linux/prctl.h


def batches_of(
    dataset: Dataset[Any],
    requests: Iterable[Sequence[Any]],
    *,
    workers: int,
    name: Callable[[int], str] = "number {}".format,
    patience: float = PATIENCE,
    **options: Any,
) -> Generator[Any, None, None]:
    """The batches of a dataset that are asked for, in order.

    Nothing is drawn from torch's own numbers, which are those of the training. Signals that come between the start of a
    process and its `outlive_signals` are held back until it ignores them.

    Args:
        dataset: its `__getitems__` makes a batch, and tells `reading` of each image.
        requests: what each batch is asked for; it is passed over once.
        workers: processes that make the batches; 0: this one, in a thread that it waits for.
        name: of the image of a number, for errors.
        patience: seconds that reading one image may take; 0: any number.
        options: others of torch's loader.

    Raises:
        DecoderError: a process died, or one image takes too long; with the name of the image.
    """
    readings = Readings(workers or 1, name)
    loader = DataLoader(
        _Noted(dataset),
        batch_sampler=requests,  # type: ignore[arg-type]  # any iterable of sequences
        collate_fn=as_it_is,
        num_workers=workers,
        worker_init_fn=partial(_begin, readings),
        generator=torch.Generator(),
        timeout=LOOK if workers else 0,
        **options,
    )
    with _held_back():
        others = set(active_children())
        batches = iter(loader)  # starts the processes
        readings.processes = [process for process in active_children() if process not in others]
    if workers:
        # An error that nobody catches keeps this generator, and Python, which waits for the processes in the end,
        # would ask them by a signal that they ignore.
        ending = Finalize(None, readings.kill, exitpriority=0)
        try:
            yield from awaited(batches, readings, patience)
        finally:
            ending.cancel()
            readings.kill_stuck()
        return
    with closing(Threads(lambda take: take(), repeat(partial(next, batches)), readings, threads=1, ahead=0)) as made:
        yield from awaited(made, readings, patience)


class _Noted(Dataset[Any]):
    """A dataset whose processes read nothing between two batches."""

    def __init__(self, dataset: Dataset[Any]) -> None:
        self.dataset = dataset

    def __getitems__(self, request: Sequence[Any]) -> Any:
        whole = getattr(self.dataset, "__getitems__", None)
        batch = whole(request) if whole else [self.dataset[one] for one in request]
        reading_none()
        return batch


def _begin(readings: Readings, worker: int) -> None:
    outlive_signals()
    readings.enter(worker)


def as_it_is(batch: T) -> T:
    """The collation of batches that a dataset has put together itself."""
    return batch


def outlive_signals() -> None:
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
    """Keeps signals back, and torch's own answer to a process that died out.

    That answer is an error wherever the main thread stands, in the middle of an optimiser's step too. `awaited` finds
    the process when its batch is waited for, between two steps.
    """
    if not hasattr(signal, "pthread_sigmask") or threading.current_thread() is not threading.main_thread():
        yield
        return
    before, of_children = signal.pthread_sigmask(signal.SIG_BLOCK, STOP), signal.getsignal(signal.SIGCHLD)
    try:
        yield
    finally:
        if of_children is not None:  # as it is where it is no function of Python's
            signal.signal(signal.SIGCHLD, of_children)
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
