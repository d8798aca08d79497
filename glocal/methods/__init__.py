"""Methods: one file each, found by their file's name, or by the path of somebody's own."""

from __future__ import annotations

import importlib
import pkgutil
from typing import TypeGuard

from glocal.errors import GlocalError, did_you_mean, shown
from glocal.methods.base import Method, MethodSettings
from glocal.methods.own_file import OwnFile, load_file, own_file

__all__ = ["Method", "method_class", "method_names"]

_SHARED = {"base", "building", "own_file"}  # files here that define no method


def method_names() -> list[str]:
    """The names of all methods, sorted.

    >>> "sce" in method_names()
    True
    """
    return sorted(module.name for module in pkgutil.iter_modules(__path__) if module.name not in _SHARED)


def method_class(name: str) -> type[Method]:
    """The method that the file `glocal/methods/NAME.py` defines, or the class of a file: `path/to/file.py:ClassName`.

    Raises:
        GlocalError: there is no such file or class, or the class is no method; the message names the nearest.
    """
    own = own_file(name)
    if own is not None:
        return _own_class(own)
    if name not in method_names():
        raise GlocalError(f"method.name: there is no method {shown(name)}; {did_you_mean(name, method_names())}")
    module = importlib.import_module(f"{__name__}.{name}")
    found = [
        value
        for value in vars(module).values()
        if isinstance(value, type) and issubclass(value, Method) and value.__module__ == module.__name__
    ]
    if len(found) != 1:
        raise TypeError(f"{module.__name__} must define one subclass of Method, not {len(found)}")
    return found[0]


def _own_class(own: OwnFile) -> type[Method]:
    """The class in somebody's own file, if it is a method that a recipe can name."""
    values = vars(load_file(own.path))
    if own.kind not in values:
        methods = [key for key, value in values.items() if _is_method(value) and value is not Method]
        hint = did_you_mean(own.kind, methods) if methods else "it defines no subclass of glocal.methods.Method"
        raise GlocalError(f"method.name: {own.path} has no {own.kind}; {hint}")
    found = values[own.kind]
    if not _is_method(found):
        raise GlocalError(f"method.name: {own} is no subclass of glocal.methods.Method")
    settings = getattr(found, "Settings", None)
    if not (isinstance(settings, type) and issubclass(settings, MethodSettings)):
        raise GlocalError(f"method.name: {own} needs Settings, a subclass of glocal.methods.base.MethodSettings")
    if settings.model_fields["name"].annotation is not str:
        raise GlocalError(f"method.name: {own}: its settings must leave `name` as it is, for it says where the file is")
    return found


def _is_method(value: object) -> TypeGuard[type[Method]]:
    return isinstance(value, type) and issubclass(value, Method)
