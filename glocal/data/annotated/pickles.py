"""Data out of pickle files, with Python's unpickler held to plain data.

A pickle is a program: unpickling it may import modules and call functions. Before it is carried out, its instructions
are looked through, and those that make objects are refused. Of what the rest can name, the few names by which numpy
pickles its arrays are understood: they stand for functions of this file, so that nothing that a pickle names is
imported or called, and the arrays are put in place last.
"""

from __future__ import annotations

import io
import math
import pickle
import pickletools
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from glocal.errors import GlocalError
from glocal.regular import open_regular

_LARGEST = 16 * 2**20  # bytes; a list takes one byte of the file and 60 of memory, so this bounds memory at some 1 GB

_NUMPY = ("numpy.core", "numpy._core")
_NAMES = {
    "numpy.ndarray": "array type",
    "numpy.dtype": "dtype",
    "_codecs.encode": "encode",
    **{f"{module}.bytes": "bytes" for module in ("builtins", "__builtin__")},
    **{f"{module}.multiarray._reconstruct": "array" for module in _NUMPY},
    **{f"{module}.multiarray.scalar": "scalar" for module in _NUMPY},
    **{f"{module}.numeric._frombuffer": "buffer" for module in _NUMPY},
}
_OPCODES = {opcode.code: opcode for opcode in pickletools.opcodes}
_TUPLES = frozenset({"TUPLE", "TUPLE1", "TUPLE2", "TUPLE3"})
_VALUES = """
    NONE NEWTRUE NEWFALSE INT BININT BININT1 BININT2 LONG LONG1 LONG4 FLOAT BINFLOAT STRING BINSTRING SHORT_BINSTRING
    UNICODE BINUNICODE SHORT_BINUNICODE BINUNICODE8 BINBYTES SHORT_BINBYTES BINBYTES8 BYTEARRAY8 EMPTY_TUPLE EMPTY_LIST
    LIST EMPTY_DICT DICT GLOBAL STACK_GLOBAL REDUCE
"""
_MAKES = _TUPLES | frozenset(_VALUES.split())  # one value, which a pickler may then write down for later
_PUTS = frozenset({"PUT", "BINPUT", "LONG_BINPUT", "MEMOIZE"})
_GETS = frozenset({"GET", "BINGET", "LONG_BINGET"})
_OTHERS = frozenset({"PROTO", "FRAME", "STOP", "MARK", "APPEND", "APPENDS", "SETITEM", "SETITEMS", "BUILD"})
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
        with open_regular(path) as file:
            content = file.read(_LARGEST + 1)
    except OSError as error:
        raise GlocalError(f"{path}: cannot be read: {error.strerror}") from None
    if len(content) > _LARGEST:
        raise GlocalError(f"{path}: too large for a pickle of lists; at most {_LARGEST >> 20} MiB are read")
    try:
        _look_through(content)
        return _finished(_PlainUnpickler(content).load())
    except _RefusedError as error:
        raise GlocalError(f"{path}: holds {error}, which is refused: pickles may run programs") from None
    except Exception as error:  # the bytes decide what goes wrong: a stack that is empty, a number that is none, …
        reason = " ".join(str(error).split())[:80]
        raise GlocalError(f"{path}: damaged, or no pickle ({type(error).__name__}: {reason})") from None


class _RefusedError(Exception):
    """Something in a pickle that is no plain data."""


class _Name:
    """A name that the file gave and that is understood; what stands for it, never the thing itself."""

    __slots__ = ("function", "name")

    def __init__(self, name: str, function: Callable[..., Any]) -> None:
        self.name = name
        self.function = function

    def __call__(self, *arguments: Any) -> Any:
        return self.function(self.name, *(_built(argument) for argument in arguments))

    def __setstate__(self, state: Any) -> None:
        raise _RefusedError(f"a state for {self.name}")


class _Unbuilt:
    """What becomes a dtype or an array when the file says its byte order or its content."""

    def __init__(self, dtype: np.dtype[Any] | None) -> None:
        self.dtype = dtype
        self.value: Any = None

    def __setstate__(self, state: Any) -> None:
        if type(state) is not tuple or self.value is not None:
            raise ValueError("an array with a state that is not numpy's")
        match tuple(_built(part) for part in state):
            case (int(), str("<" | ">" | "|" | "=" as order), None, None, None, *_) if self.dtype is not None:
                self.value = self.dtype.newbyteorder(order)
            case (int(), tuple(shape), np.dtype() as dtype, fortran, bytes() | str() as data) if self.dtype is None:
                self.value = _array(shape, dtype, _bytes(data), "F" if fortran else "C")
            case _:
                raise _RefusedError("an array that is not of numbers or strings")


class _PlainUnpickler(pickle.Unpickler):
    """Makes the types that `read_plain_pickle` returns, and the two above in the places of names and arrays."""

    def __init__(self, content: bytes) -> None:
        super().__init__(io.BytesIO(content), encoding="latin1")
        self.encoded = len(content)  # bytes that `encode` may make: it could make many of one long string

    def find_class(self, module: str, name: str) -> Any:
        if f"{module}.{name}" not in _NAMES:
            raise _RefusedError(f"{module}.{name}")
        return _Name(_NAMES[f"{module}.{name}"], self._call)

    def _call(self, name: str, *arguments: Any) -> Any:
        """What a call of an understood name with these arguments would have made."""
        match name, arguments:
            case "array", (_Name(name="array type"), _, _):
                return _Unbuilt(None)
            case "dtype", (str(text), _, _) if _DTYPE.fullmatch(text):
                return _Unbuilt(np.dtype(text))
            case "dtype", (str(text), _, _):
                raise _RefusedError(f"an array of numpy's dtype {text[:20]}")
            case "scalar", (np.dtype() as dtype, bytes() | str() as data):
                return _array((), dtype, _bytes(data), "C")[()]
            case "buffer", (bytes() | bytearray() as data, np.dtype() as dtype, tuple(shape), "C" | "F" as order):
                return _array(shape, dtype, bytes(data), order)
            case "encode", (str(text), "latin1" | "latin-1"):
                self.encoded -= len(text)
                if self.encoded < 0:
                    raise ValueError("more strings than the file holds")
                return text.encode("latin-1")
            case "bytes", ():
                return b""
            case _:
                raise _RefusedError(f"a call of {name} with arguments that are not numpy's")


def _look_through(content: bytes) -> None:
    """Refuses instructions that make objects, and what would take memory or time without bound.

    A tuple that is used twice could be in one that is used twice, and so on: to hash that, as the key of a dict, takes
    for ever. So what is written down for later is known by the instruction right before, and no tuple is fetched.
    """
    stream, before = io.BytesIO(content), ""
    tuples: set[int] = set()
    written = 0
    while before != "STOP":
        opcode = _OPCODES[stream.read(1).decode("latin-1")]
        argument = _argument(opcode, stream)
        if opcode.name in _PUTS:
            place = written if argument is None else argument
            if before not in _MAKES or place > len(content):  # the unpickler sets memory aside up to that place
                raise ValueError("something is written down for later as no pickler does")
            written += 1
            (tuples.add if before in _TUPLES else tuples.discard)(place)
        elif opcode.name in _GETS:
            if argument in tuples:
                raise _RefusedError("a tuple in several places")
        elif opcode.name not in _MAKES | _OTHERS:
            raise _RefusedError(f"the instruction {opcode.name}{'' if argument is None else f' {argument}'}")
        before = before if opcode.name == "FRAME" else opcode.name


def _argument(opcode: pickletools.OpcodeInfo, stream: io.BytesIO) -> Any:
    if opcode.name == "STRING":  # its reader in pickletools knows no more than ASCII
        return stream.readline()
    return None if opcode.arg is None else opcode.arg.reader(stream)


def _finished(found: Any) -> Any:
    """What was unpickled with arrays in the places of what stood for them, and nothing in it that is no plain data."""
    seen: set[int] = set()
    waiting: list[Any] = []

    def finish(value: Any) -> Any:
        value = _built(value)
        if isinstance(value, _Name | np.dtype):
            raise ValueError("a name where data are expected")
        if type(value) is tuple:
            return tuple(finish(part) for part in value)
        if type(value) in (list, dict) and id(value) not in seen:
            seen.add(id(value))
            waiting.append(value)
        return value

    found = finish(found)
    while waiting:
        holder = waiting.pop()
        for key, value in enumerate(holder) if type(holder) is list else holder.items():
            if type(key) not in (str, int, bytes):
                raise _RefusedError(f"a dict with keys of type {type(key).__name__}")
            holder[key] = finish(value)
    return found


def _built(value: Any) -> Any:
    if not isinstance(value, _Unbuilt):
        return value
    if value.value is None:
        raise ValueError("an array whose content is not there")
    return value.value


def _bytes(data: bytes | str) -> bytes:
    return data if isinstance(data, bytes) else data.encode("latin-1")  # Python 2 had one type for both


def _array(shape: tuple[Any, ...], dtype: np.dtype[Any], data: bytes, order: Any) -> np.ndarray:
    if not all(type(side) is int and side >= 0 for side in shape) or math.prod(shape) * dtype.itemsize != len(data):
        raise ValueError(f"an array whose {len(data)} bytes do not have its shape")
    return np.ndarray(shape, dtype, buffer=data, order=order)  # over the bytes of the file, which cannot be changed
