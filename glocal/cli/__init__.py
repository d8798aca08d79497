"""The command line: each command parses, calls one public function, and prints."""

from __future__ import annotations

import errno
import io
import os
import sys
from importlib import import_module

from rich.console import Console

from glocal.cli.app import app
from glocal.errors import GlocalError

# In the order of `glocal --help`.
for _commands in ("training", "measuring", "reproducing", "searching", "curating", "exporting", "looking"):
    import_module(f"glocal.cli.{_commands}")

# Of the operating system, whatever file it is: a full disk or quota, a limit, a read-only folder, a lack of rights.
_REFUSALS = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EACCES, errno.EPERM)


def _other_process() -> bool:
    from glocal.distributed import process_rank

    return process_rank() > 0


def main() -> None:
    """Runs the command line; errors that a user can mend become one line and exit code 2."""
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")  # names that are no UTF-8, and terminals that are none
    debug = "--debug" in sys.argv
    if debug:
        sys.argv.remove("--debug")
    try:
        app()
    except BaseException as error:
        number = getattr(error, "signal", None)
        refused = isinstance(error, OSError) and error.errno in _REFUSALS
        if debug or not (isinstance(error, GlocalError) or refused or number is not None):
            raise
        text = str(error) if number is None else f"{error}; the same command continues it"
        if number is None or not _other_process():  # all processes of a training stop together: one says so
            Console(stderr=True, highlight=False, emoji=False).print(f"glocal: {text}", soft_wrap=True, markup=False)
        if number is None:
            sys.exit(2)
        sys.stdout.flush()
        os._exit(128 + number)  # worker processes and threads need not be waited for
