"""Losses compute in the dtype of their inputs, also inside an autocast region."""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from typing import ParamSpec, TypeVar

import torch
from torch import Tensor

P = ParamSpec("P")
T = TypeVar("T")


def full_precision(loss: Callable[P, T]) -> Callable[P, T]:
    """Switches autocast off inside `loss`.

    Similarities divided by a temperature of 0.05 span ±20; bfloat16's eight bits would round them by up to 0.06.
    """

    @wraps(loss)
    def wrapped(*args: P.args, **kwargs: P.kwargs) -> T:
        device = next(value.device.type for value in (*args, *kwargs.values()) if isinstance(value, Tensor))
        with torch.autocast(device, enabled=False):
            return loss(*args, **kwargs)

    return wrapped


@full_precision
def inner_products(first: Tensor, second: Tensor) -> Tensor:
    """All inner products of rows, (…, B, D) and (K, D) → (…, B, K), in their own dtype also inside autocast."""
    return first @ second.T
