"""Methods: one file each, found by their file's name."""

from __future__ import annotations

import importlib
import pkgutil

from glocal.errors import GlocalError, did_you_mean
from glocal.methods.base import Method

__all__ = ["Method", "method_class", "method_names"]

_SHARED = {"base", "building"}  # files here that define no method


def method_names() -> list[str]:
    """The names of all methods, sorted.

    >>> "sce" in method_names()
    True
    """
    return sorted(module.name for module in pkgutil.iter_modules(__path__) if module.name not in _SHARED)


def method_class(name: str) -> type[Method]:
    """The method that the file `glocal/methods/NAME.py` defines.

    Raises:
        GlocalError: there is no such file; the message names the nearest.
    """
    if name not in method_names():
        raise GlocalError(f"method.name: there is no method {name!r}; {did_you_mean(name, method_names())}")
    module = importlib.import_module(f"{__name__}.{name}")
    found = [
        value
        for value in vars(module).values()
        if isinstance(value, type) and issubclass(value, Method) and value.__module__ == module.__name__
    ]
    if len(found) != 1:
        raise TypeError(f"{module.__name__} must define one subclass of Method, not {len(found)}")
    return found[0]
