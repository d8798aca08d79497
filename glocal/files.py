"""Files that are either whole or not there."""

from __future__ import annotations

import contextlib
import csv
import hashlib
import io
import os
import re
import sys
import tempfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import IO, Any

from glocal.errors import GlocalError, WriteError

RESULTS = (".csv", ".html", ".png")
"""Endings of results: a table, a page, a picture."""

_UMASK = os.umask(0o077)  # can be read only by setting it
os.umask(_UMASK)
PUBLIC = 0o666 & ~_UMASK
"""The mode of a new file, as the process' umask has it; those that are made for a moment are closed to others."""

_ACTING = re.compile("[\\x00-\\x1f\\x7f-\\x9f\\u2028-\\u202e\\u2066-\\u2069]")


def cache_folder() -> Path:
    """Where what can be computed again is kept: $GLOCAL_CACHE, or ~/.cache/glocal/features."""
    return Path(os.environ.get("GLOCAL_CACHE") or Path.home() / ".cache" / "glocal" / "features")


def write_atomically(path: Path, write: Callable[[IO[bytes]], object]) -> None:
    """Writes a file under a temporary name beside it, forces it to the disk, and renames it.

    Args:
        path: where the file shall be; an older one is replaced at once or not at all.
        write: writes the content to the open binary file that it gets.

    Raises:
        WriteError: it cannot be written; an older file is as it was.
    """
    with writing(path):
        handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=".part")
        try:
            with os.fdopen(handle, "wb") as file:
                write(file)
                file.flush()
                os.fsync(file.fileno())
            os.chmod(name, PUBLIC)
            os.replace(name, path)
        except BaseException:
            with contextlib.suppress(OSError):
                os.unlink(name)
            raise
    sync_folder(path.parent)


@contextlib.contextmanager
def writing(path: Path, done: str = "written") -> Iterator[None]:
    """Whatever keeps a file from being written inside becomes one line with its name.

    Raises:
        WriteError: the operating system refused, also where a library has made another error of that.
    """
    before = sys.exception()  # that is handled outside
    try:
        yield
    except WriteError:
        raise
    except Exception as error:
        cause: BaseException | None = error
        while not isinstance(cause, OSError):
            if cause is None or cause is before:
                raise
            cause = cause.__cause__ or cause.__context__
        reason = cause.strerror or str(cause)
        raise WriteError(f"{path} cannot be {done}: {reason}", cause.errno, reason) from error


def sync_folder(folder: Path) -> None:
    """Forces the names in a folder to the disk, as far as its file system can: a loss of power takes none of them."""
    with contextlib.suppress(OSError):
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


def make_folder(folder: Path) -> None:
    """Makes a folder, and those above it, which no loss of power takes again.

    Raises:
        WriteError: it cannot be made.
    """
    if not folder.is_dir():
        with writing(folder, "made"):
            above = folder.parent
            if not above.exists():
                make_folder(above)
            folder.mkdir(exist_ok=True)
        sync_folder(above)


def remove_remains(folder: Path, names: Iterable[str]) -> None:
    """Removes what a process that was killed in `write_atomically` has left of files with these names."""
    for name in names:
        for remains in folder.glob(f".{name}.*.part"):
            with contextlib.suppress(OSError):
                remains.unlink()


def check_output(path: Path, endings: Sequence[str] = RESULTS, *, option: str = "--out") -> None:
    """Looks at where a result shall go before it is computed, and makes the folder.

    Args:
        path: the file; an older one is left as it is.
        endings: that its name may have, with their dots.
        option: by which it was given; errors begin with it. Empty where it was given by none.

    Raises:
        GlocalError: the name has another ending, is that of a folder, or no file can be written there.
    """
    if path.suffix.lower() not in endings:
        known = f"{', '.join(endings[:-1])} or {endings[-1]}" if len(endings) > 1 else endings[0]
        raise GlocalError(f"{_named(path, option)}: the name must end in {known}")
    with _writing(path, path.parent, option):
        if path.is_dir():
            raise GlocalError(f"{_named(path, option)} is a folder; name a file in it")
        path.parent.mkdir(parents=True, exist_ok=True)
        _try_to_write(path)


def check_output_folder(folder: Path, *, option: str = "--out") -> None:
    """`check_output` for a folder.

    Raises:
        GlocalError: it is a file, cannot be made, or no file can be written in it.
    """
    with _writing(folder, folder, option):
        folder.mkdir(parents=True, exist_ok=True)
        _try_to_write(folder / "file")


@contextlib.contextmanager
def _writing(path: Path, folder: Path, option: str) -> Iterator[None]:
    try:
        yield
    except (FileExistsError, NotADirectoryError) as error:
        above = next((part for part in (folder, *folder.parents) if part.exists()), folder)
        raise GlocalError(f"{_named(path, option)}: {above} is a file and no folder") from error
    except OSError as error:
        raise GlocalError(f"{_named(path, option)}: cannot be written: {error.strerror}") from error


def _named(path: Path, option: str) -> str:
    return f"{option} {path}".lstrip()


def _try_to_write(path: Path) -> None:
    """Raises OSError where `write_atomically` would."""
    tempfile.NamedTemporaryFile(dir=path.parent, prefix=f".{path.name}.", suffix=".part").close()


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


def unprintable(text: str) -> str:
    r"""The name of a file that `printable` made text of.

    >>> os.fsencode(unprintable(printable(os.fsdecode(b"caf\xe9.png"))))
    b'caf\xe9.png'
    """
    return re.sub(r"\\udc[89a-f][0-9a-f]", lambda found: chr(int(found[0][2:], 16)), text)


def harmless(text: str) -> str:
    r"""A name or message in one line: what would break it, or act on a terminal that shows it, becomes an escape.

    These are control characters and those that change the direction of writing.

    >>> print(harmless("a\nb\x1b[31m.png"))
    a\nb\x1b[31m.png
    """
    return _ACTING.sub(lambda found: found[0].encode("unicode_escape").decode(), text)


def write_text(path: Path, text: str) -> None:
    """`write_atomically` for text in UTF-8; names that are none become `printable`."""
    write_atomically(path, lambda file: file.write(printable(text).encode()))


def write_csv(path: Path, header: Sequence[str], rows: Iterable[Iterable[Any]], *, opened: bool = False) -> None:
    """`write_text` for a table: a line of names and one for each row, with commas.

    Args:
        path: the file.
        header: the names.
        rows: the cells.
        opened: the files that it names will be opened by these names, so bytes that are no UTF-8 stay as they are.
    """
    text = io.StringIO()
    # A writer quotes the characters of its own line ends only, and a lone carriage return ends a line for readers.
    writer = csv.writer(SimpleNamespace(write=lambda line: text.write(line.removesuffix("\r\n") + "\n")))
    writer.writerow(header)
    writer.writerows(rows)
    if opened:
        write_atomically(path, lambda file: file.write(text.getvalue().encode(errors="surrogateescape")))
    else:
        write_text(path, text.getvalue())
