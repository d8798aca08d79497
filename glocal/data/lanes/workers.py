"""Processes that decode: they stop when their parent does, not before."""

from __future__ import annotations

import contextlib
import ctypes
import signal
import sys
import threading
import time
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from functools import partial
from typing import Any, TypeVar

import torch
from torch.utils.data import DataLoader, Dataset

from glocal.data.lanes.readings import Readings, reading_none
from glocal.distributed import process_count
from glocal.errors import GlocalError
from glocal.signals import STOP, stop_wanted

T = TypeVar("T")

_PR_SET_PDEATHSIG = 1  # linux/prctl.h


PATIENCE = 300.0
"""Seconds for which a process may read one image: a disk or a network that was away for a while comes back in them."""

_LOOK = 1.0  # seconds between two looks at processes whose batch has not come


class DecoderError(GlocalError):
    """A process that decodes images hangs or died, or the wait for its batch was given up."""


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
        workers: processes that make the batches; 0: this one.
        name: of the image of a number, for errors.
        patience: seconds after which a process hangs that reads the same image; 0: it may do so for ever.
        options: others of torch's loader.

    Raises:
        DecoderError: a process died, or reads one image for too long; with the name of the image.
    """
    readings = Readings(workers, name)
    loader = DataLoader(
        _Noted(dataset),
        batch_sampler=requests,  # type: ignore[arg-type]  # any iterable of sequences
        collate_fn=as_it_is,
        num_workers=workers,
        worker_init_fn=partial(_begin, readings),
        generator=torch.Generator(),
        timeout=_LOOK if workers else 0,
        **options,
    )
    with _held_back():
        batches = iter(loader)  # starts the processes
    yield from _awaited(batches, readings, patience) if workers else batches


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


def _awaited(batches: Iterator[Any], readings: Readings, patience: float) -> Iterator[Any]:
    """The batches; while one does not come, the processes are looked at every second."""
    before, since = readings.now(), 0.0
    while True:
        try:
            yield next(batches)
            since = 0.0
            continue
        except StopIteration:
            return
        except (RuntimeError, OSError, EOFError) as error:
            # A process that dies while it hands a batch over resets the connection before torch has seen its end.
            handing = isinstance(error, ConnectionError | EOFError | FileNotFoundError) and readings.someone_died()
            if handing or "DataLoader worker (pid" in str(error):
                image = readings.in_words(died=True)
                readings.kill()
                raise DecoderError(
                    f"a process that decodes images died{f' while it read {image}' if image else ''}: often for want "
                    "of memory or of /dev/shm, or of an image that breaks its decoder; try a smaller train.batch_size "
                    "or data.workers (0 decodes in the main process), or leave the image out"
                ) from error
            if "DataLoader timed out" not in str(error):
                raise
        now = readings.now()
        if now != before or not since:
            before, since = now, time.monotonic()
        elif patience and time.monotonic() - since > patience:
            image = readings.in_words(died=False) or "nothing"
            readings.kill()
            raise DecoderError(
                f"a process that decodes images has been reading {image} for {patience:g} s: leave that out, see "
                "whether its disk answers, or wait for longer (data.patience; 0 waits for ever)"
            )
        if stop_wanted() and process_count() == 1:  # several processes stop together
            image = readings.in_words(died=False) or "a batch"
            readings.kill()
            raise DecoderError(f"stopped while {image} was waited for")


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

    That answer is an error wherever the main thread stands, in the middle of an optimiser's step too. `_awaited` finds
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
