"""Files that are either whole or not there."""

from __future__ import annotations

import contextlib
import csv
import hashlib
import io
import os
import tempfile
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import IO, Any


def write_atomically(path: Path, write: Callable[[IO[bytes]], object]) -> None:
    """Writes a file under a temporary name beside it, forces it to the disk, and renames it.

    Args:
        path: where the file shall be; an older one is replaced at once or not at all.
        write: writes the content to the open binary file that it gets.
    """
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=".part")
    try:
        with os.fdopen(handle, "wb") as file:
            write(file)
            file.flush()
            os.fsync(file.fileno())
        os.chmod(name, 0o644)
        os.replace(name, path)
    except BaseException:
        with contextlib.suppress(OSError):
            os.unlink(name)
        raise
    with contextlib.suppress(OSError):  # the rename itself; not every file system lets a folder be synced
        folder = os.open(path.parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)


def sha256(path: Path) -> str:
    """The hash of a file's bytes, in hexadecimal digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def printable(text: str) -> str:
    r"""Text that can be printed, drawn and written as UTF-8.

    Bytes of a file's name that are no UTF-8 become escapes, of which JSON and YAML in quotes make the name again.

    >>> print(printable(os.fsdecode(b"caf\xe9.png")))
    caf\udce9.png
    """
    return text.encode(errors="backslashreplace").decode()


def write_text(path: Path, text: str) -> None:
    """`write_atomically` for text in UTF-8; names that are none become `printable`."""
    write_atomically(path, lambda file: file.write(printable(text).encode()))


def write_csv(path: Path, header: Sequence[str], rows: Iterable[Iterable[Any]]) -> None:
    """`write_text` for a table: a line of names and one for each row, with commas."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(header)
    writer.writerows(rows)
    write_text(path, text.getvalue())
