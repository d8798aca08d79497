"""Data out of pickle files, without Python's unpickler.

A pickle is a program: unpickling it may import modules and call functions. What is here reads the program's
instructions and carries out only those that build plain data. Nothing that the file names is imported or called; of
what a file can name, the few names by which numpy pickles its arrays are understood, and any other is refused.
"""

from __future__ import annotations

import codecs
import io
import math
import pickletools
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from glocal.errors import GlocalError

_LARGEST = 16 * 2**20  # bytes; a list takes one byte of the file and 60 of memory, so this bounds memory at some 1 GB

_NUMPY = ("numpy.core", "numpy._core")
_GLOBALS = {
    "numpy ndarray": "array type",
    "numpy dtype": "dtype",
    "_codecs encode": "encode",
    **{f"{module} bytes": "bytes" for module in ("builtins", "__builtin__")},
    **{f"{module}.multiarray _reconstruct": "array" for module in _NUMPY},
    **{f"{module}.multiarray scalar": "scalar" for module in _NUMPY},
    **{f"{module}.numeric _frombuffer": "buffer" for module in _NUMPY},
}
_DTYPE = re.compile(r"b1|[iu][1248]|f[248]|[SU][1-9]\d{0,3}")  # no objects, no structures, nothing without size


def read_plain_pickle(path: str | Path) -> Any:
    """The data in a pickle file, of any protocol and of Python 2 or 3; no part of the file is executed.

    Strings of Python 2 are read as Latin-1. Arrays are read-only.

    Args:
        path: the file, at most 16 MiB.

    Returns:
        None, bool, int, float, str, bytes, list, tuple, dict, and numpy arrays and scalars of numbers or strings.

    Raises:
        GlocalError: the file is not there, is damaged or too large, or holds anything else; the message names it.
    """
    try:
        with open(path, "rb") as file:
            content = file.read(_LARGEST + 1)
    except OSError as error:
        raise GlocalError(f"{path}: cannot be read: {error.strerror}") from None
    if len(content) > _LARGEST:
        raise GlocalError(f"{path}: too large for a pickle of lists; at most {_LARGEST >> 20} MiB are read")
    try:
        return _Machine(content).run()
    except _RefusedError as error:
        raise GlocalError(f"{path}: holds {error}, which is refused: pickles may run programs") from None
    except Exception as error:  # the bytes decide what goes wrong: a stack that is empty, a number that is none, …
        reason = " ".join(str(error).split())[:80]
        raise GlocalError(f"{path}: damaged, or no pickle ({type(error).__name__}: {reason})") from None


class _RefusedError(Exception):
    """Something in a pickle that is no plain data."""


class _Global(str):
    """A name that the file gave and that is understood; what stands for it, never the thing itself."""


class _Unbuilt:
    """A dtype or an array whose content is still to come, and where the memo keeps it."""

    def __init__(self, dtype: np.dtype[Any] | None) -> None:
        self.dtype = dtype
        self.places: list[int] = []


class _Machine:
    """The stack and the memo of a pickle's instructions; see `pickletools` for what each one does.

    It holds only values of the types that `read_plain_pickle` returns, and the two above until they are replaced.
    """

    def __init__(self, content: bytes) -> None:
        self.stream = io.BytesIO(content)
        self.stack: list[Any] = []
        self.marks: list[list[Any]] = []  # the stacks below the marks
        self.memo: dict[int, Any] = {}
        self.encoded = len(content)  # bytes that `encode` may make: it could make many of one long string

    def run(self) -> Any:
        while True:
            code = self.stream.read(1).decode("latin-1")
            opcode = _OPCODES[code]
            if opcode.name == "STRING":
                argument: Any = self._string()
            else:
                argument = opcode.arg.reader(self.stream) if opcode.arg is not None else None
            if opcode.name == "STOP":
                return _plain(self.stack.pop())
            if opcode.name in _CONSTANTS:
                self.stack.append(argument)
            elif opcode.name in _INSTRUCTIONS:
                _INSTRUCTIONS[opcode.name](self, argument)
            else:
                what = f" {argument}" if argument is not None else ""
                raise _RefusedError(f"the instruction {opcode.name}{what}")

    def _string(self) -> str:
        """A quoted string of protocol 0, whose reader in pickletools knows no more than ASCII."""
        quoted = self.stream.readline().rstrip(b"\n")
        if len(quoted) < 2 or quoted[:1] != quoted[-1:] or quoted[:1] not in b"'\"":
            raise ValueError("a string without quotes")
        return codecs.escape_decode(quoted[1:-1])[0].decode("latin-1")  # type: ignore[attr-defined]

    def push(self, value: Any) -> None:
        self.stack.append(value)

    def mark(self, _: None) -> None:
        self.marks.append(self.stack)
        self.stack = []

    def pop_mark(self, _: None = None) -> list[Any]:
        items, self.stack = self.stack, self.marks.pop()
        return items

    def pop(self, _: None) -> None:
        if self.stack:
            self.stack.pop()
        else:
            self.pop_mark()

    def duplicate(self, _: None) -> None:
        self.push(_built(self.stack[-1]))

    def put(self, place: int | None) -> None:
        place = len(self.memo) if place is None else place
        self.memo[place] = self.stack[-1]
        if isinstance(self.stack[-1], _Unbuilt):
            self.stack[-1].places.append(place)

    def get(self, place: int) -> None:
        self.push(_built(self.memo[place]))

    def make_dict(self, _: None) -> None:
        items = self.pop_mark()
        self.push({})
        self.set_items(items)

    def make_tuple(self, length: int) -> None:
        items = self.stack[len(self.stack) - length :]
        if len(items) != length:
            raise ValueError("a tuple of more than there is")
        del self.stack[len(self.stack) - length :]
        self.push(tuple(_built(item) for item in items))

    def extend(self, items: list[Any]) -> None:
        if type(self.stack[-1]) is not list:
            raise ValueError("items for what is no list")
        self.stack[-1].extend(_plain(item) for item in items)

    def set_items(self, items: list[Any]) -> None:
        if type(self.stack[-1]) is not dict or len(items) % 2:
            raise ValueError("entries for what is no dict")
        for key, value in zip(items[::2], items[1::2], strict=True):
            if type(key) not in (str, int, bytes):  # a tuple of tuples can take for ever to hash
                raise _RefusedError(f"a dict with keys of type {type(key).__name__}")
            self.stack[-1][key] = _plain(value)

    def name(self, name: str) -> None:
        if name not in _GLOBALS:
            raise _RefusedError(name.replace(" ", "."))
        self.push(_Global(_GLOBALS[name]))

    def stack_name(self, _: None) -> None:
        name, module = self.stack.pop(), self.stack.pop()
        if type(name) is not str or type(module) is not str:
            raise ValueError("a name that is no string")
        self.name(f"{module} {name}")

    def call(self, _: None) -> None:
        """What a call of an understood name with these arguments would have made."""
        arguments, function = self.stack.pop(), self.stack.pop()
        if type(function) is not _Global or type(arguments) is not tuple:
            raise _RefusedError(f"a call of a {type(function).__name__}")
        match str(function), arguments:
            case "array", (_Global("array type"), _, _):
                self.push(_Unbuilt(None))
            case "dtype", (str(text), _, _) if _DTYPE.fullmatch(text):
                self.push(_Unbuilt(np.dtype(text)))
            case "dtype", (str(text), _, _):
                raise _RefusedError(f"an array of numpy's dtype {text[:20]}")
            case "scalar", (np.dtype() as dtype, bytes() | str() as data):
                self.push(_array((), dtype, _bytes(data), "C")[()])
            case "buffer", (bytes() | bytearray() as data, np.dtype() as dtype, tuple(shape), "C" | "F" as order):
                self.push(_array(shape, dtype, bytes(data), order))
            case "encode", (str(text), "latin1" | "latin-1"):
                self.encoded -= len(text)
                if self.encoded < 0:
                    raise ValueError("more strings than the file holds")
                self.push(text.encode("latin-1"))
            case "bytes", ():
                self.push(b"")
            case _:
                raise _RefusedError(f"a call of {function} with arguments that are not numpy's")

    def build(self, _: None) -> None:
        """Gives a dtype its byte order and an array its content, and puts the result in the place of the unbuilt."""
        state, unbuilt = self.stack.pop(), self.stack.pop()
        if type(unbuilt) is not _Unbuilt or type(state) is not tuple:
            raise _RefusedError(f"a state for a {type(unbuilt).__name__}")
        value: Any
        match state:
            case (int(), str("<" | ">" | "|" | "=" as order), None, None, None, *_) if unbuilt.dtype is not None:
                value = unbuilt.dtype.newbyteorder(order)
            case (int(), tuple(shape), np.dtype() as dtype, fortran, bytes() | str() as data) if unbuilt.dtype is None:
                value = _array(shape, dtype, _bytes(data), "F" if fortran else "C")
            case _:
                raise _RefusedError("an array that is not of numbers or strings")
        self.push(value)
        for place in unbuilt.places:
            self.memo[place] = value


def _built(value: Any) -> Any:
    if isinstance(value, _Unbuilt):
        raise ValueError("an array that is used before it is there")
    return value


def _plain(value: Any) -> Any:
    if isinstance(value, _Global | _Unbuilt | np.dtype):
        raise ValueError("a name where data are expected")
    return value


def _bytes(data: bytes | str) -> bytes:
    return data if isinstance(data, bytes) else data.encode("latin-1")  # Python 2 had one type for both


def _array(shape: tuple[Any, ...], dtype: np.dtype[Any], data: bytes, order: Any) -> np.ndarray:
    if not all(type(side) is int and side >= 0 for side in shape) or math.prod(shape) * dtype.itemsize != len(data):
        raise ValueError(f"an array whose {len(data)} bytes do not have its shape")
    return np.ndarray(shape, dtype, buffer=data, order=order)  # over the bytes of the file, which cannot be changed


_OPCODES = {opcode.code: opcode for opcode in pickletools.opcodes}
_CONSTANTS = frozenset(  # whose argument is their value
    {"INT", "BININT", "BININT1", "BININT2", "LONG", "LONG1", "LONG4", "FLOAT", "BINFLOAT"}
    | {"STRING", "BINSTRING", "SHORT_BINSTRING", "UNICODE", "BINUNICODE", "SHORT_BINUNICODE", "BINUNICODE8"}
    | {"BINBYTES", "SHORT_BINBYTES", "BINBYTES8", "BYTEARRAY8"}
)
_INSTRUCTIONS: dict[str, Callable[[_Machine, Any], object]] = {
    "PROTO": lambda machine, _: None,
    "FRAME": lambda machine, _: None,
    "MARK": _Machine.mark,
    "POP": _Machine.pop,
    "POP_MARK": _Machine.pop_mark,
    "DUP": _Machine.duplicate,
    "PUT": _Machine.put,
    "BINPUT": _Machine.put,
    "LONG_BINPUT": _Machine.put,
    "MEMOIZE": _Machine.put,
    "GET": _Machine.get,
    "BINGET": _Machine.get,
    "LONG_BINGET": _Machine.get,
    "NONE": lambda machine, _: machine.push(None),
    "NEWTRUE": lambda machine, _: machine.push(True),
    "NEWFALSE": lambda machine, _: machine.push(False),
    "EMPTY_TUPLE": lambda machine, _: machine.push(()),
    "TUPLE": lambda machine, _: machine.push(tuple(_built(item) for item in machine.pop_mark())),
    "TUPLE1": lambda machine, _: machine.make_tuple(1),
    "TUPLE2": lambda machine, _: machine.make_tuple(2),
    "TUPLE3": lambda machine, _: machine.make_tuple(3),
    "EMPTY_LIST": lambda machine, _: machine.push([]),
    "LIST": lambda machine, _: machine.push([_plain(item) for item in machine.pop_mark()]),
    "APPEND": lambda machine, _: machine.extend([machine.stack.pop()]),
    "APPENDS": lambda machine, _: machine.extend(machine.pop_mark()),
    "EMPTY_DICT": lambda machine, _: machine.push({}),
    "DICT": _Machine.make_dict,
    "SETITEM": lambda machine, _: machine.set_items([machine.stack.pop(-2), machine.stack.pop()]),
    "SETITEMS": lambda machine, _: machine.set_items(machine.pop_mark()),
    "GLOBAL": _Machine.name,
    "STACK_GLOBAL": _Machine.stack_name,
    "REDUCE": _Machine.call,
    "BUILD": _Machine.build,
}
