"""What a target of an export is; each has a file of its own."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from torch import Tensor

from glocal.exports.preprocessing import Preprocessing
from glocal.exports.subject import Subject


def quoted(path: str | Path) -> str:
    """A path as a string of Python, in double quotes.

    >>> print(quoted('a "b"'))
    "a \\"b\\""
    """
    return json.dumps(str(path), ensure_ascii=False)


class Loaded(NamedTuple):
    """A file that was just written, opened as its users will open it.

    Attributes:
        name: what is run, for messages.
        preprocessing: as the file says it.
        run: normalised images (B, 3, S, S) → outputs by name: features (B, D), and tokens (B, T, D) if it gives them.
        outputs: the names of all outputs that it must give.
        tolerance: the largest relative difference of an output that is taken for rounding.
    """

    name: str
    preprocessing: Preprocessing
    run: Callable[[Tensor], Mapping[str, Tensor]]
    outputs: tuple[str, ...]
    tolerance: float


@dataclass(frozen=True)
class Target:
    """A format.

    Attributes:
        name: as in `--to`.
        summary: what it is, for lists.
        endings: those that its files may have, the usual first; empty: it is a folder.
        contents: all files that may lie in its folder.
        write: writes a subject to a place, which is empty or not there.
        load: opens what was written, from the files alone.
        metadata: what the header of a file says; empty where it is no such file, or of another program.
        lines: Python that loads it without glocal: lines of imports, and three lines that end with `features`.
    """

    name: str
    summary: str
    endings: tuple[str, ...]
    write: Callable[[Subject, Path], None]
    load: Callable[[Path], list[Loaded]]
    metadata: Callable[[Path], Mapping[str, str]]
    lines: Callable[[Subject], str]
    contents: tuple[str, ...] = ()
