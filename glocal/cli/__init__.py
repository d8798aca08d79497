"""The command line: each command parses, calls one public function, and prints."""

from __future__ import annotations

import errno
import io
import os
import re
import sys
from collections.abc import Sequence
from importlib import import_module

from rich.console import Console

from glocal.cli.app import app
from glocal.errors import GlocalError, TogetherError
from glocal.files import harmless

# In the order of `glocal --help`.
for _commands in ("training", "measuring", "reproducing", "searching", "curating", "packing", "exporting", "looking"):
    import_module(f"glocal.cli.{_commands}")

# Of the operating system, whatever file it is: a full disk or quota, a limit, a read-only folder, a lack of rights;
# names that lead nowhere, to a folder or through a file; a disk that fails, a server that is gone.
_REFUSALS = (
    *(errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EACCES, errno.EPERM),
    *(errno.ENAMETOOLONG, errno.EISDIR, errno.ENOTDIR, errno.ELOOP),
    *(errno.EIO, errno.ESTALE, errno.ENOTCONN, errno.ETIMEDOUT),
)


def _say(text: str) -> None:
    Console(stderr=True, highlight=False, emoji=False).print(f"glocal: {text}", soft_wrap=True, markup=False)


def _other_process() -> bool:
    from glocal.distributed import process_rank

    return process_rank() > 0


def _in_a_line(error: BaseException) -> str | None:
    """What the user is told; None where only a traceback will do."""
    if getattr(error, "signal", None) is not None:
        return f"{error}; the same command continues it"
    if isinstance(error, GlocalError):
        return str(error)
    if isinstance(error, OSError) and error.errno in _REFUSALS:
        return f"{error.filename or 'a file'}: {error.strerror}"
    return None


def _check_given(words: Sequence[str]) -> None:
    """That no name is empty: as a path, it would be the current folder.

    Raises:
        GlocalError: one is.
    """
    for place, word in enumerate(words):
        if not word or re.fullmatch(r"--[a-z-]+=", word):
            before = words[place - 1] if place and not word else word[:-1]
            option = before if re.fullmatch(r"--?[a-z-]+", before) else f"argument {place + 1}"
            raise GlocalError(f"{option} is empty; give a name")


def _meant_settings(words: Sequence[str]) -> list[str]:
    """Which of the options that `pretrain` does not have are settings of a recipe, in words."""
    import typer

    from glocal.config import build_recipe
    from glocal.training.flat import flatten

    if words[:1] != ["pretrain"]:
        return []
    command = getattr(typer.main.get_command(app), "commands", {}).get("pretrain")
    known = {name for parameter in getattr(command, "params", ()) for name in parameter.opts}
    given = (word.partition("=")[0] for word in words[1:] if word.startswith("--"))
    paths = [path for path in flatten(build_recipe({}).model_dump(mode="json")) if "." in path]
    meant = {one: [path for path in paths if path.rpartition(".")[2] == one[2:].replace("-", "_")] for one in given}
    return [f"{one} is a setting: --set {its[0]}=VALUE" for one, its in meant.items() if its and one not in known]


def main() -> None:
    """Runs the command line; errors that a user can mend become one line and exit code 2."""
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")  # names that are no UTF-8, and terminals that are none
    debug = "--debug" in sys.argv
    if debug:
        sys.argv.remove("--debug")
    try:
        _check_given(sys.argv[1:])
        app()
    except BaseException as error:
        if isinstance(error, SystemExit) and error.code == 2:  # of the command line, which has been said
            for line in _meant_settings(sys.argv[1:]):
                _say(line)
        number, text = getattr(error, "signal", None), _in_a_line(error)
        if debug or text is None:
            raise
        text = harmless(text)
        alike = number is not None or isinstance(error, TogetherError)  # all processes end with it: one says so
        if not (alike and _other_process()):
            _say(text)
        if number is None:
            sys.exit(2)
        sys.stdout.flush()
        os._exit(128 + number)  # worker processes and threads need not be waited for
