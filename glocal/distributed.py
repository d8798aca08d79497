"""The few collective operations that methods and monitors need; identities in a single process."""

from __future__ import annotations

import atexit
import gc
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from itertools import zip_longest
from typing import Any, TypeVar

import torch
from torch import Tensor
from torch import distributed as dist

from glocal.errors import GlocalError, TogetherError, WriteError

T = TypeVar("T")

_by_cpu: dict[Any, Any] = {}  # a group whose tensors lie in the CPU's memory, for the processes of each training


_by_itself = False


def process_count() -> int:
    """The number of processes that train together."""
    return dist.get_world_size() if _know_one_another() else 1


def process_rank() -> int:
    """This process' number, from 0."""
    return dist.get_rank() if _know_one_another() else 0


def _know_one_another() -> bool:
    return not _by_itself and dist.is_available() and dist.is_initialized()


@contextmanager
def each_by_itself() -> Iterator[None]:
    """Inside, this process is the only one: what methods do with the others, they do not."""
    global _by_itself
    before, _by_itself = _by_itself, True
    try:
        yield
    finally:
        _by_itself = before


@contextmanager
def processes_together() -> Iterator[None]:
    """Lets the processes that torchrun started know of one another, for work that they share without a training.

    Nothing happens in a process that was started alone, or that knows the others already.
    """
    if process_count() > 1 or int(os.environ.get("WORLD_SIZE", "1")) == 1 or not dist.is_available():
        yield
        return
    # On GPUs too: what goes through it is small. One that is much slower than the others is waited for.
    meet_again("gloo", timedelta(days=7))
    if not dist.is_initialized():
        dist.init_process_group("gloo", timeout=timedelta(days=7))
    atexit.register(leave)  # after an error no earlier: one process tells of it, as long as it knows its number
    yield
    leave()


def meet_again(backend: str, patience: timedelta | None = None) -> None:
    """Brings processes together that torchrun has started anew; elsewhere nothing happens.

    torchrun keeps its store over restarts, and with it the addresses of the processes that are dead: this attempt gets
    a part of it for itself.
    """
    attempt = os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")
    if attempt == "0" or dist.is_initialized():
        return
    store, rank, processes = next(dist.rendezvous("env://"))  # type: ignore[attr-defined]
    own = dist.PrefixStore(f"attempt {attempt}", store)  # type: ignore[attr-defined]
    dist.init_process_group(backend, store=own, rank=rank, world_size=processes, timeout=patience)


def leave() -> None:
    """Takes leave of the other processes: one that just ends can end the others' waiting with an error.

    To destroy the group is not enough: the parallel module holds it too, in a cycle that only the garbage collector
    frees. Until then gloo's threads live on, and one that lets go of a tensor when Python has ended aborts the process.
    """
    if dist.is_available() and dist.is_initialized():
        _by_cpu.clear()
        dist.destroy_process_group()
        gc.collect()


def wait_for_all() -> None:
    """Until all processes have come here."""
    if process_count() > 1:
        dist.barrier()


def own_device(device: str) -> str:
    """The device of this process: of several GPUs of a machine each process takes its own."""
    if device != "cuda" or "LOCAL_RANK" not in os.environ:
        return device
    return f"cuda:{int(os.environ['LOCAL_RANK']) % torch.cuda.device_count()}"


@torch.no_grad()
def all_gather(tensor: Tensor) -> Tensor:
    """The rows of all processes in the order of their ranks, without gradient: (B, …) → (P·B, …)."""
    if process_count() == 1:
        return tensor
    parts = [torch.empty_like(tensor) for _ in range(process_count())]
    dist.all_gather(parts, tensor.contiguous())
    return torch.cat(parts)


class _AllGather(torch.autograd.Function):
    # Not torch.distributed.nn's all_gather: its backward pass gave wrong gradients for NT-Xent with gloo.
    @staticmethod
    def forward(context: Any, tensor: Tensor) -> Tensor:
        context.rows = len(tensor)
        return all_gather(tensor)

    @staticmethod
    def backward(context: Any, *gradients: Tensor) -> Tensor:
        first = process_rank() * context.rows
        return all_sum(gradients[0].contiguous())[first : first + context.rows]


def all_gather_with_gradient(tensor: Tensor) -> Tensor:
    """`all_gather` through which gradients flow back: a row gets those of every process' loss, summed.

    Where each process' loss is the mean over its own rows, or the loss of the whole batch, and gradients of parameters
    are averaged over processes, the result is the gradient of the mean over the whole batch.
    """
    return _AllGather.apply(tensor) if process_count() > 1 else tensor  # type: ignore[no-any-return]


@torch.no_grad()
def all_sum(tensor: Tensor) -> Tensor:
    """The sum over all processes, without gradient; the tensor itself in a single process."""
    if process_count() > 1:
        tensor = tensor.clone()
        dist.all_reduce(tensor)
    return tensor


@torch.no_grad()
def all_mean(tensor: Tensor) -> Tensor:
    """The mean over all processes, without gradient; the tensor itself in a single process."""
    return all_sum(tensor) / process_count() if process_count() > 1 else tensor


@torch.no_grad()
def in_reverse(tensor: Tensor) -> Tensor:
    """This process' rows of the whole batch in reverse order, without gradient: (B, …) → (B, …).

    They are those of one other process, with which it exchanges its own.
    """
    other = process_count() - 1 - process_rank()
    if other == process_rank():
        return tensor.flip(0)
    theirs = torch.empty_like(tensor, memory_format=torch.contiguous_format)
    moves = [dist.P2POp(dist.isend, tensor.contiguous(), other), dist.P2POp(dist.irecv, theirs, other)]
    for move in dist.batch_isend_irecv(moves):
        move.wait()
    return theirs.flip(0)


def all_objects(value: T) -> list[T]:
    """What each process has, in the order of their ranks; small things that can be pickled."""
    found: list[Any] = [value] * process_count()
    if process_count() > 1:
        dist.all_gather_object(found, value)
    return found


def highest(*values: int) -> list[int]:
    """The largest of each value over all processes, by way of the CPU: nothing waits for a GPU."""
    if process_count() == 1:
        return list(values)
    group: Any = None
    if "gloo" not in dist.get_backend():
        world = dist.group.WORLD
        group = _by_cpu[world] = _by_cpu.get(world) or dist.new_group(backend="gloo")
    found = torch.tensor(values)
    dist.all_reduce(found, dist.ReduceOp.MAX, group=group)
    return found.tolist()  # type: ignore[no-any-return]


def fail_together(error: GlocalError | None) -> None:
    """Ends the work of all processes where one of them has failed; all come here, each with its error or none.

    Raises:
        GlocalError: the only process' own.
        TogetherError: one of several has failed, the first of them is told.
    """
    if process_count() == 1:
        if error:
            raise error
        return
    said = all_objects(None if error is None else (str(error), _is_of_writing(error)))
    for rank, failed in enumerate(said):
        if failed:
            where = f"process {rank}: " if rank else ""
            raise TogetherError(f"{where}{failed[0]}", any(one[1] for one in said if one)) from error


def _is_of_writing(error: GlocalError) -> bool:
    return isinstance(error, WriteError) or (isinstance(error, TogetherError) and error.writing)


def together(work: Callable[[], T]) -> T:
    """Work of every process that needs no other; where one cannot do it, all end.

    Raises:
        GlocalError: see `fail_together`.
    """
    failed, done = None, None
    try:
        done = work()
    except GlocalError as error:
        failed = error
    fail_together(failed)
    return done  # type: ignore[return-value]


def first_decides(decide: Callable[[], T]) -> T:
    """What the first process finds, in all of them; small things that can be pickled.

    Raises:
        GlocalError: it could not, see `fail_together`.
    """
    return all_objects(together(lambda: decide() if process_rank() == 0 else None))[0]  # type: ignore[return-value]


def check_alike(what: str, lines: list[str]) -> None:
    """Refuses processes that do not have the same.

    Raises:
        TogetherError: names the first process that differs, and the first line in which it does.
    """
    found = all_objects(lines)
    for rank, other in enumerate(found):
        if other != found[0]:
            first, its = next((a, b) for a, b in zip_longest(found[0], other, fillvalue="none") if a != b)
            where = f"{first.strip()} in the first, {its.strip()} in number {rank}"
            raise TogetherError(f"the processes do not have the same {what}: {where}")


def own_part(tensor: Tensor) -> Tensor:
    """What lies here of a tensor that is sharded over processes (its memory, not a copy); any other as it is."""
    return tensor.to_local() if hasattr(tensor, "to_local") else tensor  # a DTensor, whose module takes long to load


def whole_tensor(tensor: Tensor) -> Tensor:
    """All of a tensor that is sharded over processes, which come here together; any other as it is."""
    return tensor.full_tensor() if hasattr(tensor, "full_tensor") else tensor


def own_share(length: int) -> slice:
    """This process' part of 0 … length − 1: consecutive, of equal size but for the end."""
    size = -(-length // process_count())
    return slice(min(length, process_rank() * size), min(length, (process_rank() + 1) * size))


def gather_shares(rows: Tensor, length: int) -> Tensor:
    """Puts together the rows that each process made for its `own_share`: (n, …) → (length, …)."""
    size = -(-length // process_count())
    padded = torch.cat([rows, rows.new_zeros(size - len(rows), *rows.shape[1:])])
    return all_gather(padded)[:length]
