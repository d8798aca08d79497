"""A method in somebody's own file: `method.name: path/to/file.py:ClassName`."""

from __future__ import annotations

import hashlib
import importlib.util
import os
import sys
import traceback
from collections.abc import Mapping
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

from glocal.errors import GlocalError
from glocal.regular import open_regular


class OwnFile(NamedTuple):
    """Where a method stands: the class `kind` in the file `path`."""

    path: Path
    kind: str

    def __str__(self) -> str:
        return f"{self.path}:{self.kind}"


def own_file(name: str) -> OwnFile | None:
    """What a name says of a file; None of a method's name in this package.

    Raises:
        GlocalError: the name is that of a file and says no class.

    >>> own_file("mine.py:Mine"), own_file("sce")
    (OwnFile(path=PosixPath('mine.py'), kind='Mine'), None)
    """
    if name.endswith(".py"):
        raise GlocalError(f"method.name={name}: say which class of the file is the method, for example {name}:MyMethod")
    path, colon, kind = name.rpartition(":")
    return OwnFile(Path(path), kind) if colon and path.endswith(".py") else None


def whole_name(name: str) -> str:
    """A method's name, the file of one in somebody's own file as an absolute path, so that it is found again."""
    own = own_file(name)
    return name if own is None else str(OwnFile(Path(os.path.abspath(own.path.expanduser())), own.kind))


def same_method(one: str, other: str) -> bool:
    """Whether two names say the same method, whose file may have moved.

    >>> same_method("a/mine.py:Mine", "b/mine.py:Mine"), same_method("sce", "moco")
    (True, False)
    """
    first, second = own_file(one), own_file(other)
    return one == other or (first is not None and second is not None and first.kind == second.kind)


def own_files(section: Mapping[str, Any]) -> dict[str, OwnFile]:
    """The files that a recipe's section `method` names, by what their copies in a run's folder are called.

    >>> own_files({"name": "logo", "base": {"name": "mine.py:Mine"}})
    {'base.py': OwnFile(path=PosixPath('mine.py'), kind='Mine')}
    """
    base = section.get("base")
    names = {"method.py": section.get("name"), "base.py": base.get("name") if isinstance(base, Mapping) else None}
    found = {copy: own_file(name) for copy, name in names.items() if isinstance(name, str)}
    return {copy: own for copy, own in found.items() if own is not None}


def renamed(section: Mapping[str, Any], names: Mapping[str, OwnFile]) -> dict[str, Any]:
    """A section `method` whose files have other places, given as `own_files` gives them."""
    new = dict(section)
    if "method.py" in names:
        new["name"] = str(names["method.py"])
    if "base.py" in names:
        new["base"] = {**section["base"], "name": str(names["base.py"])}
    return new


def with_copies(section: Mapping[str, Any], folder: Path) -> dict[str, Any]:
    """A section `method` with a run's own copies, in its `folder`, in place of files that are not there any more."""
    missing = {copy: own for copy, own in own_files(section).items() if not own.path.is_file()}
    copies = {copy: OwnFile(folder / copy, own.kind) for copy, own in missing.items()}
    return renamed(section, {copy: own for copy, own in copies.items() if own.path.is_file()})


def load_file(path: Path) -> ModuleType:
    """A file as a module. It is executed, once as long as it does not change.

    Raises:
        GlocalError: there is no such file, or it fails.
    """
    try:
        with open_regular(path) as file:
            text = file.read()
    except (OSError, ValueError) as error:  # ValueError: a name with the character 0
        raise GlocalError(f"method.name: {path} cannot be read: {getattr(error, 'strerror', None) or error}") from error
    name = f"glocal_own_{hashlib.sha256(os.fsencode(path.resolve()) + text).hexdigest()[:16]}"
    if name in sys.modules:
        return sys.modules[name]
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # annotations of settings and data classes are looked up there
    try:
        spec.loader.exec_module(module)
    except Exception as error:  # whatever the file does
        del sys.modules[name]
        raise GlocalError(f"method.name: {path} fails: {_said(error, path)}") from error
    return module


def _said(error: Exception, path: Path) -> str:
    """What is wrong and in which of the file's lines."""
    if isinstance(error, SyntaxError):
        return f"{error.msg} in line {error.lineno}"
    lines = [frame.lineno for frame in traceback.extract_tb(error.__traceback__) if Path(frame.filename) == path]
    where = f" in line {lines[-1]}" if lines else ""
    beside = isinstance(error, ModuleNotFoundError) and (path.parent / f"{error.name}.py").is_file()
    hint = f"; for what lies beside it, set PYTHONPATH={path.parent}" if beside else ""
    return f"{type(error).__name__}{where}: {' '.join(str(error).split())[:200]}{hint}"
