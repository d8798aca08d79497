"""The same weights twice: what PyTorch computes in another order each time is done in a fixed one, or named."""

from __future__ import annotations

import os
import re
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch

from glocal.console import warn

_WORKSPACE = "CUBLAS_WORKSPACE_CONFIG"
_FIXED = (":4096:8", ":16:8")  # with others cuBLAS may add in another order each time
_NAMED = re.compile(
    r"(\S+(?: \S+)*?) (?:does not have|defaults to) a (?:non-)?deterministic (?:implementation|algorithm)"
)
# Kernels of attention whose backward pass adds in any order, unless what has no deterministic form is an error.
_ATTENTION = ("flash", "mem_efficient", "cudnn")


@contextmanager
def deterministic(wanted: bool) -> Iterator[None]:
    """Inside, what is computed twice on one device is the same, bit for bit; what cannot be is named in a line each.

    Enter it before anything is computed on a GPU: cuBLAS takes its setting, CUBLAS_WORKSPACE_CONFIG, when it starts.
    Where there is a GPU, attention is computed by plain products, which take more memory: its faster kernels add in any
    order. Afterwards PyTorch's switches and the environment are as they were.

    Args:
        wanted: if not, nothing is changed.
    """
    if not wanted:
        yield
        return
    before = (
        torch.are_deterministic_algorithms_enabled(),
        torch.is_deterministic_algorithms_warn_only_enabled(),
        torch.backends.cudnn.benchmark,
        os.environ.get(_WORKSPACE),
    )
    if before[3] not in _FIXED:
        if torch.cuda.is_initialized():
            warn(
                "train.deterministic: this process has computed on the GPU before, so that cuBLAS may still add in any "
                f"order; start it with {_WORKSPACE}={_FIXED[0]}"
            )
        os.environ[_WORKSPACE] = _FIXED[0]
    # Otherwise an operation without a deterministic form would end the training.
    torch.use_deterministic_algorithms(True, warn_only=True)
    torch.backends.cudnn.benchmark = False
    kernels = _ATTENTION if torch.cuda.is_available() else ()
    enabled = {name: bool(getattr(torch.backends.cuda, f"{name}_sdp_enabled")()) for name in kernels}
    for name in kernels:
        getattr(torch.backends.cuda, f"enable_{name}_sdp")(False)  # plain products are left
    try:
        with _named():
            yield
    finally:
        torch.use_deterministic_algorithms(before[0], warn_only=before[1])
        torch.backends.cudnn.benchmark = before[2]
        for name, was in enabled.items():
            getattr(torch.backends.cuda, f"enable_{name}_sdp")(was)
        if before[3] is None:
            os.environ.pop(_WORKSPACE, None)
        else:
            os.environ[_WORKSPACE] = before[3]


@contextmanager
def _named() -> Iterator[None]:
    """Turns PyTorch's warnings of operations that have no deterministic form into a line each."""
    told: set[str] = set()
    with warnings.catch_warnings():
        warnings.filterwarnings("always", message=_NAMED.pattern)
        show = warnings.showwarning

        def tell(message: Warning | str, *where: Any, **more: Any) -> None:
            found = _NAMED.match(str(message))
            if found is None:
                show(message, *where, **more)
            elif found[1] not in told:
                told.add(found[1])
                named = f"{found[1]} has no deterministic form on this device"
                warn(f"train.deterministic: {named}, so that weights may differ")

        warnings.showwarning = tell
        yield
